# SPDX-License-Identifier: Apache-2.0
"""Everything ``fewstep demo image`` computes and writes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from threadpoolctl import threadpool_limits

from . import frechet, network, pictures
from .compare import (
    CURVE_CALLS,
    Report,
    Settings,
    as_json,
    curves,
    draw,
    exact,
    noise_frechet,
    table,
)
from .problem import plan_for


def run(
    settings: Settings,
    out: Path,
    report: Report,
    calls: tuple[int, ...] = CURVE_CALLS,
) -> dict[str, Any]:
    """Draw the digits, compare the solvers, write both pictures.

    Parameters
    ----------
    settings : Settings
        What to draw.
    out : Path
        Directory for ``digits.png`` and ``error.png``; made if it is missing.
    report : callable
        ``report(what, done, total)`` as the work goes on.
    calls : tuple of int
        Budgets of model calls in the plot.

    Returns
    -------
    dict
        ``settings``; ``network`` (facts of the shipped weights); ``plan`` (``name``,
        ``model_calls``); ``frechet_floor`` (real digits against real digits); ``frechet_noise``;
        ``solvers`` (a list of `SolverFigures`); ``curves``; ``files``.

    Raises
    ------
    ValueError
        A setting is out of range.
    """
    settings.check()
    out.mkdir(parents=True, exist_ok=True)
    # The matrices are small: a second BLAS thread gains little, and on a busy machine its
    # spinning costs a hundredfold.
    with threadpool_limits(limits=1, user_api="blas"):
        return _run(settings, out, report, calls)


def _run(settings: Settings, out: Path, report: Report, calls: tuple[int, ...]) -> dict[str, Any]:
    report("reference", 0, 1)
    truth = exact(settings)
    report("reference", 1, 1)
    lines = table(settings, truth, report)
    points = curves(settings, truth, report, calls)
    images, model, _ = draw(settings.solver, settings.steps, 80, settings)
    plan = plan_for(settings.solver, settings.steps, settings.order)
    caption = f"{settings.solver}, {model.calls} model calls, guidance {settings.guidance:g}"
    files = {"digits": out / "digits.png", "error": out / "error.png"}
    pictures.sheet(images, files["digits"], f"Digits drawn with {caption}")
    guided = f"guidance {settings.guidance:g}, order {settings.order} where it can be chosen"
    pictures.error_plot(points, files["error"], f"Digits network, {guided}")
    return {
        "settings": asdict(settings),
        "network": network.facts(),
        "plan": {"name": plan.name, "model_calls": plan.calls},
        "frechet_floor": frechet.floor(),
        "frechet_noise": noise_frechet(settings),
        "solvers": as_json(lines),
        "curves": {name: [list(point) for point in pairs] for name, pairs in points.items()},
        "files": {name: str(path) for name, path in files.items()},
    }

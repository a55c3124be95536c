# SPDX-License-Identifier: Apache-2.0
"""Compares solvers on the digits: error, Frechet distance, and where the time goes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..guidance import cfg
from ..noise import normal
from ..sampler import Sampler
from . import frechet, reference
from .network import PIXELS, Classifier
from .problem import SIGMA_MAX, SOLVERS, STOCHASTIC, TimedModel, conditions, labels_for, plan_for

Array = NDArray[Any]
Report = Callable[[str, int, int], None]
"""Told what is being done, how much of it is done, and how much there is."""

CURVES = ("euler", "heun", "deis", "dpmpp_2m", "dpmpp_3m", "unipc", "flow_heun")
CURVE_CALLS = (6, 8, 12, 16, 24, 32, 48, 64)
TRACKED = 40
"""Samples with a reference trajectory, four of each digit. A sample depends on its seed alone, so
they are the first of any larger batch."""


@dataclass(frozen=True)
class Settings:
    """What to draw: see ``fewstep demo image --help``.

    Attributes
    ----------
    solver : str
        Draws the sheet of digits.
    order : int
        Of the solvers that take one.
    steps : int
        Model calls that each solver may make.
    guidance : float
        Scale of classifier-free guidance; 1 for none.
    seed : int
        Of the first sample; the others count up.
    samples : int
        For the Frechet distance, a multiple of 10.
    """

    solver: str = "unipc"
    order: int = 3
    steps: int = 8
    guidance: float = 2.0
    seed: int = 0
    samples: int = 1000

    def check(self) -> None:
        """Raise a ValueError that names the first setting out of range."""
        if self.solver not in SOLVERS:
            raise ValueError(f"demo image: 'solver' must be one of {SOLVERS}, got {self.solver}")
        if self.samples < 100 or self.samples % 10:
            raise ValueError(
                "demo image: 'samples' must be a multiple of 10, at least 100 (the features have "
                f"64 dimensions), got {self.samples}"
            )
        if not 2 <= self.steps <= 1000:
            raise ValueError(f"demo image: 'steps' must be in [2, 1000], got {self.steps}")
        # Far above, the guided ODE is too stiff for the reference to end in reasonable time.
        if not 0.0 <= self.guidance <= 20.0:
            raise ValueError(f"demo image: 'guidance' must be in [0, 20], got {self.guidance}")


@dataclass(frozen=True)
class SolverFigures:
    """One solver's line in the table.

    Attributes
    ----------
    solver : str
    model_calls : int
        Evaluations of the network per sample; with guidance each is of two rows.
    rms : float or None
        Root mean square distance of pixels to the float64 reference, from the same start noise;
        None for a stochastic solver, which does not follow the ODE.
    frechet : float
        Distance to the real digits.
    accuracy : float
        Share of samples that the classifier takes for the digit asked for.
    model_ms, fewstep_ms : float
        Time of the whole batch in the network and outside it.
    """

    solver: str
    model_calls: int
    rms: float | None
    frechet: float
    accuracy: float
    model_ms: float
    fewstep_ms: float


def draw(
    solver: str, calls: int, samples: int, settings: Settings
) -> tuple[Array, TimedModel, float]:
    """Return samples [samples, 64], the model that was called, and the seconds outside it."""
    plan = plan_for(solver, calls, settings.order)
    guided = settings.guidance != 1.0
    sampler = Sampler(plan, cfg(settings.guidance) if guided else None)
    model = TimedModel(flow="flow" in solver)
    cond, uncond = conditions(samples, guided)
    seeds = range(settings.seed, settings.seed + samples)
    begin = time.perf_counter()
    images = sampler(model, (samples, PIXELS), seeds=seeds, cond=cond, uncond=uncond)
    return images, model, time.perf_counter() - begin - model.seconds


def exact(settings: Settings) -> Array:
    """Return the float64 reference of the first `TRACKED` samples."""
    seeds = np.arange(settings.seed, settings.seed + TRACKED)
    start = normal(seeds, (PIXELS,), stream=1, scale=SIGMA_MAX)
    return reference.solve(start, labels_for(TRACKED), settings.guidance)


def rms(images: Array, truth: Array) -> float:
    """Return the root mean square difference of the tracked samples' pixels."""
    return float(np.sqrt(np.mean((np.asarray(images[:TRACKED], np.float64) - truth) ** 2)))


def table(settings: Settings, truth: Array, report: Report) -> list[SolverFigures]:
    """Measure every solver with the same budget of model calls."""
    classifier = Classifier()
    labels = labels_for(settings.samples)
    lines = []
    for number, solver in enumerate(SOLVERS):
        report("solvers", number, len(SOLVERS))
        images, model, outside = draw(solver, settings.steps, settings.samples, settings)
        lines.append(
            SolverFigures(
                solver=solver,
                model_calls=model.calls,
                rms=None if solver in STOCHASTIC else rms(images, truth),
                frechet=frechet.to_real(images),
                accuracy=float(np.mean(classifier.predict(images) == labels)),
                model_ms=1e3 * model.seconds,
                fewstep_ms=1e3 * outside,
            )
        )
    report("solvers", len(SOLVERS), len(SOLVERS))
    return lines


def curves(
    settings: Settings, truth: Array, report: Report, calls: tuple[int, ...] = CURVE_CALLS
) -> dict[str, list[tuple[int, float]]]:
    """Return (model calls, rms) of each solver in `CURVES` over budgets of calls."""
    total = len(CURVES) * len(calls)
    points: dict[str, list[tuple[int, float]]] = {solver: [] for solver in CURVES}
    for number, (solver, budget) in enumerate((s, c) for s in CURVES for c in calls):
        report("error curves", number, total)
        images, model, _ = draw(solver, budget, TRACKED, settings)
        points[solver].append((model.calls, rms(images, truth)))
    report("error curves", total, total)
    return points


def noise_frechet(settings: Settings) -> float:
    """Return the Frechet distance of plain noise to the real digits: what no model scores."""
    seeds = np.arange(settings.seed, settings.seed + settings.samples)
    return frechet.to_real(normal(seeds, (PIXELS,), stream=1))


def as_json(lines: list[SolverFigures]) -> list[dict[str, Any]]:
    """Return the table as plain dictionaries."""
    return [asdict(line) for line in lines]

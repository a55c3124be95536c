# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench guidance``: guided and thresholded steps, and quantiles, against diffusers."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

import fewstep
from fewstep import guidance

from .rows import Row, add_bar, check, difference, set_threads, timed_row
from .timing import Timed, interleaved

STEPS, ROW = 20, 10
SHAPE = (8, 16, 64, 64)  # 8 samples of 65,536 elements
QUANTILE_SHAPE = (1, 16, 21, 90, 160)  # 4.8 M elements
RATIO = 0.995
TOLERANCE = 2e-5  # of a step of a public scheduler, whose coefficients are float32


@dataclass(frozen=True)
class Case:
    """A guidance of fewstep and the guider of diffusers that does the same.

    Attributes
    ----------
    name : str
    made : Guidance
    guider : str
        Module and class under ``diffusers.guiders``, with `options`.
    bar : float
        What the ratio is to reach; 0 for none.
    tolerance : float
        How far diffusers may be from us.
    """

    name: str
    made: guidance.Guidance
    guider: str
    options: Mapping[str, Any] = field(default_factory=dict)
    bar: float = 0.0
    tolerance: float = TOLERANCE


_APG = "adaptive_projected_guidance.AdaptiveProjectedGuidance"
CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case(
            "apg",
            guidance.apg(7.0, norm_threshold=15.0, parity="diffusers"),
            _APG,
            {
                "guidance_scale": 7.0,
                "eta": 0.0,
                "adaptive_projected_guidance_rescale": 15.0,
            },
            4.0,
        ),
        Case(
            "apg_momentum",
            guidance.apg(7.0, norm_threshold=15.0, momentum=-0.5, parity="diffusers"),
            _APG,
            {
                "guidance_scale": 7.0,
                "eta": 0.0,
                "adaptive_projected_guidance_rescale": 15.0,
                "adaptive_projected_guidance_momentum": -0.5,
            },
        ),
        Case(
            "cfg_rescale",
            guidance.cfg_rescale(7.0, 0.7),
            "classifier_free_guidance.ClassifierFreeGuidance",
            {"guidance_scale": 7.0, "guidance_rescale": 0.7},
        ),
        Case(
            "cfg_zero_star",
            guidance.cfg_zero_star(7.0, zero_init=0),
            "classifier_free_zero_star_guidance.ClassifierFreeZeroStarGuidance",
            {"guidance_scale": 7.0, "zero_init_steps": 0},
        ),
        Case(
            "tcfg",
            guidance.tcfg(7.0),
            "tangential_classifier_free_guidance.TangentialClassifierFreeGuidance",
            {"guidance_scale": 7.0},
            # Its singular vectors of [2, 65536] are float32: 1e-3 from the float64 formula, of
            # which our weights are 1e-7 away.
            tolerance=5e-3,
        ),
    )
}
THRESHOLD_BAR, QUANTILE_BAR = 8.0, 10.0
NAMES = (*CASES, "threshold", "quantile")


def scheduler(**options: Any) -> Any:
    """Return diffusers' DDIM, ready to step."""
    logging.getLogger("diffusers").setLevel(logging.ERROR)
    made = importlib.import_module("diffusers").DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        **options,
    )
    made.set_timesteps(STEPS)
    return made


def plan_like(made: Any, **options: Any) -> Any:
    """Return the DDIM plan on a scheduler's nodes."""
    alphas = made.alphas_cumprod.double()
    stride = made.config.num_train_timesteps // STEPS
    times = [*made.timesteps.tolist(), made.timesteps[-1].item() - stride]
    kept = [float(alphas[t]) if t >= 0 else float(made.final_alpha_cumprod) for t in times]
    sigmas = [((1.0 - a) / a) ** 0.5 for a in kept]
    schedule = fewstep.schedules.sigmas(sigmas, process="vp")
    return fewstep.solver.plan("ddim", steps=STEPS, schedule=schedule, **options)


def tensors(count: int) -> list[torch.Tensor]:
    """Return samples and outputs; the outputs agree in part, as a model's do."""
    generator = torch.Generator().manual_seed(1)
    first, *rest = (torch.randn(SHAPE, generator=generator) for _ in range(count + 1))
    return [first, rest[0], *(0.9 * rest[0] + 0.4 * other for other in rest[1:])]


def measured(
    head: Row,
    calls: Mapping[str, Callable[[], object]],
    reset: Callable[[], object],
    error: float,
    bar: float,
) -> Row:
    """Time both sides turn by turn; return the row."""
    timed = {"ours": Timed(calls["ours"], reset), "rival": Timed(calls["rival"])}
    times = interleaved(timed, budget_s=1.0)
    row = timed_row(head, head["rival"], times["ours"], times["rival"])
    row["difference"] = float(f"{error:.1e}")
    if bar:
        add_bar(row, bar)
    return row


def guided(case: Case, threads: int) -> Row:
    """Measure the guider and the scheduler's step against a guided step."""
    x, cond, uncond = tensors(2)
    rival = scheduler()
    module, _, name = case.guider.partition(".")
    options = dict(case.options)
    momentum = options.pop("adaptive_projected_guidance_momentum", None)
    library = importlib.import_module(f"diffusers.guiders.{module}")
    guider = getattr(library, name)(**options)
    guider.set_state(step=ROW, num_inference_steps=STEPS, timestep=None)
    if momentum is not None:
        guider.momentum_buffer = library.MomentumBuffer(momentum)
    guide = guidance.Guide(case.made)
    plan = guide.plan(plan_like(rival))
    state = torch.zeros((plan.slots, *SHAPE))
    model_input = torch.empty((2 * SHAPE[0], *SHAPE[1:]))
    time = rival.timesteps[ROW]

    def theirs() -> torch.Tensor:
        output = guider.forward(cond, uncond).pred
        previous: torch.Tensor = rival.step(output, time, x, return_dict=False)[0]
        torch.cat([previous] * 2)
        return previous

    def reset() -> None:
        state[0].copy_(x)

    ours = partial(guide.step, plan, ROW, state, (cond, uncond), model_input=model_input)
    error = 0.0
    for _ in range(3):  # with momentum the second and third step differ from the first
        reset()
        ours()
        error = max(error, check(case.name, difference(state[0], theirs()), case.tolerance))
    head = _head("guided step", case.name, SHAPE, threads, "diffusers guider + DDIM")
    return measured(head, {"ours": ours, "rival": theirs}, reset, error, case.bar)


def thresholded(threads: int) -> Row:
    """Measure DDIM with dynamic thresholding."""
    x, output = tensors(1)
    options = {"dynamic_thresholding_ratio": RATIO, "sample_max_value": 100.0}
    rival = scheduler(thresholding=True, **options)
    guide = guidance.Guide(None, guidance.Thresholding(RATIO, maximum=100.0))
    plan = plan_like(rival, clip=1.0)
    state = torch.zeros((plan.slots, *SHAPE))
    time = rival.timesteps[ROW]

    def theirs() -> torch.Tensor:
        # The noise follows the thresholded sample, as in our rows.
        previous: torch.Tensor = rival.step(
            output, time, x, use_clipped_model_output=True, return_dict=False
        )[0]
        return previous

    def reset() -> None:
        state[0].copy_(x)

    ours = partial(guide.step, plan, ROW, state, output)
    reset()
    ours()
    error = check("threshold", difference(state[0], theirs()), TOLERANCE)
    head = _head("thresholded step", "threshold", SHAPE, threads, "diffusers DDIM")
    return measured(head, {"ours": ours, "rival": theirs}, reset, error, THRESHOLD_BAR)


def quantiles(threads: int) -> Row:
    """Measure the quantile of one large sample's magnitudes."""
    x = torch.randn(QUANTILE_SHAPE, generator=torch.Generator().manual_seed(1))
    out = torch.empty(QUANTILE_SHAPE[0])
    ours = partial(fewstep.solver.quantile, x, RATIO, out=out)

    def theirs() -> torch.Tensor:
        return torch.quantile(x.abs().flatten(1), RATIO, dim=1)

    ours()
    # torch.quantile computes the position in float32: it is off by up to half an element here.
    error = check("quantile", difference(out, theirs()), 1e-5)
    head = _head("solver.quantile", "quantile", QUANTILE_SHAPE, threads, "torch.quantile")
    return measured(head, {"ours": ours, "rival": theirs}, lambda: None, error, QUANTILE_BAR)


def _head(op: str, case: str, shape: tuple[int, ...], threads: int, rival: str) -> Row:
    n = 1
    for extent in shape:
        n *= extent
    return {
        "op": op, "case": case, "n": n, "batch": shape[0], "threads": threads, "rival": rival,
        "dtype": "float32",
    }  # fmt: skip


def run(
    threads: tuple[int, ...], only: tuple[str, ...], progress: Callable[[str], None]
) -> list[Row]:
    """Measure everything that was asked for.

    Parameters
    ----------
    threads : tuple of int
    only : tuple of str
        Names of `NAMES`; all when empty.
    progress : callable
        Called with a line about what is measured next.

    Returns
    -------
    list of dict

    Raises
    ------
    WrongResult
        A result differs from its rival's.
    """
    before = fewstep.get_num_threads(), torch.get_num_threads()
    try:
        with torch.no_grad():
            return list(_rows(threads, only, progress))
    finally:
        fewstep.set_num_threads(before[0])
        torch.set_num_threads(before[1])


def _rows(
    threads: tuple[int, ...], only: tuple[str, ...], progress: Callable[[str], None]
) -> Iterator[Row]:
    for count in threads:
        set_threads(count)
        for name in only or NAMES:
            progress(f"{name}, {count} threads")
            if name in CASES:
                yield guided(CASES[name], count)
            else:
                yield {"threshold": thresholded, "quantile": quantiles}[name](count)

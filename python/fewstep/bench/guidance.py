# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench guidance``: guided and thresholded steps, and quantiles, against diffusers."""

from __future__ import annotations

import importlib
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

import fewstep
from fewstep import guidance

from .measure import Part, benchmark
from .rivals.diffusers import is_installed
from .rows import (
    Options,
    Row,
    add_bar,
    check,
    difference,
    set_threads,
    timed_row,
    unmeasured_row,
)
from .target import Target
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
GUIDER = "diffusers guider + DDIM"
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


def tensors(count: int, target: Target) -> list[torch.Tensor]:
    """Return samples and outputs; the outputs agree in part, as a model's do."""
    generator = torch.Generator().manual_seed(1)
    drawn = (torch.randn(SHAPE, generator=generator) for _ in range(count + 1))
    first, *rest = (values.to(target.device) for values in drawn)
    return [first, rest[0], *(0.9 * rest[0] + 0.4 * other for other in rest[1:])]


def measured(
    head: Row,
    calls: Mapping[str, Callable[[], object]],
    reset: Callable[[], object],
    error: float,
    bar: float,
    target: Target,
) -> Row:
    """Time both sides turn by turn; return the row."""
    timed = {"ours": Timed(calls["ours"], reset), "rival": Timed(calls["rival"])}
    times = interleaved(timed, 1.0, target.clock)
    row = timed_row(head, head["rival"], times["ours"], times["rival"])
    row["difference"] = float(f"{error:.1e}")
    if bar and not target.is_cuda:
        add_bar(row, bar)
    return row


def guided(case: Case, threads: int, target: Target) -> Row:
    """Measure the guider and the scheduler's step against a guided step."""
    x, cond, uncond = tensors(2, target)
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
    state = torch.zeros((plan.slots, *SHAPE), device=target.device)
    model_input = torch.empty((2 * SHAPE[0], *SHAPE[1:]), device=target.device)
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
    head = _head("guided step", case.name, SHAPE, threads, GUIDER, target)
    return measured(head, {"ours": ours, "rival": theirs}, reset, error, case.bar, target)


def thresholded(threads: int, target: Target) -> Row:
    """Measure DDIM with dynamic thresholding."""
    x, output = tensors(1, target)
    options = {"dynamic_thresholding_ratio": RATIO, "sample_max_value": 100.0}
    rival = scheduler(thresholding=True, **options)
    guide = guidance.Guide(None, guidance.Thresholding(RATIO, maximum=100.0))
    plan = plan_like(rival, clip=1.0)
    state = torch.zeros((plan.slots, *SHAPE), device=target.device)
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
    head = _head("thresholded step", "threshold", SHAPE, threads, "diffusers DDIM", target)
    return measured(head, {"ours": ours, "rival": theirs}, reset, error, THRESHOLD_BAR, target)


def quantiles(threads: int, target: Target) -> Row:
    """Measure the quantile of one large sample's magnitudes."""
    x = torch.randn(QUANTILE_SHAPE, generator=torch.Generator().manual_seed(1)).to(target.device)
    out = torch.empty(QUANTILE_SHAPE[0], device=target.device)
    ours = partial(fewstep.solver.quantile, x, RATIO, out=out)

    def theirs() -> torch.Tensor:
        return torch.quantile(x.abs().flatten(1), RATIO, dim=1)

    ours()
    # torch.quantile computes the position in float32: it is off by up to half an element here.
    error = check("quantile", difference(out, theirs()), 1e-5)
    head = _head("solver.quantile", "quantile", QUANTILE_SHAPE, threads, "torch.quantile", target)
    return measured(
        head, {"ours": ours, "rival": theirs}, lambda: None, error, QUANTILE_BAR, target
    )


def _head(
    op: str, case: str, shape: tuple[int, ...], threads: int, rival: str, target: Target
) -> Row:
    head = {"op": op, "case": case, "n": math.prod(shape), "batch": shape[0], "rival": rival}
    return head | {"dtype": "float32"} | (target.labels or {"threads": threads})


def rows(name: str, options: Options, target: Target) -> Iterator[Row]:
    """Measure one of `NAMES`: on the CPU with each number of threads."""
    for threads in options.threads[:1] if target.is_cuda else options.threads:
        set_threads(threads)
        if name == "quantile":
            yield quantiles(threads, target)
        elif not is_installed():
            head = _head("guided step", name, SHAPE, threads, GUIDER, target)
            yield unmeasured_row(head, GUIDER, "diffusers is not installed")
        elif name == "threshold":
            yield thresholded(threads, target)
        else:
            yield guided(CASES[name], threads, target)


def parts_of(options: Options, target: Target) -> list[tuple[str, Part]]:
    """List what was asked for; ``quick`` measures what has a bar."""
    names = [name for name in NAMES if options.wants(name)]
    if options.quick:
        names = [name for name in names if name not in CASES or CASES[name].bar]
    return [(name, partial(rows, name, options, target)) for name in names]


run = benchmark(parts_of)

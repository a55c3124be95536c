# SPDX-License-Identifier: Apache-2.0
"""Cascades of resolutions inside one trajectory (FreCaS): a plan for each stage, and how to join.

The engine knows stages as plans of their own: each ends with the x0 of its last node and the next
begins with that image, resized, at a noise level with noise again. Resizing (and a latent's decoder
and encoder around it) is the caller's.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..guidance import Guidance
from ..sampler import Sampler
from ..schedules import Schedule
from ..solver import Plan
from ..solver import plan as make_plan


def reentry_level(level: float, side: float, next_side: float, *, gamma: float = 2.0) -> float:
    """Return the noise level at which a larger image begins where a smaller one has stopped.

    The signal-to-noise ratio ``alpha**2 / sigma**2`` falls by ``(side / next_side) ** gamma``: an
    enlarged image shows its coarse content under more noise.

    Parameters
    ----------
    level : float
        ``sigma / alpha`` at which the smaller stage stops, above 0.
    side, next_side : float
        Sides (or roots of the pixel numbers) of the two stages.
    gamma : float, default 2
        2 keeps the ratio for each coarse pixel.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        An argument is not positive.

    References
    ----------
    .. [1] Zhang et al., "FreCaS: Efficient Higher-Resolution Image Generation via Frequency-aware
       Cascaded Sampling", arXiv 2410.18410, section 3.2

    Examples
    --------
    >>> fewstep.plans.reentry_level(1.5, 512, 1024)
    3.0
    """
    for name, value in (("level", level), ("side", side), ("next_side", next_side)):
        if not value > 0:
            raise ValueError(f"fewstep.plans.reentry_level: '{name}' must be above 0, got {value}")
    return float(level * (next_side / side) ** (gamma / 2))


def cascade(
    solver: str,
    *,
    schedule: Schedule,
    steps: Sequence[int],
    sides: Sequence[float],
    stops: Sequence[float],
    gamma: float = 2.0,
    **options: Any,
) -> tuple[Plan, ...]:
    """Make the plans of a cascade of resolutions.

    Parameters
    ----------
    solver : str
        As for `fewstep.solver.plan`.
    schedule : Schedule
        Of the whole trajectory, from the first stage's start to the last one's end.
    steps : sequence of int
        Intervals of each stage, the last of which is its x0.
    sides : sequence of float
        Image sides of the stages, increasing.
    stops : sequence of float
        ``sigma / alpha`` at which each stage but the last makes its x0, within the schedule.
    gamma : float, default 2
        Of `reentry_level`.
    **options
        Of `fewstep.solver.plan`.

    Returns
    -------
    tuple of Plan
        For `run_cascade`. A stage's nodes lie as the schedule's would between its first level and
        its stop: even in the number of the schedule's own finely placed nodes.

    Raises
    ------
    ValueError
        The sequences do not fit together, or a level is out of range.

    References
    ----------
    .. [1] Zhang et al., arXiv 2410.18410

    Examples
    --------
    >>> plans = fewstep.plans.cascade(
    ...     "dpmpp_2m", schedule=fewstep.schedules.karras(0.03, 14.6), prediction="epsilon",
    ...     steps=[6, 3], sides=[512, 1024], stops=[1.0])
    >>> [float(p.sigmas[0].round(2)) for p in plans]
    [14.6, 2.0]
    """
    function = "fewstep.plans.cascade"
    if not steps or len(sides) != len(steps) or len(stops) != len(steps) - 1:
        raise ValueError(
            f"{function}: 'stops' must have one entry less than 'steps' and 'sides', got "
            f"{len(stops)}, {len(steps)}, {len(sides)}"
        )
    if any(b <= a for a, b in itertools.pairwise(sides)):
        raise ValueError(f"{function}: 'sides' must increase, got {list(sides)}")
    finest = min(1000, dict(schedule.params).get("train_steps", 1000))
    nodes = schedule.nodes(schedule.default_steps or finest)
    with np.errstate(divide="ignore"):
        fine = nodes.sigma / nodes.alpha
    above = fine[fine > 0]
    entry, made = float(above[0]), []
    for k, count in enumerate(steps):
        last = float(stops[k]) if k < len(stops) else float(above[-1])
        if count < 1 or not above[-1] <= last < entry:
            name = "steps" if count < 1 else "stops"
            got = count if count < 1 else last
            raise ValueError(
                f"{function}: '{name}' must leave every stage steps between its levels "
                f"({entry:g} down to {above[-1]:g}), got {got}"
            )
        places = np.interp([-entry, -last], -above, np.arange(len(above), dtype=np.float64))
        at = np.linspace(places[0], places[1], count) if count > 1 else places[:1]
        with np.errstate(divide="ignore", invalid="ignore"):
            logs = np.interp(at, np.arange(len(above)), np.log(np.minimum(above, 1e300)))
        levels = np.exp(logs)
        levels[0] = entry
        if count > 1:
            levels[-1] = last
        made.append(make_plan(solver, schedule=schedule.at([*levels, 0.0]), **options))
        if k < len(stops):
            entry = reentry_level(last, sides[k], sides[k + 1], gamma=gamma)
            if entry > above[0]:
                raise ValueError(
                    f"{function}: 'stops' must let the next stage begin within the schedule, got "
                    f"{last} for a start at {entry:g} above {above[0]:g}"
                )
    return tuple(made)


def run_cascade(
    plans: Sequence[Plan],
    model: Callable[..., Any],
    shapes: Sequence[Sequence[int]],
    resize: Callable[[Any, tuple[int, ...]], Any],
    *,
    seeds: Iterable[int] | None = None,
    guidance: Guidance | None = None,
    cond: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    uncond: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
    **options: Any,
) -> Any:
    """Run the stages of a cascade.

    Parameters
    ----------
    plans : sequence of Plan
        From `cascade`.
    model : callable
        As `fewstep.Sampler` takes it; it is called with every stage's shape.
    shapes : sequence of shapes
        ``(B, N...)`` of each stage.
    resize : callable
        ``resize(x0, shape)`` -> array of the next stage's shape.
    seeds : B integers, optional
        Every stage draws noise of its own from them.
    guidance : Guidance, optional
    cond, uncond : mapping, or one for each stage, optional
    **options
        Of the sampler's call, such as ``device``.

    Returns
    -------
    array, shape of the last stage, float32

    Raises
    ------
    ValueError
        `shapes` does not have a shape for every plan.

    Examples
    --------
    >>> plans = fewstep.plans.cascade(
    ...     "euler", schedule=fewstep.schedules.karras(0.03, 14.6), prediction="x0",
    ...     steps=[3, 2], sides=[2, 4], stops=[1.0])
    >>> double = lambda x, shape: np.repeat(np.repeat(x, 2, 1), 2, 2)
    >>> fewstep.plans.run_cascade(
    ...     plans, lambda x, t: np.tanh(x), [(1, 2, 2), (1, 4, 4)], double).shape
    (1, 4, 4)
    """
    if len(shapes) != len(plans) or not plans:
        raise ValueError(
            f"fewstep.plans.run_cascade: 'shapes' must have one entry for each of {len(plans)} "
            f"plans, got {len(shapes)}"
        )
    own = list(range(int(shapes[0][0]))) if seeds is None else [int(s) for s in seeds]
    x = None
    for k, (plan, shape) in enumerate(zip(plans, shapes, strict=True)):
        begin = {} if k == 0 else {"x0": resize(x, tuple(int(n) for n in shape)), "start": 0}
        x = Sampler(plan, guidance)(
            model, shape, seeds=[_stage_seed(s, k) for s in own], cond=_of_stage(cond, k),
            uncond=_of_stage(uncond, k), **begin, **options,
        )  # fmt: skip
    return x


def _stage_seed(seed: int, stage: int) -> int:
    """A seed of the stage's own: the first stage keeps the caller's.

    The odd constant is 2**64 over the golden ratio, so that neighbouring seeds do not meet.
    """
    return (seed + stage * 0x9E3779B97F4A7C15) & 0xFFFF_FFFF_FFFF_FFFF


def _of_stage(value: Any, stage: int) -> Any:
    return value if value is None or isinstance(value, Mapping) else value[stage]

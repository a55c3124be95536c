# SPDX-License-Identifier: Apache-2.0
"""One More Step: a first step from pure noise by a model of its own."""

from __future__ import annotations

import math

from ..noise import STREAM_USER
from ..solver import Plan, Row

_SAMPLE, _GUIDED, _MODEL_INPUT = 0, 16, 23
_STATE, _INPUT = 0, 3
_PROCESS_VE, _PROCESS_FLOW = 1, 2
# x0 = p * x + q * output where alpha = 0 and sigma = 1.
_AT_NO_SIGNAL = {"v": (0.0, -1.0), "x0": (0.0, 1.0), "flow": (1.0, -1.0)}


def one_more_step(
    plan: Plan, *, prediction: str = "v", t: float | None = None, stream: int = STREAM_USER
) -> Plan:
    """Put a model call at zero signal before a plan whose schedule begins with some signal.

    A model that was trained with a schedule whose last step still shows the image cannot begin from
    pure noise. One More Step lets a second model predict x0 from noise alone and begins with
    ``alpha * x0 + sigma * noise`` at the plan's first node, with fresh noise.

    Parameters
    ----------
    plan : Plan
        Not of a VE process, which has no end at zero signal.
    prediction : {"v", "x0", "flow"}, default "v"
        What the first model tells; the noise would say nothing about x0.
    t : float, optional
        The time with which the first call is made, finite: the model that `fewstep.Sampler` is
        given looks at it to choose the network. By default one above the plan's first time, for
        flow 1.
    stream : int
        Of the fresh noise, apart from the plan's own.

    Returns
    -------
    Plan
        One row and one model call longer. With guidance of its own:
        ``Plan.with_guidance`` takes weights for every row.

    Raises
    ------
    ValueError
        `prediction` is something else, or the plan is of a VE process or begins without signal.

    References
    ----------
    .. [1] Hu et al., "One More Step: A Versatile Plug-and-Play Module for Rectifying Diffusion
       Schedule Flaws and Enhancing Low-Frequency Controls", arXiv 2311.15744, section 3.2. The
       published code multiplies the noise by its variance; here it is the standard deviation.

    Examples
    --------
    >>> schedule = fewstep.schedules.scaled_linear(spacing="trailing")
    >>> plan = fewstep.solver.plan("ddim", steps=4, schedule=schedule)
    >>> longer = fewstep.plans.one_more_step(plan)
    >>> longer.calls, longer.validate() < 1e-9
    (5, True)
    """
    function = "fewstep.plans.one_more_step"
    if prediction not in _AT_NO_SIGNAL:
        raise ValueError(f"{function}: 'prediction' must be v, x0 or flow, got {prediction!r}")
    first = plan.rows[0]
    if first.process == _PROCESS_VE or first.alpha == 0.0:
        raise ValueError(
            f"{function}: 'plan' must be of a VP or flow process and begin with signal, got "
            f"alpha={first.alpha}, sigma={first.sigma}"
        )
    p, q = _AT_NO_SIGNAL[prediction]
    time = t if t is not None else 1.0 if first.process == _PROCESS_FLOW else first.t + 1
    state = (first.alpha * p, first.alpha * q)
    prologue = Row(
        input=(_SAMPLE, _GUIDED), output=(_SAMPLE, _MODEL_INPUT), role=(_STATE, _INPUT),
        blend=(1, 1), a=(state, tuple(first.scale * v for v in state)),
        noise_stream=(stream,), noise_step=(0,),
        noise=((first.sigma,), (first.scale * first.sigma,)),
        known=(first.alpha, first.scale * first.alpha),
        known_noise=((first.sigma,), (first.scale * first.sigma,)),
        evaluates=1, step=0, frame=0, variable=0, order=0, process=first.process,
        gamma=(1.0,), p=p, q=q, clip=math.inf,
        t=time, alpha=0.0, sigma=1.0, scale=1.0, from_alpha=0.0, from_sigma=1.0, tau=1.0,
        next_t=first.t, next_alpha=first.alpha, next_sigma=first.sigma, next_scale=first.scale,
    )  # fmt: skip
    rest = [row.replace(step=row.step + 1) for row in plan.rows]
    return Plan.from_rows([prologue, *rest], f"one more step, {plan.name}")

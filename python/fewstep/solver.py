# SPDX-License-Identifier: Apache-2.0
"""Solver steps: plans (what happens between two model calls, as coefficients).

A **plan** is an immutable float64 table of rows; row i says what becomes of the sample and of the
kept history once the model has been called for the i-th time. Making, checking and saving plans is
host work. Slot 0 always holds the sample at which the model is evaluated.
"""

from __future__ import annotations

import difflib
from typing import Any

from fewstep import _core
from fewstep._core import Plan as Plan
from fewstep._core import Row as Row
from fewstep._step import empty_state as empty_state
from fewstep._step import step as step
from fewstep._sums import error_norm as error_norm
from fewstep._sums import gram as gram
from fewstep._sums import quantile as quantile
from fewstep.schedules import Schedule

__all__ = [
    "SOLVERS",
    "Plan",
    "Row",
    "empty_state",
    "error_norm",
    "gram",
    "plan",
    "quantile",
    "step",
]

#: Names that `plan` knows.
SOLVERS: tuple[str, ...] = tuple(_core.solver_names())

_OPTIONS = (
    "beta",
    "clip",
    "corrector_order",
    "corrector_steps",
    "diffusion_norm",
    "eta",
    "gamma",
    "intervals",
    "lower_order_final",
    "parity",
    "r1",
    "r2",
    "s_churn",
    "s_noise",
    "s_tmax",
    "s_tmin",
    "sigma_data",
    "sigma_min",
    "snr",
    "start",
    "tau",
    "tau_tmax",
    "tau_tmin",
    "variant",
)


def _nearest(name: str, known: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f" (near: {', '.join(near)})" if near else ""


def plan(
    name: str,
    *,
    schedule: Schedule,
    steps: int | None = None,
    prediction: str = "epsilon",
    order: int | None = None,
    **options: Any,
) -> Plan:
    """Make the plan of a solver on a schedule.

    Parameters
    ----------
    name : str
        One of `SOLVERS`. Of one model call a step: ``euler``, ``ddim``, ``ddpm``,
        ``euler_ancestral``, ``flow_euler``, ``rectified_flow``, ``lcm``. Multistep: ``dpm_2m``,
        ``dpm_3m``, ``dpmpp_2m``, ``dpmpp_3m``, ``dpmpp_2m_sde``, ``res_2m``, ``res_3m``, ``unipc``,
        ``deis``, ``lms``, ``ipndm``, ``ipndm_v``, ``pndm``, ``gradient_estimation``, ``hb``,
        ``ghvb``. Several calls a step: ``heun``, ``midpoint``, ``dpm2``, ``dpm_2s``, ``dpm_3s``,
        ``dpmpp_2s``, ``dpmpp_3s``, ``res_2s``, ``res_3s``, ``deis_rk``, ``flow_heun``,
        ``flow_midpoint``; in pairs for `fewstep.AdaptiveSampler` ``dpm_12``, ``dpm_23``,
        ``dpmpp_12``, ``dpmpp_23``. Both: ``flowturbo``, ``accelerated_ddim``. ``dpm_1s`` and
        ``dpmpp_1s`` are ``ddim``. Stochastic: ``accelerated_ddpm``,
        ``dpm2_ancestral``, ``dpmpp_2s_ancestral``, ``dpmpp_sde``, ``dpm_1m_sde`` to
        ``dpm_3m_sde``, ``dpmpp_1m_sde`` to ``dpmpp_3m_sde``, ``seeds``, ``sa``, ``er_sde``,
        ``edm_stochastic``, ``restart``, ``euler_ancestral_rf``, ``sit_sde``,
        ``predictor_corrector``. Of distilled models: ``lcm``,
        ``tcd``, ``ctm``, ``consistency``, ``dmd``.
    schedule : Schedule
        From `fewstep.schedules`.
    steps : int
        Number of schedule intervals; may be left out for an array of sigmas.
    prediction : {"epsilon", "x0", "v", "flow", "edm"}
        What the model tells: the noise, the clean sample, ``alpha * noise - sigma * x0``,
        ``noise - x0``, or the raw network of EDM. On a VE schedule ``epsilon`` and ``v`` are a VP
        network called with ``x / sqrt(1 + sigma**2)``.
    order : int, optional
        1 to 5 for ``unipc``, ``hb`` and ``ghvb`` (2 by default); 1 to 4 for ``deis`` (3),
        ``deis_rk`` (2), ``lms``, ``ipndm`` and ``ipndm_v`` (4); 1 to 4 for ``sa`` (3), whose
        ``corrector_order`` is 0 to 4 (3); 2 or 3 for ``seeds`` (2); 1 to 3 for ``er_sde`` (3);
        fixed for the others.
    **options
        ``eta``: noise of ``ddim`` (0 by default) and of the ancestral solvers and ``dpmpp_sde``
        (1), 0 to 1; of the multistep SDE solvers and ``seeds`` (1), the square of the SDE's
        strength.
        ``s_noise``: factor on injected noise; other than 1 it changes the marginals.
        ``clip``: clamp of the predicted x0 to [-clip, clip].
        ``sigma_data``: of prediction ``edm``, 0.5 by default.
        ``variant``: ``"midpoint"`` (default) or ``"heun"`` (exact) for ``dpmpp_2m`` and
        ``dpmpp_2m_sde``; ``"bh2"`` (default) or ``"bh1"`` for ``unipc``; ``"lambda"`` (default),
        ``"rho"`` or ``"time"`` for ``deis``; ``"midpoint"``, ``"heun"``, ``"grid_midpoint"`` or
        ``"grid_heun"`` (stages at the schedule's own nodes) for the single-step ``dpm`` and
        ``dpmpp``; ``"heun"`` or ``"midpoint"`` for ``deis_rk`` of order 2; ``"prk"`` or ``"plms"``
        (no Runge-Kutta start) for ``pndm``; ``"polyak"`` or ``"nesterov"`` for ``hb``; ``"euler"``
        or ``"keep_noise"`` for ``rectified_flow``; ``"evaluate"`` (two calls) or ``"reuse"`` for
        ``accelerated_ddim``; for ``flowturbo`` a block a step, such as ``"H1P5R3"``: Heun, pseudo
        corrector, refiner (whose model returns the change of the velocity in slot 2);
        ``"heun"`` or ``"euler"`` for ``edm_stochastic`` and ``restart``; the noise scale of
        ``er_sde``: ``"sde_5"`` (default), ``"ode"``, ``"sde"``, ``"sde_1"`` to ``"sde_4"``.
        ``parity``: rows of another library where it differs from the method:
        ``"diffusers"`` for ``dpm_3m``, ``dpmpp_3m``, ``dpm_3s``, ``dpmpp_3s``, ``unipc``, ``ipndm``
        ``lcm``, ``sa`` and ``dpmpp_3m_sde``, ``"k-diffusion"`` for ``dpm_3m``, ``dpmpp_3m`` and
        ``dpmpp_3m_sde``.
        ``r1``, ``r2``: where the stages of ``dpm``, ``dpmpp`` and ``res`` single steps, of
        ``dpmpp_sde`` and of ``seeds`` of order 2 stand, as fractions of the step in lambda.
        ``gamma``: of ``gradient_estimation``, the weight of the newest slope, 2 by default; of
        ``tcd`` (0.3) and ``ctm`` (0), the stochasticity, 0 to 1.
        ``beta``: of ``hb`` and ``ghvb``, the share of the newest slope in the velocity, 0.8 by
        default; 1 is no momentum.
        ``lower_order_final``: lower the order towards the end; by default below 15 steps, and never
        for ``lms``, ``pndm``, ``ipndm``, ``ipndm_v``, ``hb`` and ``ghvb``.
        ``tau``: of ``sa``, the SDE's strength (1 by default): a number, one for each step, or a
        function of the model time; 0 outside of ``tau_tmin`` to ``tau_tmax``.
        ``s_churn``, ``s_tmin``, ``s_tmax``: of ``edm_stochastic``, how much noise is added (40 by
        default) and between which ``sigma / alpha``.
        ``intervals``: of ``restart``, rows of (steps, repeats, lower, upper ``sigma / alpha``).
        ``diffusion_norm``: of ``sit_sde`` (1 by default); its ``variant`` is the form of the
        diffusion: ``"sigma"`` (default), ``"constant"``, ``"sbdm"``, ``"decreasing"``,
        ``"increasing_decreasing"``.
        ``snr``, ``corrector_steps``: of ``predictor_corrector`` (0.5 and 1 by default).
        ``sigma_min``: of ``consistency`` (0.002 by default) and ``ctm`` (0), the boundary.
        ``start``: first schedule interval, for image to image.

    Returns
    -------
    Plan

    Raises
    ------
    ValueError
        An unknown name, an option the solver does not take or a value out of range.
    TypeError
        An option that does not exist.

    References
    ----------
    .. [1] ``csrc/solver/README.md``: the formula behind all solvers, and each one's source.

    Examples
    --------
    >>> schedule = fewstep.schedules.karras(0.002, 80.0)
    >>> plan = fewstep.solver.plan("unipc", order=3, steps=8, schedule=schedule)
    >>> len(plan), plan.calls, plan.slots
    (8, 8, 5)
    >>> plan.validate() < 1e-9
    True
    """
    if name not in SOLVERS:
        raise ValueError(
            f"fewstep.solver.plan: 'name' must be one of {', '.join(SOLVERS)}, "
            f"got {name!r}{_nearest(name, SOLVERS)}"
        )
    for option in options:
        if option not in _OPTIONS:
            raise TypeError(
                f"fewstep.solver.plan: options are {', '.join(_OPTIONS)}, "
                f"got {option!r}{_nearest(option, _OPTIONS)}"
            )
    if not isinstance(schedule, Schedule):
        raise TypeError(
            "fewstep.solver.plan: 'schedule' must be a Schedule from fewstep.schedules, "
            f"got {type(schedule).__name__}"
        )
    if callable(options.get("tau")):
        times = schedule.nodes(steps).t[:-1]
        options["tau"] = [float(options["tau"](float(t))) for t in times]
    return Plan._create(
        name, schedule._create(steps), prediction=prediction, order=order, **options
    )

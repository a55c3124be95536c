# SPDX-License-Identifier: Apache-2.0
"""Adaptive steps: each sample takes the steps that its own error asks for.

Dimensions: ``B`` batch, ``N...`` one sample's shape, ``n`` model outputs that guidance combines.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ._batch import Batch, conditions_of, joined_conditions
from ._controller import PID as PID
from ._guidance import GramGuidance
from ._run import Model, checked_output
from .guidance import Guidance, Guide
from .schedules import Schedule
from .solver import Plan, Row, error_norm, plan, step

__all__ = ["PID", "AdaptiveSampler", "Report"]

_GUIDED, _CONVERTED, _MODEL_INPUT = 16, 21, 23
_ORDER = {"dpm_12": 2, "dpm_23": 3, "dpmpp_12": 2, "dpmpp_23": 3}


class Report(NamedTuple):
    """What an adaptive run cost: int64 arrays [B].

    Attributes
    ----------
    calls
        Model evaluations that the sample needed.
    accepted, rejected
        Its steps that counted, and those that were tried again.
    """

    calls: NDArray[np.int64]
    accepted: NDArray[np.int64]
    rejected: NDArray[np.int64]


@dataclass
class _Sample:
    """Where one sample stands."""

    lam: float
    width: float
    plan: Plan
    row: int = 0
    target: float = 0.0
    done: bool = False
    final: bool = False
    past: list[float] = field(default_factory=list)
    calls: int = 0
    accepted: int = 0
    rejected: int = 0


class AdaptiveSampler:
    """Draw samples with steps chosen by the difference of two solutions of different order.

    Every sample has its own steps; the batch shares the model calls. A rejected step is repeated
    from the model's first answer, which costs one call less. DPM-Solver-12 and -23.

    Parameters
    ----------
    schedule : Schedule
        Its first node, its last one above sigma = 0, and its process are what counts; where it ends
        at sigma = 0, a last call gives x0.
    solver : {"dpm_23", "dpm_12", "dpmpp_23", "dpmpp_12"}
        The pair of solutions.
    atol, rtol : float
        A step is good where the difference of both is, in the root mean square over a sample, at
        most ``max(atol, rtol * max(|lower|, |before|))``.
    first_step : float
        The first step, in log(alpha / sigma).
    controller : PID, optional
        How steps follow from errors.
    guidance : Guidance, optional
        As of `fewstep.Sampler`, without momentum and steps of zero output.
    steps : int, optional
        With how many steps the schedule is asked for its ends; only spacings of a training grid
        depend on it.
    max_calls : int
        Model calls after which a sample is given up.
    **options
        ``prediction``, ``clip``, ``sigma_data`` of `fewstep.solver.plan`.

    Raises
    ------
    ValueError
        An option out of range, or a schedule that begins without signal.

    References
    ----------
    .. [1] Lu et al., "DPM-Solver", 2022, arXiv 2206.00927, appendix C.4
    .. [2] Jolicoeur-Martineau et al., "Gotta go fast", 2021, arXiv 2105.14080

    Examples
    --------
    >>> sampler = fewstep.AdaptiveSampler(fewstep.schedules.karras(0.01, 20.0), prediction="x0")
    >>> x, report = sampler(lambda x, t: 0.0 * x + 0.5, shape=(2, 3), seeds=[7, 8])
    >>> bool(np.allclose(x, 0.5)), report.rejected.tolist()
    (True, [0, 0])
    """

    def __init__(
        self,
        schedule: Schedule,
        *,
        solver: str = "dpm_23",
        atol: float = 0.0078,
        rtol: float = 0.05,
        first_step: float = 0.05,
        controller: PID | None = None,
        guidance: Guidance | None = None,
        steps: int | None = None,
        max_calls: int = 10000,
        **options: Any,
    ) -> None:
        if solver not in _ORDER:
            known = ", ".join(_ORDER)
            raise ValueError(f"AdaptiveSampler: 'solver' must be one of {known}, got {solver!r}")
        for name, value in (("atol", atol), ("rtol", rtol), ("first_step", first_step)):
            if not (value > 0 and math.isfinite(value)):
                raise ValueError(f"AdaptiveSampler: '{name}' must be above 0, got {value}")
        if isinstance(guidance, GramGuidance):
            # Both are about the steps of a plan, none of which is tried twice.
            for name in ("momentum", "zero_init"):
                if getattr(guidance, name):
                    raise ValueError(
                        f"AdaptiveSampler: 'guidance' must have {name} 0, "
                        f"got {getattr(guidance, name)}"
                    )
        nodes = schedule.nodes(steps or schedule.default_steps or 16)
        if nodes.alpha[0] == 0:
            raise ValueError(
                "AdaptiveSampler: 'schedule' must begin with signal (alpha above 0), got alpha = 0"
            )
        noisy = nodes.lam[nodes.sigma > 0]
        if len(noisy) < 2:
            raise ValueError(
                "AdaptiveSampler: 'schedule' must have two nodes above sigma = 0, got one"
            )
        self.schedule, self.solver, self.guidance = schedule, solver, guidance
        self.atol, self.rtol, self.first_step = atol, rtol, first_step
        self.controller = controller or PID()
        self.max_calls = max_calls
        self._begin, self._end = float(noisy[0]), float(noisy[-1])
        self._to_zero = bool(nodes.sigma[-1] == 0)
        self._options = options
        self._interval(self._begin, self._end)  # says what is wrong with the options

    def __call__(
        self,
        model: Model,
        shape: Sequence[int] | None = None,
        *,
        seeds: Iterable[int] | None = None,
        cond: Mapping[str, Any] | None = None,
        uncond: Mapping[str, Any] | None = None,
        x0: Any = None,
        dtype: Any = "float32",
        device: Any = None,
    ) -> tuple[Any, Report]:
        """Draw a batch of samples.

        Parameters
        ----------
        model, shape, seeds, cond, uncond, dtype, device
            As of `fewstep.Sampler`.
        x0 : array, shape (B, N...), optional
            Clean samples, noised to the schedule's first node to start from.

        Returns
        -------
        tuple of array, shape (B, N...), float32, and Report

        Raises
        ------
        RuntimeError
            A sample has not arrived after `max_calls` calls.

        Notes
        -----
        One synchronisation with the host a model call.
        """
        conds = conditions_of(cond)
        batch = Batch.prepare(shape, x0, None, None, seeds, (*conds, uncond), model, device, dtype)
        conditions = joined_conditions(batch, self.guidance, conds, uncond)
        run = _Run(self, batch, dtype)
        with batch.arrays.without_gradients():
            run.drive(model, conditions)
        columns = [[getattr(s, name) for s in run.samples] for name in Report._fields]
        return run.slots[0], Report(*(np.array(c, np.int64) for c in columns))

    def _interval(self, begin: float, end: float) -> Plan:
        """Return the plan of one step in log(alpha / sigma); to infinity: x0."""
        ratios = [math.exp(-begin), math.exp(-end)]
        params = dict(self.schedule.params)
        if self.schedule.name in ("vp_linear", "scaled_linear", "cosine", "vp_sde"):
            params |= {"spacing": "sigmas", "sigmas": tuple(ratios)}
            schedule = Schedule(self.schedule.name, tuple(sorted(params.items())), 1)
        else:
            from . import schedules

            flow = self.schedule.process == "flow"
            values = [r / (1 + r) for r in ratios] if flow else ratios
            schedule = schedules.sigmas(values, process=self.schedule.process)
        made = plan(self.solver, schedule=schedule, **self._options)
        return made if self.guidance is None else made.with_guidance(self.guidance.weights(made))


class _Run:
    """Memory and loop of one call."""

    def __init__(self, sampler: AdaptiveSampler, batch: Batch, dtype: Any) -> None:
        self.sampler, self.batch = sampler, batch
        self.plans: list[Plan] = []
        count, *rest = batch.shape
        self.outputs = 1 if sampler.guidance is None else sampler.guidance.n
        self.slots = [
            batch.arrays.zeros(batch.shape, "float32") for _ in range(_ORDER[sampler.solver] + 2)
        ]
        looks = sampler.guidance is not None and sampler.guidance.needs_gram
        self.take = Guide(sampler.guidance).step if looks else step
        self.model_input = batch.arrays.zeros((self.outputs * count, *rest), dtype)
        width = min(sampler.first_step, sampler._end - sampler._begin)
        first = sampler._interval(sampler._begin, sampler._begin + width)
        self.samples = [
            _Sample(sampler._begin, width, first, target=sampler._begin + width)
            for _ in range(count)
        ]
        step(
            first.start(0, known=batch.x0 is not None), 0, self.slots, None,
            seeds=batch.seeds, known=batch.x0, model_input=self.model_input,
        )  # fmt: skip

    def drive(self, model: Model, conditions: dict[str, Any]) -> None:
        while not all(s.done for s in self.samples):
            rows = [None if s.done else s.plan.rows[s.row] for s in self.samples]
            # A sample that has arrived keeps the last time it was called with.
            times = [s.plan.rows[min(s.row, len(s.plan) - 1)].t for s in self.samples]
            t = self.batch.arrays.convert(np.tile(np.array(times, np.float32), self.outputs))
            output = checked_output(model(self.model_input, t, **conditions), self.model_input)
            self._step(rows, output)
            for s in self.samples:
                if not s.done:
                    s.row += 1
                    s.calls += 1
            self._judge()

    def _step(self, rows: Sequence[Row | None], output: Any) -> None:
        distinct = {row: i for i, row in enumerate(dict.fromkeys(r for r in rows if r))}
        index = [-1 if row is None else distinct[row] for row in rows]
        made, which = Plan.from_rows(list(distinct)), 0
        if any(index):
            which = self.batch.arrays.convert(np.array(index, np.int32))
            if self.batch.arrays.on_cuda:
                made.prepare(self.batch.arrays.device)
        # A table must outlive the work enqueued with it, which is done when errors have been read.
        self.plans.append(made)
        self.take(
            made, which, self.slots, output,
            seeds=self.batch.seeds, model_input=self.model_input,
        )  # fmt: skip

    def _judge(self) -> None:
        """Accept or reject the steps that are complete, and place those samples anew."""
        complete = [not s.done and s.row == len(s.plan) for s in self.samples]
        if not any(complete):
            return
        sampler, lower = self.sampler, self.slots[-1]
        errors = error_norm(
            self.slots[0], self.slots[1], lower, minus=lower, atol=sampler.atol,
            rtol=sampler.rtol, tolerance="max",
        )  # fmt: skip
        errors = np.asarray(errors.tolist())
        self.plans.clear()
        resumed = [
            self._resume(s, float(e)) if c else None
            for s, e, c in zip(self.samples, errors, complete, strict=True)
        ]
        if any(row is not None for row in resumed):
            self._step(resumed, None)

    def _resume(self, s: _Sample, error: float) -> Row | None:
        """Decide on a sample's step; return the row that places it for its next model call."""
        sampler = self.sampler
        if s.final:
            s.done = True
            return None
        if s.calls >= sampler.max_calls:
            raise RuntimeError(
                f"AdaptiveSampler: 'max_calls' must be above {sampler.max_calls} for a sample that "
                f"stands at log(alpha / sigma) = {s.lam:.4g} with step {s.width:.3g}"
            )
        factor, accepted = sampler.controller.propose(error, s.past, order=_ORDER[sampler.solver])
        s.width = (s.target - s.lam) * factor
        if accepted:
            s.accepted += 1
            s.lam, s.past = s.target, [error, *s.past[:1]]
        else:
            s.rejected += 1
        left = sampler._end - s.lam
        if left <= 1e-9 * (sampler._end - sampler._begin):
            s.done = not sampler._to_zero
            s.final = True
            s.target = math.inf
        else:
            s.target = sampler._end if s.width >= left * (1 - 1e-6) else s.lam + s.width
        if s.done:
            return None
        s.plan = sampler._interval(s.lam, s.target)
        s.row = 0 if accepted else 1
        first = s.plan.rows[0]
        return _placed(first) if accepted else _repeated(first)


def _placed(first: Row) -> Row:
    """Return the row that only makes the model's input of a sample."""
    return Row(input=(0,), output=(_MODEL_INPUT,), role=(3,), a=((first.scale,),),
               next_t=first.t, next_alpha=first.alpha, next_sigma=first.sigma,
               next_scale=first.scale, process=first.process)  # fmt: skip


def _repeated(first: Row) -> Row:
    """Return a step's first row again, from the start and its quantity that slots 1 and 2 keep."""
    told = _CONVERTED if _CONVERTED in first.input else _GUIDED
    weights = {
        code: dict(zip(first.input, line, strict=True))
        for code, line in zip(first.output, first.a, strict=True)
    }
    state, kept = weights[0], weights[2]
    b = state[told] / kept[told]
    pair = (state.get(0, 0.0) - b * kept.get(0, 0.0), b)
    return Row(input=(1, 2), output=(0, _MODEL_INPUT), role=(0, 3), step=first.step,
               a=(pair, tuple(first.next_scale * v for v in pair)), frame=first.frame,
               next_t=first.next_t, next_alpha=first.next_alpha, next_sigma=first.next_sigma,
               next_scale=first.next_scale, process=first.process)  # fmt: skip

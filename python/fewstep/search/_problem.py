# SPDX-License-Identifier: Apache-2.0
"""What a plan is judged by: a model, start noise, and where a fine plan takes them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..guidance import Guidance
from ..plans import enter
from ..sampler import Progress, Sampler
from ..schedules import Schedule
from ..solver import Plan
from ..solver import plan as make_plan

Array = NDArray[np.float64]


class Trajectory(NamedTuple):
    """What a plan did: float64 arrays in NumPy.

    Attributes
    ----------
    states : shape (rows + 1, B, N)
        The samples before the first and after each row.
    predictions : shape (rows, B, N)
        The guided, clamped x0 prediction of each row.
    """

    states: Array
    predictions: Array


class Problem:
    """A model with start noise, and the trajectories that plans should come close to.

    Parameters
    ----------
    model : callable
        As `fewstep.Sampler` takes it.
    shape : sequence of int
        ``(B, N...)``: how many trajectories the search looks at, and one sample's shape.
    schedule : Schedule
        Gives the range of noise levels, the process and the model's times.
    prediction : str, default "epsilon"
        What the model tells; see `fewstep.solver.plan`.
    seeds : B integers, default ``range(B)``
    cond, uncond : mappings, optional
    guidance : Guidance, optional
    teacher : str, default "dpmpp_3m"
        Solver of the fine plan whose samples are the reference.
    teacher_steps : int, default 64
        Its number of steps.
    device, dtype : optional
        As for `fewstep.Sampler`.
    **options
        Of every plan, such as ``sigma_data`` or ``clip``.

    Attributes
    ----------
    levels : array
        ``sigma / alpha`` at the teacher's nodes, from noise to data.

    Examples
    --------
    >>> problem = fewstep.search.Problem(
    ...     lambda x, t: x / (1 + t[:, None] ** 2), (4, 3),
    ...     schedule=fewstep.schedules.exponential(0.05, 20.0), prediction="x0")
    >>> plan = problem.plan("euler", 5)
    >>> 0 < problem.error(plan) < 0.5
    True
    """

    def __init__(
        self,
        model: Callable[..., Any],
        shape: Sequence[int],
        *,
        schedule: Schedule,
        prediction: str = "epsilon",
        seeds: Iterable[int] | None = None,
        cond: Mapping[str, Any] | None = None,
        uncond: Mapping[str, Any] | None = None,
        guidance: Guidance | None = None,
        teacher: str = "dpmpp_3m",
        teacher_steps: int = 64,
        device: Any = None,
        dtype: Any = "float32",
        **options: Any,
    ) -> None:
        if teacher_steps < 4:
            raise ValueError(f"Problem: 'teacher_steps' must be at least 4, got {teacher_steps}")
        if schedule.name == "vp_sde" or schedule.process == "prior":
            raise ValueError(
                f"Problem: 'schedule' must tell the time at any noise level, got {schedule.name}"
            )
        self.schedule, self.shape = schedule, tuple(int(n) for n in shape)
        self._model, self._guidance, self._teacher = model, guidance, teacher
        self._options = {"prediction": prediction, **options}
        self._call: dict[str, Any] = {
            "device": device, "dtype": dtype, "cond": cond, "uncond": uncond,
            "seeds": list(range(self.shape[0])) if seeds is None else list(seeds),
        }  # fmt: skip
        nodes = schedule.nodes(schedule.default_steps or teacher_steps)
        with np.errstate(divide="ignore"):
            self.levels: Array = nodes.sigma / nodes.alpha
        self._truth: Array | None = None
        self._states: dict[float, Array] = {}

    def plan(self, solver: str, steps: int | None = None, /, **options: Any) -> Plan:
        """Return a solver's plan on the problem's schedule, or on ``schedule=``."""
        settings = {"schedule": self.schedule, **self._options, **options}
        return make_plan(solver, steps=steps, **settings)

    def schedule_at(self, levels: ArrayLike) -> Schedule:
        """Return the problem's schedule with its nodes at noise levels ``sigma / alpha``.

        Parameters
        ----------
        levels : array
            Strictly decreasing; the last may be 0, the first of flow may be infinite.

        Returns
        -------
        Schedule
            The model's times follow the problem's schedule.
        """
        return self.schedule.at(levels)

    def run(self, plan: Plan) -> Trajectory:
        """Run a plan and keep its samples and x0 predictions."""
        sampler = Sampler(plan, self._guidance)
        rows = sampler.plans[0].rows
        outputs: list[Any] = []

        def keep(now: Progress) -> None:
            if now.output is None:
                raise ValueError(
                    f"Problem: 'plan' must call the model in every row, got row {now.index}"
                )
            outputs.append(flat(now.output))

        _, path = sampler(self._model, self.shape, callback=keep, trajectory=True, **self._call)
        states = np.array([flat(x) for x in path])
        predictions = np.empty((len(rows), *states.shape[1:]))
        for i, (row, output) in enumerate(zip(rows, outputs, strict=True)):
            raw = output.reshape(len(row.gamma), *states.shape[1:])
            x0 = row.p * states[i] + row.q * np.tensordot(np.asarray(row.gamma), raw, 1)
            predictions[i] = np.clip(x0, -row.clip, row.clip)
        return Trajectory(states, predictions)

    def sample(self, plan: Plan) -> Array:
        """Draw the problem's samples with a plan; shape (B, N), float64."""
        return flat(Sampler(plan, self._guidance)(self._model, self.shape, **self._call))

    def predict(self, x: Array, level: float) -> Array:
        """Return the model's x0 prediction at given samples; shape (B, N), float64.

        Parameters
        ----------
        x : array, shape (B, N)
            ``alpha * x0 + sigma * noise`` of the problem's process.
        level : float
            ``sigma / alpha`` above 0.
        """
        plan = enter(self.plan("euler", schedule=self.schedule_at([level, 0.0])))
        state = np.asarray(x, np.float32).reshape(self.shape)
        sampler = Sampler(plan, self._guidance)
        return flat(sampler(self._model, x0=state, start=0, **self._call))

    @property
    def reference(self) -> Array:
        """Where the teacher takes the samples; shape (B, N), float64."""
        if self._truth is None:
            self._truth = self.sample(self.plan(self._teacher, schedule=self._fine([])))
        return self._truth

    @reference.setter
    def reference(self, samples: ArrayLike) -> None:
        self._truth = flat(samples)

    def _fine(self, extra: Sequence[float]) -> Schedule:
        """Return the teacher's schedule with further noise levels among its nodes."""
        wanted = set(extra)
        kept: list[float] = []
        for level in sorted({*self.levels.tolist(), *wanted}, reverse=True):
            # Levels that all but coincide are one node: the weights between them would explode.
            if not kept or kept[-1] - level > 1e-6 * kept[-1] or np.isinf(kept[-1]):
                kept.append(level)
            elif level in wanted:
                kept[-1] = level
        return self.schedule_at(kept)

    def states(self, levels: Iterable[float]) -> Array:
        """Return the teacher's samples at noise levels; shape (levels, B, N), float64.

        Parameters
        ----------
        levels : floats
            ``sigma / alpha`` within the schedule's range.
        """
        wanted = [float(v) for v in levels]
        missing = [v for v in wanted if v not in self._states]
        for v in missing:
            if not self.levels[-1] <= v <= self.levels[0]:
                raise ValueError(
                    f"Problem: 'levels' must lie in [{self.levels[-1]}, {self.levels[0]}], got {v}"
                )
        if missing:
            schedule = self._fine(missing)
            nodes = schedule.nodes()
            states = self.run(self.plan(self._teacher, schedule=schedule)).states
            with np.errstate(divide="ignore"):
                found = nodes.sigma / nodes.alpha
            for v in missing:
                self._states[v] = states[int(np.argmin(np.abs(found - v)))]
        return np.array([self._states[v] for v in wanted])

    def error(self, plan: Plan) -> float:
        """Return a plan's root mean square distance to the reference."""
        return float(np.sqrt(np.mean((self.sample(plan) - self.reference) ** 2)))


def flat(x: Any) -> Array:
    """Return an array of any kind as float64 [B, N] in NumPy."""
    if hasattr(x, "detach"):
        x = x.detach().cpu().float()
    array = np.asarray(x, np.float64)
    return array.reshape(array.shape[0], -1)

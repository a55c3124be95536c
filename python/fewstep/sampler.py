# SPDX-License-Identifier: Apache-2.0
"""The sampler: runs a plan around any model.

Dimensions: ``B`` batch, ``N...`` one sample's shape, ``n`` model outputs that guidance combines
(1 without), ``S`` state slots, ``R`` rows of the longest trajectory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ._batch import Batch, conditions_of, joined_conditions, legs_of
from ._course import TableCache
from ._graph import Graphs
from ._run import Model, Progress, Run
from .guidance import Guidance, Thresholding, TimeShift
from .solver import Plan

__all__ = ["Progress", "Sampler"]


class Sampler:
    """Draw samples from a diffusion or flow model with a solver's plan.

    Each model evaluation is followed by one call of `fewstep.solver.step`: guidance, prediction
    conversion, solver update, noise, cast and duplication of the next model input are one pass
    over memory. A sample depends on its own seed, plan and condition, never on its batch.

    Parameters
    ----------
    plan : Plan or sequence of Plan
        From `fewstep.solver.plan`. Several plans let one batch hold samples of different solvers
        and step counts; see `plan_index` of `__call__`.
    guidance : Guidance, optional
        From `fewstep.guidance`; the model is then called once for all its outputs together, and
        for the conditional one alone at rows where guidance is off.
    thresholding : Thresholding, optional
        Dynamic thresholding, for plans made with ``clip``.
    time_shift : TimeShift, optional
        Model times that follow each sample's variance.

    Raises
    ------
    ValueError
        `plan` is an empty sequence.
    TypeError
        `plan` or `guidance` is something else.

    Examples
    --------
    >>> import numpy as np, fewstep
    >>> schedule = fewstep.schedules.karras(0.002, 80.0)
    >>> plan = fewstep.solver.plan("unipc", steps=8, schedule=schedule, prediction="x0")
    >>> x = fewstep.Sampler(plan)(lambda x, t: 0.0 * x + 0.5, shape=(2, 3), seeds=[7, 8])
    >>> bool(np.allclose(x, 0.5))
    True
    """

    def __init__(
        self,
        plan: Plan | Sequence[Plan],
        guidance: Guidance | None = None,
        thresholding: Thresholding | None = None,
        time_shift: TimeShift | None = None,
    ) -> None:
        plans = (plan,) if isinstance(plan, Plan) else tuple(plan)
        if not plans:
            raise ValueError("Sampler: 'plan' must be a Plan or several, got an empty sequence")
        for item in plans:
            if not isinstance(item, Plan):
                raise TypeError(f"Sampler: 'plan' must hold Plans, got {type(item).__name__}")
        if guidance is not None and not isinstance(guidance, Guidance):
            raise TypeError(
                "Sampler: 'guidance' must be a Guidance such as guidance.cfg(4.0), "
                f"got {type(guidance).__name__}"
            )
        if guidance is not None:
            plans = tuple(map(guidance.plan, plans))
        if thresholding is not None and not all(map(_clamps, plans)):
            raise ValueError(
                "Sampler: 'thresholding' must be None for plans made without clip, "
                f"got {thresholding}"
            )
        self.plans: tuple[Plan, ...] = plans
        self.guidance = guidance
        self.thresholding = thresholding
        self.time_shift = time_shift
        self._tables = TableCache()
        self._graphs = Graphs()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to this process's devices."""
        names = ("plans", "guidance", "thresholding", "time_shift")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._tables = TableCache()
        self._graphs = Graphs()

    def __call__(
        self,
        model: Model,
        shape: Sequence[int] | None = None,
        *,
        seeds: Iterable[int] | None = None,
        cond: Mapping[str, Any] | Sequence[Mapping[str, Any]] | None = None,
        uncond: Mapping[str, Any] | None = None,
        plan_index: Sequence[int] | None = None,
        x0: Any = None,
        start: int | Sequence[int] | None = None,
        strength: float | None = None,
        known: Any = None,
        mask: Any = None,
        prior: Any = None,
        initial: Any = None,
        callback: Callable[[Progress], object] | None = None,
        trajectory: bool = False,
        progress: bool = False,
        dtype: Any = "float32",
        device: Any = None,
        graph: bool = False,
    ) -> Any:
        """Draw a batch of samples.

        Parameters
        ----------
        model : callable
            ``model(x, t, **cond)`` -> array of x's shape, float32, float16 or bfloat16; x
            [n * B, N...] of `dtype`, t [n * B] float32. With guidance the conditional half comes
            first; rows outside a guidance interval have n = 1. x is one buffer that every call
            reuses: a model must not keep it.
        shape : sequence of int, optional
            ``(B, N...)``; may be left out when `x0`, `known`, `prior` or `initial` has it.
        seeds : B integers of up to 64 bits, default ``range(B)``
            All of a sample's randomness. A tensor is read where it is.
        cond, uncond : mappings, optional
            Keyword arguments of the model. Arrays have B rows or one row for all; anything else
            is passed as it is. With guidance, `uncond` has the same keys and each pair of arrays
            is joined once, before the first call. Where guidance combines more than two outputs,
            `cond` is a sequence of mappings with the same keys, one for each but the last.
        plan_index : B integers, optional
            Number of the plan each sample follows; with as many plans as samples the default is
            one each, in order.
        x0 : array, shape (B, N...), optional
            Clean samples to start from (image to image); noised to the level of the first row.
        start : int or B integers, optional
            First row with `x0`; must begin a step. Where a multistep solver would read outputs
            from before it, its first rows are of first order.
        strength : float in (0, 1], optional
            Share of the plan's steps to run, instead of `start`.
        known, mask : arrays, shape (B, N...), optional
            Inpainting: where `mask` is 0 the result is `known`, where it is 1 it is drawn. `mask`
            may have one row for all.
        prior : array, shape (B, N...), optional
            y of a process ``alpha * x0 + prior * y + sigma * noise`` (`schedules.bridge`,
            `schedules.mean_reverting`, `schedules.ornstein_uhlenbeck`), from which it starts.
        initial : array, shape (B, N...), optional
            The samples at the first row, instead of noise drawn there: another distribution
            (`noise.pfgmpp`), or the other end of an interpolant.
        callback : callable, optional
            Called with a `Progress` after each row.
        trajectory : bool, default False
            Also return the samples before the first and after each row.
        progress : bool, default False
            Show a tqdm bar of model calls.
        dtype : str or dtype, default "float32"
            Of the model's input. The state itself is always float32.
        device : str or torch.device, optional
            Run with torch tensors there. Otherwise the first tensor given decides, then the
            model's own parameters when it is a torch module; without either it is numpy.
        graph : bool, default False
            On CUDA, run the whole trajectory as one CUDA graph. The first call runs it once,
            captures it and replays it; later calls with the same model object, shapes, dtypes and
            kinds of arguments replay it with their own seeds, arrays, and choice among the
            sampler's plans. The model must be capturable: no synchronisation with the host; what
            it reads beside its arguments and parameters is what it read then, or stays where it
            was. Conditions that are no arrays must be hashable. Excludes `callback` and `progress`.

        Returns
        -------
        array, shape (B, N...), float32
            In the caller's kind; with `trajectory` a tuple of it and an array
            [R + 1, B, N...], float32.

        Raises
        ------
        ValueError
            An argument or the model's output has the wrong shape, length or range; the message
            names it and the value.
        TypeError
            The model returned something that is not an array.

        RuntimeError
            The model cannot be captured.

        Notes
        -----
        torch models run in inference mode. Beside what the model allocates, nothing is allocated
        after the first step. One ``step`` call per model evaluation.

        On CUDA nothing waits for the device. A call may be part of a graph that the caller
        captures: after one like it outside, with seeds and arrays on the device (or none), and the
        sampler kept as long as that graph. The sampler keeps the 8 graphs used last; each holds the
        memory of a whole run. `clear_graphs` frees them.
        """
        if graph:
            for name, value in (("callback", callback), ("progress", progress or None)):
                if value is not None:
                    raise ValueError(
                        f"Sampler: '{name}' must not be given with graph=True, got {value!r}"
                    )
        conds = conditions_of(cond)
        batch = Batch.prepare(
            shape, x0, known, mask, seeds, (*conds, uncond), model, device, dtype,
            prior=prior, initial=initial, plans=self.plans,
        )  # fmt: skip
        batch = replace(
            batch,
            guidance=self.guidance,
            thresholding=self.thresholding,
            time_shift=self.time_shift,
        )
        legs = legs_of(self.plans, batch.shape[0], plan_index, start, strength, x0 is not None)
        course, packed = self._tables.get(
            batch.arrays,
            self.plans,
            legs or ((0, 0),),  # an empty batch runs like one sample of which nothing is kept
            "x0" if x0 is not None else "noise" if initial is None else "initial",
            graph and len(self.plans) > 1,
        )
        conditions = joined_conditions(batch, self.guidance, conds, uncond)
        if graph and batch.shape[0]:
            x, path = self._graphs.run(batch, course, packed, conditions, dtype, trajectory, model)
            return (x, path) if trajectory else x
        run = Run(batch, course, packed, conditions, dtype, trajectory)
        with batch.arrays.without_gradients():
            run.drive(model, callback, progress)
        return (run.slots[0], run.path) if trajectory else run.slots[0]

    def clear_graphs(self) -> None:
        """Drop what ``graph=True`` captured, and its memory."""
        self._graphs.clear()


def _clamps(plan: Plan) -> bool:
    return any(row.clip < np.inf for row in plan.rows)

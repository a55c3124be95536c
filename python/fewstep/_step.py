# SPDX-License-Identifier: Apache-2.0
"""``fewstep.solver.step`` and the state it works on; `fewstep.solver` re-exports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fewstep import _core
from fewstep._core import Plan


def step(
    plan: Plan,
    row: Any,
    state: Any,
    model_output: Any,
    *,
    seeds: Any = None,
    guidance: Any = None,
    known: Any = None,
    mask: Any = None,
    model_input: Any = None,
    clip: Any = None,
) -> Any:
    """Advance every sample by one row of a plan, in place and in one pass over memory.

    ::

        g        = sum_j gamma[j] * M_j
        h        = clamp(p * slot_0 + q * g, -clip, clip)
        u_r      = sum_k a[r, k] * input_k + sum_z noise[r, z] * xi_z
        output_r = u_r, or mask * u_r + (1 - mask) * known side where the row blends

    with the numbers of ``plan.rows[row]``.

    Parameters
    ----------
    plan : Plan
        From `fewstep.solver.plan` or one of the constructors of `Plan`.
    row : int or array, shape (B,), int32
        The row to follow, the same for all samples or one for each; a sample with a negative entry
        is left as it is. An array is on the state's device; on CUDA the device reads it, and
        leaves a sample as it is whose row the plan has not, or needs an operand not given.
    state : array, shape (S, B, ...), float32; or list or tuple of S arrays, shape (B, ...)
        The plan's slots, ``S >= plan.slots``; slot 0 is the sample. Updated in place. `None` in a
        list stands for a slot that no row in use needs.
    model_output : array, tuple of arrays, or None; float32 | float16 | bfloat16
        What the model returned, shape (B, ...). Under guidance one array for each of the G weights,
        or one of shape (G * B, ...) with the outputs one after the other. None for rows that follow
        no model call.
    seeds : array, shape (B,), int64 | uint64, optional
        Needed by rows with noise: a sample's noise depends on its seed and the row alone.
    guidance : array, shape (B, G), float32, optional
        Weights for each sample, in place of the plan's.
    known : array, shape (B, ...), float32, optional
        The known image of a start row or of a masked step.
    mask : array, shape (B, ...) or (1, ...), float32, optional
        1 where the sample is generated, 0 where it follows `known`.
    model_input : array, shape (c * B, ...), float32 | float16 | bfloat16, optional
        Receives what the model is to be called with next, c times.
    clip : array, shape (B, 2), float32, optional
        Limit s and factor f for each sample: ``h = f * clamp(p * slot_0 + q * g, -s, s)``, in place
        of the plan's clip, for rows that clamp (of plans made with ``clip``). Dynamic thresholding
        is what `fewstep.guidance.threshold` gives.

    Returns
    -------
    array, or list or tuple of arrays
        `state`.

    Raises
    ------
    ValueError
        A shape, dtype, value or overlap that the row does not allow, an operand that it needs and
        did not get, or a tensor that requires grad; the message names the argument.
    NotImplementedError
        This build has no kernel for the device.

    Notes
    -----
    Sums in float32 with coefficients rounded once from float64. A term whose coefficient is zero is
    left out, so an operand that is infinite there does no harm. A sample's result has the same bits
    alone or in a batch, on any number of threads and with every kernel variant. Allocates nothing.

    On CUDA it runs on torch's current stream (or that of `fewstep.use_stream`) without waiting for
    it, and may be captured into a graph; with `row` or `guidance` as arrays, `Plan.prepare` has to
    come before the capture. The tensors must live until the work is done, which torch sees to for
    its own on its current stream.

    References
    ----------
    .. [1] ``csrc/solver/README.md`` derives the rows and cites each solver

    Examples
    --------
    >>> rows = [fewstep.solver.Row(input=(0,), output=(0,), a=((2.0,),))]
    >>> plan = fewstep.solver.Plan.from_rows(rows)
    >>> fewstep.solver.step(plan, 0, np.ones((1, 1, 3), "f4"), None)
    array([[[2., 2., 2.]]], dtype=float32)
    """
    return _core.solver_step(
        plan, row, state, model_output, seeds, guidance, known, mask, model_input, clip
    )


def empty_state(plan: Plan, like: Any) -> Any:
    """Allocate the slots of a plan, filled with zeros.

    Parameters
    ----------
    plan : Plan
        Says how many slots there are.
    like : array or sequence of int, shape (B, ...)
        A torch tensor, which gives kind, shape and device; or anything else with a shape; or a
        shape.

    Returns
    -------
    array, shape (plan.slots, B, ...), float32

    Examples
    --------
    >>> rows = [fewstep.solver.Row(input=(0,), output=(1,), a=((2.0,),))]
    >>> plan = fewstep.solver.Plan.from_rows(rows)
    >>> fewstep.solver.empty_state(plan, (4, 3)).shape
    (2, 4, 3)
    """
    shape: Sequence[int] = tuple(getattr(like, "shape", like))
    if type(like).__module__.partition(".")[0] == "torch":
        import torch

        return torch.zeros((plan.slots, *shape), dtype=torch.float32, device=like.device)
    return np.zeros((plan.slots, *shape), np.float32)

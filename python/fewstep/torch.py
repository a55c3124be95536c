# SPDX-License-Identifier: Apache-2.0
"""Solver steps that torch differentiates, and linear layers of torch models on packed weights.

For losses of a trajectory's end and gradients at its start: a row is linear in the samples, the
kept history and the model's outputs, so its backward pass is again a row, the transposed weights
over the incoming gradients, run by the same kernel. Only a clamp of x0 is not linear; its gradient
is zero where it holds. `pack_linears` makes a model decode with `fewstep.linear`. Needs torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ._autograd import MODEL_INPUT, Call, Step
from ._torch_linear import Linear as Linear
from ._torch_swap import Swapped as Swapped
from ._torch_swap import pack_linears as pack_linears
from .solver import Plan

__all__ = ["Linear", "Swapped", "pack_linears", "sample", "step"]


def step(
    plan: Plan,
    row: int | torch.Tensor,
    state: Sequence[torch.Tensor | None],
    model_output: torch.Tensor | Sequence[torch.Tensor] | None,
    *,
    seeds: torch.Tensor | None = None,
    guidance: torch.Tensor | None = None,
    known: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    input_dtype: torch.dtype | None = None,
) -> tuple[list[torch.Tensor | None], torch.Tensor | None]:
    """Advance every sample by one row of a plan, differentiably; nothing is changed in place.

    Parameters
    ----------
    plan : Plan
    row : int or tensor, shape (B,), int32
        As for `fewstep.solver.step`; samples with a negative entry stay as they are.
    state : sequence of tensors, shape (B, ...), float32, or None
        The plan's slots; None for one that holds nothing yet.
    model_output : tensor, tuple of tensors, or None; float32 | float16 | bfloat16
        As for `fewstep.solver.step`.
    seeds, guidance, known, mask : tensors, optional
        As for `fewstep.solver.step`.
    input_dtype : torch.dtype, optional
        Also make the next model input, of this type.

    Returns
    -------
    state : list of tensors or None
        New tensors for the slots that the row writes, the others as they came.
    model_input : tensor, shape (B, ...), or None

    Raises
    ------
    ValueError
        As `fewstep.solver.step`.
    NotImplementedError
        A loss is differentiated twice, or the plan writes more than eleven operands.

    Notes
    -----
    Gradients flow to `state`, `model_output`, `guidance` and `known`, not to `mask`. The backward
    pass is the transposed row, run by the kernel in one pass for each four tensors that receive a
    gradient; float32 like the step itself.

    Examples
    --------
    >>> import torch, fewstep.torch
    >>> schedule = fewstep.schedules.sigmas([4.0, 2.0, 0.0])
    >>> plan = fewstep.solver.plan("euler", schedule=schedule, prediction="x0")
    >>> x = torch.ones(1, 3, requires_grad=True)
    >>> state, _ = fewstep.torch.step(plan, 0, [x], torch.zeros(1, 3))
    >>> state[0].sum().backward()
    >>> x.grad.tolist()
    [[0.5, 0.5, 0.5]]
    """
    slots = list(state) + [None] * (plan.slots - len(state))
    if model_output is None:
        models: tuple[Any, ...] = ()
    elif isinstance(model_output, torch.Tensor):
        first = next(s for s in slots if s is not None)
        models = model_output.reshape(-1, *first.shape).unbind(0)
    else:
        models = tuple(model_output)
    row = int(row) if not isinstance(row, torch.Tensor) else row
    if isinstance(row, int) and not 0 <= row < len(plan):
        raise ValueError(f"fewstep.torch.step: 'row' must be in [0, {len(plan)}), got {row}")
    call = Call(plan, row, len(slots), len(models), seeds, mask, input_dtype)
    tensors = [None if t is None else t.contiguous() for t in (*slots, *models)]
    results = list(Step.apply(call, guidance, known, *tensors))  # type: ignore[no-untyped-call]
    model_input = results.pop() if input_dtype is not None else None
    for k, value in zip(call.written, results, strict=True):
        slots[k] = value
    return slots, model_input


def sample(
    plan: Plan,
    model: Callable[..., torch.Tensor],
    x: torch.Tensor,
    *,
    seeds: torch.Tensor | None = None,
    guidance: torch.Tensor | None = None,
    checkpoint: bool = False,
    dtype: torch.dtype = torch.float32,
    **cond: Any,
) -> torch.Tensor:
    """Run a whole plan from a noisy sample to data, differentiably.

    Inference-time optimisation (of the noise, the guidance, a condition, the model's weights) puts
    a loss on the result and calls ``backward``.

    Parameters
    ----------
    plan : Plan
    model : callable
        ``model(x, t, **cond)`` -> tensor of x's shape; with n model outputs a row, x is
        [n * B, ...] and t [n * B], as for `fewstep.Sampler`.
    x : tensor, shape (B, ...), float32
        The sample at the plan's first noise level.
    seeds : tensor, shape (B,), int64, optional
        Needed by plans with noise.
    guidance : tensor, shape (B, n), float32, optional
        Weights in place of the plan's.
    checkpoint : bool, default False
        Keep no activations: call the model again in the backward pass.
    dtype : torch.dtype, default float32
        Of the model's input.
    **cond
        Passed to the model.

    Returns
    -------
    tensor, shape (B, ...), float32

    References
    ----------
    .. [1] Novack et al., "DITTO-2: Distilled Diffusion Inference-Time T-Optimization for Music
       Generation", arXiv 2405.20289

    Examples
    --------
    >>> import torch, fewstep.torch
    >>> schedule = fewstep.schedules.karras(0.1, 10.0)
    >>> plan = fewstep.solver.plan("dpmpp_2m", steps=6, schedule=schedule, prediction="x0")
    >>> noise = (10 * torch.ones(2, 3)).requires_grad_()
    >>> loss = fewstep.torch.sample(plan, lambda x, t: torch.tanh(x), noise).square().mean()
    >>> loss.backward()
    >>> bool(noise.grad.isfinite().all())
    True
    """
    from torch.utils.checkpoint import checkpoint as recompute

    rows = plan.rows
    state: Sequence[torch.Tensor | None] = [x]
    model_input: Any = (rows[0].scale * x).to(dtype)
    for number, row in enumerate(rows):
        output = None
        if row.evaluates:
            count = guidance.shape[1] if guidance is not None else max(1, len(row.gamma))
            called = torch.cat([model_input] * count) if count > 1 else model_input
            time = torch.full((len(called),), row.t, dtype=torch.float32, device=x.device)
            if checkpoint:
                output = recompute(model, called, time, use_reentrant=False, **cond)
            else:
                output = model(called, time, **cond)
        wants_input = dtype if MODEL_INPUT in row.output else None
        state, made = step(
            plan, number, state, output, seeds=seeds, guidance=guidance, input_dtype=wants_input
        )
        model_input = made if made is not None else model_input
    result = state[0]
    assert result is not None
    return result

# SPDX-License-Identifier: Apache-2.0
"""Float64 NumPy reference of one plan row: the formula of ``fewstep/plan.h``, term by term.

It shares no code with the engine. Tests of the kernels compare with it, and the tests of the plans
run whole trajectories through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .sums import error_norm as error_norm
from .sums import gram as gram
from .sums import quantile as quantile

Array = NDArray[np.float64]

GUIDED = 16
MODEL = 17
CONVERTED = 21
KNOWN = 22
MODEL_INPUT = 23


def guided(row: Any, models: Sequence[Array], gamma: Any = None) -> Array | None:
    """Combine the raw model outputs: ``g = sum_j gamma_j M_j``; None for a row that has none.

    ``gamma`` replaces the row's own weights; scalars, or arrays that broadcast with the outputs.
    """
    if not row.evaluates:
        return None
    weights = row.gamma[: row.n_guidance] if gamma is None else gamma
    g = np.zeros_like(np.asarray(models[0], np.float64))
    for weight, model in zip(weights, models, strict=True):
        g = g + weight * np.asarray(model, np.float64)
    return g


def step(
    row: Any,
    slots: Sequence[Array],
    models: Sequence[Array] = (),
    xi: Sequence[Array] = (),
    mask: Array | None = None,
    known: Array | None = None,
    gamma: Any = None,
    clip: tuple[Any, Any] | None = None,
) -> tuple[list[Array], Array | None]:
    """Apply one row to float64 arrays and return ``(slots afterwards, next model input or None)``.

    Parameters
    ----------
    row : fewstep.solver.Row
        Any object with the named fields of ``fewstep_plan_row``.
    slots : sequence of array
        The state slots, slot 0 first; left untouched.
    models : sequence of array
        The raw model outputs ``M_0 ..``; empty for a row that evaluates no model.
    xi : sequence of array
        One array of standard normals per noise column of the row.
    mask, known : array, optional
        With a mask, every output whose ``blend`` is set becomes
        ``mask * u + (1 - mask) * (known_r * K + sum_z known_noise_rz xi_z)``.
    gamma : sequence, optional
        Guidance weights instead of the row's.
    clip : pair, optional
        Limit and factor instead of the row's clip; scalars, or arrays that broadcast.
    """
    before = [np.asarray(slot, np.float64) for slot in slots]
    g = guided(row, models, gamma)
    limit, factor = (row.clip, 1.0) if clip is None else clip
    converted = (
        None if g is None else factor * np.clip(row.p * before[0] + row.q * g, -limit, limit)
    )

    def operand(code: int) -> Array:
        if code < GUIDED:
            return before[code]
        if code == GUIDED:
            assert g is not None
            return g
        if MODEL <= code < CONVERTED:
            return np.asarray(models[code - MODEL], np.float64)
        if code == CONVERTED:
            assert converted is not None
            return converted
        assert code == KNOWN
        assert known is not None
        return np.asarray(known, np.float64)

    inputs = [operand(code) for code in row.input[: row.n_inputs]]
    after = list(before)
    model_input = None
    for r in range(row.n_outputs):
        u = np.zeros_like(before[0])
        for k in range(row.n_inputs):
            # A zero coefficient reads nothing: 0 * inf of an unused operand must not appear.
            if row.a[r][k] != 0.0:
                u = u + row.a[r][k] * inputs[k]
        for z in range(row.n_noises):
            if row.noise[r][z] != 0.0:
                u = u + row.noise[r][z] * xi[z]
        if mask is not None and row.blend[r]:
            assert known is not None
            kept = row.known[r] * np.asarray(known, np.float64)
            for z in range(row.n_noises):
                if row.known_noise[r][z] != 0.0:
                    kept = kept + row.known_noise[r][z] * xi[z]
            u = mask * u + (1.0 - mask) * kept
        if row.output[r] == MODEL_INPUT:
            model_input = u
        else:
            after[row.output[r]] = u
    return after, model_input


def compose(made: Any, calls: int) -> list[Array]:
    """Slot 0 after each model call, as coefficients of {start, model outputs, step noises}.

    Noises are numbered in the order in which the rows draw them first.
    """
    size = 1 + 2 * calls
    drawn: dict[int, int] = {}

    def basis(i: int) -> Array:
        vector = np.zeros(size)
        vector[i] = 1.0
        return vector

    slots = [basis(0)] + [np.full(size, np.nan) for _ in range(made.slots - 1)]
    states = []
    for row in made.rows:
        xi = [
            basis(1 + calls + drawn.setdefault(step, len(drawn))) if stream == 0 else np.zeros(size)
            for stream, step in zip(row.noise_stream, row.noise_step, strict=True)
        ]
        models = [basis(1 + len(states))] if row.evaluates else []
        slots, _ = step(row, slots, models, xi)
        if row.evaluates:
            states.append(slots[0])
    return states

# SPDX-License-Identifier: Apache-2.0
"""Cases of ``solver.step``: sample shapes, memory layouts and rows, random and special.

Those of ``solver.gram``, ``solver.quantile`` and ``solver.error_norm`` are in `cases.sums`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

DTYPES = ("float32", "float16", "bfloat16")
GUIDED, MODEL, CONVERTED, KNOWN, MODEL_INPUT = 16, 17, 21, 22, 23
SLOTS = 5


@dataclass(frozen=True)
class Layout:
    """Shape of a batch and how it lies in memory, as ``harness.step`` places it."""

    shape: tuple[int, ...]  # [B, ...]
    offset: int = 0  # elements past 64-byte alignment
    gap: int = 0  # elements between samples

    @property
    def name(self) -> str:
        return (
            "x".join(map(str, self.shape))
            + f"+{self.offset}" * bool(self.offset)
            + (f"gap{self.gap}" * bool(self.gap))
        )


# Around the vector widths (8, 16), their unrolled blocks (32, 64), the scratch tile (512) and the
# pieces of parallel work (4096).
LAYOUTS = (
    Layout((0, 8)),
    Layout((2, 0)),
    Layout((1, 1)),
    Layout((3, 7), gap=3),
    Layout((2, 16)),
    Layout((1, 63), offset=1),
    Layout((2, 3, 5, 7), gap=11),
    Layout((1, 511)),
    Layout((2, 513), offset=3, gap=5),
    Layout((1, 2, 2049)),
    Layout((1, 4097), offset=5),
    Layout((2, 8192)),
)


@dataclass(frozen=True)
class Problem:
    """A row with everything it may read, ready for ``harness.step``."""

    row: dict[str, Any]
    models: int
    has_mask: bool = False
    copies: int = 0
    tags: tuple[str, ...] = field(default=())


def random_problem(seed: int) -> Problem:
    """A row over up to 8 inputs, 4 outputs, 3 noises and 4 model outputs, and its environment."""
    rng = np.random.default_rng([20, seed])
    models = int(rng.integers(0, 5))
    operands = [*range(SLOTS), KNOWN]
    if models:
        operands += [GUIDED, CONVERTED, *range(MODEL, MODEL + models)]
    n_inputs = int(rng.integers(1, min(8, len(operands)) + 1))
    inputs = rng.permutation(operands)[:n_inputs]
    n_outputs = int(rng.integers(1, 5))
    outputs = rng.permutation([*range(SLOTS), MODEL_INPUT])[:n_outputs]
    n_noises = int(rng.integers(0, 4))
    has_mask = bool(rng.integers(0, 2))

    def coefficients(columns: int) -> np.ndarray:
        values = rng.normal(size=(n_outputs, columns))
        return np.where(rng.random(values.shape) < 0.25, 0.0, values)

    row = {
        "input": inputs.tolist(),
        "output": outputs.tolist(),
        "role": [4] * n_outputs,
        "blend": rng.integers(0, 2, n_outputs).tolist(),
        "noise_stream": rng.integers(0, 20, n_noises).tolist(),
        "noise_step": rng.integers(0, 2**32, n_noises).tolist(),
        "evaluates": int(models > 0),
        "gamma": rng.normal(size=models).tolist(),
        "p": rng.normal() if models else 0.0,
        "q": rng.normal() if models else 0.0,
        "clip": float(rng.choice([np.inf, 0.5, 2.0])) if models else np.inf,
        "a": coefficients(n_inputs).tolist(),
        "noise": coefficients(n_noises).tolist(),
        "known": rng.normal(size=n_outputs).tolist(),
        "known_noise": coefficients(n_noises).tolist(),
    }
    copies = int(rng.integers(1, 4)) if MODEL_INPUT in outputs and rng.random() < 0.8 else 0
    return Problem(row, models, has_mask, copies)


def arrays(problem: Problem, shape: tuple[int, ...], seed: int = 0) -> dict[str, Any]:
    """Random contents for a problem: the arguments of ``harness.step`` that depend on the shape."""
    rng = np.random.default_rng([21, seed])

    def normals(*extents: int) -> np.ndarray:
        return rng.normal(size=extents).astype(np.float32)

    batch = shape[0]
    mask = rng.random((1 if seed % 2 else batch, *shape[1:])).astype(np.float32)
    return {
        "rows": [problem.row],
        "row": 0,
        "state": normals(SLOTS, *shape),
        "models": [normals(*shape) for _ in range(problem.models)],
        "seeds": rng.integers(-(2**63), 2**63, batch),
        "known": normals(*shape),
        "mask": mask if problem.has_mask else None,
        "copies": problem.copies,
    }

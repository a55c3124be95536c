# SPDX-License-Identifier: Apache-2.0
"""Texts that drafters are given, as arrays of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep._arrays import is_torch


def tokens_of(function: str, name: str, values: Any) -> NDArray[np.int32]:
    """Return tokens as a contiguous int32 array; refuse what is not integers of 31 bits."""
    given = np.asarray(values.cpu() if is_torch(values) else values)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(
            f"fewstep.draft.{function}: '{name}' must be integers of shape [N], got "
            f"{given.dtype} of shape {list(given.shape)}"
        )
    if given.size and (given.min() < 0 or given.max() > 2**31 - 1):
        wrong = given.min() if given.min() < 0 else given.max()
        raise ValueError(
            f"fewstep.draft.{function}: '{name}' must lie in [0, 2147483647], got {wrong}"
        )
    return np.ascontiguousarray(given, np.int32)

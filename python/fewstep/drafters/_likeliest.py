# SPDX-License-Identifier: Apache-2.0
"""What drafters that recycle learn of a call: the target's likeliest tokens after each node."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep import _core
from fewstep import logits as logits_ops
from fewstep._arrays import is_torch


class Likeliest:
    """The best `count` tokens of rows of logits, in arrays that the next call writes over."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._ids = np.empty((0, count), np.int32)
        self._values = np.empty((0, count), np.float32)

    def __call__(self, logits: Any) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
        """Return tokens and logits, shape (N, count), on the host."""
        if is_torch(logits) and logits.device.type != "cpu":
            ids, values = logits_ops.top_k(logits, self.count)
            return ids.cpu().numpy(), values.cpu().numpy()
        rows = len(logits)
        if len(self._ids) < rows:
            self._ids = np.empty((rows, self.count), np.int32)
            self._values = np.empty((rows, self.count), np.float32)
        ids, values = self._ids[:rows], self._values[:rows]
        # `top_k` without new arrays, which take longer than the best of few rows.
        _core.logits_top_k(False, (logits, None), (ids, values, None, None))
        return ids, values

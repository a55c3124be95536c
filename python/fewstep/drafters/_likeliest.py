# SPDX-License-Identifier: Apache-2.0
"""What drafters that recycle learn of a call: the target's likeliest tokens after each node."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep import logits as logits_ops


def likeliest(logits: Any, count: int) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Return the best tokens of rows on a device and their logits, (N, count), on the host."""
    ids, values = logits_ops.top_k(logits, count)
    return ids.cpu().numpy(), values.cpu().numpy()

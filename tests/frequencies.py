# SPDX-License-Identifier: Apache-2.0
"""Whether counts are those of a law."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats


def p_value(seen: Any, expected: Any) -> float:
    """Return that of a chi-square test; what is expected fewer than 5 times counts together."""
    rare = expected < 5
    pairs = [np.append(one[~rare], one[rare].sum() or []) for one in (seen, expected)]
    return float(stats.chisquare(*pairs).pvalue)

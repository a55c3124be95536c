# SPDX-License-Identifier: Apache-2.0
"""Every error of ``noise.brownian``: type and whole message."""

from __future__ import annotations

import math

import numpy as np
import pytest

from fewstep import noise
from test_errors import Call, refuses, text

BROWNIAN: list[tuple[Call, str]] = [
    (
        lambda: noise.brownian([1], 0.0, 1.5, (4,)),
        "fewstep_noise_brownian: 't1' must lie in [t_min, t_max] = [0, 1], got 1.5",
    ),
    (
        lambda: noise.brownian([1, 2], [0.5, float("nan")], 1.0, (4,)),
        "fewstep_noise_brownian: 't0' must lie in [t_min, t_max] = [0, 1], got nan",
    ),
    (
        lambda: noise.brownian([1, 2], [0.5], 1.0, (4,)),
        "fewstep_noise_brownian: 't0' must have shape [B=2], got [1]",
    ),
    (
        lambda: noise.brownian([1], np.zeros(1, np.complex128), 1.0, (4,)),
        "fewstep_noise_brownian: 't0' must have dtype float64, got complex128",
    ),
    (
        lambda: noise.brownian([1], 0.0, 1.0, (4,), t_min=1.0, t_max=1.0),
        "fewstep_noise_brownian: 't_max' must be finite and above t_min=1, got 1",
    ),
    (
        lambda: noise.brownian([1], 0.0, 1.0, (4,), t_min=-math.inf),
        "fewstep_noise_brownian: 't_min' must be finite, got -inf",
    ),
    (
        lambda: noise.brownian([1], 0.0, 1.0, (4,), depth=31),
        "fewstep_noise_brownian: 'depth' must lie in [1, 30], got 31",
    ),
    (
        lambda: noise.brownian([1], 0.0, 1.0, (4,), scale=math.nan),
        "fewstep_noise_brownian: 'scale' must be finite, got nan",
    ),
    (
        lambda: noise.brownian([1], 0.0, 1.0, (4,), stream=-1),
        "fewstep.noise.brownian: 'stream' must be in [0, 2**32), got -1",
    ),
    (
        lambda: noise.brownian([1], 0.0, 1.0),
        "fewstep.noise.brownian: 'shape' must be given without 'out', got None",
    ),
]


@pytest.mark.parametrize(("call", "message"), BROWNIAN, ids=text)
def test_noise_brownian(call: Call, message: str) -> None:
    refuses(call, ValueError, message)

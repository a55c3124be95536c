# SPDX-License-Identifier: Apache-2.0
"""Whether there is a GPU for the tests, and the marks of those that need one."""

from __future__ import annotations

import pytest

import fewstep

FACTS = fewstep.info()["cuda"]
HAS_CUDA = FACTS["built"] and FACTS["devices"] > 0
NEEDS_GPU = [
    pytest.mark.cuda,
    pytest.mark.skipif(not FACTS["built"], reason="this build has no CUDA kernels"),
    pytest.mark.skipif(FACTS["devices"] == 0, reason="no CUDA device"),
]

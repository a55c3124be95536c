# SPDX-License-Identifier: Apache-2.0
"""The decoding ops on a GPU, at sizes that fill one; a section's ``rows`` takes the target.

A rival that is not installed, or that does not run, has a row that says why.
"""

from __future__ import annotations

from typing import Any

from . import attention, cache, sampling, verification


def sections() -> tuple[Any, ...]:
    """Return the modules that measure; what has a bar first, for time may run out."""
    return attention, verification, sampling, cache

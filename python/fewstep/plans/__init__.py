# SPDX-License-Identifier: Apache-2.0
"""Plans made from plans: other weights on the same model calls, spliced rows, other beginnings."""

from __future__ import annotations

from ._cascade import cascade as cascade
from ._cascade import reentry_level as reentry_level
from ._cascade import run_cascade as run_cascade
from ._enter import enter as enter
from ._linear import from_weights as from_weights
from ._linear import weights_of as weights_of
from ._prologue import one_more_step as one_more_step
from ._splice import splice as splice

__all__ = [
    "cascade",
    "enter",
    "from_weights",
    "one_more_step",
    "reentry_level",
    "run_cascade",
    "splice",
    "weights_of",
]

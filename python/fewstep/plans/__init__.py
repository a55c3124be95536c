# SPDX-License-Identifier: Apache-2.0
"""Plans made from plans: other weights on the same model calls, spliced rows, other beginnings."""

from __future__ import annotations

from ._enter import enter as enter
from ._linear import from_weights as from_weights
from ._linear import weights_of as weights_of
from ._splice import splice as splice

__all__ = ["enter", "from_weights", "splice", "weights_of"]

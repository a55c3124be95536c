# SPDX-License-Identifier: Apache-2.0
"""Models of transformers on fewstep: attention, caches in pages, fused layers. Needs transformers.

Importing it registers attention ``"fewstep"``, for ``model.set_attn_implementation("fewstep")``.
"""

from __future__ import annotations

from ._attention import register
from ._cache import PagedCache as PagedCache
from ._fuse import Fused as Fused
from ._fuse import fuse as fuse
from ._paged_model import PagedModel as PagedModel

__all__ = ["Fused", "PagedCache", "PagedModel", "fuse"]

register()

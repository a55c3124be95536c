# SPDX-License-Identifier: Apache-2.0
"""The KV cache: append, commit, roll back, fork and move rows of keys and values.

Shapes: ``P`` pages of ``T`` tokens for ``G`` heads of ``D`` elements; ``B`` requests, ``L`` layers.
Rows of a batch are ragged: request b has rows ``indptr[b]`` to ``indptr[b + 1]``.
"""

from __future__ import annotations

from fewstep._kv_pages import copy_pages as copy_pages
from fewstep._kv_pages import gather as gather
from fewstep._kv_pages import truncate as truncate
from fewstep._kv_pool import Pool as Pool
from fewstep._kv_rows import append as append
from fewstep._kv_rows import commit as commit
from fewstep._kv_transfer import export_tokens as export_tokens
from fewstep._kv_transfer import import_tokens as import_tokens

__all__ = [
    "Pool",
    "append",
    "commit",
    "copy_pages",
    "export_tokens",
    "gather",
    "import_tokens",
    "truncate",
]

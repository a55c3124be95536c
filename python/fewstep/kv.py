# SPDX-License-Identifier: Apache-2.0
"""The KV cache: append, commit, roll back, fork and move rows of keys and values.

Shapes: ``P`` pages of ``T`` tokens for ``G`` heads of ``D`` elements; ``B`` requests, ``L`` layers.
Rows of a batch are ragged: request b has rows ``indptr[b]`` to ``indptr[b + 1]``.
"""

from __future__ import annotations

from fewstep._kv_rows import append as append
from fewstep._kv_rows import commit as commit

__all__ = ["append", "commit"]

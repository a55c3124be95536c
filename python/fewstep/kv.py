# SPDX-License-Identifier: Apache-2.0
"""The KV cache: append, commit, roll back, fork and move rows of keys and values."""

from __future__ import annotations

__all__: list[str] = []

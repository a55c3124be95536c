# SPDX-License-Identifier: Apache-2.0
"""Drafters that need no model: n-grams of the text so far, and tables of what followed what."""

from __future__ import annotations

__all__: list[str] = []

# SPDX-License-Identifier: Apache-2.0
"""Benchmarks against what a user would call instead, each checked for its result first.

``fewstep bench solver`` runs them; a rival is one small file in ``rivals``.
"""

from .cli import app as app

__all__ = ["app"]

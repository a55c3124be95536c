# SPDX-License-Identifier: Apache-2.0
"""Tokens from logits: filters, draws and best tokens, without sorting a vocabulary."""

from __future__ import annotations

from fewstep._best import TopK as TopK
from fewstep._best import top_k as top_k
from fewstep._penalties import penalise as penalise
from fewstep._sampling import sample as sample

__all__ = ["TopK", "penalise", "sample", "top_k"]

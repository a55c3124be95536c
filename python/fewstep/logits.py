# SPDX-License-Identifier: Apache-2.0
"""Tokens from logits: filters, draws and best tokens, without sorting a vocabulary."""

from __future__ import annotations

from fewstep._arithmetic import Decoded as Decoded
from fewstep._arithmetic import arithmetic_codes as arithmetic_codes
from fewstep._arithmetic import sample_arithmetic as sample_arithmetic
from fewstep._best import TopK as TopK
from fewstep._best import top_k as top_k
from fewstep._gumbel import Subset as Subset
from fewstep._gumbel import gumbel_top_k as gumbel_top_k
from fewstep._head import head_top_k as head_top_k
from fewstep._laws import Support as Support
from fewstep._laws import renorm as renorm
from fewstep._penalties import penalise as penalise
from fewstep._sampling import sample as sample

__all__ = [
    "Decoded",
    "Subset",
    "Support",
    "TopK",
    "arithmetic_codes",
    "gumbel_top_k",
    "head_top_k",
    "penalise",
    "renorm",
    "sample",
    "sample_arithmetic",
    "top_k",
]

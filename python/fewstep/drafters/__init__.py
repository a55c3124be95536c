# SPDX-License-Identifier: Apache-2.0
"""Drafters for `fewstep.Generator`: what guesses how texts go on.

A drafter is anything with the four methods of `Drafter`.
"""

from __future__ import annotations

from fewstep._generate.request import Request
from fewstep.drafters._cascade import Cascade
from fewstep.drafters._contexts import ContextRecycling
from fewstep.drafters._heads import Template
from fewstep.drafters._lookup import PromptLookup, TriGram
from fewstep.drafters._model import DraftModel
from fewstep.drafters._protocol import RULES, Draft, Drafter, Seen
from fewstep.drafters._recycling import TokenRecycling

__all__ = [
    "RULES",
    "Cascade",
    "ContextRecycling",
    "Draft",
    "DraftModel",
    "Drafter",
    "PromptLookup",
    "Request",
    "Seen",
    "Template",
    "TokenRecycling",
    "TriGram",
]

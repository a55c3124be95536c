# SPDX-License-Identifier: Apache-2.0
"""Draft trees: built, grown, attended to and verified.

A tree is ``parent[Q]``: the index of each node's parent in its tree, -1 at the root, parents before
children. The root is the last committed token. Requests are ragged: ``indptr[B + 1]`` says which
rows of a flat array belong to which.
"""

from __future__ import annotations

from fewstep._attention import attention, merge
from fewstep._k_seq import KSeqRho, k_seq_rho
from fewstep._templates import TOKEN_RECYCLING, template
from fewstep._tree_draws import Draws, Merged, merge_draws, sample_children
from fewstep._tree_growth import Expansion, Kept, expand, rerank
from fewstep._trees import Tree, build, from_template
from fewstep._verify import LAWS, RULES, Verified, verify

__all__ = [
    "LAWS",
    "RULES",
    "TOKEN_RECYCLING",
    "Draws",
    "Expansion",
    "KSeqRho",
    "Kept",
    "Merged",
    "Tree",
    "Verified",
    "attention",
    "build",
    "expand",
    "from_template",
    "k_seq_rho",
    "merge",
    "merge_draws",
    "rerank",
    "sample_children",
    "template",
    "verify",
]

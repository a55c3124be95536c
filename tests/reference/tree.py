# SPDX-License-Identifier: Apache-2.0
"""References of the tree family, one module per topic."""

from reference.attention import attention as attention
from reference.attention import merge as merge
from reference.tree_draws import sample_children as sample_children
from reference.tree_growth import expand as expand
from reference.tree_growth import rerank as rerank
from reference.trees import build as build
from reference.trees import from_template as from_template
from reference.verify import k_seq_rho as k_seq_rho
from reference.verify import verify as verify

# SPDX-License-Identifier: Apache-2.0
"""References of the tree family, one module per topic."""

from reference.trees import build as build
from reference.trees import from_template as from_template

# SPDX-License-Identifier: Apache-2.0
"""Trees of fixed shape, of which a draft is what could be filled."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep import tree
from fewstep.drafters._protocol import Draft

Paths = tuple[NDArray[np.int32], NDArray[np.int32]]


class Shape:
    """A template of `fewstep.tree.template`."""

    def __init__(self, template: Paths) -> None:
        self.parent, self.rank = template
        self._depths = tree.build(self.parent).depth.tolist()
        self._deepest = max(self._depths)

    def drafts(
        self, root: NDArray[np.int32], limits: list[int], rule: str | None = None, **source: Any
    ) -> list[Draft | None]:
        """Fill the shape below each root from a table or heads (`fewstep.tree.from_template`).

        Nodes without a token are left out, as are those deeper than a request's limit.
        """
        filled = np.empty((len(root), len(self.parent)), np.int32)
        tree.from_template(self.parent, self.rank, root, tokens=filled, **source)
        if min(limits) >= self._deepest and filled.min() >= 0:
            return [Draft(token, self.parent, rule=rule) for token in filled]
        drafts: list[Draft | None] = []
        for token, limit in zip(filled, limits, strict=True):
            # As lists: a look at an array costs as much as one at a hundred numbers.
            nodes = zip(token.tolist(), self._depths, strict=True)
            own = [one >= 0 and depth <= limit for one, depth in nodes]
            draft = Draft(token, self.parent, rule=rule)
            drafts.append(draft.subset(own) if any(own[1:]) else None)
        return drafts

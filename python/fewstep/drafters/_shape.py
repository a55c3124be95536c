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
        self._depth = tree.build(self.parent).depth
        self._deepest = int(self._depth.max())

    def drafts(
        self, root: NDArray[np.int32], limits: list[int], rule: str | None = None, **source: Any
    ) -> list[Draft | None]:
        """Fill the shape below each root from a table or heads (`fewstep.tree.from_template`).

        Nodes without a token are left out, as are those deeper than a request's limit.
        """
        filled = tree.from_template(self.parent, self.rank, root, **source)
        if min(limits) >= self._deepest and filled.min() >= 0:
            return [Draft(token, self.parent, rule=rule) for token in filled]
        keep = (filled >= 0) & (self._depth <= np.array(limits)[:, None])
        return [
            Draft(token, self.parent, rule=rule).subset(own) if any(own[1:]) else None
            for token, own in zip(filled, keep.tolist(), strict=True)
        ]

# SPDX-License-Identifier: Apache-2.0
"""Drafts of extra heads on the target's hidden states; `fewstep.drafters` re-exports it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewstep._generate.request import Request
from fewstep._transfer import on_host
from fewstep.drafters._protocol import Draft, Seen
from fewstep.drafters._shape import Paths, Shape


class Template:
    """Fills a tree of fixed shape with the candidates of heads on the last hidden state (Medusa).

    Parameters
    ----------
    heads : callable
        ``heads(hidden)``: from states of shape (B, E) the best K tokens of each of H heads, int32
        of shape (B, H, K), best first. Head h guesses the token h + 2 places behind that of the
        state.
    template : pair of arrays
        Parents and ranks of the tree, from `fewstep.tree.template`; not deeper than H, ranks below
        K.
    rule : str, optional
        Of verification: ``match`` (default) is lossless; ``typical`` is Medusa's own, which is not.

    References
    ----------
    .. [1] Cai et al., "Medusa: simple LLM inference acceleration framework with multiple decoding
       heads", arXiv 2401.10774.

    Examples
    --------
    >>> table = np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1)  # after t comes t + 1
    >>> model = fewstep.language_model.Markov(table)  # its hidden state is the last token
    >>> heads = lambda state: np.stack([(state + 2) % 8, (state + 3) % 8], 1).astype(np.int32)
    >>> drafter = fewstep.drafters.Template(heads, fewstep.tree.template([(0,), (0, 0)]))
    >>> generator = fewstep.Generator(model, drafter=drafter, adapt=False)
    >>> greedy = fewstep.Sampling(temperature=0, max_tokens=7)
    >>> generator.generate([[1]], greedy)[0].drafted
    [False, True, True, False, True, True, False]
    """

    needs_hidden = True

    def __init__(
        self,
        heads: Callable[[Any], Any],
        template: Paths,
        rule: str = "match",
    ) -> None:
        if rule not in ("match", "typical"):
            raise ValueError(
                f"fewstep.drafters.Template: 'rule' must be match or typical, got {rule!r}"
            )
        self._heads, self._rule = heads, rule
        self._shape = Shape(template)
        self._candidates: dict[int, NDArray[np.int32]] = {}

    def start(self, request: Request) -> None:
        """Nothing: there is no hidden state yet."""

    def draft(self, requests: Sequence[Request], limits: Sequence[int]) -> list[Draft | None]:
        """Fill the template with what the heads said after the last call."""
        drafts: list[Draft | None] = [None] * len(requests)
        known = [i for i, request in enumerate(requests) if request.number in self._candidates]
        if not known:
            return drafts
        root = np.array([requests[i].tokens[-1] for i in known], np.int32)
        heads = np.stack([self._candidates[requests[i].number] for i in known])
        some = self._shape.drafts(root, [limits[i] for i in known], self._rule, heads=heads)
        for i, draft in zip(known, some, strict=True):
            drafts[i] = draft
        return drafts

    def observe(self, seen: Seen) -> None:
        """Ask the heads at the last accepted node of each request."""
        last = seen.indptr[:-1] + [
            seen.path[b, n - 1] if n else 0 for b, n in enumerate(seen.accepted.tolist())
        ]
        heads = np.asarray(on_host(self._heads(seen.hidden[last])), np.int32)
        self._candidates.update(
            {request.number: own for request, own in zip(seen.requests, heads, strict=True)}
        )

    def stop(self, request: Request) -> None:
        """Forget its candidates."""
        self._candidates.pop(request.number, None)

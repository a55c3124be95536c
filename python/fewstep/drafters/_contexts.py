# SPDX-License-Identifier: Apache-2.0
"""Drafts from what the target held likely after contexts; `fewstep.drafters` re-exports it."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep import _core
from fewstep._generate.request import Request
from fewstep._transfer import on_device
from fewstep.drafters._likeliest import likeliest
from fewstep.drafters._protocol import Draft, Seen


class ContextRecycling:
    """Drafts the likeliest tree of what the target once held likely after the last few tokens.

    Token Recycling [1]_ with contexts of several tokens and back-off to the longest that is known,
    trees grown best first as EAGLE-2's [2]_, probabilities calibrated by what was accepted, and the
    prompts read into the table, as prompt look-up reads them [3]_. The parts are theirs, the
    combination is ours. See `fewstep.draft.Recycler`.

    Parameters
    ----------
    order : int
        Tokens of the longest contexts, 1 to 4.
    width : int
        Successors kept of each context, 1 to 16.
    capacity : int
        Contexts at most, of all requests together.
    max_nodes : int
        Of a draft, the root included.
    depth : int
        Of a draft: tokens below the root at most.
    least : float
        The chance to be accepted from which on a node is drafted.

    Raises
    ------
    ValueError
        A number is out of range; the message names it.

    References
    ----------
    .. [1] Luo et al., "Turning Trash into Treasure: Accelerating Inference of Large Language Models
       with Token Recycling", arXiv 2408.08696.
    .. [2] Li et al., "EAGLE-2: Faster Inference of Language Models with Dynamic Draft Trees", arXiv
       2406.16858.
    .. [3] Saxena, "Prompt lookup decoding", 2023.

    Examples
    --------
    >>> table = np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1)  # after t comes t + 1
    >>> model = fewstep.language_model.Markov(table)
    >>> drafter = fewstep.drafters.ContextRecycling()
    >>> generator = fewstep.Generator(model, drafter=drafter, adapt=False)
    >>> greedy = fewstep.Sampling(temperature=0, max_tokens=24)
    >>> generator.generate([[0, 1, 2, 3, 4, 5, 6, 7, 0]], greedy)[0].tokens[:4]
    [1, 2, 3, 4]
    >>> generator.stats.tokens_per_call > 4  # the cycle was read
    True
    """

    def __init__(
        self,
        order: int = 2,
        *,
        width: int = 8,
        capacity: int = 65536,
        max_nodes: int = 32,
        depth: int = 16,
        least: float = 0.02,
    ) -> None:
        # Without `fewstep.draft.Recycler` around it, whose checks take longer than a proposal.
        self._table = _core.Recycler(order, width, capacity)
        self._table.propose([], depth, least, max_nodes)  # refuses numbers that are out of range
        self._order, self._width = order, width
        self._max_nodes, self._depth, self._least = max_nodes, depth, least

    def start(self, request: Request) -> None:
        """Read the prompt."""
        self._table.read(request.tokens)

    def draft(self, requests: Sequence[Request], limits: Sequence[int]) -> list[Draft | None]:
        """Grow a tree from each text's end."""
        return [self._one(request, limit) for request, limit in zip(requests, limits, strict=True)]

    def _one(self, request: Request, limit: int) -> Draft | None:
        if limit < 1:
            return None
        end = request.tokens[-self._order :]
        depth = min(limit, self._depth)
        token, parent, score = self._table.propose(end, depth, self._least, self._max_nodes)
        return Draft(token, parent, score=score) if len(token) > 1 else None

    def observe(self, seen: Seen) -> None:
        """Keep what the target found likely after each node."""
        texts, logits = [request.tokens for request in seen.requests], seen.logits
        if on_device(logits):
            logits = likeliest(logits, self._width)
        self._table.observe_call(
            texts, seen.token, seen.parent, seen.indptr, logits, seen.path, seen.accepted,
            seen.next_token,
        )  # fmt: skip

    def stop(self, request: Request) -> None:
        """Nothing: the table belongs to all requests."""

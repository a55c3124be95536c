# SPDX-License-Identifier: Apache-2.0
"""Recycled contexts, and a model where they do not know; `fewstep.drafters` re-exports it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import numpy as np

from fewstep import _core, tree
from fewstep._generate.request import Request
from fewstep.drafters._contexts import ContextRecycling
from fewstep.drafters._counts import check_counts
from fewstep.drafters._growth import Cache, Run
from fewstep.drafters._pace import Pace
from fewstep.drafters._protocol import Draft, Seen
from fewstep.language_model import as_language_model

_ROOM = 4  # times the nodes of a draft that a growing tree may have,
_MOST = 240  # and at most, so that it runs with the end of a text in one call
_OPEN = 0.05  # the chance that a text leaves the tree at a node, from which on that may be asked
_MEMORY = 0.95  # of what calls of the model gained
_PATIENCE = 32  # drafts without a call of the model that says what one takes before one is tried


@dataclass
class _Tree:
    """The tree of a request while it grows."""

    place: int  # of the request in the batch
    request: Request
    grown: Any
    run: Run = field(default_factory=Run)
    chance: float = 0.0  # that the text leaves the tree at a node that is asked

    def ask(self, most: int) -> bool:
        """Choose nodes to ask the model at; tell whether there are any."""
        run = self.run
        run.node, run.token, run.parent, run.wanted, self.chance = self.grown.ask(most, _OPEN)
        return bool(run.wanted)


class Cascade(ContextRecycling):
    """Drafts what the target once held likely, and where that is not known what a model does.

    A `ContextRecycling` whose trees also grow by a smaller model: it is asked at the nodes at which
    the text most likely leaves the tree, so that a call of it runs a few nodes where a draft model
    alone has a call for each token, and none where the contexts know how the text goes on. What the
    model answers goes on by contexts. This is the vertical cascade of [1]_, with trees on both
    levels; [2]_ chooses one of the two for a whole draft.

    Parameters
    ----------
    model : LanguageModel or transformers model
        As of `DraftModel`.
    order, width, capacity, max_nodes, depth, least
        As of `ContextRecycling`.
    asks : int
        Nodes that a call of the model answers, at most.
    children : int
        Tokens of an answer, 1 to 64.
    calls : int
        Of the model for a draft, at most.
    adapt : bool
        Leave out calls of the model that take longer than what they are likely to bring, by
        measured time.

    Raises
    ------
    ValueError
        A number is out of range; the message names it.

    Notes
    -----
    Drafts draw no random numbers: texts are those without drafts, at any temperature.

    References
    ----------
    .. [1] Chen et al., "Cascade Speculative Drafting for Even Faster LLM Inference", arXiv
       2312.11462, section 3.1.
    .. [2] Hu et al., "SAM Decoding: Speculative Decoding via Suffix Automaton", arXiv 2411.10666.

    Examples
    --------
    >>> table = np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1)  # after t comes t + 1
    >>> model = fewstep.language_model.Markov(table)
    >>> drafter = fewstep.drafters.Cascade(model, calls=3, adapt=False)
    >>> generator = fewstep.Generator(model, drafter=drafter, adapt=False)
    >>> greedy = fewstep.Sampling(temperature=0, max_tokens=8)
    >>> result = generator.generate([[1]], greedy)[0]
    >>> result.tokens, result.drafted[:4]  # a token of each call, before anything is known
    ([2, 3, 4, 5, 6, 7, 0, 1], [True, True, True, False])
    """

    def __init__(
        self,
        model: Any,
        order: int = 2,
        *,
        width: int = 8,
        capacity: int = 65536,
        max_nodes: int = 32,
        depth: int = 16,
        least: float = 0.02,
        asks: int = 2,
        children: int = 4,
        calls: int = 4,
        adapt: bool = True,
    ) -> None:
        super().__init__(
            order, width=width, capacity=capacity, max_nodes=max_nodes, depth=depth, least=least
        )
        check_counts("Cascade", asks=(asks, 64), children=(children, 64), calls=(calls, 64))
        self.model = as_language_model("fewstep.drafters.Cascade", model)
        self._asks, self._children, self._calls = asks, children, calls
        self._cache = Cache(self.model)
        self._pace = Pace() if adapt else None
        self._gain = 1.0  # tokens to expect of a call of the model, by the chance that it is for
        self._skipped = 0  # drafts in a row for which no call of the model was timed
        self._grown: list[Any] = []  # trees to grow in, kept from call to call

    def stop(self, request: Request) -> None:
        """Free what the model has of it."""
        self._cache.forget(request)

    def observe(self, seen: Seen) -> None:
        """Keep what the target found likely after each node, and note how fast texts grow."""
        super().observe(seen)
        if self._pace is not None:
            self._pace.called(seen)

    def draft(self, requests: Sequence[Request], limits: Sequence[int]) -> list[Draft | None]:
        """Grow a tree from each text's end."""
        began = perf_counter()
        trees = [
            self._begin(i, request, limit)
            for i, (request, limit) in enumerate(zip(requests, limits, strict=True))
            if limit > 0
        ]
        self._ask(trees)
        drafts: list[Draft | None] = [None] * len(requests)
        for one in trees:
            token, parent, score = one.grown.take(self._max_nodes)
            if len(token) > 1:
                drafts[one.place] = Draft(token, parent, score=score)
        if self._pace:
            self._pace.drafted(perf_counter() - began)
        return drafts

    def _begin(self, place: int, request: Request, limit: int) -> _Tree:
        while len(self._grown) <= place:
            self._grown.append(_core.Cascade(self._table, min(_ROOM * self._max_nodes, _MOST)))
        grown = self._grown[place]
        grown.begin(request.tokens[-self._order :], min(limit, self._depth), self._least)
        return _Tree(place, request, grown)

    def _ask(self, trees: list[_Tree]) -> None:
        """Ask the model where the texts leave the trees, as long as it pays."""
        longest = getattr(self.model, "max_length", None)
        if longest is not None:
            trees = [x for x in trees if len(x.request.tokens) + self._depth <= longest]
        self._skipped += 1
        for _ in range(self._calls):
            trees = [one for one in trees if one.ask(self._asks)]
            chance = sum(one.chance for one in trees)
            if not trees or not self._pays(chance):
                break
            began = perf_counter()
            found = self._cache.answers([x.request for x in trees], [x.run for x in trees])
            trees = [one for one, ran in zip(trees, found.ran, strict=True) if ran]
            if not trees:
                break
            gained = self._answer(trees, found.logits)
            self._gain += (gained / chance - self._gain) * (1 - _MEMORY)
            if self._pace and found.alike:
                self._pace.level(perf_counter() - began)
                self._skipped = 0

    def _pays(self, chance: float) -> bool:
        """Tell whether to call the model, by the chance that texts leave their trees."""
        if self._pace is None or self._gain * chance > self._pace.least():
            return True
        return self._skipped > _PATIENCE  # what it takes and gains is known of calls alone

    def _answer(self, trees: Sequence[_Tree], logits: Any) -> float:
        """Let trees grow by what the model found likely; return the tokens to expect of it."""
        rows = sum(len(one.run.wanted) for one in trees)
        ids = np.empty((rows, self._children), np.int32)
        logp = np.empty(ids.shape, np.float32)
        tree.expand(
            np.zeros(rows, np.float32), logits, self._children, d2t=self.model.d2t, ids=ids,
            logp=logp, status=np.empty(rows, np.int32),
        )  # fmt: skip
        gained, first = 0.0, 0
        for one in trees:
            gained += one.grown.answer(ids, logp, first)
            first += len(one.run.wanted)
        return gained

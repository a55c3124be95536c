# SPDX-License-Identifier: Apache-2.0
"""Drafters that look at texts alone; `fewstep.drafters` re-exports them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from fewstep import draft as drafts
from fewstep._generate.request import Request
from fewstep.drafters._protocol import Draft, Seen


class PromptLookup:
    """Drafts what followed the last tokens where they stood before in the text.

    Parameters
    ----------
    n_min, n_max : int
        Lengths of the n-grams that are looked up, `fewstep.draft.Ngram`.
    max_tokens : int
        Of one continuation.
    branches : int
        Different continuations in one tree.
    corpus : sequence of int, optional
        Tokens to look in besides the request's own.

    References
    ----------
    .. [1] Saxena, "Prompt lookup decoding", 2023.
    .. [2] He et al., "REST: retrieval-based speculative decoding", arXiv 2311.08252 (the corpus).

    Examples
    --------
    >>> drafter = fewstep.drafters.PromptLookup(max_tokens=3)
    >>> table = np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1)  # after t comes t + 1
    >>> model = fewstep.language_model.Markov(table)
    >>> generator = fewstep.Generator(model, drafter=drafter)
    >>> generator.generate([[1, 2, 3, 4]], fewstep.Sampling(temperature=0, max_tokens=8))[0].tokens
    [5, 6, 7, 0, 1, 2, 3, 4]
    """

    def __init__(
        self,
        n_min: int = 2,
        n_max: int = 4,
        max_tokens: int = 10,
        branches: int = 1,
        corpus: Sequence[int] | NDArray[Any] | None = None,
    ) -> None:
        self._lengths, self._max_tokens, self._branches = (n_min, n_max), max_tokens, branches
        self._corpus = drafts.Ngram(n_min, n_max)
        if corpus is not None:
            self._corpus.append(corpus)
        self._texts: dict[int, tuple[drafts.Ngram, int]] = {}

    def start(self, request: Request) -> None:
        """Begin with the prompt."""
        self._texts[request.number] = (drafts.Ngram(*self._lengths), 0)

    def draft(self, requests: Sequence[Request], limits: Sequence[int]) -> list[Draft | None]:
        """Look each text's end up in the text, then in the corpus."""
        return [self._one(request, limit) for request, limit in zip(requests, limits, strict=True)]

    def _one(self, request: Request, limit: int) -> Draft | None:
        text, known = self._texts[request.number]
        text.append(request.tokens[known:])
        self._texts[request.number] = (text, len(request.tokens))
        if limit < 1:
            return None
        size = {"max_tokens": min(self._max_tokens, limit), "branches": self._branches}
        token, parent = text.propose(**size)
        if len(token) < 2 and len(self._corpus):
            token, parent = self._corpus.propose(request.tokens[-self._lengths[1] :], **size)
        return Draft(token, parent) if len(token) > 1 else None

    def observe(self, seen: Seen) -> None:
        """Nothing: texts are read when they are looked up."""

    def stop(self, request: Request) -> None:
        """Forget the text."""
        self._texts.pop(request.number, None)


class TriGram:
    """Drafts by counts of what followed two tokens, with a search that explores (ADED).

    Parameters
    ----------
    corpus : sequence of int, optional
        Tokens to count at first; prompts and what is generated are counted on the way.
    depth, width, iterations, exploration, max_nodes
        Of `fewstep.draft.Trigram.propose`.

    References
    ----------
    .. [1] Liu et al., "Adaptive Draft-Verification for Efficient Large Language Model Decoding",
       arXiv 2407.12021.

    Examples
    --------
    >>> table = np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1)  # after t comes t + 1
    >>> model = fewstep.language_model.Markov(table)
    >>> drafter = fewstep.drafters.TriGram(corpus=[1, 2, 3, 4, 5, 6, 7, 0] * 2)
    >>> generator = fewstep.Generator(model, drafter=drafter)
    >>> generator.generate([[1, 2, 3]], fewstep.Sampling(temperature=0, max_tokens=4))[0].tokens
    [4, 5, 6, 7]
    """

    def __init__(
        self,
        corpus: Sequence[int] | NDArray[Any] | None = None,
        *,
        depth: int = 6,
        width: int = 8,
        iterations: int = 200,
        exploration: float = 1.0,
        max_nodes: int = 32,
    ) -> None:
        self._counts = drafts.Trigram()
        if corpus is not None:
            self._counts.observe(corpus)
        self._size: dict[str, Any] = {
            "width": width, "iterations": iterations, "exploration": exploration,
            "max_nodes": max_nodes,
        }  # fmt: skip
        self._depth = depth
        self._known: dict[int, int] = {}

    def start(self, request: Request) -> None:
        """Count the prompt."""
        self._counts.observe(request.tokens)
        self._known[request.number] = len(request.tokens)

    def draft(self, requests: Sequence[Request], limits: Sequence[int]) -> list[Draft | None]:
        """Count what is new and search."""
        return [self._one(request, limit) for request, limit in zip(requests, limits, strict=True)]

    def _one(self, request: Request, limit: int) -> Draft | None:
        known = self._known[request.number]
        if known < len(request.tokens):
            self._counts.observe(request.tokens[max(0, known - 2) :])
            self._known[request.number] = len(request.tokens)
        if limit < 1:
            return None
        end = request.tokens[-2:]
        token, parent = self._counts.propose(end, depth=min(self._depth, limit), **self._size)
        return Draft(token, parent) if len(token) > 1 else None

    def observe(self, seen: Seen) -> None:
        """Nothing: texts are read when something is drafted."""

    def stop(self, request: Request) -> None:
        """Forget where its text was read to."""
        self._known.pop(request.number, None)

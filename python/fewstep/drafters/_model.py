# SPDX-License-Identifier: Apache-2.0
"""Drafts of a smaller language model; `fewstep.drafters` re-exports it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fewstep._generate.request import Request
from fewstep.drafters._beam import best_trees
from fewstep.drafters._counts import check_counts
from fewstep.drafters._drawn import LAWS, drawn_trees
from fewstep.drafters._growth import Cache, Rows
from fewstep.drafters._pace import Pace
from fewstep.drafters._protocol import Draft, Seen
from fewstep.language_model import as_language_model

MODES = ("tree", *LAWS)


class DraftModel:
    """Drafts with a language model that is smaller than the target.

    Parameters
    ----------
    model : LanguageModel or transformers model
        Of the target's vocabulary, or with `d2t`. A model of transformers becomes a
        `fewstep.transformers.PagedModel`; one with ``vocabulary=`` of the most frequent tokens is
        FR-Spec, one with ``layers=`` of the target's own drafts by early exit.
    mode : str
        ``tree``: the most likely tree (EAGLE-2), for any temperature; no random numbers, so texts
        are those without drafts. ``chain``: the most likely chain at temperature 0, else a chain
        drawn from the model and verified as a block. Drawn at temperatures above 0, and the tree at
        0: ``rsd_c`` (children without replacement), ``rsd_s`` (stochastic beam) and ``k_seq``
        (independent chains, SpecTr).
    depth : int
        Of the tree, at most.
    width : int
        Children of a node and nodes of a level that go on; draws at a node of ``rsd_c``, chains of
        ``k_seq``; 1 of ``chain``.
    nodes : int
        Of a most likely tree, the root not counted.
    adapt : bool
        End most likely trees where a further level costs more than it is likely to bring, by
        measured time. Drawn trees have their depth always: they must not depend on a clock.

    Notes
    -----
    The drafter draws at each request's temperature. Texts of drawn drafts are other texts of the
    same law than those without drafts. Most likely chains (``chain`` at temperature 0, ``tree`` of
    width 1) are one call of a model that has a method `chain`, as
    `fewstep.transformers.PagedModel` of a fused model has.

    References
    ----------
    .. [1] Li et al., "EAGLE-2", arXiv 2406.16858, section 4.
    .. [2] Sun et al., "Block verification accelerates speculative decoding", arXiv 2403.10444.
    .. [3] Jeon et al., "Recursive speculative decoding", arXiv 2402.14160 (RSD-C, RSD-S).
    .. [4] Sun et al., "SpecTr", arXiv 2310.15141 (k_seq).
    .. [5] Zhao et al., "FR-Spec", arXiv 2502.14856.
    .. [6] Liu et al., "Speculative decoding via early-exiting", arXiv 2406.03853.

    Examples
    --------
    >>> table = np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1)  # after t comes t + 1
    >>> model = fewstep.language_model.Markov(table)
    >>> drafter = fewstep.drafters.DraftModel(model, "chain", depth=3, adapt=False)
    >>> generator = fewstep.Generator(model, drafter=drafter, adapt=False)
    >>> greedy = fewstep.Sampling(temperature=0, max_tokens=8)
    >>> generator.generate([[1]], greedy)[0].drafted
    [True, True, True, False, True, True, True, False]
    """

    def __init__(
        self,
        model: Any,
        mode: str = "tree",
        *,
        depth: int = 5,
        width: int | None = None,
        nodes: int = 24,
        adapt: bool = True,
    ) -> None:
        if mode not in MODES:
            raise ValueError(
                f"fewstep.drafters.DraftModel: 'mode' must be one of {', '.join(MODES)}, "
                f"got {mode!r}"
            )
        width = (1 if mode == "chain" else 4) if width is None else width
        check_counts("DraftModel", depth=(depth, 64), width=(width, 64), nodes=(nodes, 255))
        if mode == "chain" and width != 1:
            raise ValueError(
                f"fewstep.drafters.DraftModel: 'width' must be 1 with mode chain, got {width}"
            )
        self.model = as_language_model("fewstep.drafters.DraftModel", model)
        self._mode, self._depth, self._width, self._nodes = mode, depth, width, nodes
        self._cache = Cache(self.model)
        self._pace = Pace() if adapt else None

    def start(self, request: Request) -> None:
        """Nothing: a text is read when something is drafted."""

    def stop(self, request: Request) -> None:
        """Free what the model has of it."""
        self._cache.forget(request)

    def observe(self, seen: Seen) -> None:
        """Note how fast texts grow."""
        if self._pace is not None:
            self._pace.called(seen)

    def draft(self, requests: Sequence[Request], limits: Sequence[int]) -> list[Draft | None]:
        """Grow a tree below each text."""
        drafts: list[Draft | None] = [None] * len(requests)
        longest = getattr(self.model, "max_length", None)
        drawn: list[tuple[int, int]] = []
        chosen: list[tuple[int, int]] = []
        for i, (request, limit) in enumerate(zip(requests, limits, strict=True)):
            if longest is not None and len(request.tokens) + self._depth > longest:
                limit = longest - len(request.tokens)
            if limit < 1:
                continue
            deterministic = self._mode == "tree" or not request.sampling.temperature
            (chosen if deterministic else drawn).append((i, min(limit, self._depth)))
        if chosen and not (self._width == 1 and self._chains(drafts, requests, chosen)):
            self._fill(drafts, requests, chosen, self._chosen)
        if drawn:
            self._fill(drafts, requests, drawn, self._drawn)
        return drafts

    def _fill(
        self, drafts: list[Draft | None], requests: Sequence[Request],
        wanted: Sequence[tuple[int, int]], grow: Any,
    ) -> None:  # fmt: skip
        """Draft for some of the requests with one of the two ways to grow."""
        some = [requests[i] for i, _ in wanted]
        blocks, logits = self._cache.root(some)
        ready = [n for n, block in enumerate(blocks) if block is not None]
        if not ready:
            return
        depths = [wanted[n][1] for n in ready]
        grown = grow([some[n] for n in ready], [blocks[n] for n in ready], logits, depths)
        for n, draft in zip(ready, grown, strict=True):
            drafts[wanted[n][0]] = draft

    def _chains(
        self, drafts: list[Draft | None], requests: Sequence[Request],
        wanted: Sequence[tuple[int, int]],
    ) -> bool:  # fmt: skip
        """Draft the likeliest chains in one call of the model, if it has one for that."""
        levels = [min(depth, self._nodes) for _, depth in wanted]
        found = self._cache.chains([requests[i] for i, _ in wanted], levels, self._pace)
        for (i, _), draft in zip(wanted, found or (), strict=found is not None):
            drafts[i] = draft
        return found is not None

    def _chosen(
        self, requests: Sequence[Request], blocks: list[Rows], logits: Any, depths: Sequence[int]
    ) -> list[Draft]:
        nodes = min(self._nodes, self._depth) if self._mode == "chain" else self._nodes
        return best_trees(
            self._cache, blocks, logits, depths, width=self._width, nodes=nodes, pace=self._pace
        )

    def _drawn(
        self, requests: Sequence[Request], blocks: list[Rows], logits: Any, depths: Sequence[int]
    ) -> list[Draft]:
        return drawn_trees(
            self._cache, requests, blocks, logits, depths, mode=self._mode, width=self._width
        )

# SPDX-License-Identifier: Apache-2.0
"""Draft trees and drafters: what they cost beside a model's call, Python's calls included.

``Q`` is the nodes of a tree, ``L`` the tokens of a text, ``K`` children of a row. Nothing here has
a bar: the model's call takes longer by orders of magnitude, and is to keep doing so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

import fewstep
from fewstep import tree

from ..rows import Options, Row, check, difference, set_threads, timed_row
from ..timing import Timed, interleaved

NAMES = ("build", "expand", "draws", "lookup")
NODES = 64
BATCHES = (1, 8, 64)
FRONTIER, CHILDREN = 10, 10  # as in EAGLE-2
VOCABULARIES, QUICK_VOCABULARIES = (32000, 128256), (2000,)
TEXT, QUICK_TEXT = 8192, 256
DRAFT = 10

Call = Callable[[], Any]


def rows(options: Options, progress: Callable[[str], None]) -> Iterator[Row]:
    """Measure what was asked for."""
    vocabularies = QUICK_VOCABULARIES if options.quick else VOCABULARIES
    for threads in options.threads:
        set_threads(threads)
        for name in NAMES:
            if not options.wants(name):
                continue
            progress(f"trees: {name}, {threads} threads")
            if name == "build":
                for batch in BATCHES[:1] if options.quick else BATCHES:
                    yield from _built(batch, threads)
            elif name == "lookup":
                yield from _looked_up(QUICK_TEXT if options.quick else TEXT, threads)
            else:
                measured = {"expand": _expanded, "draws": _drawn}[name]
                for vocabulary in vocabularies:
                    yield from measured(vocabulary, threads)


def _measured(head: Row, ours: Call, rivals: dict[str, Call]) -> Iterator[Row]:
    """Time all turn by turn; yield a row for each rival."""
    calls = {"ours": Timed(ours)} | {name: Timed(call) for name, call in rivals.items()}
    times = interleaved(calls, budget_s=1.0)
    for name in rivals:
        yield timed_row(head, name, times["ours"], times[name], spread=True)


def _equal(what: str, ours: Any, other: Any) -> None:
    check(what, 0.0 if np.array_equal(np.asarray(ours), np.asarray(other)) else 1.0, 0.0)


def _built(batch: int, threads: int) -> Iterator[Row]:
    """Measure masks and positions from parents, as an engine needs them in every step."""
    rng = np.random.default_rng(5)
    own = [[-1] + [int(rng.integers(max(0, i - 20), i)) for i in range(1, NODES)]] * batch
    parent = torch.tensor(own, dtype=torch.int32).flatten()
    indptr = torch.arange(batch + 1, dtype=torch.int32) * NODES
    made = tree.build(parent, indptr)
    outputs = {
        name: getattr(made, name)
        for name in ("depth", "first_child", "next_sibling", "positions", "bits")
    }

    def ours() -> tree.Tree:
        return tree.build(parent, indptr, **outputs)

    def loop() -> tuple[np.ndarray, np.ndarray]:  # a row after the other, as EAGLE's code does
        masks = np.zeros((batch, NODES, NODES), bool)
        for mask, parents in zip(masks, own, strict=True):
            np.fill_diagonal(mask, True)
            for i in range(1, NODES):
                mask[i] |= mask[parents[i]]
        return masks, masks.sum(axis=2) - 1

    above = parent.view(batch, NODES).long().clamp(min=0)

    def doubling() -> tuple[torch.Tensor, torch.Tensor]:  # all rows at once, paths doubling
        jump, masks = above, torch.eye(NODES, dtype=torch.bool).repeat(batch, 1, 1)
        for _ in range(NODES.bit_length() - 1):
            masks |= masks.gather(1, jump[:, :, None].expand(-1, -1, NODES))
            jump = jump.gather(1, jump)
        return masks, masks.sum(dim=2) - 1

    words = made.bits.numpy().view(np.uint8)
    masks = np.unpackbits(words, axis=1, bitorder="little").reshape(batch, NODES, -1)
    for other in (loop(), doubling()):
        _equal("build", masks[:, :, :NODES], other[0])
        _equal("build", made.depth.view(batch, NODES), other[1])
    head = {"op": "tree.build", "case": "build", "Q": NODES, "B": batch, "dtype": "int32"}
    rivals: dict[str, Call] = {"numpy loop": loop, "torch doubling": doubling}
    yield from _measured(head | {"threads": threads}, ours, rivals)


def _frontier(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits and cumulative log-probabilities of a frontier."""
    generator = torch.Generator().manual_seed(6)
    logits = 3 * torch.randn(FRONTIER, vocabulary, generator=generator)
    return logits, torch.log_softmax(torch.randn(FRONTIER, generator=generator), 0)


def _expanded(vocabulary: int, threads: int) -> Iterator[Row]:
    """Measure a step of a dynamic tree."""
    logits, scores = _frontier(vocabulary)
    made = tree.expand(scores, logits, CHILDREN)
    outputs = made._asdict()
    indptr = torch.tensor([0, FRONTIER], dtype=torch.int32)

    def ours() -> tree.Expansion:
        return tree.expand(scores, logits, CHILDREN, indptr=indptr, **outputs)

    def theirs() -> tuple[torch.Tensor, ...]:
        top = torch.topk(torch.log_softmax(logits, dim=-1), CHILDREN, dim=-1)
        total = top.values + scores[:, None]
        best = torch.topk(total.view(-1), CHILDREN)
        return top.indices, total, top.indices.view(-1)[best.indices], best.values

    ids, total, beam_ids, beam = theirs()
    _equal("expand", made.ids, ids)
    _equal("expand", made.beam_ids[0], beam_ids)
    check("expand", difference(made.logp, total), 2e-6)
    check("expand", difference(made.beam_logp[0], beam), 2e-6)
    head = {"op": "tree.expand", "case": "expand", "V": vocabulary, "B": 1, "K": CHILDREN}
    head |= {"T": FRONTIER, "dtype": "float32", "threads": threads}
    yield from _measured(head, ours, {"torch topk": theirs})


def _drawn(vocabulary: int, threads: int) -> Iterator[Row]:
    """Measure draws without replacement: Gumbel top-k of each row."""
    logits, _ = _frontier(vocabulary)
    seeds = torch.tensor([7])
    positions = torch.full((FRONTIER,), 100, dtype=torch.int32)
    indptr = torch.tensor([0, FRONTIER], dtype=torch.int32)

    def ours() -> tree.Draws:
        return tree.sample_children(
            logits, "without_replacement", CHILDREN, seeds, positions, indptr=indptr
        )

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        logq = torch.log_softmax(logits, dim=-1)
        gumbel = -torch.empty_like(logq).exponential_().log_()
        draws = torch.topk(logq + gumbel, CHILDREN, dim=-1).indices
        return draws, logq.gather(1, draws)

    made = ours()
    logq = torch.log_softmax(logits, dim=-1).gather(1, made.draws.long())
    check("draws", difference(made.logq, logq), 2e-6)
    distinct = all(len(set(row)) == CHILDREN for row in made.draws.tolist())
    check("draws", 0.0 if distinct else 1.0, 0.0)
    head = {"op": "tree.sample_children", "case": "draws", "V": vocabulary, "B": 1, "K": CHILDREN}
    head |= {"T": FRONTIER, "dtype": "float32", "threads": threads}
    yield from _measured(head, ours, {"torch topk": theirs})


def _looked_up(length: int, threads: int) -> Iterator[Row]:
    """Measure a look-up whose only match lies in the middle of the text."""
    from transformers.generation.candidate_generator import PromptLookupCandidateGenerator

    rng = np.random.default_rng(8)
    text = rng.permutation(10 * length)[:length].astype(np.int32)
    text[-3:] = text[length // 2 : length // 2 + 3]
    store = fewstep.draft.Ngram(n_min=1, n_max=3)
    store.append(text)
    generator = PromptLookupCandidateGenerator(
        num_output_tokens=DRAFT, max_matching_ngram_size=3, max_length=2 * length
    )
    ids: Any = torch.from_numpy(text.astype(np.int64))[None]

    def ours() -> Any:
        return store.propose(max_tokens=DRAFT)

    def theirs() -> torch.Tensor:
        found: torch.Tensor = generator.get_candidates(ids)[0][0, length:]
        return found

    _equal("lookup", ours()[0][1:], theirs())
    head = {"op": "draft.Ngram.propose", "case": "lookup", "L": length, "B": 1, "K": DRAFT}
    yield from _measured(
        head | {"dtype": "int32", "threads": threads}, ours, {"transformers": theirs}
    )

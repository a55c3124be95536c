# SPDX-License-Identifier: Apache-2.0
"""A decoder of 12 layers, 768 wide, with random weights in bfloat16, against transformers.

``llama`` is plain ``generate`` after a prompt, with our attention, cache and linear layers against
transformers' own with its fastest cache; times are those of a token, the prompt not counted.
``tree_forward`` is a call with a tree of drafted tokens, ``draft_head`` a call of a draft model
whose head has the most frequent tokens alone (FR-Spec), ``draft_chain`` the likeliest chain of a
draft model in one call.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

import fewstep
from fewstep.transformers import PagedCache, PagedModel, fuse

from . import llama
from .rows import Options, Row, add_bar, check, difference, set_threads, timed_row, unmeasured_row
from .timing import Timed, Timing, each_of, interleaved

NAMES = ("llama", "tree_forward", "draft_head", "draft_chain")
LENGTHS = {256: 2.5, 6144: 4.0}  # tokens before those that are timed: the bar
TOKENS, QUICK_TOKENS = 32, 4
TREE_LENGTH, NODES, TREE_BAR = 6144, 64, 2.5
DRAFT_LAYERS, SUBSET, DRAFT_LENGTH, DRAFT_BAR = 2, 4, 256, 1.3  # a quarter of the vocabulary
CHAIN = 4  # tokens of a drafted chain
BAR_THREADS = 2
CHECKED = 48  # tokens whose logits are compared
LLAMA_CPP = "llama-cpp-python is not among this project's pinned packages"

Call = Callable[[], object]


class Problem:
    """A model as transformers has it, and fused for us."""

    def __init__(self, layers: int | None = None) -> None:
        sizes = {"max_position_embeddings": 8192}
        if layers is not None:
            sizes["num_hidden_layers"] = layers
        self.plain = llama.model(**sizes)
        self.fused = copy.deepcopy(self.plain)
        fuse(self.fused)
        self.vocabulary = llama.SIZES["vocab_size"]

    def tokens(self, count: int) -> torch.Tensor:
        """Return random tokens, shape [1, count]."""
        generator = torch.Generator().manual_seed(12)
        return torch.randint(3, self.vocabulary, (1, count), generator=generator)

    def verify(self) -> None:
        """Compare logits: at most twice as far from float32 as transformers' own."""
        prompt = self.tokens(CHECKED)
        exact = copy.deepcopy(self.plain).float()(prompt).logits
        theirs = difference(self.plain(prompt).logits, exact)
        check("llama", difference(self.fused(prompt).logits, exact), 2 * theirs)
        paged, sequence = paged_after(self.fused, prompt[:, :0], CHECKED)
        ours = paged.forward([sequence], prompt[0].int().numpy(), np.array([0, CHECKED], np.int32))
        check("llama, paged", difference(torch.as_tensor(ours), exact[0]), 2 * theirs)


def paged_after(model: Any, tokens: torch.Tensor, room: int, **options: Any) -> tuple[Any, int]:
    """Return a `PagedModel` and its sequence after some tokens, with room for more."""
    paged = PagedModel(model, **options)
    sequence, _ = paged.add([])
    count = tokens.shape[1]
    paged.extend(sequence, count + room)
    if count:
        ends = np.array([0, count], np.int32)
        rows = np.zeros(0, np.int64)
        paged.forward([sequence], tokens[0].int().numpy(), ends, rows=rows)
    return paged, sequence


def generating(model: Any, prompt: torch.Tensor, cache: Any, count: int, **how: Any) -> Call:
    """Return what generates `count` tokens after a prompt that is already in the cache.

    Greedily, unless options of ``generate`` say otherwise.
    """
    with torch.no_grad():
        model(prompt[:, :-1], cache=cache, use_cache=True, logits_to_keep=1)

    def call() -> object:
        tokens = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            cache=cache,
            max_new_tokens=count,
            **({"do_sample": False} | how),
        )
        assert tokens.shape[1] == prompt.shape[1] + count
        cache.crop(-count)
        return tokens

    return call


def llama_rows(problem: Problem, options: Options, threads: int) -> Iterator[Row]:
    """Measure ``generate`` of one text after each length."""
    from transformers import DynamicCache, StaticCache

    count = QUICK_TOKENS if options.quick else TOKENS
    for length, bar in list(LENGTHS.items())[: 1 if options.quick else None]:
        prompt, config = problem.tokens(length), problem.plain.config
        static: Any = StaticCache
        rivals = {
            "transformers, DynamicCache": DynamicCache(config=config),
            "transformers, StaticCache": static(config=config, max_cache_len=length + count),
        }
        calls = {"ours": generating(problem.fused, prompt, PagedCache(problem.fused), count)}
        calls |= {
            name: generating(problem.plain, prompt, cache, count) for name, cache in rivals.items()
        }
        times = _timed(calls, count)
        head: Row = {"op": "generate", "case": "llama", "L": length, "T": count}
        head |= {"dtype": "bfloat16", "threads": threads}
        for name in rivals:
            row = timed_row(head, name, times["ours"], times[name], spread=True)
            row["tokens_per_s"] = [round(1e6 / times[x].median_us, 2) for x in ("ours", name)]
            yield row
        best = min((times[name] for name in rivals), key=lambda time: time.median_us)
        row = timed_row(head, "transformers best", times["ours"], best)
        if threads >= BAR_THREADS:
            add_bar(row, bar)
        yield row
        yield unmeasured_row(head, "llama.cpp", LLAMA_CPP, times["ours"])


def tree_rows(problem: Problem, options: Options, threads: int) -> Iterator[Row]:
    """Measure a call with a tree of 64 nodes."""
    from transformers import DynamicCache

    length = 256 if options.quick else TREE_LENGTH
    before, nodes = problem.tokens(length), problem.tokens(NODES)
    parent = (np.arange(NODES, dtype=np.int32) - 1) // 2  # a binary tree
    tree = fewstep.tree.build(parent)
    paged, sequence = paged_after(problem.fused, before, NODES)
    token, indptr = nodes[0].int().numpy(), np.array([0, NODES], np.int32)

    def ours() -> torch.Tensor:
        paged.extend(sequence, NODES)
        logits = paged.forward([sequence], token, indptr, bits=tree.bits, depth=tree.depth)
        paged.truncate(sequence, length)
        return torch.as_tensor(logits)

    seen = np.unpackbits(tree.bits.view(np.uint8), axis=1, bitorder="little")[:, :NODES]
    mask = torch.zeros(1, 1, NODES, length + NODES, dtype=torch.bfloat16)
    lowest = torch.finfo(torch.bfloat16).min
    mask[0, 0, :, length:] = torch.from_numpy(1 - seen.astype(np.float32)) * lowest
    positions = torch.from_numpy(tree.depth.astype(np.int64))[None] + length
    cache: Any = DynamicCache(config=problem.plain.config)
    problem.plain(before, cache=cache, use_cache=True, logits_to_keep=1)

    def theirs() -> torch.Tensor:
        logits: torch.Tensor = problem.plain(
            nodes, attention_mask=mask, position_ids=positions, cache=cache
        ).logits[0]
        cache.crop(-NODES)
        return logits

    check("tree_forward", difference(ours(), theirs()), 4e-2)
    times = _timed({"ours": ours, "theirs": theirs}, 1)
    head: Row = {"op": "forward", "case": "tree_forward", "L": length, "Q": NODES}
    head |= {"dtype": "bfloat16", "threads": threads}
    row = timed_row(head, "transformers, 4-D mask", times["ours"], times["theirs"], spread=True)
    if threads >= BAR_THREADS:
        add_bar(row, TREE_BAR)
    yield row


def head_rows(problem: Problem, threads: int) -> Iterator[Row]:
    """Measure a call of one row with a head of a part of the vocabulary."""
    before, kept = problem.tokens(DRAFT_LENGTH), np.arange(problem.vocabulary // SUBSET)
    calls: dict[str, Call] = {}
    for name, options in (("full", {}), ("part", {"vocabulary": kept.astype(np.int32)})):
        paged, sequence = paged_after(problem.fused, before, 1, **options)
        calls[name] = partial(_one_row, paged, sequence)
    full, part = (torch.as_tensor(calls[name]()).float() for name in ("full", "part"))
    check("draft_head", difference(part, full[:, : len(kept)]), 1e-6)
    times = _timed(calls, 1)
    head: Row = {"op": "forward", "case": "draft_head", "L": DRAFT_LENGTH, "M": 1}
    head |= {"V": len(kept), "dtype": "bfloat16", "threads": threads}
    row = timed_row(head, f"V={problem.vocabulary}", times["part"], times["full"], spread=True)
    add_bar(row, DRAFT_BAR)
    yield row


def _one_row(paged: Any, sequence: int) -> object:
    length = paged.length(sequence)
    paged.extend(sequence, 1)
    logits = paged.forward([sequence], np.array([5], np.int32), np.array([0, 1], np.int32))
    paged.truncate(sequence, length)
    return logits


def chain_rows(problem: Problem, threads: int) -> Iterator[Row]:
    """Measure the likeliest chain behind a text, against one pass after the other."""
    from transformers import DynamicCache

    prompt = problem.tokens(DRAFT_LENGTH + 1)
    paged, sequence = paged_after(problem.fused, prompt[:, :-1], CHAIN)
    last, ends = prompt[0, -1:].int().numpy(), np.array([0, 1], np.int32)

    def ours() -> list[int]:
        paged.extend(sequence, CHAIN)
        ids, _ = paged.chain([sequence], last, ends, np.array([CHAIN], np.int32))
        paged.truncate(sequence, DRAFT_LENGTH)
        tokens: list[int] = ids[0].tolist()
        return tokens

    def by_levels() -> list[int]:
        paged.extend(sequence, CHAIN)
        token, above, tokens = last, np.zeros(1, np.float32), []
        for _ in range(CHAIN):
            best = fewstep.tree.expand(above, paged.forward([sequence], token, ends), 1)
            token, above = np.asarray(best.ids[0]), np.asarray(best.logp[0])
            tokens.append(int(token[0]))
        paged.truncate(sequence, DRAFT_LENGTH)
        return tokens

    found, wanted = ours(), by_levels()
    if found != wanted:
        raise AssertionError(f"draft_chain: {found} for {wanted}")
    cache = DynamicCache(config=problem.plain.config)
    calls: dict[str, Call] = {"ours": ours, "fewstep, pass by pass": by_levels}
    calls |= {"transformers": generating(problem.plain, prompt, cache, CHAIN)}
    times = _timed(calls, CHAIN)
    head: Row = {"op": "decoder.chain", "case": "draft_chain", "L": DRAFT_LENGTH, "K": CHAIN}
    head |= {"dtype": "bfloat16", "threads": threads}
    for name in list(calls)[1:]:
        yield timed_row(head, name, times["ours"], times[name], spread=True)


def _timed(calls: dict[str, Call], count: int) -> dict[str, Timing]:
    """Time calls turn by turn; times are those of one of `count` tokens."""
    times = interleaved({name: Timed(call) for name, call in calls.items()}, budget_s=5.0)
    return {name: each_of(time, count) for name, time in times.items()}


def rows(name: str, options: Options) -> Iterator[Row]:
    """Measure a case of `NAMES` with each number of threads."""
    problem = Problem(DRAFT_LAYERS if name.startswith("draft") else None)
    problem.verify()
    for threads in options.threads:
        set_threads(threads)
        if name == "llama":
            yield from llama_rows(problem, options, threads)
        elif name == "tree_forward":
            yield from tree_rows(problem, options, threads)
        elif name == "draft_head":
            yield from head_rows(problem, threads)
        else:
            yield from chain_rows(problem, threads)

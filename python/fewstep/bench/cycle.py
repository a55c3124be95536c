# SPDX-License-Identifier: Apache-2.0
"""A whole cycle of a `Generator` on a GPU against its model alone and transformers.

The model has the shape of a Llama of a billion parameters and random weights in bfloat16; drafts
are trees of 64 nodes that `TokenRecycling` fills, for one text. A cycle is drafts, forward pass,
verification and commit; the host's work between looks is in it. Beside it, turn by turn, runs a
captured forward pass over the same rows, again and again: what is left of a cycle is ours. That
pass stays at the prompt's length while texts grow, so its share is not too large. Linear layers are
torch's; cycles with packed ones and with fused layers stand beside them. How many tokens a cycle
gives says nothing of models that were trained.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

import fewstep

from ..torch import pack_linears
from . import llama
from .cases import CYCLE_BAR
from .decode import table as decode_table
from .measure import Part, benchmark
from .rows import (
    Options,
    Row,
    WrongResult,
    add_bar,
    check,
    difference,
    limit_row,
    timed_row,
    unmeasured_row,
)
from .target import Target
from .timing import Timed, Timing, each_of, interleaved

SIZES = {
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "tie_word_embeddings": True,
    "max_position_embeddings": 1 << 15,
}
QUICK_LAYERS = 2
NODES = 64
PROMPT = 1024
LONGEST = 3 << 13  # tokens of a text, which no measurement reaches
CACHED = 1 << 15  # tokens that a cache has room for
RIVAL_TOKENS = 16  # of a call of transformers
CHECKED = 48  # tokens of the text that is checked
# Of logits, relative to the largest: on the CPU this model's are 2.8e-2 from those in float32.
TOLERANCE = 8e-2
BUDGET_S = 5.0
SAMPLINGS: dict[str, dict[str, Any]] = {
    "cycle_greedy": {"temperature": 0.0},
    "cycle_sampled": {"temperature": 0.8, "top_k": 20},
}
NAMES = tuple(SAMPLINGS)
NO_DEVICE = "cycles are CUDA graphs: --device cuda, on a machine with a GPU"
NO_RIVAL = "'transformers' is missing; install fewstep[bench]"


def paged(model: Any, graph: bool) -> Any:
    """Return a model as generators drive it."""
    from ..transformers import PagedModel

    return PagedModel(model, pages=CACHED // 32, page_tokens=32, graph=graph)


class Text:
    """A text without an end, a step of whose generator is timed."""

    def __init__(self, model: Any, prompt: list[int], sampling: dict[str, Any]) -> None:
        parent, rank = (np.ascontiguousarray(a[:NODES]) for a in fewstep.tree.TOKEN_RECYCLING)
        drafter = fewstep.drafters.TokenRecycling((parent, rank))
        self.parent, self.sampling, self.prompt = parent, sampling, prompt
        self.generator = fewstep.Generator(model, drafter=drafter, adapt=False, stop_tokens=())
        self.cycles = 0  # of a step

    def written(self, count: int) -> list[int]:
        """Return the tokens of a short text."""
        options = fewstep.Sampling(max_tokens=count, seed=1, **self.sampling)
        (result,) = self.generator.generate([self.prompt], options)
        if result.error is not None:
            raise result.error
        return list(result.tokens)

    def begin(self) -> None:
        """Begin the text, up to where a step is like the next."""
        options = fewstep.Sampling(max_tokens=LONGEST, seed=2, **self.sampling)
        self.generator.submit(self.prompt, options)
        for _ in range(3):
            before = self.generator.stats.forwards
            self.generator.step()
            self.cycles = self.generator.stats.forwards - before
        self.generator.reset_stats()

    def step(self) -> None:
        """Take a step, which must have as many cycles as the others."""
        stats = self.generator.stats
        before = stats.forwards
        left = self.generator.step()
        if not left or stats.forwards - before != self.cycles:
            raise WrongResult(f"a step of {stats.forwards - before} cycles, not {self.cycles}")

    @property
    def tokens_per_cycle(self) -> float:
        """How many tokens a cycle gave since the text began."""
        stats = self.generator.stats
        return stats.tokens / stats.forwards


class Problem:
    """A model for transformers and for us, and a prompt."""

    def __init__(self, target: Target, quick: bool) -> None:
        self.target = target
        sizes = SIZES | ({"num_hidden_layers": QUICK_LAYERS} if quick else {})
        with target.device:
            self.plain = llama.model(**sizes)
        self.parameters = sum(weight.numel() for weight in self.plain.parameters())
        model = copy.deepcopy(self.plain)  # attention is set for a whole model
        self.graphed, self.called = paged(model, True), paged(model, False)
        self.packed, self.fused = (
            paged(_changed(self.plain, change), True) for change in (pack_linears, fuse)
        )
        generator = torch.Generator().manual_seed(12)
        self.tokens = torch.randint(3, sizes["vocab_size"], (1, PROMPT), generator=generator)
        self.prompt: list[int] = self.tokens[0].tolist()

    def verify(self, case: str, model: Any) -> None:
        """Write a text in cycles, and compare with what transformers says of its tokens."""
        sampling = SAMPLINGS[case]
        written = Text(model, self.prompt, sampling).written(CHECKED)
        captured = model._cycles
        if captured.refused is not None or not len(captured):
            raise WrongResult(f"{case}: no cycle was captured: {captured.refused}")
        ids = torch.tensor([self.prompt + written], device=self.target.device)
        logits = self.plain(ids, logits_to_keep=CHECKED + 1).logits[0, :-1].float()
        least = logits.topk(sampling.get("top_k", 1)).values[:, -1]
        found = logits.gather(1, ids[0, -CHECKED:, None])[:, 0]
        short = float((least - found).clamp(min=0).max() / logits.abs().max())
        check(f"{case}, tokens of a text below the best", short, TOLERANCE)

    def forward_pass(self, parent: Any) -> Callable[[], Any]:
        """Return a pass over the rows of a tree behind the prompt, as a cycle has one in it."""
        from .._transfer import Parcel
        from ..transformers._forward import Forward
        from ..transformers._rows import rows_of

        model, tree = self.graphed, fewstep.tree.build(parent)
        sequence, cached = model.add(self.prompt)
        model.extend(sequence, PROMPT - cached + NODES)
        before = np.array(self.prompt[cached:], np.int32)
        if len(before):
            ends = np.array([0, len(before)], np.int32)
            model.forward([sequence], before, ends, rows=np.zeros(0, np.int64))
        indptr, length = np.array([0, NODES], np.int32), np.array([PROMPT], np.int32)
        pages = model.pool.page_table([sequence])
        rows = rows_of(length, indptr, pages, bits=tree.bits, depth=tree.depth)
        rows = rows.widened(model.pool.stats()["page_tokens"])
        every = np.arange(NODES)
        parcel = Parcel((every + 3, every, *rows.fields))
        ids, index, *fields = parcel.unpacked(parcel.packed.to(self.target.device))
        forward = Forward(model.model, model._cache)
        compute = partial(forward.compute, ids, index, rows.placed(fields), False)
        root = torch.tensor([[*self.prompt, int(ids[0])]], device=ids.device)
        theirs = self.plain(root, logits_to_keep=1).logits[0]
        check("logits of the pass alone", difference(compute()[:1], theirs), TOLERANCE)
        return compute


def fuse(model: Any) -> None:
    """Fuse a model's layers."""
    from ..transformers import fuse as fused

    fused(model)


def _changed(model: Any, change: Callable[[Any], object]) -> Any:
    """Return a copy of a model that was changed in place."""
    copied = copy.deepcopy(model)
    change(copied)
    return copied


def rows(case: str, problem: Problem, options: Options) -> Iterator[Row]:
    """Measure a case: cycles, the pass alone, cycles without graphs, and transformers."""
    from transformers import DynamicCache

    from .decoder import generating

    for model in (problem.graphed, problem.packed, problem.fused):
        problem.verify(case, model)
    target, sampling = problem.target, SAMPLINGS[case]
    ours, called, packed, fused = (
        Text(model, problem.prompt, sampling)
        for model in (problem.graphed, problem.called, problem.packed, problem.fused)
    )
    alone = target.capture(problem.forward_pass(ours.parent))
    scratch = problem.graphed._cache.store.scratch  # the graph's, which a longer one may replace
    for text in (ours, called, packed, fused):
        text.begin()
    how = {"do_sample": bool(sampling["temperature"])}
    how |= sampling if how["do_sample"] else {}
    ids, cache = problem.tokens.to(target.device), DynamicCache(config=problem.plain.config)

    def passes() -> None:
        for _ in range(ours.cycles):
            alone()

    timed = {
        "ours": Timed(ours.step),
        "pass": Timed(passes),
        "no graph": Timed(called.step),
        "packed linears": Timed(packed.step),
        "fused layers": Timed(fused.step),
        "transformers": Timed(generating(problem.plain, ids, cache, RIVAL_TOKENS, **how)),
    }
    times = interleaved(timed, BUDGET_S, target.clock)
    del scratch
    head: Row = {"op": "Generator", "case": case, "Q": NODES, "L": PROMPT, "B": 1}
    head |= {"V": problem.plain.config.vocab_size, "dtype": "bfloat16"}
    head |= {"parameters": problem.parameters, **target.labels}
    yield from _rows_of(head, times, ours, called, not options.quick)


def _rows_of(
    head: Row, times: dict[str, Timing], ours: Text, called: Text, barred: bool
) -> Iterator[Row]:
    """Compare cycles with the pass alone, and tokens with those without graphs and of others."""
    alone = each_of(times["pass"], ours.cycles)
    sides = {"Generator": (ours, "ours"), "Generator, no graph": (called, "no graph")}
    for op, (text, name) in sides.items():
        cycle = each_of(times[name], text.cycles)
        row = limit_row(head | {"op": op}, "its forward pass", cycle, alone)
        row |= {"tokens_per_cycle": round(text.tokens_per_cycle, 3), "cycles": text.cycles}
        if barred and text is ours:
            add_bar(row, CYCLE_BAR, "share")
        yield row
    cycle = each_of(times["ours"], ours.cycles)
    for name in ("packed linears", "fused layers"):
        yield timed_row(
            head, f"fewstep, {name}", cycle, each_of(times[name], ours.cycles), spread=True
        )
    token = each_of(times["ours"], ours.cycles * ours.tokens_per_cycle)
    rivals = {
        "fewstep, no graph": each_of(times["no graph"], called.cycles * called.tokens_per_cycle),
        "transformers": each_of(times["transformers"], RIVAL_TOKENS),
    }
    for name, other in rivals.items():
        row = timed_row(head, name, token, other, spread=True)
        row["tokens_per_s"] = [round(1e6 / time.median_us, 1) for time in (token, other)]
        yield row


def device_rows(names: tuple[str, ...], options: Options, target: Target) -> Iterator[Row]:
    """Measure cases on a device, with one model for all."""
    if find_spec("transformers") is None:
        yield from unmeasured(names, NO_RIVAL, target)
        return
    problem = Problem(target, options.quick)
    for name in names:
        yield from rows(name, problem, options)


def unmeasured(names: tuple[str, ...], reason: str, target: Target) -> Iterator[Row]:
    """Say of each case why it was not measured."""
    for name in names:
        head: Row = {"op": "Generator", "case": name, "Q": NODES, "L": PROMPT, "B": 1}
        head |= {"dtype": "bfloat16", **target.labels}
        yield unmeasured_row(head, "its forward pass", reason)


def parts_of(options: Options, target: Target) -> list[tuple[str, Part]]:
    """Return what `measure` takes: all cases that are asked for as one part."""
    names = tuple(name for name in NAMES if options.wants(name))
    if not names:
        return []
    part = (
        partial(device_rows, names, options, target)
        if target.is_cuda
        else partial(unmeasured, names, NO_DEVICE, target)
    )
    return [(", ".join(names), part)]


run = benchmark(parts_of)
table = partial(decode_table, title="fewstep bench generate")

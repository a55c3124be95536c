# SPDX-License-Identifier: Apache-2.0
"""``fewstep bench generate``: whole texts against transformers.

Cases ``batch_1``, ``batch_4`` and ``batch_16`` continue held-out text with the demo's two models,
greedily; `fewstep.bench.decoder` has others, of a larger model with random weights, and
`fewstep.bench.cycle` those that a GPU measures. Times are those of a generated token, prompts
included. Each run begins with an empty cache and a drafter that has seen nothing, so that no text
is remembered from the run before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch

import fewstep
from fewstep.demo import corpus, text
from fewstep.transformers import PagedModel

from . import cycle, decoder
from .decode import table as decode_table
from .measure import Part, benchmark
from .rows import (
    Options,
    Row,
    WrongResult,
    add_bar,
    check,
    difference,
    set_threads,
    timed_row,
)
from .target import Target
from .timing import Timed, Timing, each_of, interleaved

BATCHES = {"batch_1": 1, "batch_4": 4, "batch_16": 16}
NAMES = (*BATCHES, *decoder.NAMES, *cycle.NAMES)
TEXTS, QUICK_TEXTS = 6, 2  # one after the other, in batch_1
TOKENS = 128
PROMPTS = (64, 112, 160, 208)  # tokens, in turn: a batch is ragged
BUDGET_S = 60.0
BEST_BAR = 3.0  # tokens a second over transformers' best lossless mode, batch 1
BATCH_BAR = 2.0  # over transformers' batch, batch 16
# Over our own without drafts, batch 1; the best that has a draft model is the cascade.
PLAIN_BARS = {"cascade": 1.5, "contexts": 1.5, "recycling": 1.5}
SHARE_BAR = 0.9  # of the time in the models' forward passes
TOLERANCE = 1e-4  # of logits, relative to the largest

Texts = list[list[int]]


class Problem:
    """The demo's models and prompts that they have not seen."""

    def __init__(self) -> None:
        text.quiet()
        self.models = text.load()
        # No token ends a text: every run is as long.
        for model in (self.models.target, self.models.draft):
            model.generation_config.eos_token_id = None
        pieces = corpus.sample_parts()
        self.prompts = [
            self.models.tokenizer.encode(piece)[: PROMPTS[i % len(PROMPTS)]]
            for i, piece in enumerate(pieces)
        ]
        self.stats: dict[str, Any] = {}

    def verify(self) -> None:
        """Compare the logits of a prompt with transformers'."""
        prompt = self.prompts[0]
        model = PagedModel(self.models.fused)
        sequence, _ = model.add(prompt)
        model.extend(sequence, len(prompt))
        ends = torch.tensor([0, len(prompt)], dtype=torch.int32).numpy()
        tokens = torch.tensor(prompt, dtype=torch.int32).numpy()
        ours = torch.as_tensor(model.forward([sequence], tokens, ends))
        theirs = self.models.target(torch.tensor([prompt])).logits[0]
        check("logits of the demo's target", difference(ours, theirs), TOLERANCE)

    def ours(self, drafter: str, prompts: Texts, batch: int) -> Texts:
        """Return what our generator writes, `batch` texts at a time."""
        made = text.drafter_of(drafter, self.models)
        paged = PagedModel(self.models.fused)
        generator = fewstep.Generator(paged, drafter=made, stop_tokens=())
        greedy = fewstep.Sampling(temperature=0, max_tokens=TOKENS)
        texts: Texts = []
        for begin in range(0, len(prompts), batch):
            for result in generator.generate(prompts[begin : begin + batch], greedy):
                if result.error is not None:
                    raise result.error
                texts.append(result.tokens)
        self.stats[drafter] = generator.stats
        return texts

    def theirs(self, prompts: Texts, batch: int, **options: Any) -> Texts:
        """Return what transformers writes."""
        texts: Texts = []
        for begin in range(0, len(prompts), batch):
            some = prompts[begin : begin + batch]
            longest = max(map(len, some))
            padded = [[0] * (longest - len(prompt)) + prompt for prompt in some]
            seen = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in some]
            tokens = self.models.target.generate(
                torch.tensor(padded),
                attention_mask=torch.tensor(seen),
                max_new_tokens=TOKENS,
                do_sample=False,
                pad_token_id=0,
                **options,
            )
            texts.extend(tokens[:, longest:].tolist())
        return texts

    def rivals(self, prompts: Texts, batch: int) -> dict[str, Callable[[], Texts]]:
        """Return transformers' lossless modes; only the plain one takes batches."""
        modes: dict[str, dict[str, Any]] = {"greedy": {}}
        if batch == 1:
            modes["assisted"] = {"assistant_model": self.models.draft}
            modes["prompt look-up"] = {"prompt_lookup_num_tokens": text.LOOKUP_TOKENS}
        return {
            f"transformers {name}": partial(self.theirs, prompts, batch, **options)
            for name, options in modes.items()
        }


def faster(times: Mapping[str, Timing], names: Sequence[str]) -> str:
    """Return the name of the least of some times."""
    return min(names, key=lambda name: times[name].median_us)


def counted(stats: Any) -> Row:
    """Return the keys of a row that say what a generator did."""
    return {
        "tokens_per_call": round(stats.tokens_per_call, 3),
        "acceptance_by_depth": [round(share, 3) for share in stats.acceptance_by_depth],
        "seconds": {name: round(value, 4) for name, value in stats.seconds.items()},
    }


def batch_rows(name: str, problem: Problem, options: Options, threads: int) -> Iterator[Row]:
    """Measure a batch with all drafters and transformers' modes, turn by turn."""
    batch = BATCHES[name]
    prompts = problem.prompts[: max(batch, QUICK_TEXTS if options.quick else TEXTS)]
    if batch > 1:
        prompts = prompts[:batch]
    ours = {one: partial(problem.ours, one, prompts, batch) for one in text.DRAFTERS}
    plain = ours["none"]()
    for one, call in ours.items():
        if call() != plain:
            raise WrongResult(f"{name}: drafter {one} changed a text")
    rivals = problem.rivals(prompts, batch)
    calls = {key: Timed(call) for key, call in (ours | rivals).items()}
    tokens = TOKENS * len(prompts)
    measured = interleaved(calls, budget_s=0.0 if options.quick else BUDGET_S)
    times = {key: each_of(time, tokens) for key, time in measured.items()}
    head: Row = {"case": name, "B": batch, "T": TOKENS, "dtype": "float32", "threads": threads}
    for one in text.DRAFTERS[:-1]:
        row = timed_row(head | {"op": one}, "fewstep, no drafts", times[one], times["none"])
        if batch == 1 and one in PLAIN_BARS:
            add_bar(row, PLAIN_BARS[one])
        yield row | counted(problem.stats[one])
    yield from best_rows(head, times, list(rivals), problem)


def best_rows(
    head: Row, times: Mapping[str, Timing], rivals: Sequence[str], problem: Problem
) -> Iterator[Row]:
    """Compare our best drafter with each rival and the best of them; and where its time goes."""
    best = faster(times, text.DRAFTERS)
    head = {"op": f"best: {best}", **head}
    for rival in rivals:
        row = timed_row(head, rival, times[best], times[rival], spread=True)
        row["tokens_per_s"] = [round(1e6 / times[x].median_us, 1) for x in (best, rival)]
        if head["B"] == max(BATCHES.values()):
            add_bar(row, BATCH_BAR)
        yield row
    if head["B"] == 1:
        row = timed_row(head, "transformers best", times[best], times[faster(times, rivals)])
        add_bar(row, BEST_BAR)
        yield row
    seconds = problem.stats[best].seconds
    inside = seconds["model"] + seconds["draft"]
    part = times[best].median_us * inside / (inside + seconds["fewstep"])
    row = timed_row(head, "its model and draft", times[best], Timing(part, part, part))
    row |= {"share": row["ratio"]} | counted(problem.stats[best])
    if head["B"] == 1:
        add_bar(row, SHARE_BAR, "share")
    yield row


def demo_rows(names: Sequence[str], options: Options) -> Iterator[Row]:
    """Measure batches with each number of threads."""
    problem = Problem()
    problem.verify()
    for threads in options.threads:
        set_threads(threads)
        for name in names:
            yield from batch_rows(name, problem, options, threads)


def parts_of(options: Options, target: Target) -> list[tuple[str, Part]]:
    """List what was asked for: all of it runs on the CPU but the cycles.

    ``quick`` takes fewer texts and shorter contexts.
    """
    batches = [name for name in BATCHES if options.wants(name)]
    parts: list[tuple[str, Part]] = []
    if batches:
        parts.append((", ".join(batches), partial(demo_rows, batches, options)))
    parts += [
        (name, partial(decoder.rows, name, options))
        for name in decoder.NAMES
        if options.wants(name)
    ]
    return parts + cycle.parts_of(options, target)


run = benchmark(parts_of)
table = partial(decode_table, title="fewstep bench generate")

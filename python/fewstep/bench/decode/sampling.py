# SPDX-License-Identifier: Apache-2.0
"""``logits.sample``: a token from each row of logits, plain and filtered.

``V`` is the vocabulary, ``B`` the rows. Each call draws with other random numbers, on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, product
from typing import Any

import torch

import fewstep

from ..rivals import samplers
from ..rivals.samplers import Sampler
from ..rivals.stream import reader
from ..rows import DTYPES, Options, Row, add_bar, check, limit_row, set_threads, timed_row
from ..timing import Timed, interleaved

NAMES = ("plain", "top_k_top_p", "top_p", "min_p")
VOCABULARIES = (32000, 128256, 151936, 262144)
BATCHES = (1, 8, 64)
# Sizes and cases that are measured with bfloat16 logits too. These have ties, of which transformers
# keeps all at the rank where top-k and top-p cut.
NARROW = ((128256, 8),)
CUT_BY_VALUE = ("plain", "min_p")
TEMPERATURE, TOP_K, TOP_P, MIN_P = 0.8, 50, 0.9, 0.05
CHECKED = 64  # draws that are compared with a rival's law
TOLERANCE = 5e-5  # of log-probabilities: torch sums the weights of a row in float32
SIGMAS = 5.0  # that a mean may be off

Forms = Callable[[torch.Tensor], dict[str, Sampler]]
CASES: dict[str, tuple[dict[str, Any], Forms]] = {
    "plain": ({}, samplers.plain),
    "top_k_top_p": (
        {"temperature": TEMPERATURE, "top_k": TOP_K, "top_p": TOP_P},
        partial(samplers.top_k_top_p, temperature=TEMPERATURE, top_k=TOP_K, top_p=TOP_P),
    ),
    "top_p": (
        {"temperature": TEMPERATURE, "top_p": TOP_P},
        partial(samplers.top_p, temperature=TEMPERATURE, share=TOP_P),
    ),
    "min_p": (
        {"temperature": TEMPERATURE, "min_p": MIN_P},
        partial(samplers.min_p, temperature=TEMPERATURE, share=MIN_P),
    ),
}

# What the ratio to a rival is to reach.
BARS = {
    ("plain", 151936, 1, "torch multinomial"): 40.0,
    ("top_k_top_p", 128256, 8, "transformers"): 60.0,
    ("top_k_top_p", 128256, 8, "torch"): 4.0,
}


def rows(options: Options, progress: Callable[[str], None]) -> Iterator[Row]:
    """Measure what was asked for."""
    for threads in options.threads:
        set_threads(threads)
        for case in NAMES:
            if not options.wants(case):
                continue
            sizes = [(v, b, "float32") for v, b in product(VOCABULARIES, BATCHES)]
            sizes += [(v, b, "bfloat16") for v, b in NARROW if case in CUT_BY_VALUE]
            for size in sizes[:1] if options.quick else sizes:
                progress("logits.sample, {}, V={} B={} {}, {} threads".format(case, *size, threads))
                yield from _measured(case, *size, threads)


def _measured(case: str, vocabulary: int, batch: int, dtype: str, threads: int) -> Iterator[Row]:
    """Check the law, time all turn by turn, and yield a row for each rival and for the limit."""
    torch.manual_seed(11)
    logits = (3 * torch.randn(batch, vocabulary)).to(DTYPES[dtype])
    filters, forms = CASES[case]
    ours = our_draws(logits, filters)
    rivals = forms(logits) if dtype == "float32" else samplers.widened(logits, forms)
    check_draws(case, batch, ours, rivals)
    calls = {"ours": Timed(ours)} | {name: Timed(form.draw) for name, form in rivals.items()}
    # A second thread costs more than it brings where the logits are few.
    halves = logits.view(2, -1)
    reads = {f"read by {n}": Timed(reader(halves[0], halves[1], n)) for n in {1, threads}}
    times = interleaved(calls | reads)
    head = {
        "op": "logits.sample", "case": case, "V": vocabulary, "B": batch, "dtype": dtype,
        "threads": threads,
    }  # fmt: skip
    for name in rivals:
        row = timed_row(head, name, times["ours"], times[name], spread=True)
        bar = BARS.get((case, vocabulary, batch, name))
        if bar and dtype == "float32":
            add_bar(row, bar)
        yield row
    fastest = min((times[name] for name in reads), key=lambda timing: timing.median_us)
    yield limit_row(head, "read bandwidth", times["ours"], fastest)


def our_draws(logits: torch.Tensor, filters: dict[str, Any]) -> Callable[..., torch.Tensor]:
    """Return a call that draws the next number each time."""
    seeds = torch.arange(len(logits))
    positions = torch.full((len(logits),), 100, dtype=torch.int32)
    out = torch.empty_like(positions)
    numbers = count()

    def call(logprobs: torch.Tensor | None = None) -> torch.Tensor:
        fewstep.logits.sample(
            logits, seeds, positions, draw=next(numbers), out=out, logprobs=logprobs, **filters
        )
        return out

    return call


def check_draws(
    case: str, batch: int, ours: Callable[..., torch.Tensor], rivals: dict[str, Sampler]
) -> None:
    """Compare our draws with the laws of all rivals, and theirs with what may be drawn."""
    drawn = []
    for _ in range(CHECKED):
        logprobs = torch.empty(batch)
        drawn.append((ours(logprobs).long(), logprobs))
    tokens, logprobs = (torch.stack(values, 1) for values in zip(*drawn, strict=True))
    for name, form in rivals.items():
        law = form.law().double()
        p = law.gather(1, tokens)
        check(f"{case}, law of {name}", float((logprobs - p.log()).abs().max()), TOLERANCE)
        # The middle of a token's part of the cumulative law has the mean 1/2, its variance is 1/12
        # at most.
        middle = law.cumsum(1).gather(1, tokens) - p / 2
        error = abs(float(middle.mean()) - 0.5) * math.sqrt(12 * middle.numel())
        check(f"{case}, frequencies under {name}", error, SIGMAS)
        possible = bool((law.gather(1, form.draw()) > 0).all())
        check(f"{case}, draw of {name}", 0.0 if possible else 1.0, 0.0)

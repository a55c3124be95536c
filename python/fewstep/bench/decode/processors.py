# SPDX-License-Identifier: Apache-2.0
"""What becomes of logits but a token: penalties, best tokens, laws, other draws.

``V`` is the vocabulary, ``B`` the rows, ``K`` the tokens that are listed of each, ``T`` those of a
history. Nothing here has a bar.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import torch

import fewstep

from ..rivals import samplers
from ..rows import Options, Row, check, set_threads, timed_row
from ..timing import Timed, interleaved

NAMES = ("penalise", "top_k", "gumbel_top_k", "renorm", "sample_arithmetic")
VOCABULARIES, QUICK_VOCABULARIES = (32000, 128256), (3200,)
BATCHES = (1, 8, 64)
LISTED, HISTORY = 20, 512
REPETITION, PRESENCE, FREQUENCY = 1.2, 0.3, 0.1
FILTERS: dict[str, Any] = {"temperature": 0.8, "top_k": 50, "top_p": 0.9}
TOLERANCE = 5e-5  # of logits and log-probabilities

Call = Callable[[], Any]


def rows(options: Options, progress: Callable[[str], None]) -> Iterator[Row]:
    """Measure what was asked for."""
    vocabularies = QUICK_VOCABULARIES if options.quick else VOCABULARIES
    for threads in options.threads:
        set_threads(threads)
        for case in NAMES:
            if not options.wants(case):
                continue
            for vocabulary, batch in product(
                vocabularies, BATCHES[:1] if options.quick else BATCHES
            ):
                progress(f"logits.{case}, V={vocabulary} B={batch}, {threads} threads")
                torch.manual_seed(12)
                ours, rivals, sizes = CASES[case](3 * torch.randn(batch, vocabulary))
                calls = {"ours": Timed(ours)} | {n: Timed(call) for n, call in rivals.items()}
                times = interleaved(calls)
                head = {
                    "op": f"logits.{case}", "case": case, "V": vocabulary, "B": batch, **sizes,
                    "dtype": "float32", "threads": threads,
                }  # fmt: skip
                for name in rivals:
                    yield timed_row(head, name, times["ours"], times[name], spread=True)


Sides = tuple[Call, dict[str, Call], dict[str, int]]


def _agree(what: str, ours: torch.Tensor, other: torch.Tensor) -> None:
    """Both sides are infinite in the same places, and close in all others."""
    same = torch.equal(ours.isinf(), other.isinf())
    error = (ours - other).nan_to_num().abs().max()
    check(what, float(error) if same else 1.0, TOLERANCE)


def _penalise(logits: torch.Tensor) -> Sides:
    """Measure histories with repeats against transformers' penalty and a gather and scatter."""
    from transformers import RepetitionPenaltyLogitsProcessor

    batch, vocabulary = logits.shape
    tokens = torch.randint(min(vocabulary, 2000), (batch, HISTORY))
    flat = tokens.flatten().int()
    indptr = torch.arange(batch + 1, dtype=torch.int32) * HISTORY
    out = torch.empty_like(logits)
    whole = {"repetition": REPETITION, "presence": PRESENCE, "frequency": FREQUENCY}
    process: Any = RepetitionPenaltyLogitsProcessor(REPETITION)
    ones = torch.ones(1).expand(tokens.shape)

    def ours(**penalties: float) -> torch.Tensor:
        given = penalties or whole
        result: torch.Tensor = fewstep.logits.penalise(logits, flat, indptr, out=out, **given)
        return result

    def theirs() -> torch.Tensor:  # all three penalties, each token once with its count
        counts = torch.zeros_like(logits).scatter_add_(1, tokens, ones)
        count, x = counts.gather(1, tokens), logits.gather(1, tokens)
        x = torch.where(x > 0, x / REPETITION, x * REPETITION) - FREQUENCY * count - PRESENCE
        return logits.scatter(1, tokens, x)

    def transformers() -> torch.Tensor:
        result: torch.Tensor = process(tokens, logits)
        return result

    _agree("penalise, torch", ours(), theirs())
    _agree("penalise, transformers", ours(repetition=REPETITION), transformers())
    return ours, {"transformers": transformers, "torch": theirs}, {"T": HISTORY}


def _top_k(logits: torch.Tensor) -> Sides:
    """Measure the best tokens with their log-probabilities."""
    made = fewstep.logits.top_k(logits, LISTED, normalise=True)
    outputs = {"ids": made.ids, "values": made.values}

    def ours() -> Any:
        return fewstep.logits.top_k(logits, LISTED, normalise=True, **outputs)

    def whole() -> tuple[torch.Tensor, torch.Tensor]:
        best = torch.log_softmax(logits, -1).topk(LISTED, -1)
        return best.values, best.indices

    def blocks() -> tuple[torch.Tensor, torch.Tensor]:
        values, ids = samplers.largest(logits, LISTED)
        return values - logits.logsumexp(-1, keepdim=True), ids

    for name, (values, ids) in {"torch": whole(), "torch blocks": blocks()}.items():
        _agree(f"top_k, {name}", made.values, values)
        check(f"top_k, {name}", float((made.ids != ids).sum()), 0.0)
    return ours, {"torch": whole, "torch blocks": blocks}, {"K": LISTED}


def _gumbel_top_k(logits: torch.Tensor) -> Sides:
    """Measure draws without replacement; torch draws by racing exponentials."""
    seeds = torch.arange(len(logits))
    made = fewstep.logits.gumbel_top_k(logits, LISTED, seeds)
    logprobs = torch.empty_like(made.perturbed)

    def ours() -> Any:
        return fewstep.logits.gumbel_top_k(
            logits, LISTED, seeds, ids=made.ids, perturbed=made.perturbed, logprobs=logprobs
        )

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        law = torch.softmax(logits, -1)
        ids = (torch.empty_like(law).exponential_().reciprocal_() * law).topk(LISTED, -1).indices
        return ids, law.gather(1, ids).log_()

    def multinomial() -> torch.Tensor:
        return torch.multinomial(torch.softmax(logits, -1), LISTED)

    ours()
    law = torch.log_softmax(logits, -1)
    _agree("gumbel_top_k", logprobs, law.gather(1, made.ids.long()))
    distinct = all(len(set(row)) == LISTED for row in made.ids.tolist())
    check("gumbel_top_k, tokens", 0.0 if distinct else 1.0, 0.0)
    return ours, {"torch": theirs, "torch multinomial": multinomial}, {"K": LISTED}


def _renorm(logits: torch.Tensor) -> Sides:
    """Measure the dense law after temperature, top-k and top-p."""
    out = torch.empty_like(logits)
    forms = samplers.top_k_top_p(logits, **FILTERS)

    def ours() -> torch.Tensor:
        result: torch.Tensor = fewstep.logits.renorm(logits, **FILTERS, out=out)
        return result

    for name, form in forms.items():
        _agree(f"renorm, {name}", ours(), form.law())
    return ours, {name: form.law for name, form in forms.items()}, {"K": FILTERS["top_k"]}


def _sample_arithmetic(logits: torch.Tensor) -> Sides:
    """Measure tokens decoded from codes; torch sums in float64, as codes need it."""
    codes = torch.from_numpy(fewstep.logits.arithmetic_codes(len(logits), 3).view("int64"))
    after, out = torch.empty_like(codes), torch.empty(len(logits), dtype=torch.int32)
    numbers = (codes.double() / 2.0**64).remainder_(1.0)[:, None]

    def ours() -> Any:
        return fewstep.logits.sample_arithmetic(logits, codes, out=out, next_codes=after)

    def theirs() -> tuple[torch.Tensor, torch.Tensor]:
        steps = torch.softmax(logits, -1, dtype=torch.float64).cumsum(-1)
        token = torch.searchsorted(steps, numbers * steps[:, -1:], right=True)
        before = torch.where(token > 0, steps.gather(1, (token - 1).clamp_(min=0)), 0.0)
        return token, (numbers - before) / (steps.gather(1, token) - before)

    ours()
    check("sample_arithmetic", float((out != theirs()[0][:, 0]).sum()), 0.0)
    return ours, {"torch": theirs}, {}


CASES: dict[str, Callable[[torch.Tensor], Sides]] = {
    "penalise": _penalise,
    "top_k": _top_k,
    "gumbel_top_k": _gumbel_top_k,
    "renorm": _renorm,
    "sample_arithmetic": _sample_arithmetic,
}

# SPDX-License-Identifier: Apache-2.0
"""``tree.verify`` on a GPU: chains and trees of drafts.

A call has other random numbers each time, and the same logits, which the model has just written.
FlashInfer has no rule for trees. Its chain and our tree are compared by what a committed token
takes: the accepted drafts and the next token of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import torch

from ...cases import VERIFY_BARS
from ...rivals import flashinfer, verifiers
from ...rows import Options, Row, add_bar, reason_of, timed_row, unmeasured_row
from ...target import Target
from ...timing import Timed, each_of, interleaved
from ..verification import SIDES, Sides, check_walks

BUDGET_S = 1.0
VOCABULARY, QUICK_VOCABULARY = 128256, 2000
BATCHES = (1, 64)
COUNTED = 16  # calls whose committed tokens are counted
BAR_CASE = "tree_stochastic", 64


def rows(options: Options, progress: Callable[[str], None], target: Target) -> Iterator[Row]:
    """Measure what was asked for."""
    vocabulary = QUICK_VOCABULARY if options.quick else VOCABULARY
    for case, batch in product(SIDES, BATCHES):
        if options.wants(case):
            progress(f"tree.verify, {case}, V={vocabulary} B={batch}")
            yield from _measured(case, vocabulary, batch, target)


def _measured(case: str, vocabulary: int, batch: int, target: Target) -> Iterator[Row]:
    torch.manual_seed(12)
    with target.device:
        sides = SIDES[case](vocabulary, batch)
        if case == "tree_stochastic":
            sides.rivals["torch batched"] = _batched(sides)
        check_walks(case, sides)
        found = _chain(vocabulary, batch)
    timed = {"ours": Timed(sides.ours)} | {n: Timed(call) for n, call in sides.rivals.items()}
    if callable(found):
        timed["flashinfer chain"] = Timed(found)
    times = interleaved(timed, BUDGET_S, target.clock)
    head: Row = {"op": "tree.verify", "case": case, "V": vocabulary, "B": batch, **sides.sizes}
    head |= {"dtype": "float32", **target.labels}
    for name in sides.rivals:
        yield _with_bar(timed_row(head, name, times["ours"], times[name], spread=True))
    name = "flashinfer chain, a token"
    if not callable(found):
        yield unmeasured_row(head, name, found, times["ours"])
        return
    ours = each_of(times["ours"], _committed(partial(_walked, sides)))
    theirs = each_of(times["flashinfer chain"], _committed(lambda: found()[0]))
    yield _with_bar(timed_row(head, name, ours, theirs))


def _batched(sides: Sides) -> Callable[[], Any]:
    """Return torch's form whose host waits for nothing."""
    problem = sides.problem
    most = max(map(len, problem.children))
    children = torch.tensor([own + [-1] * (most - len(own)) for own in problem.children])
    given = problem.logits, sides.q, children, problem.tokens
    return partial(verifiers.rejection_batched, *given, levels=int(problem.depth.max()) + 1)


def _chain(vocabulary: int, batch: int) -> Callable[[], Any] | str:
    """Return FlashInfer's verification of chains like ours, or why there is none."""
    problem, q, *_ = SIDES["chain"](vocabulary, batch)
    try:
        call = flashinfer.chain(problem.logits, q, problem.tokens[:, 1:])
        call()
    except Exception as refusal:  # of any kind: what an import or a kernel may say
        return reason_of(refusal)
    return call


def _walked(sides: Sides) -> torch.Tensor:
    accepted: torch.Tensor = sides.ours().accepted
    return accepted


def _committed(accepted: Callable[[], torch.Tensor]) -> float:
    """Return the mean of the tokens that a request's call commits."""
    counts = torch.stack([accepted().double().clone() for _ in range(COUNTED)])
    return float(counts.mean()) + 1.0


def _with_bar(row: Row) -> Row:
    bar = VERIFY_BARS.get(row["rival"])
    if bar and (row["case"], row["B"]) == BAR_CASE:
        add_bar(row, bar)
    return row

# SPDX-License-Identifier: Apache-2.0
"""``logits.sample`` on a GPU: a token from each row of logits, plain and filtered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import torch

from ...bandwidth import copies, copy_row
from ...cases import SAMPLE_BAR
from ...rivals import flashinfer
from ...rows import Options, Row, add_bar, reason_of, timed_row, unmeasured_row
from ...target import Target
from ...timing import Timed, interleaved, rotated
from ..sampling import CASES, NAMES, check_draws, our_draws

BUDGET_S = 1.0
VOCABULARY, QUICK_VOCABULARY = 128256, 2048
BATCHES = (1, 64)
BAR_CASE = "top_k_top_p", 64


def rows(options: Options, progress: Callable[[str], None], target: Target) -> Iterator[Row]:
    """Measure what was asked for."""
    vocabulary = QUICK_VOCABULARY if options.quick else VOCABULARY
    for case, batch in product(NAMES, BATCHES):
        if options.wants(case):
            progress(f"logits.sample, {case}, V={vocabulary} B={batch}")
            yield from _measured(case, vocabulary, batch, target)


def _measured(case: str, vocabulary: int, batch: int, target: Target) -> Iterator[Row]:
    torch.manual_seed(11)
    filters, forms = CASES[case]
    moved = 4 * batch * vocabulary
    head: Row = {
        "op": "logits.sample", "case": case, "V": vocabulary, "B": batch, "dtype": "float32",
        **target.labels,
    }  # fmt: skip
    missing = None
    with target.device:
        made = [3 * torch.randn(batch, vocabulary) for _ in range(target.sets(moved))]
        ours = [our_draws(logits, filters) for logits in made]
        rivals = [forms(logits) for logits in made]
        law = rivals[0]["torch" if "torch" in rivals[0] else "torch multinomial"].law
        try:
            theirs = [flashinfer.samplers(case, logits, filters, law) for logits in made]
            for form in theirs[0].values():
                form.draw()
        except Exception as refusal:  # of any kind: what an import or a kernel may say
            missing = reason_of(refusal)
        else:
            rivals = [own | others for own, others in zip(rivals, theirs, strict=True)]
        check_draws(case, batch, ours[0], rivals[0])
    timed = {"ours": Timed(rotated(ours))}
    for name in rivals[0]:
        timed[name] = Timed(rotated([own[name].draw for own in rivals]))
    times = interleaved(timed | copies(target), BUDGET_S, target.clock)
    for name in rivals[0]:
        row = timed_row(head, name, times["ours"], times[name], spread=True)
        if (case, batch) == BAR_CASE and name.startswith("flashinfer"):
            add_bar(row, SAMPLE_BAR)
        yield row
    if missing:
        yield unmeasured_row(head, "flashinfer", missing, times["ours"])
    yield copy_row(head, moved, times)

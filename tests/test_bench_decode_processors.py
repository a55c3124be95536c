# SPDX-License-Identifier: Apache-2.0
"""What the processors section of ``fewstep bench decode`` times is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from fewstep.bench.decode import processors
from fewstep.bench.rows import Options, WrongResult

RIVALS = {
    "penalise": ("transformers", "torch"),
    "top_k": ("torch", "torch blocks"),
    "gumbel_top_k": ("torch", "torch multinomial"),
    "renorm": ("transformers", "torch", "torch blocks"),
    "sample_arithmetic": ("torch",),
}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small vocabulary, and every function called twice in the place of a clock."""

    def called(functions: dict[str, Any], **_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
            timed.call()
        return {
            name: SimpleNamespace(median_us=4.0 if name == "ours" else 2.0, p10_us=1.0, p90_us=5.0)
            for name in functions
        }

    monkeypatch.setattr(processors, "VOCABULARIES", (3200, 6400))
    monkeypatch.setattr(processors, "BATCHES", (2, 3))
    monkeypatch.setattr(processors, "interleaved", called)


@pytest.mark.parametrize("quick", [True, False])
def test_rows(quick: bool) -> None:
    rows = list(processors.rows(Options((1, 2), quick=quick), lambda _: None))
    sizes = [(3200, 2)] if quick else [(v, b) for v in (3200, 6400) for b in (2, 3)]
    assert [(r["op"], r["V"], r["B"], r["threads"], r["rival"]) for r in rows] == [
        (f"logits.{case}", *size, threads, rival)
        for threads in (1, 2)
        for case, names in RIVALS.items()
        for size in sizes
        for rival in names
    ]
    assert all(row["ratio"] == 0.5 and row["case"] in processors.NAMES for row in rows)


@pytest.mark.parametrize("case", processors.NAMES)
def test_a_wrong_result_is_not_timed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = getattr(processors.fewstep.logits, case)

    def wrong(logits: Any, *arguments: Any, **options: Any) -> Any:
        return true(-0.5 * logits, *arguments, **options)

    monkeypatch.setattr(processors.fewstep.logits, case, wrong)
    with pytest.raises(WrongResult, match=rf"^{case}"):
        list(processors.rows(Options((1,), (case,), quick=True), lambda _: None))

# SPDX-License-Identifier: Apache-2.0
"""What the trees section of ``fewstep bench decode`` times is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from fewstep.bench.decode import trees
from fewstep.bench.rows import Options, WrongResult


@pytest.fixture(autouse=True)
def _no_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function is called twice in the place of a clock."""

    def called(functions: dict[str, Any], **_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
            timed.call()
        return {
            name: SimpleNamespace(median_us=1.0 if name == "ours" else 3.0, p10_us=1.0, p90_us=1.0)
            for name in functions
        }

    monkeypatch.setattr(trees, "interleaved", called)


def test_rows() -> None:
    rows = list(trees.rows(Options((1,), quick=True), lambda _: None))
    assert [(row["op"], row["case"], row["rival"]) for row in rows] == [
        ("tree.build", "build", "numpy loop"),
        ("tree.build", "build", "torch doubling"),
        ("tree.expand", "expand", "torch topk"),
        ("tree.sample_children", "draws", "torch topk"),
        ("draft.Ngram.propose", "lookup", "transformers"),
    ]
    assert all({"B", "dtype", "threads", "ratio"} <= row.keys() for row in rows)
    assert all(row["ratio"] == 3.0 for row in rows)


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = trees.tree.expand

    def wrong(scores: Any, logits: Any, k: int, **options: Any) -> Any:
        return true(scores, logits + logits.roll(1, 1), k, **options)

    monkeypatch.setattr(trees.tree, "expand", wrong)
    with pytest.raises(WrongResult, match=r"^expand: differs by .+, allowed is .+"):
        list(trees.rows(Options((1,), ("expand",), quick=True), lambda _: None))

# SPDX-License-Identifier: Apache-2.0
"""What ``fewstep bench linear`` times is right, and a wrong result is not timed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from fewstep.bench import linear as bench
from fewstep.bench.rows import Options, WrongResult


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small layer, and every function called once in the place of a clock."""

    def called(functions: dict[str, Any], **_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
        return {
            name: SimpleNamespace(median_us=1.0 if name == "ours" else 5.0, p10_us=1.0, p90_us=9.0)
            for name in functions
        }

    monkeypatch.setattr(bench, "SHAPE", (64, 96))
    monkeypatch.setattr(bench, "SHAPES", ((32, 40),))
    monkeypatch.setattr(bench, "GEMM_ROWS", 8)
    monkeypatch.setattr(bench, "interleaved", called)


@pytest.mark.parametrize("name", bench.KINDS)
def test_rows(name: str) -> None:
    rows = bench.run(Options((1,), (name,)), lambda _: None)
    keys = {"op", "case", "M", "I", "O", "dtype", "threads", "rival", "ours_us", "ratio"}
    assert all(keys <= row.keys() for row in rows)
    assert {row["M"] for row in rows} == set(bench.ROWS)
    assert {(row["O"], row["I"]) for row in rows} == {(64, 96), (32, 40)}
    rivals = {row["rival"] for row in rows}
    assert rivals >= {"torch.linear", "torch.mm", "torch best", "read bandwidth", "gemm"}
    assert all(row["share"] == row["ratio"] for row in rows if "limit" in row)
    assert bench.table(rows).row_count == len(rows)


def test_quick_is_what_has_a_bar() -> None:
    rows = bench.run(Options((2,), bench.KINDS, quick=True), lambda _: None)
    barred = [(row["case"], row["M"], row["rival"]) for row in rows if "bar" in row]
    assert barred == [
        ("bfloat16", 1, "torch best"),
        ("bfloat16", 1, "read bandwidth"),
        ("bfloat16", 8, "torch best"),
        ("bfloat16", 26, "torch best"),
        ("bfloat16", 64, "torch best"),
        ("bfloat16", 16, "fewstep, bfloat16, M=1"),
        ("float32", 1, "torch best"),
        ("float32", 8, "torch best"),
        ("int8", 1, "fewstep, bfloat16, M=1"),
    ]
    (attainable,) = (row["attainable"] for row in rows if "attainable" in row)
    assert attainable == round(5.0 / (16 * 5.0 / bench.GEMM_ROWS), 3)  # the clock always says 5 us


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = bench.fewstep.linear.run

    def wrong(x: Any, packed: Any, **options: Any) -> Any:
        return true(x.roll(1, 1), packed, **options)

    monkeypatch.setattr(bench.fewstep.linear, "run", wrong)
    with pytest.raises(WrongResult, match=r"^float32, 1 rows: differs by .+, allowed is .+"):
        bench.run(Options((1,), ("float32",)), lambda _: None)

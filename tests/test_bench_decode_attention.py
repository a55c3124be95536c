# SPDX-License-Identifier: Apache-2.0
"""What the attention section of ``fewstep bench decode`` times is right, and what it says."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from fewstep.bench.decode import attention as bench
from fewstep.bench.rows import Options, WrongResult


@pytest.fixture(autouse=True)
def _untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every function called once in the place of a clock; ours takes 1 us, a rival 3."""

    def called(functions: dict[str, Any], *_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
        return {n: SimpleNamespace(median_us=1.0 if n == "ours" else 3.0) for n in functions}

    monkeypatch.setattr(bench, "interleaved", called)
    monkeypatch.setattr(bench, "GEMM", 32)
    bench.gemm_flops.cache_clear()


@pytest.mark.parametrize("paged", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_are_checked_against_every_form(dtype: str, paged: bool) -> None:
    rows = list(bench.measured(bench.Size(16, 64, B=2, dtype=dtype, paged=paged), 1))
    rivals = [row["rival"] for row in rows]
    forms = ["torch sdpa", "torch sdpa folded", "torch eager folded", "transformers"]
    assert rivals == ["torch best", *forms, "read bandwidth", "gemm"]
    for row in rows:
        assert row["op"] == "tree.attention"
        assert row["case"] == ("paged" if paged else "contiguous")
        assert [row[key] for key in ("T", "L", "B", "GQA")] == [16, 64, 2, 4]
        assert ("share" in row) == ("limit" in row)
    assert rows[0]["ratio"] == 3.0
    assert rows[0]["form"] in forms


def test_flex_is_a_rival_where_it_compiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here uncompiled, which is the same sum."""
    monkeypatch.setattr(bench.Size, "is_compiled", True)
    monkeypatch.setattr(bench.torch, "compile", lambda function, **_: function)
    for size in (bench.Size(16, 64), bench.Size(1, 64, dtype="float32")):
        assert "torch flex" in [row["rival"] for row in bench.measured(size, 1)]


def test_flex_says_why_it_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(bench.Size, "is_compiled", True)
    monkeypatch.setattr(bench.torch, "compile", lambda *_, **__: refused)
    rows = {row["rival"]: row for row in bench.measured(bench.Size(2, 64), 1)}
    assert rows["torch flex"]["reason"] == "not compiled: no compiler"
    assert rows["torch flex"]["rival_us"] is None
    assert rows["torch best"]["ratio"] == 3.0


def test_bars_have_rows() -> None:
    """Each of the bars is that of some size in the list."""
    found = {
        (size.dtype, size.T, rival, bench.bar_of(size, rival))
        for size in bench.sizes(quick=False)
        for rival in ("torch best", "transformers", "read bandwidth", "gemm")
        if bench.bar_of(size, rival)
    }
    best = {("bfloat16", t, "torch best", b) for t, b in ((1, 3.5), (5, 2.5), (16, 1.8), (64, 1.5))}
    best |= {("float32", t, "torch best", b) for t, b in ((1, 3.0), (16, 1.5), (64, 1.3))}
    theirs = {("bfloat16", t, "transformers", b) for t, b in ((1, 12.0), (16, 4.0))}
    read = {(kind, 1, "read bandwidth", 0.8) for kind in ("float32", "bfloat16")}
    assert found == best | theirs | read | {("bfloat16", 64, "gemm", 0.6)}


def test_quick_rows_and_names() -> None:
    rows = list(bench.rows(Options((1,), quick=True), lambda _: None))
    assert {row["dtype"] for row in rows} == {"float32", "bfloat16"}
    assert list(bench.rows(Options((1,), ("other",)), lambda _: None)) == []


def test_a_wrong_result_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.Problem, "sdpa_folded", lambda self: self.sdpa() * 1.2)
    with pytest.raises(WrongResult, match=r"^attention, torch sdpa folded: differs by .+"):
        list(bench.measured(bench.Size(2, 64), 1))

# SPDX-License-Identifier: Apache-2.0
"""What the cache section of ``fewstep bench decode`` times is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from fewstep.bench.decode import cache
from fewstep.bench.rows import Options, WrongResult


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small caches, and every function called twice in the place of a clock."""

    def called(functions: dict[str, Any], **_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
            timed.call()
        return {
            name: SimpleNamespace(median_us=1.0 if name == "ours" else 60.0, p10_us=1.0, p90_us=1.0)
            for name in functions
        }

    monkeypatch.setattr(cache, "QUICK_TOKENS", 80)
    monkeypatch.setattr(cache, "interleaved", called)


def test_rows() -> None:
    rows = list(cache.rows(Options((1,), quick=True), lambda _: None))
    assert [(row["op"], row["case"], row["rival"]) for row in rows] == [
        *(("kv.append", "append", r) for r in ("torch.cat", "torch in place", "transformers")),
        *(
            ("kv.append", "append_layers", r)
            for r in ("torch.cat", "torch in place", "transformers")
        ),
        ("kv.commit", "commit", "index_select"),
        ("kv.commit", "commit", "torch in place"),
    ]
    assert all({"T", "L", "B", "dtype", "threads", "ratio"} <= row.keys() for row in rows)
    assert not any("bar" in row for row in rows)


@pytest.mark.parametrize(
    ("op", "tokens", "bars"),
    [("kv.append", 8192, [50.0]), ("kv.commit", 1024, [50.0, 1.2]), ("kv.append", 1024, [])],
)
def test_bars_are_of_one_size(op: str, tokens: int, bars: list[float]) -> None:
    rivals = dict.fromkeys(("torch.cat", "index_select", "torch in place"), lambda: None)
    rows = cache._measured({"op": op, "L": tokens}, lambda: None, rivals)
    assert [row["bar"] for row in rows if row.get("met")] == bars


@pytest.mark.parametrize("name", ["append", "commit"])
def test_a_wrong_result_is_not_timed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache.fewstep.kv, name, lambda *_, **__: None)
    with pytest.raises(WrongResult):
        list(cache.rows(Options((1,), (name,), quick=True), lambda _: None))

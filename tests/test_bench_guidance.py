# SPDX-License-Identifier: Apache-2.0
"""What ``fewstep bench guidance`` times is right, and a wrong result is not timed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("diffusers")

from fake_cuda import pretended
from fewstep.bench import guidance as bench
from fewstep.bench.rows import Options

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small samples, and every function called twice in the place of a clock."""

    def called(functions: dict[str, Any], *_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
            if timed.reset:
                timed.reset()
        return {"ours": SimpleNamespace(median_us=1.0), "rival": SimpleNamespace(median_us=12.0)}

    monkeypatch.setattr(bench, "SHAPE", (2, 4, 8, 8))
    monkeypatch.setattr(bench, "QUANTILE_SHAPE", (1, 4, 9, 7))
    monkeypatch.setattr(bench, "interleaved", called)


@pytest.mark.parametrize("name", bench.NAMES)
def test_rows_are_checked_against_the_rival(name: str) -> None:
    (row,) = bench.run(Options((1,), (name,)), lambda _: None)
    assert row["case"] == name
    assert row["difference"] <= 1e-5
    assert row["ratio"] == 12.0
    assert row.get("met", True)


def test_a_device_has_rows_without_threads_and_bars(monkeypatch: pytest.MonkeyPatch) -> None:
    device = pretended(monkeypatch)
    kept: list[int] = []
    options = Options((1, 2), quick=True)
    rows = bench.run(options, lambda _: None, device, lambda rows: kept.append(len(rows)))
    assert [row["case"] for row in rows] == ["apg", "threshold", "quantile"]
    assert kept == [1, 2, 3]
    for row in rows:
        assert (row["device"], row["sm"], row["ratio"]) == ("cuda", "9.0", 12.0)
        assert "threads" not in row
        assert "bar" not in row
    monkeypatch.setattr(bench, "is_installed", lambda: False)
    rows = bench.run(options, lambda _: None, device)
    assert [row.get("reason") for row in rows] == ["diffusers is not installed"] * 2 + [None]


@pytest.mark.parametrize("name", ["apg", "threshold", "quantile"])
def test_a_wrong_result_is_not_timed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewstep.bench.rows import WrongResult

    torch = pytest.importorskip("torch")
    true_quantile = torch.quantile

    def wrong(values: Any, q: float, dim: int) -> Any:
        return true_quantile(values, min(1.0, q - 0.3), dim=dim)

    monkeypatch.setattr(torch, "quantile", wrong)
    apg = bench.CASES["apg"]
    other = bench.Case("apg", bench.guidance.apg(7.1, parity="diffusers"), apg.guider, apg.options)
    monkeypatch.setitem(bench.CASES, "apg", other)
    with pytest.raises(WrongResult, match=rf"^{name}: differs by .+, allowed is .+"):
        bench.run(Options((1,), (name,)), lambda _: None)

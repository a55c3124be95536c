# SPDX-License-Identifier: Apache-2.0
"""What ``fewstep bench decode --device cuda`` times is right, on a device that the CPU plays."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("typer")

from typer.testing import CliRunner

from fake_cuda import pretended
from fewstep.bench import cli, target
from fewstep.bench.decode import device, run, table
from fewstep.bench.rows import Options, WrongResult


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> target.Target:
    monkeypatch.setattr(device, "BATCH", 3)
    monkeypatch.setattr(device, "TOKENS", 128)
    monkeypatch.setattr(device, "COPIES", (1 << 10,))
    monkeypatch.setattr(device, "BUDGET_S", 0.01)
    return pretended(monkeypatch)


def test_rows(cuda: target.Target) -> None:
    rows = run(Options((1,), quick=True), lambda _: None, cuda)
    assert [(row["op"], row["case"], row["rival"]) for row in rows] == [
        ("kv.append", "append_layers", "torch in place"),
        ("kv.commit", "commit", "torch in place"),
        ("kv.commit", "commit", "copy"),
    ]
    assert all({"T", "L", "B", "dtype", "device", "sm", "ratio"} <= row.keys() for row in rows)
    assert [row["bar"] for row in rows if "bar" in row] == [0.8]
    assert table(rows).row_count == 3


def test_one_case_alone(cuda: target.Target) -> None:
    rows = run(Options((1,), ("commit",), quick=True), lambda _: None, cuda)
    assert {row["case"] for row in rows} == {"commit"}


@pytest.mark.parametrize("name", ["append", "commit"])
def test_a_wrong_result_is_not_timed(
    name: str, cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any, **__: Any) -> None: ...

    monkeypatch.setattr(device.fewstep.kv, name, nothing)
    case = "commit" if name == "commit" else "append_layers"
    with pytest.raises(WrongResult):
        list(device.rows(Options((1,), (case,), quick=True), lambda _: None, cuda))


def test_a_build_without_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"cuda": {"built": False, "devices": 0}}
    monkeypatch.setattr("fewstep.info", lambda: facts)
    result = CliRunner().invoke(cli.app, ["decode", "--device", "cuda"])
    assert result.exit_code != 0
    assert "this build has no CUDA kernels (FEWSTEP_CUDA=ON)" in result.output

# SPDX-License-Identifier: Apache-2.0
"""What ``fewstep bench linear --device cuda`` times is right, on a device that the CPU plays."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("typer")

from typer.testing import CliRunner

from fake_cuda import pretended
from fewstep.bench import cli, target
from fewstep.bench import linear_device as bench
from fewstep.bench.rows import Options, Row

LAYER, OTHER, HEAD = (64, 96), (32, 128), (70, 96)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> target.Target:
    monkeypatch.setattr(bench, "SHAPE", LAYER)
    monkeypatch.setattr(bench, "SHAPES", ((32, 40), OTHER))
    monkeypatch.setattr(bench, "LEAST_INPUTS", 100)
    monkeypatch.setattr(bench, "HEADS", ((90, 96), HEAD))
    monkeypatch.setattr(bench, "BUDGET_S", 0.01)
    for name, rows in (("ROWS", (1, 8, 16)), ("SOME_ROWS", (1, 16))):
        monkeypatch.setattr(bench, name, rows)
    return pretended(monkeypatch)


def measured(made: target.Target, *names: str, quick: bool = False) -> list[Row]:
    return bench.run(Options((1,), names, quick), lambda _: None, made)


@pytest.mark.parametrize("kind", bench.KINDS)
def test_layers(kind: str, cuda: target.Target) -> None:
    rows = measured(cuda, kind)
    assert [row["reason"] for row in rows if "failed" in row] == []
    sizes = [(row["O"], row["I"], row["M"]) for row in rows]
    wanted = [(*LAYER, m) for m in bench.ROWS] + [(*OTHER, m) for m in bench.SOME_ROWS]
    assert list(dict.fromkeys(sizes)) == wanted
    for size in wanted:
        own = [row for row, has in zip(rows, sizes, strict=True) if has == size]
        products = size[2] >= 16 and kind != "float32"
        limits = ["copy", "gemm"] if products else ["copy"]
        rivals = ["torch.linear", "torch.mm", "torch best", *limits]
        assert [row["rival"] for row in own] == rivals
        assert own[2]["ratio"] == min(row["ratio"] for row in own[:2])
        assert all({"device", "sm", "dtype"} <= row.keys() for row in own)
        assert all("threads" not in row for row in own)
    assert bench.table(rows).row_count == len(rows)


def test_heads(cuda: target.Target) -> None:
    rows = measured(cuda, "head_top_k")
    assert {(row["op"], row["K"]) for row in rows} == {("logits.head_top_k", 8)}
    assert {row["O"] for row in rows} == {70, 90}
    rivals = ["torch", "fewstep, logits and top_k", "copy"]
    assert [row["rival"] for row in rows if row["M"] == 1] == 2 * rivals
    assert [row["rival"] for row in rows if row["M"] == 16] == 2 * [*rivals, "gemm"]


def test_a_copy_of_as_many_bytes_is_the_limit(
    cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The packed weight once, and the rows."""
    moved: list[int] = []
    true = bench.copy_row

    def noted(head: Row, count: int, times: Any) -> Row:
        moved.append(count)
        return true(head, count, times)

    monkeypatch.setattr(bench, "copy_row", noted)
    measured(cuda, "bfloat16", "int8", quick=True)
    rows, outside = (1, 16), sum(LAYER) * 2
    weights = {"bfloat16": 64 * 96 * 2, "int8": 64 * 96 + 64 * 4}
    assert moved == [weights[kind] + m * outside for kind in weights for m in rows]


def test_quick_is_one_layer_and_the_smaller_head(cuda: target.Target) -> None:
    rows = measured(cuda, quick=True)
    assert {(row["O"], row["I"]) for row in rows} == {LAYER, HEAD}
    assert {row["M"] for row in rows} == set(bench.SOME_ROWS)


@pytest.mark.parametrize(
    ("case", "name", "what"),
    [
        ("int8", "fewstep.linear.run", "int8, 1 rows"),
        ("head_top_k", "fewstep.logits.head_top_k", "head_top_k, 1 rows"),
    ],
)
def test_a_wrong_result_is_not_timed(
    case: str, name: str, what: str, cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, function = name.rsplit(".", 1)
    true = getattr(getattr(bench.fewstep, module.rsplit(".", 1)[1]), function)

    def wrong(x: Any, *given: Any, **options: Any) -> Any:
        return true(x.roll(1, 1), *given, **options)

    monkeypatch.setattr(name, wrong)
    (row,) = measured(cuda, case)
    assert row["failed"]
    assert row["reason"].startswith(f"WrongResult: {what}: differs by ")


def test_a_build_without_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.info", lambda: {"cuda": {"built": False, "devices": 0}})
    result = CliRunner().invoke(cli.app, ["linear", "--device", "cuda"])
    assert result.exit_code != 0
    assert "this build has no CUDA kernels (FEWSTEP_CUDA=ON)" in result.output

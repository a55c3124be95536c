# SPDX-License-Identifier: Apache-2.0
"""What ``fewstep bench decode --device cuda`` times is right, on a device that the CPU plays."""

from __future__ import annotations

import sys
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("typer")

import torch
from typer.testing import CliRunner

import fake_flashinfer
from fake_cuda import pretended
from fewstep import tree
from fewstep.bench import cli, target
from fewstep.bench.claims import CLAIMS
from fewstep.bench.decode import run, table
from fewstep.bench.decode.device import attention, cache, sampling, verification
from fewstep.bench.rows import Options, Row, WrongResult

CASES = {
    attention: ("attention",),
    cache: ("append_layers", "commit"),
    sampling: sampling.NAMES,
    verification: tuple(verification.SIDES),
}
TREE, SINGLE, INT8 = attention.QUICK


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> target.Target:
    monkeypatch.setattr(cache, "BATCH", 3)
    monkeypatch.setattr(cache, "TOKENS", 128)
    monkeypatch.setattr(attention, "QUICK", (TREE,))
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    for section in CASES:
        monkeypatch.setattr(section, "BUDGET_S", 0.01)
    for section in (sampling, verification):
        monkeypatch.setattr(section, "BATCHES", (2,))
    return pretended(monkeypatch)


@pytest.fixture
def flashinfer(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = fake_flashinfer.module()
    monkeypatch.setitem(sys.modules, "flashinfer", fake)
    monkeypatch.setitem(sys.modules, "flashinfer.sampling", fake.sampling)


def quick(*cases: str) -> Options:
    return Options((1,), cases, quick=True)


def claimed(rows: list[Row]) -> bool:
    """Whether the report of gpu-check judges every row that has a bar."""
    known = {(claim.op, claim.rival, claim.least) for claim in CLAIMS}
    return all((row["op"], row["rival"], row["bar"]) in known for row in rows if "bar" in row)


def rivals(rows: list[Row]) -> list[tuple[str, str, str]]:
    return [(row["op"], row["case"], row["rival"]) for row in rows]


def test_a_run_without_flashinfer(cuda: target.Target) -> None:
    """Every section measures, and says what it lacks."""
    rows = run(quick(), lambda _: None, cuda)
    assert not [row for row in rows if "failed" in row]
    assert all({"B", "dtype", "device", "sm", "ratio"} <= row.keys() for row in rows)
    assert [row["bar"] for row in rows if "bar" in row] == [0.8]
    assert claimed(rows)
    missing = {row["case"] for row in rows if "flashinfer" in row["rival"]}
    assert missing == {"tree", *sampling.NAMES, *verification.SIDES}
    reasons = {row["reason"] for row in rows if "flashinfer" in row["rival"]}
    assert reasons == {"ModuleNotFoundError: No module named 'flashinfer'"}
    assert table(rows).row_count == len(rows)


def test_one_case_alone(cuda: target.Target) -> None:
    rows = run(quick("commit"), lambda _: None, cuda)
    assert rivals(rows) == [
        ("kv.commit", "commit", "torch in place"),
        ("kv.commit", "commit", "copy"),
    ]


@pytest.mark.usefixtures("flashinfer")
@pytest.mark.parametrize("size", attention.QUICK)
def test_attention(
    size: attention.Size, cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same sizes with bars, as the large ones have them."""
    monkeypatch.setattr(attention, "QUICK", (size,))
    monkeypatch.setattr(attention, "SIZES", (TREE,))
    monkeypatch.setattr(attention, "SINGLE", SINGLE)
    rows = list(attention.rows(quick(), lambda _: None, cuda))
    forms = ["torch sdpa", "torch eager folded", "flashinfer", "torch flex"]
    limits = ["copy", "gemm"] if size == TREE else ["copy"]
    limits = [attention.WIDE, *limits] if size == INT8 else limits
    assert [row["rival"] for row in rows] == [*forms, "best", *limits]
    bars = {row["rival"]: row["bar"] for row in rows if "bar" in row}
    wanted = {TREE: {"best": 1.2, "gemm": 0.5}, SINGLE: {"copy": 0.85}}
    assert bars == wanted.get(size, {})
    assert claimed(rows)


@pytest.mark.usefixtures("flashinfer")
def test_sampling(cuda: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "BAR_CASE", ("top_k_top_p", 2))
    rows = list(sampling.rows(quick(), lambda _: None, cuda))
    theirs = [row for row in rows if "flashinfer" in row["rival"]]
    assert [row["case"] for row in theirs] == ["plain", *2 * ["top_k_top_p"], "top_p", "min_p"]
    assert all("reason" not in row for row in theirs)
    assert {(row["case"], row["rival"]) for row in rows if "bar" in row} == {
        ("top_k_top_p", "flashinfer"),
        ("top_k_top_p", "flashinfer logits"),
    }
    assert claimed(rows)


@pytest.mark.usefixtures("flashinfer")
def test_verification(cuda: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "BAR_CASE", ("tree_stochastic", 2))
    rows = list(verification.rows(quick(), lambda _: None, cuda))
    bars = {row["rival"]: row["bar"] for row in rows if "bar" in row}
    assert bars == {"torch batched": 5.0, "flashinfer chain, a token": 1.5}
    assert claimed(rows)
    whole, token = (
        next(row for row in rows if row["case"] == "tree_stochastic" and row["rival"] == rival)
        for rival in ("torch rows", "flashinfer chain, a token")
    )
    assert 1.0 < whole["ours_us"] / token["ours_us"] < 5.0  # tokens that a call commits


@pytest.mark.parametrize(
    ("section", "case", "name"),
    [
        (attention, "attention", "fewstep.tree.attention"),
        (cache, "append_layers", "fewstep.kv.append"),
        (cache, "commit", "fewstep.kv.commit"),
        (sampling, "plain", "fewstep.logits.sample"),
        (verification, "chain", "fewstep.tree.verify"),
    ],
)
def test_a_wrong_result_is_not_timed(
    section: Any, case: str, name: str, cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An op that writes nothing."""

    def nothing(*_: Any, **given: Any) -> Any:
        for output in given.values():
            if isinstance(output, torch.Tensor):
                output.zero_()
        return tree.Verified(*3 * [torch.zeros(2, 1, dtype=torch.int32)[:, 0]])

    monkeypatch.setattr(name, nothing)
    with pytest.raises(WrongResult):
        list(section.rows(quick(case), lambda _: None, cuda))


@pytest.mark.usefixtures("flashinfer")
@pytest.mark.parametrize("case", ["attention", "plain"])
def test_a_rival_that_fails_says_why(
    case: str, cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setattr(fake_flashinfer.Wrapper, "plan", refused)
    sections: dict[str, Any] = {"attention": attention, "plain": sampling}
    monkeypatch.setattr(sys.modules["flashinfer.sampling"], "sampling_from_logits", refused)
    rows = list(sections[case].rows(quick(case), lambda _: None, cuda))
    reasons = {row["rival"]: row["reason"] for row in rows if "reason" in row}
    assert reasons == {"flashinfer": "RuntimeError: no kernel image"}


def test_a_build_without_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"cuda": {"built": False, "devices": 0}}
    monkeypatch.setattr("fewstep.info", lambda: facts)
    result = CliRunner().invoke(cli.app, ["decode", "--device", "cuda"])
    assert result.exit_code != 0
    assert "this build has no CUDA kernels (FEWSTEP_CUDA=ON)" in result.output

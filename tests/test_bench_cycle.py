# SPDX-License-Identifier: Apache-2.0
"""What ``fewstep bench generate --device cuda`` times is right, on a device that the CPU plays."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("typer")

from typer.testing import CliRunner

import fewstep.transformers._cycle as cycles
from fake_cuda import pretended
from fewstep import _core
from fewstep.bench import cli, cycle, generate, target
from fewstep.bench.claims import CLAIMS
from fewstep.bench.rows import Options, WrongResult
from fewstep.bench.timing import Timing
from fewstep.transformers import PagedModel
from recorded_cycles import recording

SIZES = {
    "hidden_size": 64, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 1 << 15,
    "tie_word_embeddings": True, "initializer_range": 0.3,
}  # fmt: skip
PARAMETERS = 96 * 64 + 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 48 * 64 + 2 * 64) + 64


# A prompt of whole pages, all of which the first text leaves to the next.
def played(model: Any, graph: bool) -> PagedModel:
    made = PagedModel(model, pages=512)
    return recording(made) if graph else made


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> target.Target:
    for name, value in (("SIZES", SIZES), ("NODES", 9), ("PROMPT", 64), ("CHECKED", 12)):
        monkeypatch.setattr(cycle, name, value)
    monkeypatch.setattr(cycle, "RIVAL_TOKENS", 3)
    monkeypatch.setattr(cycle, "BUDGET_S", 0.01)
    monkeypatch.setattr(cycle, "paged", played)
    # It makes its own output, which a device's path does not and a recording cannot see.
    monkeypatch.setattr(_core, "linear_apply", lambda *_: None)
    return pretended(monkeypatch)


def measured(made: target.Target, *names: str, quick: bool = False) -> list[dict[str, Any]]:
    return cycle.run(Options((1,), names, quick), lambda _: None, made)


def test_rows(cuda: target.Target) -> None:
    rows = measured(cuda)
    assert [row["reason"] for row in rows if "failed" in row] == []
    assert [(row["case"], row["op"], row["rival"]) for row in rows] == [
        (name, *each)
        for name in ("cycle_greedy", "cycle_sampled")
        for each in (
            ("Generator", "its forward pass"),
            ("Generator, no graph", "its forward pass"),
            ("Generator", "fewstep, packed linears"),
            ("Generator", "fewstep, fused layers"),
            ("Generator", "fewstep, no graph"),
            ("Generator", "transformers"),
        )
    ]
    assert all(row["parameters"] == PARAMETERS for row in rows)
    assert all({"device", "sm", "ours_us", "rival_us"} <= row.keys() for row in rows)
    for graphed, called, packed, fused, *tokens in (rows[:6], rows[6:]):
        assert packed["ours_us"] == fused["ours_us"] == graphed["ours_us"]
        assert (graphed["cycles"], called["cycles"]) == (cycles.MOST, 1)
        assert 1.0 <= graphed["tokens_per_cycle"] <= 5.0  # the tree's deepest, and the next
        assert graphed["share"] == graphed["ratio"]
        assert (graphed["bar"], graphed["met"]) == (0.95, graphed["share"] >= 0.95)
        assert "bar" not in called
        a_token = graphed["ours_us"] / graphed["tokens_per_cycle"]
        assert tokens[0]["ours_us"] == pytest.approx(a_token, rel=1e-2)
    assert generate.table(rows).row_count == len(rows)
    (claim,) = (claim for claim in CLAIMS if claim.op == "Generator")
    worst = claim.worst(rows)
    assert worst is not None
    assert worst["share"] == min(row["share"] for row in rows if "bar" in row)


def test_quick_has_no_bar(cuda: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    def called(functions: dict[str, Any], *_: Any) -> dict[str, Timing]:
        for timed in functions.values():
            timed.call()
        return dict.fromkeys(functions, Timing(8.0, 8.0, 8.0))

    monkeypatch.setattr(cycle, "interleaved", called)
    rows = measured(cuda, "cycle_greedy", quick=True)
    assert len(rows) == 6
    assert not [row for row in rows if "bar" in row]
    ours = [row["ours_us"] for row in rows[:4]]
    assert ours == [1.0, 8.0, 1.0, 1.0]  # of eight cycles, and of one
    assert [row["rival_us"] for row in rows[:4]] == [1.0, 1.0, 1.0, 1.0]


def failed(rows: list[dict[str, Any]]) -> str:
    (row,) = (row for row in rows if row.get("failed"))
    return str(row["reason"])


def test_what_is_not_captured_is_not_timed(
    cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def record(*_: Any) -> Any:
        raise RuntimeError("not capturable")

    def refusing(model: Any, graph: bool) -> PagedModel:
        made = PagedModel(model, pages=512)
        return recording(made, record) if graph else made

    monkeypatch.setattr(cycle, "paged", refusing)
    reason = failed(measured(cuda, "cycle_greedy"))
    assert reason == "WrongResult: cycle_greedy: no cycle was captured: not capturable"


@pytest.mark.parametrize("case", cycle.NAMES)
def test_a_wrong_text_is_not_timed(
    case: str, cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every next token is the one behind the right one."""
    true = _core.tree_verify

    def wrong(*given: Any) -> None:
        true(*given)
        following = given[-1][2]
        following[...] = (following + 1) % SIZES["vocab_size"]

    monkeypatch.setattr(_core, "tree_verify", wrong)
    assert failed(measured(cuda, case)).startswith(f"WrongResult: {case}, tokens of a text below")


@pytest.mark.parametrize("name", ["pack_linears", "fuse"])
def test_wrong_packed_layers_are_not_timed(
    name: str, cuda: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = getattr(cycle, name)

    def wrong(model: Any) -> None:
        true(model)
        model.model.norm.weight.mul_(-1.0)

    monkeypatch.setattr(cycle, name, wrong)
    reason = failed(measured(cuda, "cycle_greedy"))
    assert reason.startswith("WrongResult: cycle_greedy, tokens of a text below the best")


def test_a_wrong_pass_is_not_timed(cuda: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    true = cycle.Problem.verify

    def spoilt(self: Any, case: str, model: Any) -> None:
        true(self, case, model)
        self.graphed.model.model.norm.weight.mul_(1.5)

    monkeypatch.setattr(cycle.Problem, "verify", spoilt)
    assert failed(measured(cuda, "cycle_greedy")).startswith(
        "WrongResult: logits of the pass alone: differs by "
    )


def test_a_step_that_is_not_like_the_others_is_not_timed(cuda: target.Target) -> None:
    problem = cycle.Problem(cuda, quick=False)
    text = cycle.Text(problem.graphed, problem.prompt, {"temperature": 0.0})
    text.begin()
    text.cycles += 1
    with pytest.raises(WrongResult, match=f"a step of {cycles.MOST} cycles, not"):
        text.step()


def test_without_a_gpu_or_transformers_rows_say_why(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options((1,), ("cycle_greedy",))
    (row,) = generate.run(options, lambda _: None)
    assert row["reason"] == "cycles are CUDA graphs: --device cuda, on a machine with a GPU"
    assert (row["op"], row["ours_us"], row["ratio"]) == ("Generator", None, None)
    monkeypatch.setattr(cycle, "find_spec", lambda _: None)
    rows = measured(pretended(monkeypatch))
    assert [(row["case"], row["reason"]) for row in rows] == [
        (name, "'transformers' is missing; install fewstep[bench]") for name in cycle.NAMES
    ]
    assert generate.table(rows).row_count == len(rows)


def test_a_build_without_kernels_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fewstep.info", lambda: {"cuda": {"built": False, "devices": 0}})
    result = CliRunner().invoke(cli.app, ["generate", "--device", "cuda"])
    assert result.exit_code != 0
    assert "this build has no CUDA kernels (FEWSTEP_CUDA=ON)" in result.output


def test_the_model_has_a_billion_parameters() -> None:
    """As the first note of the module says; counted without making it."""
    sizes = cycle.SIZES
    hidden, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    kv = hidden // heads * sizes["num_key_value_heads"]
    layer = 2 * hidden * (hidden + kv) + 3 * hidden * sizes["intermediate_size"] + 2 * hidden
    whole = sizes["vocab_size"] * hidden + sizes["num_hidden_layers"] * layer + hidden
    assert whole == 1_235_814_400

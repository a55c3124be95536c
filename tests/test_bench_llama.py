# SPDX-License-Identifier: Apache-2.0
"""What the case ``llama_generate`` of ``fewstep bench linear`` times is right."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")

from fewstep.bench import linear as bench
from fewstep.bench import llama
from fewstep.bench.rows import Options, WrongResult


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small model, and every function called once in the place of a clock."""

    def called(functions: dict[str, Any], **_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
        times = {"ours": 40.0, "fused": 30.0, "transformers": 120.0, "rest": 16.0, "read": 2.0}
        return {
            name: SimpleNamespace(median_us=times[name], p10_us=1.0, p90_us=9.0)
            for name in functions
        }

    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 99}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    monkeypatch.setattr(llama, "SIZES", small | heads)
    monkeypatch.setattr(llama, "PROMPT", 5)
    monkeypatch.setattr(llama, "TOKENS", 4)
    monkeypatch.setattr(llama, "interleaved", called)


def test_rows() -> None:
    pytest.importorskip("transformers")
    rows = bench.run(Options((1, 2), (llama.NAME,)), lambda _: None)
    assert [(row["threads"], row["op"], row["rival"], row["ratio"]) for row in rows] == [
        (threads, *case)
        for threads in (1, 2)
        for case in (
            ("torch.pack_linears", "transformers", 3.0),
            ("transformers.fuse", "transformers", 4.0),
            ("torch.pack_linears", "the rest", 0.4),
            ("torch.pack_linears", "the rest and a read", 0.6),
        )
    ]
    barred = [(row["op"], row["bar"], row["met"]) for row in rows if "bar" in row]
    assert barred == [("torch.pack_linears", 2.5, True)]
    assert rows[0]["ours_us"] == 10.0  # of a token
    assert rows[0]["tokens_per_s"] == [100000.0, 33333.33]
    assert [row["share"] for row in rows if "share" in row] == [0.4, 0.6] * 2
    assert bench.table(rows).row_count == len(rows)


def test_a_wrong_model_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    true = llama.pack_linears

    def wrong(model: Any) -> Any:
        report = true(model)
        model.lm_head.weight.data = model.lm_head.weight.plain().roll(1, 0)
        return report

    monkeypatch.setattr(llama, "pack_linears", wrong)
    with pytest.raises(WrongResult, match=r"^llama_generate, packed: differs by .+, allowed is"):
        bench.run(Options((1,), (llama.NAME,)), lambda _: None)


def test_a_wrong_fused_model_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    import fewstep.transformers

    true = fewstep.transformers.fuse

    def wrong(model: Any) -> Any:
        model.model.norm.weight.data.mul_(1.1)
        return true(model)

    monkeypatch.setattr(fewstep.transformers, "fuse", wrong)
    with pytest.raises(WrongResult, match=r"^llama_generate, fused: differs by .+, allowed is"):
        bench.run(Options((1,), (llama.NAME,)), lambda _: None)


def test_without_transformers_there_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama, "find_spec", lambda _: None)
    (row,) = bench.run(Options((1,), (llama.NAME,)), lambda _: None)
    assert row["reason"] == "'transformers' is missing; install fewstep[bench]"
    assert bench.table([row]).row_count == 1

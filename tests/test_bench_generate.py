# SPDX-License-Identifier: Apache-2.0
"""What ``fewstep bench generate`` times is right, and its rows say what they say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

from fewstep.bench import decoder, llama
from fewstep.bench import generate as bench
from fewstep.bench.rows import Options, WrongResult

TIMES = {"none": 300.0, "model": 200.0, "recycling": 100.0, "lookup": 150.0, "trigram": 250.0}
TIMES |= {"cascade": 125.0, "contexts": 120.0}
TIMES |= {"transformers greedy": 400.0, "transformers assisted": 500.0}
TIMES |= {"transformers prompt look-up": 350.0}
TIMES |= {"ours": 10.0, "theirs": 30.0, "full": 20.0, "part": 10.0}
TIMES |= {"transformers, DynamicCache": 45.0, "transformers, StaticCache": 30.0}
TIMES |= {"fewstep, pass by pass": 20.0, "transformers": 30.0}


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few tokens, a small decoder, and every function called once in the place of a clock."""

    def called(functions: dict[str, Any], **_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
        return {
            name: SimpleNamespace(median_us=TIMES[name], p10_us=1.0, p90_us=9.0)
            for name in functions
        }

    for module in (bench, decoder):
        monkeypatch.setattr(module, "interleaved", called)
        monkeypatch.setattr(module, "TOKENS", 5)
    monkeypatch.setattr(bench, "PROMPTS", (6, 9, 12))
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "vocab_size": 400}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    monkeypatch.setattr(llama, "SIZES", small | heads)
    monkeypatch.setattr(decoder, "LENGTHS", {12: 2.5, 20: 4.0})
    for name, value in (("TREE_LENGTH", 20), ("NODES", 9), ("DRAFT_LENGTH", 7), ("CHECKED", 8)):
        monkeypatch.setattr(decoder, name, value)


def measured(name: str, threads: tuple[int, ...] = (2,)) -> list[dict[str, Any]]:
    return bench.run(Options(threads, (name,)), lambda _: None)


def test_one_text_at_a_time() -> None:
    rows = measured("batch_1")
    ours = {row["op"]: row for row in rows if row["rival"] == "fewstep, no drafts"}
    assert {name: row["ratio"] for name, row in ours.items()} == {
        "model": 1.5, "cascade": 2.4, "contexts": 2.5, "recycling": 3.0, "lookup": 2.0,
        "trigram": 1.2,
    }  # fmt: skip
    assert [name for name, row in ours.items() if "bar" in row] == [
        "cascade", "contexts", "recycling"
    ]  # fmt: skip
    best = {row["rival"]: row for row in rows if row["op"] == "best: recycling"}
    assert {name: row["ratio"] for name, row in best.items() if "share" not in row} == {
        "transformers greedy": 4.0, "transformers assisted": 5.0,
        "transformers prompt look-up": 3.5, "transformers best": 3.5,
    }  # fmt: skip
    assert (best["transformers best"]["bar"], best["transformers best"]["met"]) == (3.0, True)
    share = best["its model and draft"]
    assert 0 < share["share"] < 1
    assert {"model", "draft", "fewstep", "verify", "cache"} == set(share["seconds"])
    assert bench.table(rows).row_count == len(rows)


def test_ragged_batches_have_one_rival() -> None:
    rows = measured("batch_16")
    best = [row for row in rows if row["op"] == "best: recycling"]
    assert [(row["rival"], row.get("bar")) for row in best] == [
        ("transformers greedy", 2.0), ("its model and draft", None)
    ]  # fmt: skip
    assert {row["B"] for row in rows} == {16}


def test_texts_are_those_of_transformers() -> None:
    """Rivals and we continue the same prompts: alone, in a padded batch, and ours."""
    problem = bench.Problem()
    prompts = problem.prompts[:3]
    assert len({len(prompt) for prompt in prompts}) == 3  # ragged
    alone = problem.theirs(prompts, 1)
    assert problem.theirs(prompts, 3) == alone
    assert problem.ours("recycling", prompts, 2) == alone
    assert [len(tokens) for tokens in alone] == [5, 5, 5]


def test_a_changed_text_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = bench.Problem.ours

    def wrong(self: Any, drafter: str, prompts: Any, batch: int) -> Any:
        texts = true(self, drafter, prompts, batch)
        return texts if drafter != "lookup" else [[0, *one[1:]] for one in texts]

    monkeypatch.setattr(bench.Problem, "ours", wrong)
    with pytest.raises(WrongResult, match="batch_4: drafter lookup changed a text"):
        measured("batch_4")


def test_plain_generate() -> None:
    rows = measured("llama")
    assert [(row["L"], row["rival"], row["ratio"], row.get("bar")) for row in rows] == [
        (length, *case)
        for length, bar in ((12, 2.5), (20, 4.0))
        for case in (
            ("transformers, DynamicCache", 4.5, None),
            ("transformers, StaticCache", 3.0, None),
            ("transformers best", 3.0, bar),
            ("llama.cpp", None, None),
        )
    ]
    assert rows[0]["ours_us"] == 2.0  # of a token
    assert bench.table(rows).row_count == len(rows)


def test_tree_and_head() -> None:
    (row,) = measured("tree_forward")
    assert (row["ratio"], row["bar"], row["met"]) == (3.0, 2.5, True)
    (row,) = measured("draft_head")
    assert (row["ratio"], row["bar"], row["V"]) == (2.0, 1.3, 100)
    rows = measured("draft_chain")
    assert [(row["rival"], row["ratio"], row["K"]) for row in rows] == [
        ("fewstep, pass by pass", 2.0, 4), ("transformers", 3.0, 4),
    ]  # fmt: skip


def test_a_wrong_forward_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = decoder.fuse

    def wrong(model: Any) -> Any:
        with bench.torch.no_grad():
            model.model.norm.weight.mul_(1.5)
        return true(model)

    monkeypatch.setattr(decoder, "fuse", wrong)
    with pytest.raises(WrongResult, match=r"^llama: differs by .+, allowed is .+"):
        measured("tree_forward")

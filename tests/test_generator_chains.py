# SPDX-License-Identifier: Apache-2.0
"""Chains that a draft model drafts in one call are those that it drafts pass by pass."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fewstep
from hf_models import LLAMAS, model_of, text
from hf_models import VOCABULARY as V

torch = pytest.importorskip("torch")

from fewstep.drafters import DraftModel  # noqa: E402
from fewstep.drafters._pace import Pace  # noqa: E402
from fewstep.transformers import PagedModel, fuse  # noqa: E402

PROMPTS = [[5, 9, 5, 9, 5], [7], [int(t) for t in np.random.default_rng(0).integers(1, V, 21)]]
GREEDY = fewstep.Sampling(temperature=0, max_tokens=24)


def fused(name: str = "Llama", **more: Any) -> Any:
    made = model_of(name, **more)
    fuse(made)
    return made


class PassByPass(PagedModel):
    """A model that says it cannot draft a chain in one call."""

    def chain(self, *given: Any) -> None:
        return None


def by_passes(model: PagedModel, sequence: int, tokens: list[int], levels: int) -> Any:
    """Return the likeliest chain behind a sequence's tokens, pass by pass."""
    found, above, logp = [], np.zeros(1, np.float32), []
    for _ in range(levels):
        model.extend(sequence, len(tokens))
        rows = np.array([len(tokens) - 1])
        given, ends = np.array(tokens, np.int32), np.array([0, len(tokens)], np.int32)
        logits = model.forward([sequence], given, ends, rows=rows)
        best = fewstep.tree.expand(above, logits, 1, d2t=model.d2t)
        above = np.asarray(best.logp[0])
        tokens = [int(best.ids[0, 0])]
        found.append(tokens[0])
        logp.append(float(above[0]))
    return found, logp


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", [*LLAMAS, "subset", "layers"])
def test_a_chain_is_that_of_single_passes(name: str, dtype: str) -> None:
    options: dict[str, Any] = {
        "subset": {"vocabulary": np.arange(1, V, 2)}, "layers": {"layers": 2}
    }.get(name, {})  # fmt: skip
    made = fused(name if name in LLAMAS else "Llama", dtype=getattr(torch, dtype))
    model = PagedModel(made, page_tokens=4, **options)
    texts, levels = [text(n, seed=n).tolist() for n in (9, 1, 14)], [3, 5, 1]
    wants = [by_passes(model, model.add()[0], t, n) for t, n in zip(texts, levels, strict=True)]
    sequences = [model.add()[0] for _ in texts]
    for sequence, tokens, n in zip(sequences, texts, levels, strict=True):
        model.extend(sequence, len(tokens) + n - 1)
    ends = np.cumsum([0, *map(len, texts)]).astype(np.int32)
    found = model.chain(sequences, np.concatenate(texts), ends, np.array(levels, np.int32))
    assert found is not None
    for b, (n, want) in enumerate(zip(levels, wants, strict=True)):
        assert found[0][b].tolist() == want[0] + [-1] * (5 - n)
        assert found[1][b, :n].tolist() == want[1]
        assert model.length(sequences[b]) == len(texts[b]) + n - 1
    # What lies in the cache is what a pass of the whole text would have left there.
    last = wants[0][0][-1]
    assert (
        by_passes(model, sequences[0], [last], 2)[0]
        == by_passes(model, model.add()[0], [*texts[0], *wants[0][0]], 2)[0]
    )


def test_models_that_run_pass_by_pass_say_so() -> None:
    model = PagedModel(model_of("Llama"), page_tokens=4)
    sequence, _ = model.add()
    model.extend(sequence, 4)
    given = np.array([5, 6], np.int32), np.array([0, 2], np.int32), np.array([3], np.int32)
    assert model.chain([sequence], *given) is None
    assert model.length(sequence) == 0


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("options", [{}, {"vocabulary": np.arange(0, V, 2)}], ids=["all", "some"])
def test_drafts_are_those_of_single_passes(options: dict[str, Any], batch: int) -> None:
    """And texts those without: the draft model is the target's first layers, and half its head."""
    made = fused()
    results = []
    for kind in (PagedModel, PassByPass):
        drafter = DraftModel(kind(made, layers=2, **options), "chain", depth=4, adapt=False)
        generator = fewstep.Generator(
            made, drafter=drafter, max_batch=batch, adapt=False, stop_tokens=()
        )
        results.append(generator.generate(PROMPTS, GREEDY))
        assert generator.stats.drafter_errors == 0, generator.stats.last_error
        assert generator.stats.accepted > 5
    plain = fewstep.Generator(made, stop_tokens=()).generate(PROMPTS, GREEDY)
    for one, other, alone in zip(*results, plain, strict=True):
        assert one.tokens == other.tokens == alone.tokens
        assert one.drafted == other.drafted


@pytest.mark.parametrize(("least", "nodes"), [(0.0, 6), (2.0, 1)])
def test_chains_end_where_no_level_pays(
    least: float, nodes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Pace, "least", lambda self: least)
    made = fused()
    drafter = DraftModel(PagedModel(made, layers=2), "chain", depth=6)
    generator = fewstep.Generator(made, drafter=drafter, adapt=False, stop_tokens=())
    generator.generate(PROMPTS[:1], GREEDY)
    # All calls have that many but the last ones, which are short of tokens.
    stats = generator.stats
    assert nodes * (stats.calls - nodes) <= stats.nodes <= nodes * stats.calls
    assert drafter._pace._level > 0.0


def test_pace_learns_from_passes_that_cost_alike() -> None:
    """A prompt's pass costs as much as its rows: it says nothing of a level."""
    pace = Pace()
    pace.chained(9.0, 2, False)
    assert pace.least() == 0.0
    pace.chained(1.0, 4, True)
    seen = SimpleNamespace(accepted=np.array([3, 1]), seconds=2.0)
    pace.called(seen)  # 6 tokens in 2 seconds and 10 of drafting
    assert pace.least() == pytest.approx(0.25 * 6 / 12)


def test_without_pages_for_drafts_texts_go_on() -> None:
    made = fused()
    few = PagedModel(made, pages=3, page_tokens=8)
    generator = fewstep.Generator(
        made, drafter=DraftModel(few, "chain", depth=4, adapt=False), max_batch=3, adapt=False,
        stop_tokens=(),
    )  # fmt: skip
    plain = fewstep.Generator(made, stop_tokens=()).generate(PROMPTS, GREEDY)
    results = generator.generate(PROMPTS, GREEDY)
    assert [result.tokens for result in results] == [result.tokens for result in plain]
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    assert few.pool.stats()["used"] == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": [0]}, "'levels' must have 1 or more for each of 1 sequences, got [0]"),
        ({"levels": [2, 2]}, "'levels' must have 1 or more for each of 1 sequences, got [2, 2]"),
        ({"indptr": [0, 3]}, "'indptr' must go from 0 to 2 in 1 steps, got [0, 3]"),
        ({"levels": [4]},
         "'sequences' must have room for their rows, got 4 tokens for 5 rows of sequence 1; call "
         "extend"),
    ],
)  # fmt: skip
def test_chains_are_refused(changes: dict[str, Any], message: str) -> None:
    model = PagedModel(fused(), page_tokens=4)
    sequence, _ = model.add()
    model.extend(sequence, 4)
    given = {"tokens": [5, 6], "indptr": [0, 2], "levels": [3]} | changes
    arrays = {name: np.array(values, np.int32) for name, values in given.items()}
    with pytest.raises(ValueError) as error:  # noqa: PT011
        model.chain([sequence], **arrays)
    assert str(error.value) == f"fewstep.transformers.PagedModel.chain: {message}"
    assert model.length(sequence) == 0

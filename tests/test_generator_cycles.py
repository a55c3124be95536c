# SPDX-License-Identifier: Apache-2.0
"""Whole cycles of a `Generator` as graphs, played by the CPU: the texts are those without."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from hf_models import VOCABULARY as V
from hf_models import model_of

torch = pytest.importorskip("torch")

import fewstep.transformers._cycle as cycle  # noqa: E402
from fewstep.drafters import TokenRecycling  # noqa: E402
from fewstep.transformers import PagedModel  # noqa: E402
from recorded_cycles import Recording, recording  # noqa: E402

PROMPTS = [[5, 9, 5, 9, 5], [7, 8], [11, 12, 13, 11, 12]]
LENGTH = 40


def paged(record: Any = None, pages: int = 128, **options: Any) -> PagedModel:
    """Return a model on the CPU that may run as one on a device does."""
    model = PagedModel(model_of("Llama"), pages=pages, page_tokens=8, **options)
    return model if record is None else recording(model, record)


def sampled(**more: Any) -> list[fewstep.Sampling]:
    return [
        fewstep.Sampling(temperature=0, max_tokens=LENGTH, **more),
        fewstep.Sampling(temperature=0.9, top_k=20, max_tokens=LENGTH, seed=3, **more),
        fewstep.Sampling(temperature=1.0, max_tokens=LENGTH // 3, seed=4, **more),
    ]


def generated(
    model: PagedModel, each: Any = None, drafter: Any = None, **options: Any
) -> tuple[list[Any], fewstep.Generator]:
    drafter = TokenRecycling() if drafter is None else drafter
    generator = fewstep.Generator(model, drafter=drafter, adapt=False, **options)
    return generator.generate(PROMPTS, each or sampled()), generator


def tokens(results: list[Any]) -> list[list[int]]:
    assert [result.error for result in results] == [None] * len(PROMPTS)
    return [result.tokens for result in results]


@pytest.mark.parametrize("cache_dtype", [None, "int8", "float8_e4m3fn"])
def test_texts_are_those_without(cache_dtype: str | None) -> None:
    Recording.made = 0
    model = paged(Recording, cache_dtype=cache_dtype)
    results, generator = generated(model)
    plain, host = generated(paged(cache_dtype=cache_dtype))
    assert tokens(results) == tokens(plain)
    assert 1 <= Recording.made <= cycle.Cycles.CAPACITY
    stats = generator.stats
    assert stats.drafter_errors == 0
    assert stats.tokens == sum(map(len, tokens(results)))
    assert stats.accepted + stats.calls >= stats.tokens  # beyond a request's end
    assert stats.accepted > 0.5 * host.stats.accepted  # the table learns on the device too
    assert stats.forwards > stats.prefills + cycle.MOST
    assert [result.calls for result in results] == pytest.approx(
        [result.calls for result in plain], abs=12
    )
    assert all(sum(result.drafted) > 0 for result in results)


def test_greedy_texts_read_logits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the best tokens of all nodes; verification gets these. Another batch is another graph."""
    each = [fewstep.Sampling(temperature=0, max_tokens=LENGTH)] * len(PROMPTS)
    model, read = paged(Recording), []
    verify = cycle._core.tree_verify

    def counted(rule: int, law: int, params: Any, filters: Any, given: Any, outputs: Any) -> None:
        read.append(given[3] is not None)
        verify(rule, law, params, filters, given, outputs)

    monkeypatch.setattr(cycle._core, "tree_verify", counted)
    results, _ = generated(model, each)
    assert False in read
    assert tokens(results) == tokens(generated(paged(), each)[0])
    assert tokens(generated(model)[0]) == tokens(generated(paged())[0])


def test_the_host_looks_once_in_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the first call, which makes the table, no drafter is asked."""
    asked = []
    draft = TokenRecycling.draft
    monkeypatch.setattr(TokenRecycling, "draft", lambda *given: (asked.append(1), draft(*given))[1])
    generated(paged(Recording))
    assert len(asked) == 1


def test_stop_tokens_end_a_text_in_the_middle() -> None:
    whole = tokens(generated(paged())[0])
    ends = [text[LENGTH // 5] for text in whole]
    each = [
        fewstep.Sampling(
            temperature=one.temperature, top_k=one.top_k, max_tokens=one.max_tokens,
            seed=one.seed, stop_tokens=(end,),
        )
        for one, end in zip(sampled(), ends, strict=True)
    ]  # fmt: skip
    model = paged(Recording)
    results, _ = generated(model, each)
    assert tokens(results) == tokens(generated(paged(), each)[0])
    assert all(result.finish == "stop" for result in results)
    # What ran behind the end is forgotten: the same prompts again, from what was published.
    again, _ = generated(model)
    assert tokens(again) == whole


def test_prompts_that_come_later_are_read_into_the_devices_table() -> None:
    drafter, model = TokenRecycling(), paged(Recording)
    generated(model, drafter=drafter)
    assert model._cycles is not None
    first, second = 40, 41
    drafter._read(drafter._table, [first, second])
    known = drafter.known()
    table = model._cycles._filled(known)
    assert int(table[first, 0]) == second
    assert len(drafter.known().fresh) == 0


@pytest.mark.parametrize("why", ["penalty", "grammar", "pages", "length", "capture"])
def test_what_cannot_run_so_runs_call_by_call(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    more: dict[str, Any] = {}
    record, pages = Recording, 128
    if why == "penalty":
        more = {"presence": 0.3}
    elif why == "grammar":
        every = np.full((V + 31) // 32, 0xFFFFFFFF, np.uint32)
        more = {"bitmask": lambda _: every}
    elif why == "pages":
        pages = 30  # for one text, but not for its drafts ahead and those of the others
    elif why == "capture":

        def record(*_: Any) -> Any:  # type: ignore[no-redef]
            raise RuntimeError("operation not permitted when stream is capturing")

    model = paged(record, pages)
    if why == "length":
        model.max_length = LENGTH + 20
    Recording.made = 0
    results, _ = generated(model, sampled(**more))
    assert tokens(results) == tokens(generated(paged(), sampled(**more))[0])
    assert Recording.made == 0 or why == "pages"
    assert model._cycles is not None
    assert (model._cycles.refused is None) == (why != "capture")


@pytest.mark.parametrize("greedy", [False, True])
def test_logits_without_a_law_end_their_request_alone(greedy: bool) -> None:
    """After a token of the first text, and of no other one, all logits are NaN."""
    each = [fewstep.Sampling(temperature=0, max_tokens=LENGTH)] * len(PROMPTS) if greedy else None
    wanted = tokens(generated(paged(), each)[0])
    others = {*wanted[1], *wanted[2]}.union(*PROMPTS)
    at = next(i for i, token in enumerate(wanted[0]) if i > 8 and token not in others)
    bad = wanted[0][at]
    at = wanted[0].index(bad)

    def spoilt(module: Any, args: Any, given: Any, out: Any) -> Any:
        if out.logits.shape[1] == given["input_ids"].shape[1]:
            out.logits = out.logits.masked_fill((given["input_ids"] == bad)[..., None], torch.nan)
        return out

    made = []
    for record in (Recording, None):
        model = paged(record)
        model.model.register_forward_hook(spoilt, with_kwargs=True)
        made.append(generated(model, each)[0])
    for own, plain in zip(*made, strict=True):
        assert own.tokens == plain.tokens
        assert str(own.error) == str(plain.error)
    assert made[0][0].error is not None
    assert made[0][0].tokens == wanted[0][: at + 1]

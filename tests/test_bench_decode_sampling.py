# SPDX-License-Identifier: Apache-2.0
"""What the sampling section of ``fewstep bench decode`` times is right."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch

from fewstep.bench.decode import sampling
from fewstep.bench.rivals import samplers
from fewstep.bench.rows import Options, WrongResult

WHOLE = sampling.VOCABULARIES


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small vocabulary, and every function called twice in the place of a clock."""

    def called(functions: dict[str, Any], **_: Any) -> dict[str, Any]:
        for timed in functions.values():
            timed.call()
            timed.call()
        return {
            name: SimpleNamespace(median_us=4.0 if name == "ours" else 2.0, p10_us=1.0, p90_us=5.0)
            for name in functions
        }

    monkeypatch.setattr(sampling, "VOCABULARIES", (3200,))
    monkeypatch.setattr(sampling, "NARROW", ((3200, 2),))
    monkeypatch.setattr(sampling, "interleaved", called)


@pytest.mark.parametrize("quick", [True, False])
def test_rows(quick: bool) -> None:
    rows = list(sampling.rows(Options((1, 2), quick=quick), lambda _: None))
    batches = (1,) if quick else (1, 8, 64)
    filtered = ("transformers", "torch", "torch blocks", "read bandwidth")
    rivals = {
        "plain": ("torch multinomial", "torch blocks", "read bandwidth"),
        "top_k_top_p": filtered,
        "top_p": ("transformers", "torch", "torch topk", "read bandwidth"),
        "min_p": filtered,
    }
    wide = [(batch, "float32") for batch in batches]
    narrow = [] if quick else [(2, "bfloat16")]
    assert [(r["case"], r["B"], r["dtype"], r["threads"], r["rival"]) for r in rows] == [
        (case, *size, threads, rival)
        for threads in (1, 2)
        for case, names in rivals.items()
        for size in wide + narrow * (case in sampling.CUT_BY_VALUE)
        for rival in names
    ]
    assert all(row["op"] == "logits.sample" and row["V"] == 3200 for row in rows)
    assert all(row["ratio"] == 0.5 for row in rows)
    assert {row["rival"] for row in rows if "share" in row} == {"read bandwidth"}


def test_rounding_is_allowed_for_at_the_largest_vocabulary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "VOCABULARIES", (262144,))
    assert list(sampling.rows(Options((1,), ("plain",), quick=True), lambda _: None))


@pytest.mark.parametrize("case", sampling.NAMES)
def test_a_wrong_law_is_not_timed(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    true = sampling.fewstep.logits.sample

    def wrong(logits: Any, *arguments: Any, **options: Any) -> Any:
        return true(1.1 * logits, *arguments, **options)

    monkeypatch.setattr(sampling.fewstep.logits, "sample", wrong)
    with pytest.raises(WrongResult, match=rf"^{case}, law of .+: differs by .+"):
        list(sampling.rows(Options((1,), (case,), quick=True), lambda _: None))


def test_draws_that_do_not_follow_the_law_are_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    true = sampling.fewstep.logits.sample

    def same(*arguments: Any, draw: int, **options: Any) -> Any:
        return true(*arguments, draw=5, **options)  # a small number

    monkeypatch.setattr(sampling.fewstep.logits, "sample", same)
    with pytest.raises(WrongResult, match=r"^plain, frequencies under .+: differs by .+"):
        list(sampling.rows(Options((1,), ("plain",), quick=True), lambda _: None))


def test_the_rivals_of_a_case_have_one_law() -> None:
    """Each form draws tokens at their rates: 4,000 draws of each of 3 rows of 128."""
    torch.manual_seed(3)
    logits = torch.randn(3, 128)
    for case, (_, forms) in sampling.CASES.items():
        made = forms(logits)
        law = made["torch topk" if case == "top_p" else "torch blocks"].law().clone()
        for name, form in made.items():
            assert torch.allclose(form.law(), law, atol=1e-6), (case, name)
            drawn = torch.cat([form.draw() for _ in range(4000)], 1)
            counts = torch.nn.functional.one_hot(drawn, 128).sum(1)
            assert int(counts[law == 0].sum()) == 0
            excess = (counts / 4000 - law) ** 2 / law.clamp(min=1e-9)
            spread = (law > 0).sum(1) - 1  # of chi-square, whose mean is its degrees of freedom
            assert bool((4000 * excess.sum(1) < spread + 5 * (2 * spread).sqrt() + 5).all())


def test_a_flat_law_is_sorted_whole() -> None:
    """Where the few largest do not reach the share."""
    made = samplers.top_p(torch.zeros(2, 4096), 1.0, 0.9)
    assert torch.equal(made["torch"].law(), made["torch topk"].law())
    assert torch.allclose(made["transformers"].law().amax(), torch.tensor(1 / 3687), atol=1e-7)


def test_widened_forms_read_the_logits_again() -> None:
    narrow = torch.zeros(1, 128, dtype=torch.bfloat16)
    form = samplers.widened(narrow, samplers.plain)["torch blocks"]
    narrow[0, 5] = 100.0
    assert form.law()[0, 5] == 1
    assert int(form.draw()) == 5


def test_largest_is_topk() -> None:
    logits = torch.randn(4, 640, generator=torch.Generator().manual_seed(4))
    values, ids = samplers.largest(logits, 9)
    wanted = torch.topk(logits, 9, -1)
    assert torch.equal(values, wanted.values)
    assert torch.equal(ids, wanted.indices)


def test_bars_name_rows_that_are_measured() -> None:
    for case, vocabulary, batch, rival in sampling.BARS:
        _, forms = sampling.CASES[case]
        assert rival in forms(torch.randn(1, 128))
        assert (vocabulary, batch) in itertools.product(WHOLE, sampling.BATCHES)

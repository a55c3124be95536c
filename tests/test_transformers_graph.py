# SPDX-License-Identifier: Apache-2.0
"""Forward passes of a `PagedModel` as graphs, played by the CPU: nothing but memory is new."""

from __future__ import annotations

from typing import Any

import pytest

import fewstep
from hf_models import model_of

torch = pytest.importorskip("torch")

import fewstep.transformers._store as store  # noqa: E402
from fewstep.transformers import PagedModel  # noqa: E402
from fewstep.transformers._forward import Forward, Graphs  # noqa: E402
from recorded import Recorded  # noqa: E402

PROMPTS = [[5, 9, 5, 9, 5], [7, 8]]
SAMPLING = fewstep.Sampling(temperature=0.8, max_tokens=40, seed=2)


class Recording(Recorded):
    made = 0
    ops = ((store, "append"), (store, "attention"))


def graphs_of(model: PagedModel, record: Any) -> Graphs:
    """Let a model on the CPU run as one on a device does."""
    graphs = Graphs(Forward(model.model, model._cache), record)
    model._forward = graphs
    return graphs


def texts(model: PagedModel, drafter: Any = None) -> list[list[int]]:
    generator = fewstep.Generator(model, drafter=drafter, adapt=False)
    results = generator.generate(PROMPTS, SAMPLING)
    assert [result.error for result in results] == [None] * len(PROMPTS)
    return [result.tokens for result in results]


def paged(**options: Any) -> PagedModel:
    return PagedModel(model_of("Llama"), pages=64, page_tokens=8, **options)


@pytest.mark.parametrize("cache_dtype", [None, "int8", "float8_e4m3fn"])
@pytest.mark.parametrize("drafts", [False, True])
def test_texts_are_those_without(drafts: bool, cache_dtype: str | None) -> None:
    """Of texts that grow over several widths of page tables."""

    def drafter() -> Any:
        return fewstep.drafters.TokenRecycling() if drafts else None

    plain = texts(paged(cache_dtype=cache_dtype), drafter())
    model = paged(cache_dtype=cache_dtype)
    Recording.made = 0
    graphs = graphs_of(model, Recording)
    assert texts(model, drafter()) == plain
    assert len(graphs) == Recording.made >= (1 if drafts else 3)
    assert graphs.refused is None


def test_weights_that_moved_are_captured_anew() -> None:
    model = paged()
    Recording.made = 0
    graphs = graphs_of(model, Recording)
    before = texts(model)
    made = Recording.made
    assert texts(model) == before
    assert Recording.made == made
    with torch.no_grad():
        head = model.model.get_output_embeddings().weight
        head.data = head.data.flip(0)
    assert texts(model) == texts(PagedModel(model.model, pages=64, page_tokens=8))
    assert Recording.made > made
    assert len(graphs) == made


def test_what_cannot_be_captured_runs_as_it_is() -> None:
    def refusing(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing")

    model = paged()
    graphs = graphs_of(model, refusing)
    assert texts(model) == texts(paged())
    assert len(graphs) == 0
    assert "not permitted" in str(graphs.refused)


def test_shapes_that_come_rarely_are_not_captured() -> None:
    model = paged()
    Recording.made = 0
    graphs = graphs_of(model, Recording)
    for n in range(2, 2 + 3 * graphs.SEEN):
        sequence, _ = model.add([])
        model.extend(sequence, n)
        tokens = torch.arange(3, 3 + n, dtype=torch.int32).numpy()
        model.forward([sequence], tokens, torch.tensor([0, n], dtype=torch.int32).numpy())
    assert Recording.made == 0
    assert len(graphs._seen) <= 4 * graphs.CAPACITY


def test_the_least_recently_used_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Graphs, "CAPACITY", 1)
    model = paged()
    graphs = graphs_of(model, Recording)
    texts(model)
    assert len(graphs) == 1


def test_there_are_no_graphs_on_the_cpu() -> None:
    with pytest.raises(ValueError, match="'graph'") as raised:
        paged(graph=True)
    assert str(raised.value) == (
        "fewstep.transformers.PagedModel: 'graph' must be False without a CUDA device, got True "
        "with a model on cpu"
    )

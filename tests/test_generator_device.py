# SPDX-License-Identifier: Apache-2.0
"""`fewstep.Generator` with a model on a device that the CPU plays: what is where, and the texts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fewstep
from hf_models import VOCABULARY as V
from hf_models import model_of

torch = pytest.importorskip("torch")

import pretend_device  # noqa: E402
from fewstep import _torch_weight  # noqa: E402
from fewstep.transformers import PagedModel  # noqa: E402

PROMPTS = [[5, 9, 5, 9, 5], [7], [int(t) for t in np.random.default_rng(0).integers(1, V, 21)]]
DRAFTERS = (
    "none", "lookup", "recycling", "contexts", "tree", "frequent", "rsd_c", "cascade", "heads",
)  # fmt: skip


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretend_device.pretended(monkeypatch):
        yield


def drafter_of(name: str, placed: bool) -> Any:
    def small(**options: Any) -> Any:
        model = model_of("Llama", num_hidden_layers=1)
        return PagedModel(pretend_device.placed(model) if placed else model, pages=64, **options)

    shape = fewstep.tree.template([[0], [1], [0, 0]])

    def best(hidden: Any) -> Any:  # as two heads would have it
        return hidden[:, : 2 * 3].abs().mul(10).int().view(-1, 2, 3)

    return {
        "none": lambda: None,
        "lookup": lambda: fewstep.drafters.PromptLookup(n_min=1, branches=2),
        "recycling": fewstep.drafters.TokenRecycling,
        "contexts": fewstep.drafters.ContextRecycling,
        "tree": lambda: fewstep.drafters.DraftModel(small(), "tree", depth=3, adapt=False),
        "frequent": lambda: fewstep.drafters.DraftModel(
            small(vocabulary=np.arange(3, V, 2)), "tree", depth=3, adapt=False
        ),
        "rsd_c": lambda: fewstep.drafters.DraftModel(small(), "rsd_c", depth=2, adapt=False),
        "cascade": lambda: fewstep.drafters.Cascade(small(), adapt=False),
        "heads": lambda: fewstep.drafters.Template(best, shape),
    }[name]()


def texts(name: str, placed: bool, kind: str = "Llama", **options: Any) -> list[list[int]]:
    model = model_of(kind)
    paged = PagedModel(pretend_device.placed(model) if placed else model, pages=64, **options)
    generator = fewstep.Generator(paged, drafter=drafter_of(name, placed), adapt=False)
    each = [
        fewstep.Sampling(temperature=0, max_tokens=12),
        fewstep.Sampling(temperature=0.9, top_k=20, max_tokens=12, seed=3),
        fewstep.Sampling(temperature=1.0, top_p=0.9, max_tokens=12, seed=4, frequency=0.4),
    ]
    results = generator.generate(PROMPTS, each)
    assert [result.error for result in results] == [None] * 3
    assert generator.stats.drafter_errors == 0
    if name != "none":
        assert generator.stats.nodes > 0
    return [result.tokens for result in results]


@pytest.mark.parametrize("name", DRAFTERS)
def test_texts_are_those_of_the_host(name: str, device: None) -> None:
    assert texts(name, True) == texts(name, False)


def test_a_head_of_some_tokens_is_packed(device: None) -> None:
    model = pretend_device.placed(model_of("Llama"))
    head = PagedModel(model, pages=64, vocabulary=[5, 9, 40]).model.lm_head
    assert isinstance(head.weight.octets, pretend_device.Placed)
    want = model.lm_head.weight.host[[5, 9, 40]]
    assert torch.equal(head.weight.plain().host, want)


@pytest.mark.parametrize("kind", ["Mistral", "Gemma2"])
def test_models_with_windows_and_caps(kind: str, device: None) -> None:
    assert texts("recycling", True, kind) == texts("recycling", False, kind)


@pytest.mark.parametrize("dtype", ["int8", "float8_e4m3fn"])
def test_a_cache_of_bytes_and_pages_that_are_copied(device: None, dtype: str) -> None:
    options = {"cache_dtype": dtype, "page_tokens": 4}
    assert texts("recycling", True, **options) == texts("recycling", False, **options)


def test_a_grammar(device: None) -> None:
    """Even tokens alone."""
    words = (V + 31) // 32
    allowed = np.full(words, 0x55555555, np.uint32)
    made = PagedModel(pretend_device.placed(model_of("Llama")), pages=64)
    generator = fewstep.Generator(made, drafter=fewstep.drafters.TokenRecycling())
    sampling = fewstep.Sampling(max_tokens=8, seed=1, bitmask=lambda _: allowed)
    (result,) = generator.generate([PROMPTS[0]], sampling)
    assert result.error is None
    assert all(token % 2 == 0 for token in result.tokens)


def test_a_build_without_kernels_is_told(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torch_weight, "PLACES", ("cpu",))
    with pytest.raises(NotImplementedError) as raised:
        PagedModel(pretend_device.placed(model_of("Llama")))
    assert str(raised.value) == (
        "fewstep.transformers.PagedModel: 'model' must be on cpu, as this build has no CUDA "
        "kernels (FEWSTEP_CUDA=ON), got one on meta"
    )

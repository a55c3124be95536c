# SPDX-License-Identifier: Apache-2.0
"""On a GPU: attention, caches and fused layers in transformers, and whole cycles as graphs."""

from __future__ import annotations

import copy
from typing import Any

import pytest

import fewstep
from gpu import NEEDS_GPU
from hf_models import LLAMAS, close, model_of, text

torch = pytest.importorskip("torch")

from fewstep.transformers import PagedCache, PagedModel, fuse  # noqa: E402

pytestmark = NEEDS_GPU

DEVICE = "cuda"
PADDED = 7  # tokens of padding before the second sequence of a batch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LLAMAS)
@torch.no_grad()
def test_fused_layers_are_as_precise_as_the_models(name: str, dtype: Any) -> None:
    """Fused there, for few rows and many, and fused on the CPU and moved."""
    model, moved = model_of(name, dtype), model_of(name, dtype)
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("eager")
    fuse(moved)
    moved.to(DEVICE)
    tokens = {count: text(1, count) for count in (40, 300)}
    wants = {count: (exact(t).logits, model(t).logits) for count, t in tokens.items()}
    model.to(DEVICE)
    assert len(fuse(model).fused) == 3
    for count, (want, plain) in wants.items():
        for each in (model, moved):
            given = tokens[count].to(DEVICE)
            cache = PagedCache(each, tokens=512)
            assert close(each(given).logits.cpu(), plain, want)
            assert close(each(given, cache=cache).logits.cpu(), plain, want)


@pytest.mark.parametrize("fusing", [False, True])
@pytest.mark.parametrize("name", LLAMAS)
def test_texts_are_those_of_the_cpu(name: str, fusing: bool) -> None:
    tokens = text(2, 24)
    mask = torch.ones_like(tokens)
    mask[1, :PADDED] = 0
    options = {"max_new_tokens": 14, "do_sample": False}
    model = model_of(name)
    wants = [model.generate(tokens, attention_mask=mask, num_beams=n, **options) for n in (1, 3)]
    model.to(DEVICE)
    model.set_attn_implementation("fewstep")
    if fusing:
        assert len(fuse(model).fused) == 3
    tokens, mask = tokens.to(DEVICE), mask.to(DEVICE)
    for want, beams in zip(wants, (1, 3), strict=True):
        for cache in (None, PagedCache(model, tokens=512, page_tokens=8)):
            given = {} if cache is None else {"cache": cache}
            found = model.generate(tokens, attention_mask=mask, num_beams=beams, **given, **options)
            assert torch.equal(found.cpu(), want)


@pytest.mark.parametrize("fusing", [False, True])
@pytest.mark.parametrize("recycling", [False, True])
def test_graphs_write_the_texts_of_the_cpu(recycling: bool, fusing: bool) -> None:
    """Passes of one row, or whole cycles; a capture refuses whatever waits."""
    found = []
    for device in ("cpu", DEVICE):
        model = model_of("Llama").to(device)
        if fusing:
            fuse(model)
        paged = PagedModel(model, pages=128, page_tokens=8, graph=device == DEVICE)
        drafter = fewstep.drafters.TokenRecycling() if recycling else None
        generator = fewstep.Generator(paged, drafter=drafter, adapt=False)
        sampling = fewstep.Sampling(temperature=0, max_tokens=40)
        results = generator.generate([[5, 9, 5, 9, 5], [7, 8]], sampling)
        assert [result.error for result in results] == [None] * 2
        found.append([result.tokens for result in results])
        if device == DEVICE:
            captured: Any = paged._cycles if recycling else paged._forward
            assert captured.refused is None
            assert len(captured)
    assert found[0] == found[1]

# SPDX-License-Identifier: Apache-2.0
"""Attention ``"fewstep"`` and `PagedCache` in transformers, on a device that the CPU plays."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from hf_models import model_of, text

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import pretend_device  # noqa: E402
from fewstep import _torch_weight  # noqa: E402
from fewstep.transformers import PagedCache, _attention  # noqa: E402
from fewstep.transformers._attention import _requests, _whole  # noqa: E402
from pretend_device import DEVICE, Placed, crossings, waits  # noqa: E402
from recorded import Operations  # noqa: E402

CACHE = "fewstep.transformers.PagedCache"
PADDED = 7  # tokens of padding before the second sequence of a batch
FORMS = ("dynamic", "none", "static", "paged", "int8", "float8_e4m3fn", "beams", "dynamic beams")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretend_device.pretended(monkeypatch):
        yield


def attending(name: str, there: bool, **more: Any) -> Any:
    model = model_of(name, **more)
    model.set_attn_implementation("fewstep")
    return pretend_device.placed(model) if there else model


def batch(there: bool, count: int = 24) -> dict[str, Any]:
    tokens = text(2, count)
    mask = torch.ones_like(tokens)
    mask[1, :PADDED] = 0
    inputs = {"input_ids": tokens, "attention_mask": mask}
    return {name: t.to(DEVICE) for name, t in inputs.items()} if there else inputs


def options_of(form: str, model: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"num_beams": 3} if "beams" in form else {}
    if form == "none":
        return {"use_cache": False}
    if form == "static":
        return {"cache_implementation": "static"}
    if not form.startswith("dynamic"):
        dtype = None if form in ("paged", "beams") else form
        options["cache"] = PagedCache(model, tokens=512, page_tokens=8, dtype=dtype)
    return options


def generated(name: str, form: str, there: bool) -> Any:
    model = attending(name, there)
    options = options_of(form, model)
    found = model.generate(**batch(there), max_new_tokens=14, do_sample=False, **options)
    if "cache" in options:
        assert {part.device for part in options["cache"].store.k.values()} == {model.device}
    return found


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["Llama", "Mistral", "Gemma2"])
def test_texts_are_those_of_the_host(
    name: str, form: str, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of left-padded batches; attention is the kernel's where it is on the CPU."""
    dense = []
    true = _attention._dense
    monkeypatch.setattr(_attention, "_dense", lambda *a: (dense.append(a[0].device), true(*a))[1])
    want = generated(name, form, False)
    got = generated(name, form, True)
    assert isinstance(got, Placed)
    assert torch.equal(got.host, want)
    assert dense.count(DEVICE) == len(dense) / 2
    assert not dense or (form == "static" and name != "Llama")  # windows, in whole rows of a cache


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_a_paged_cache_serves_other_attention_too(impl: str, device: None) -> None:
    texts = []
    for there in (False, True):
        model = attending("Llama", there)
        model.set_attn_implementation(impl)
        cache = PagedCache(model, page_tokens=8)
        texts.append(model.generate(**batch(there), max_new_tokens=9, do_sample=False, cache=cache))
    assert torch.equal(texts[1].host, texts[0])


def test_a_cache_is_cropped_reset_and_repeated(device: None) -> None:
    """By indices on the device, as beam search has them."""
    model, tokens = attending("Qwen3", True), text(2, 20).to(DEVICE)
    cache = PagedCache(model, tokens=256, page_tokens=8)
    want = model(tokens).logits.host
    model(tokens, cache=cache)
    cache.crop(-6)
    assert torch.allclose(model(tokens[:, 14:], cache=cache).logits.host, want[:, 14:], atol=2e-5)
    cache.crop(-1)
    cache.reorder_cache(torch.tensor([1], device=DEVICE))
    cache.batch_repeat_interleave(2)
    last = model(tokens[1:, 19:].repeat(2, 1), cache=cache).logits.host
    assert torch.allclose(last, want[[1, 1], 19:], atol=2e-5)
    cache.reset()
    assert cache.store.pool.stats()["used"] == 0


def test_a_pass_sends_one_parcel_and_reads_a_mask(device: None) -> None:
    """And a second one where there is padding, whatever the number of layers."""
    for layers in (1, 3):
        model, inputs = attending("Llama", True, num_hidden_layers=layers), batch(True)
        cache = PagedCache(model, tokens=256)
        with Operations() as operations:
            model(inputs["input_ids"], cache=cache)
        assert crossings(operations.calls) == (1, 0)
        cache.reset()
        with Operations() as operations:
            model(**inputs, cache=cache)
        assert crossings(operations.calls) == (2, 1)
        with Operations() as operations:
            model(**inputs, use_cache=False)
        assert crossings(operations.calls) == (0, 1)


def test_nothing_is_read_while_work_is_captured(
    device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask on the device is one of every row and key then; without one the kernel runs."""
    model, tokens = attending("Mistral", True), batch(True)["input_ids"]
    for mask in (batch(True)["attention_mask"], None):
        before = None if mask is None else mask[:, :12]
        want = model(tokens, attention_mask=mask).logits.host
        cache = transformers.DynamicCache(config=model.config)
        model(tokens[:, :12], attention_mask=before, cache=cache)
        with monkeypatch.context() as patch, Operations() as operations:
            patch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
            if mask is None:
                patch.setattr(_attention, "_dense", None)
            rows = model(tokens[:, 12:], attention_mask=mask, cache=cache).logits.host
        assert crossings(operations.calls) == (0, 0)
        assert not waits(operations.calls)
        assert torch.allclose(rows, want[:, 12:], atol=2e-5)


def test_requests_that_are_captured_are_the_graphs_own(
    device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    like = torch.empty(0, device=DEVICE)
    before = _whole(2, 3, 9, like)
    assert _whole(2, 3, 9, like) is before
    with monkeypatch.context() as patch:
        patch.setattr(torch.cuda, "current_stream", lambda _: SimpleNamespace(cuda_stream=7))
        assert _whole(2, 3, 9, like) is not before
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    captured = _whole(2, 3, 9, like)
    assert captured is not before
    assert _whole(2, 3, 9, like) is not captured


@pytest.mark.parametrize("sizes", [(1, 1, 30), (3, 1, 30), (2, 256, 300), (2, 257, 600)])
def test_requests_are_made_on_the_device(sizes: tuple[int, int, int], device: None) -> None:
    host, there = _requests(*sizes, torch.device("cpu")), _requests(*sizes, DEVICE)
    for name in ("indptr", "kv_len", "table"):
        made, want = getattr(there, name).host, getattr(host, name)
        assert made.is_contiguous()
        assert made.dtype == want.dtype
        assert torch.equal(made, want)


def test_where_a_cache_is(device: None) -> None:
    model, there = attending("Llama", False), attending("Llama", True)
    assert PagedCache(model.config).store.device.type == "cpu"
    assert PagedCache(model, device="meta").store.device == DEVICE
    for cache, other, want in (
        (PagedCache(model), there, "cpu, got meta"),
        (PagedCache(model.config, device="meta"), model, "meta, got cpu"),
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            other(text(1, 3).to(other.device), cache=cache)
        message = f"{CACHE}: 'key_states' must be on the cache's device, {want}"
        assert str(error.value) == message
        assert cache.get_seq_length() == 0


def test_a_build_without_kernels(device: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torch_weight, "PLACES", ("cpu",))
    with pytest.raises(NotImplementedError) as unbuilt:
        PagedCache(attending("Llama", True))
    assert str(unbuilt.value) == (
        f"{CACHE}: 'device' must be cpu, as this build has no CUDA kernels (FEWSTEP_CUDA=ON), got "
        "meta"
    )
    # Attention is torch's there, with a mask of every row and key.
    model, inputs = attending("Llama", True), batch(True)
    want = attending("Llama", False)(**batch(False)).logits
    assert torch.allclose(model(**inputs).logits.host, want, atol=2e-5)


def test_a_device_that_no_build_knows() -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        PagedCache(model_of("Llama"), device="meta")
    assert str(error.value) == f"{CACHE}: 'device' must be cpu or cuda, got meta"

# SPDX-License-Identifier: Apache-2.0
"""Attention ``"fewstep"`` and `PagedCache` inside transformers' own forward passes."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from hf_models import CONFIGS, close, model_of, text

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fewstep.transformers import PagedCache  # noqa: E402

PADDED = 7  # tokens of padding before the second sequence of a batch


def batch(count: int = 24) -> dict[str, Any]:
    tokens = text(2, count)
    mask = torch.ones_like(tokens)
    mask[1, :PADDED] = 0
    return {"input_ids": tokens, "attention_mask": mask}


def generated(model: Any, inputs: dict[str, Any], **options: Any) -> Any:
    return model.generate(**inputs, max_new_tokens=14, do_sample=False, **options)


def greedy(name: str, inputs: dict[str, Any], **options: Any) -> tuple[Any, Any]:
    """Return a model whose attention is ours, and what it generates with eager attention."""
    model = model_of(name)
    model.set_attn_implementation("eager")
    want = generated(model, inputs, **options)
    model.set_attn_implementation("fewstep")
    return model, want


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_as_precise_as_eager_ones(name: str, dtype: Any) -> None:
    model = model_of(name, dtype)
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("eager")
    with torch.no_grad():
        want = exact(text(2, 40)).logits
        model.set_attn_implementation("eager")
        plain = model(text(2, 40)).logits
        model.set_attn_implementation("fewstep")
        assert close(model(text(2, 40)).logits, plain, want)
        assert close(model(text(2, 40), use_cache=False).logits, plain, want)


@pytest.mark.parametrize("name", CONFIGS)
def test_padded_rows_are_those_of_the_sequence_alone(name: str) -> None:
    model = model_of(name)
    model.set_attn_implementation("fewstep")
    inputs = batch()
    alone = {"input_ids": inputs["input_ids"][1:, PADDED:]}
    with torch.no_grad():
        want = model(**alone).logits[0]
        positions = (inputs["attention_mask"].cumsum(-1) - 1).clamp_min(0)
        for cache in (None, PagedCache(model, tokens=256, page_tokens=8)):
            rows = model(**inputs, position_ids=positions, cache=cache).logits[1, PADDED:]
            assert torch.allclose(rows, want, atol=2e-5)
        right = torch.ones_like(inputs["input_ids"])
        right[1, -PADDED:] = 0
        rows = model(inputs["input_ids"], attention_mask=right).logits[1, :-PADDED]
        want = model(inputs["input_ids"][1:, :-PADDED]).logits[0]
        assert torch.allclose(rows, want, atol=2e-5)


@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_text_is_eagers(name: str) -> None:
    inputs = batch()
    model, want = greedy(name, inputs)
    assert torch.equal(generated(model, inputs), want)
    assert torch.equal(generated(model, inputs, use_cache=False), want)
    paged = PagedCache(model, tokens=256, page_tokens=8)
    assert torch.equal(generated(model, inputs, cache=paged), want)
    assert paged.get_seq_length() == want.shape[1] - 1
    static = generated(model, inputs, cache_implementation="static")
    assert torch.equal(static, want)


@pytest.mark.parametrize("impl", ["eager", "sdpa"])
def test_a_paged_cache_serves_other_attention_too(impl: str) -> None:
    inputs = batch()
    model, want = greedy("Llama", inputs)
    model.set_attn_implementation(impl)
    assert torch.equal(generated(model, inputs, cache=PagedCache(model, page_tokens=8)), want)


def test_beams_share_pages() -> None:
    inputs = batch()
    model, want = greedy("Llama", inputs, num_beams=3)
    cache = PagedCache(model, tokens=512, page_tokens=8)
    assert torch.equal(generated(model, inputs, cache=cache, num_beams=3), want)
    stats = cache.store.pool.stats()
    assert stats["shared"] > 0
    assert stats["copies"] > 0


def test_a_cache_is_cropped_reset_and_repeated() -> None:
    model = model_of("Qwen3")
    model.set_attn_implementation("fewstep")
    tokens = text(2, 20)
    cache = PagedCache(model, tokens=256, page_tokens=8)
    with torch.no_grad():
        want = model(tokens).logits
        model(tokens, cache=cache)
        cache.crop(-6)
        assert cache.get_seq_length() == 14
        assert torch.allclose(model(tokens[:, 14:], cache=cache).logits, want[:, 14:], atol=2e-5)
        cache.crop(-1)
        cache.batch_select_indices(torch.tensor([1]))
        cache.batch_repeat_interleave(2)
        last = model(tokens[[1, 1], 19:], cache=cache).logits
        assert torch.allclose(last, want[[1, 1], 19:], atol=2e-5)
        cache.reset()
        assert cache.store.pool.stats()["used"] == 0
        assert torch.allclose(model(tokens, cache=cache).logits, want, atol=2e-5)


@pytest.mark.parametrize(("dtype", "share"), [("int8", 0.05), ("float8_e4m3fn", 0.1)])
def test_a_cache_of_bytes_is_close_and_wants_our_attention(dtype: str, share: float) -> None:
    model = model_of("Llama")
    model.set_attn_implementation("fewstep")
    cache = PagedCache(model, tokens=64, dtype=dtype)
    with torch.no_grad():
        want = model(text(1, 30)).logits
        rows = model(text(1, 30), cache=cache).logits
    assert 1e-6 < float((rows - want).abs().max()) < share * float(want.abs().max())
    model.set_attn_implementation("sdpa")
    message = (
        f"fewstep.transformers.PagedCache: 'dtype' {dtype} must be read by attention 'fewstep', "
        "got sdpa"
    )
    with pytest.raises(NotImplementedError) as error, torch.no_grad():
        model(text(1, 3), cache=cache)
    assert str(error.value) == message


def test_masks_of_every_row_and_key_are_torchs() -> None:
    model = model_of("Gemma2")  # soft cap, windows
    mask = torch.ones(1, 1, 12, 12, dtype=torch.bool).tril()
    mask[..., 8:, 3:5] = False
    tokens = text(1, 12)
    rows = {}
    for impl in ("eager", "fewstep"):
        model.set_attn_implementation(impl)
        given = mask if impl == "fewstep" else torch.where(mask, 0.0, -1e30)
        with torch.no_grad():
            rows[impl] = model(tokens, attention_mask={
                "full_attention": given, "sliding_attention": given}).logits  # fmt: skip
    assert torch.allclose(rows["eager"], rows["fewstep"], atol=2e-5)


def test_training_falls_back_to_torch() -> None:
    model = model_of("Mistral").train()
    gradients = []
    for impl in ("eager", "fewstep"):
        model.set_attn_implementation(impl)
        model.zero_grad()
        model(text(2, 20), labels=text(2, 20)).loss.backward()
        gradients.append(model.model.layers[0].self_attn.q_proj.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-6)


def test_packed_sequences_do_not_see_each_other() -> None:
    model = model_of("Llama")
    model.set_attn_implementation("fewstep")
    tokens = text(1, 20)
    positions = torch.cat([torch.arange(12), torch.arange(8)])[None]
    with torch.no_grad():
        rows = model(tokens, position_ids=positions, use_cache=False).logits
        want = model(tokens[:, 12:]).logits
    assert torch.allclose(rows[:, 12:], want, atol=2e-5)


def test_attention_with_sinks() -> None:
    sizes = {"vocab_size": 97, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 2}
    config = transformers.GptOssConfig(
        **sizes, num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=6,
        num_local_experts=2, num_experts_per_tok=1, pad_token_id=0,
    )  # fmt: skip
    torch.manual_seed(2)
    model = transformers.GptOssForCausalLM(config).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    rows = []
    with torch.no_grad():
        for impl in ("eager", "fewstep"):
            model.set_attn_implementation(impl)
            rows.append(model(text(2, 20)).logits)
    assert torch.allclose(*rows, atol=2e-5)


def test_keys_of_a_paged_cache_are_for_attention_alone() -> None:
    model = model_of("Llama")
    model.set_attn_implementation("fewstep")
    cache = PagedCache(model, tokens=64)
    states = torch.zeros(1, 2, 3, 16)
    keys, _ = cache.update(states, states, 0)
    assert keys.shape == states.shape
    message = (
        "fewstep.transformers: keys of a paged cache can be read by attention 'fewstep' alone, "
        "got transpose"
    )
    with pytest.raises(NotImplementedError) as error:
        keys.transpose(2, 3)
    assert str(error.value) == message

# SPDX-License-Identifier: Apache-2.0
"""``fewstep.transformers.fuse``: decoder layers in seven calls, in place, and put back."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from hf_models import LLAMAS, close, model_of, text

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fewstep.transformers import PagedCache, PagedModel, fuse  # noqa: E402
from fewstep.transformers._whole import fused_layers  # noqa: E402

NAMES = tuple(f"model.layers.{i}" for i in range(3))


def logits(model: Any, *inputs: Any, **options: Any) -> Any:
    with torch.no_grad():
        return model(*inputs, **options).logits


def run_paged(model: PagedModel, tokens: Any, **options: Any) -> Any:
    sequence, _ = model.add()
    model.extend(sequence, len(tokens))
    tokens = np.asarray(tokens, np.int32)
    return model.forward([sequence], tokens, np.array([0, len(tokens)], np.int32), **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LLAMAS)
def test_logits_are_as_precise_as_the_models(name: str, dtype: Any) -> None:
    model = model_of(name, dtype)
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("eager")
    want, plain = logits(exact, text(2, 40)), logits(model, text(2, 40))
    report = fuse(model)
    assert (report.fused, report.skipped) == (NAMES, {})
    assert close(logits(model, text(2, 40)), plain, want)
    assert close(logits(model, text(2, 40), use_cache=False), plain, want)
    assert close(logits(model, text(2, 40), cache=PagedCache(model, tokens=128)), plain, want)
    rows = run_paged(PagedModel(model, pages=4), text(2, 40)[1])
    assert close(rows, plain[1], want[1])


@pytest.mark.parametrize("name", LLAMAS)
def test_greedy_text_is_the_plain_models(name: str) -> None:
    model = model_of(name)
    tokens = text(2, 24)
    mask = torch.ones_like(tokens)
    mask[1, :7] = 0
    options = {"attention_mask": mask, "max_new_tokens": 14, "do_sample": False}
    want = model.generate(tokens, **options)
    fuse(model)
    assert torch.equal(model.generate(tokens, **options), want)
    assert torch.equal(model.generate(tokens, **options, cache_implementation="static"), want)
    cache = PagedCache(model, tokens=256, page_tokens=8)
    assert torch.equal(model.generate(tokens, **options, cache=cache), want)


@pytest.mark.parametrize("name", LLAMAS)
def test_a_paged_model_runs_without_transformers_forward(name: str) -> None:
    model = model_of(name)
    tokens = text(300)
    want = logits(model, tokens[None])[0]
    fuse(model)
    calls = []
    model.model.norm.register_forward_hook(lambda *_: calls.append(1))
    slow = run_paged(PagedModel(model, pages=40, page_tokens=8), tokens)
    assert calls == [1]  # a hook has to run
    model.model.norm._forward_hooks.clear()
    paged = PagedModel(model, pages=40, page_tokens=8)
    ours, hidden = run_paged(paged, tokens, rows=np.array([0, 290]), hidden=True)
    assert len(calls) == 1
    assert torch.allclose(ours, want[[0, 290]], atol=2e-4)
    assert torch.allclose(slow, want, atol=2e-4)
    assert torch.allclose(model.lm_head(hidden), ours, atol=2e-5)


@pytest.mark.parametrize("kind", [None, "int8"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tied_heads_look_tokens_up_in_packed_rows(dtype: Any, kind: str | None) -> None:
    model = model_of("Llama", dtype, tie_word_embeddings=True)
    fuse(model, kind)
    want = logits(model, text(1, 9))[0]
    paged = PagedModel(model, pages=4)
    rows = run_paged(paged, text(1, 9)[0])
    share = 1e-5 if dtype == torch.float32 else 2e-2
    assert (rows - want).abs().max() <= share * want.abs().max()
    sequence, _ = paged.add([5])
    paged.extend(sequence, 3)
    ends, levels = np.array([0, 1], np.int32), np.array([3], np.int32)
    chain = paged.chain([sequence], np.array([5], np.int32), ends, levels)
    assert chain is not None  # from tokens to tokens in one call
    assert chain[0][0, 0] == logits(model, torch.tensor([[5]]))[0, -1].argmax()
    with pytest.raises(ValueError, match=r"tokens\[0\]"):
        run_paged(PagedModel(model, pages=4), [97])


def test_undo_puts_everything_back() -> None:
    model = model_of("Qwen2", torch.bfloat16)
    model.set_attn_implementation("sdpa")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    plain = logits(model, text(1, 9))
    report = fuse(model)
    assert str(report).splitlines()[0] == "fused 3 decoder layers"
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    report.undo()
    report.undo()
    assert model.config._attn_implementation == "sdpa"
    assert all("forward" not in vars(layer) for layer in model.model.layers)
    assert torch.equal(logits(model, text(1, 9)), plain)


def test_weights_that_are_loaded_or_converted_later_count() -> None:
    model, other = model_of("Qwen2"), model_of("Qwen2")
    for parameter in other.parameters():
        parameter.data.mul_(1.1)
    fuse(model)
    model.load_state_dict(other.state_dict())
    assert torch.allclose(logits(model, text(1, 9)), logits(other, text(1, 9)), atol=2e-5)
    half, other = model.bfloat16(), other.bfloat16()
    exact = copy.deepcopy(other).double()
    want = logits(exact, text(1, 9))
    assert close(logits(half, text(1, 9)), logits(other, text(1, 9)), want)


def test_training_and_gradients_are_the_models_own() -> None:
    model, plain = model_of("Llama"), model_of("Llama")
    fuse(model)
    gradients = []
    for m in (plain, model):
        m(text(2, 12), labels=text(2, 12)).loss.backward()
        gradients.append(m.model.layers[0].input_layernorm.weight.grad)
    assert torch.allclose(*gradients, atol=1e-6)


def test_a_compiled_model_has_no_break_of_the_graph() -> None:
    model = model_of("Llama")
    want = logits(model, text(1, 9), use_cache=False)
    fuse(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.allclose(logits(compiled, text(1, 9), use_cache=False), want, atol=2e-5)
    torch._dynamo.reset()


def loaded(model: Any) -> None:
    model.load_state_dict({name: 1.1 * value for name, value in model.state_dict().items()})


def normed(model: Any) -> None:
    model.model.norm.weight.data = model.model.norm.weight.data * 1.5


def headed(model: Any) -> None:
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() * 1.5)


@pytest.mark.parametrize("change", [loaded, normed, headed])
def test_a_paged_model_has_the_weights_of_now(change: Any) -> None:
    model, other = model_of("Llama"), model_of("Llama")
    fuse(model)
    paged = PagedModel(model, pages=8)
    run_paged(paged, text(1, 9)[0])
    decoder = paged._whole._decoder  # type: ignore[union-attr]
    run_paged(paged, text(1, 9)[0])
    assert paged._whole._decoder is decoder  # type: ignore[union-attr]
    change(model)
    change(other)
    assert torch.allclose(run_paged(paged, text(1, 9)[0]), logits(other, text(1, 9))[0], atol=2e-5)


def test_a_paged_model_runs_whole_only_with_its_attention_and_in_evaluation() -> None:
    model = model_of("Llama")
    fuse(model)
    whole = PagedModel(model, pages=8)._whole
    assert whole is not None
    assert whole.ready()
    for off, on in (
        (lambda: model.train(), lambda: model.eval()),
        (
            lambda: model.set_attn_implementation("sdpa"),
            lambda: model.set_attn_implementation("fewstep"),
        ),
    ):
        off()
        assert not whole.ready()
        on()
        assert whole.ready()


def hooked(model: Any) -> None:
    model.model.layers[1].mlp.register_forward_hook(lambda *_: None)


def replaced(model: Any) -> None:
    model.model.layers[1].self_attn.forward = model.model.layers[1].self_attn.forward


def activated(model: Any) -> None:
    model.model.layers[1].mlp.act_fn = torch.nn.GELU()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (hooked, "there are hooks of mlp"),
        (replaced, "its forward of self_attn was replaced"),
        (activated, "its activation is GELU"),
    ],
)
def test_unusual_layers_are_left_and_reported(change: Any, why: str) -> None:
    model = model_of("Llama")
    change(model)
    want = logits(model, text(1, 9))
    report = fuse(model)
    assert report.fused == (NAMES[0], NAMES[2])
    assert report.skipped == {NAMES[1]: why}
    assert str(report).endswith(f"left {NAMES[1]}: {why}")
    assert torch.allclose(logits(model, text(1, 9)), want, atol=2e-5)
    paged = PagedModel(model, pages=4)
    assert fused_layers(model) is None
    assert torch.allclose(run_paged(paged, text(1, 9)[0]), want[0], atol=2e-5)


@pytest.mark.parametrize(
    ("name", "more", "why"),
    [
        ("Gemma2", {}, "of type Gemma2DecoderLayer"),
        ("Llama", {"mlp_bias": True}, "its gate has a bias"),
        ("Llama", {"head_dim": 24}, "its heads are of 24 elements, 2 to a head of keys"),
    ],
)
def test_other_layers_are_left(name: str, more: Any, why: str) -> None:
    model = model_of(name, **more)
    assert fuse(model).skipped == dict.fromkeys(NAMES, why)
    again = model_of("Llama")
    fuse(again)
    assert fuse(again).skipped == dict.fromkeys(NAMES, "fused already")


def test_projections_in_the_midst_of_panels_run_apart() -> None:
    model = model_of("Llama", hidden_size=80, num_attention_heads=5, num_key_value_heads=5)
    want = logits(model, text(1, 9))
    fuse(model)
    assert torch.allclose(logits(model, text(1, 9)), want, atol=2e-5)


def test_early_exits_and_subsets_of_a_fused_model() -> None:
    model = model_of("Llama")
    fuse(model)
    ids = np.array([1, 5, 90])
    early = PagedModel(model, pages=4, layers=2, vocabulary=ids)
    assert len(fused_layers(early.model) or ()) == 2
    plain = model_of("Llama")
    del plain.model.layers[2]
    plain.config.num_hidden_layers = 2
    want = logits(plain, text(1, 9))[0][:, ids]
    assert torch.allclose(run_paged(early, text(1, 9)[0]), want, atol=2e-5)

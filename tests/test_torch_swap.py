# SPDX-License-Identifier: Apache-2.0
"""``fewstep.torch.pack_linears``: a model's linear layers exchanged in place, and put back."""

from __future__ import annotations

import copy
import gc
import weakref
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from fewstep._torch_weight import PLACES, PackedWeight  # noqa: E402
from fewstep.torch import Linear, pack_linears  # noqa: E402


class Scaled(nn.Embedding):
    """An embedding of a kind of its own, as some models have."""

    def forward(self, tokens: Any) -> Any:
        return super().forward(tokens) * 0.5


class Model(nn.Module):
    """An embedding, layers in layers, a head that shares the embedding's weight, odd layers."""

    def __init__(self, tied: bool = True) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = Scaled(50, 64)
        self.blocks = nn.ModuleList(
            nn.ModuleDict({"up": nn.Linear(64, 96), "down": nn.Linear(96, 64, bias=False)})
            for _ in range(2)
        )
        self.norm = nn.LayerNorm(64)
        self.head = nn.Linear(64, 50, bias=False)
        if tied:
            self.head.weight = self.embedding.weight

    def forward(self, tokens: Any) -> Any:
        x = self.embedding(tokens)
        for block in self.blocks:
            x = x + block["down"](torch.relu(block["up"](x)))
        return self.head(self.norm(x))


NAMES = tuple(f"blocks.{i}.{name}" for i in (0, 1) for name in ("up", "down")) + ("head",)
TOKENS = torch.tensor([[3, 49, 3, 0, 17], [31, 32, 33, 1, 2]])


def state_of(model: Any) -> dict[str, Any]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return list(a) == list(b) and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_logits_are_as_precise_as_the_models(dtype: Any) -> None:
    model = Model().to(dtype)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(TOKENS)
        plain = model(TOKENS)
        report = pack_linears(model)
        ours = model(TOKENS)
    assert report.swapped == NAMES
    assert report.skipped == {}
    ulp = torch.finfo(dtype).eps * exact.abs().max()
    assert ours.dtype == dtype
    assert (ours - exact).abs().max() <= 2 * (plain - exact).abs().max() + ulp


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_logits_are_those_of_the_weights_it_stands_for(kind: str) -> None:
    model = Model()
    report = pack_linears(model, kind)
    stand_in = Model()
    stand_in.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.allclose(model(TOKENS), stand_in(TOKENS), atol=2e-3)
    assert model.embedding.weight.packed.kind == kind
    assert report.bytes_after < report.bytes_before * (0.45 if kind == "int8" else 0.3)


def test_the_model_looks_as_before() -> None:
    model, other = Model(), Model()
    model.blocks[0]["up"].eval()
    report = pack_linears(model)
    assert report.bytes_before == 4 * (4 * 64 * 96 + 50 * 64)
    assert report.bytes_after == 4 * (4 * 64 * 96 + 64 * 64)  # 50 outputs filled up to 64
    for a, b in zip(model.named_parameters(), other.named_parameters(), strict=True):
        assert (a[0], a[1].shape, a[1].dtype, a[1].requires_grad) == (
            (b[0], b[1].shape, b[1].dtype, b[1].requires_grad)
        )
    assert isinstance(model.head, nn.Linear)
    assert [m.training for m in (model, model.head, model.blocks[0]["up"])] == [True, True, False]
    assert str(report).splitlines()[0] == ("packed 5 linear layers: 111,104 bytes, now 114,688")


def test_state_dicts_go_in_and_out() -> None:
    """As ordinary tensors, those of a packed embedding as well."""
    model, plain = Model(), Model()
    before = state_of(model)
    pack_linears(model)
    assert same(model.state_dict(), before)
    assert {type(value) for value in model.state_dict().values()} == {torch.Tensor}
    other = {name: value + 1 for name, value in before.items()}
    assert model.load_state_dict(other).missing_keys == []
    assert same(model.state_dict(), other)
    plain.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.allclose(model(TOKENS), plain(TOKENS), rtol=1e-4, atol=1e-3)
    kept = model.state_dict(keep_vars=True)
    assert kept["head.weight"] is kept["embedding.weight"] is model.head.weight


def test_tied_weights_are_packed_once_and_stay_tied() -> None:
    model = Model()
    pack_linears(model)
    assert model.head.weight is model.embedding.weight
    assert torch.equal(model.embedding(TOKENS), Model().embedding(TOKENS))
    with torch.no_grad():
        model.head.weight.fill_(0.25)
    assert (model.embedding(TOKENS) == 0.125).all()
    state = model.state_dict()
    assert state["head.weight"] is state["embedding.weight"]
    state["head.weight"].fill_(7.0)
    assert (model.state_dict()["head.weight"] == 0.25).all()
    state = model.state_dict()
    model.head.weight.data.fill_(0.5)
    assert (model.state_dict()["head.weight"] == 0.5).all()
    assert (state["head.weight"] == 0.25).all()
    clone = copy.deepcopy(model)
    assert clone.head.weight is clone.embedding.weight
    twice = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    twice[1].weight = twice[0].weight
    report = pack_linears(twice)
    assert report.swapped == ("0", "1")
    assert report.bytes_before == 4 * 8 * 8
    assert twice[0].weight is twice[1].weight
    report.undo()
    assert twice[0].weight is twice[1].weight
    assert type(twice[1]) is nn.Linear


@pytest.mark.parametrize("kind", [None, "int8", "int4"])
def test_undo_restores_bit_for_bit(kind: str | None) -> None:
    model = Model().bfloat16()
    before, layers = state_of(model), [model.get_submodule(name) for name in NAMES]
    report = pack_linears(model, kind)
    assert all(type(layer) is Linear for layer in layers)
    report.undo()
    assert same(state_of(model), before)
    assert [model.get_submodule(name) for name in NAMES] == layers
    assert all(type(layer) is nn.Linear for layer in layers)
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())
    assert model.head.weight is model.embedding.weight
    report.undo()
    assert pack_linears(model).swapped == NAMES


def test_undo_keeps_what_was_loaded_and_the_parameters_of_an_optimiser() -> None:
    model = Model()
    held = list(model.parameters())
    report = pack_linears(model)
    model.load_state_dict({name: value * 2 for name, value in Model().state_dict().items()})
    report.undo()
    assert torch.equal(model.head.weight, 2 * Model().head.weight)
    assert all(a is b for a, b in zip(held, model.parameters(), strict=True))


@pytest.mark.parametrize("kind", [None, "int8"])
def test_undo_follows_conversions_and_assigned_state_dicts(kind: str | None) -> None:
    for dtype in (torch.bfloat16, torch.float64):
        model, plain = Model(), Model()
        report = pack_linears(model, kind)
        model.to(dtype)
        report.undo()
        assert same(model.state_dict(), plain.to(dtype).state_dict())
        assert model.head.weight is model.embedding.weight
    model = Model(tied=False)
    report = pack_linears(model, kind)
    model.load_state_dict(
        {k: 2 * v for k, v in Model(tied=False).state_dict().items()}, assign=True
    )
    assert type(model.head.weight) is PackedWeight
    state = state_of(model)
    report.undo()
    assert same(model.state_dict(), state)
    assert all(type(parameter) is nn.Parameter for parameter in model.parameters())


def test_a_packed_embedding_refuses_what_torch_refuses() -> None:
    model = Model()
    pack_linears(model)
    assert model.embedding(torch.zeros(2, 0, dtype=torch.int64)).shape == (2, 0, 64)
    for token in (-1, 50, 63, 64):
        with pytest.raises(IndexError, match="index out of range in self"):
            model.embedding(torch.tensor([token]))


@pytest.mark.parametrize("kind", [None, "int8"])
def test_no_weight_is_held_twice(kind: str | None) -> None:
    model = nn.Sequential(nn.Linear(64, 64))
    weight = weakref.ref(model[0].weight)
    report = pack_linears(model, kind)
    gc.collect()
    if kind:  # until the report goes, which could put it back
        assert weight() is not None
        del report
        gc.collect()
    assert weight() is None


def test_a_second_call_finds_nothing_to_do() -> None:
    model = Model()
    first, second = pack_linears(model), pack_linears(model, "int8")
    assert second.swapped == ()
    assert second.skipped == dict.fromkeys(NAMES, "packed already, float32")
    second.undo()
    assert type(model.head) is Linear
    first.undo()
    assert type(model.head) is nn.Linear


@pytest.mark.parametrize(
    ("skip", "left"),
    [
        ("head", ("head",)),
        ("blocks.1.*", ("blocks.1.up", "blocks.1.down")),
        (lambda name, layer: layer.bias is not None, ("blocks.0.up", "blocks.1.up")),
        (["*.down", lambda name, _: name == "head"], ("blocks.0.down", "blocks.1.down", "head")),
    ],
    ids=["name", "pattern", "function", "several"],
)
def test_skip(skip: Any, left: tuple[str, ...]) -> None:
    model = Model()
    report = pack_linears(model, skip=skip)
    assert report.skipped == dict.fromkeys(left, "asked for")
    assert report.swapped == tuple(name for name in NAMES if name not in left)
    for name in NAMES:
        assert isinstance(model.get_submodule(name).weight, PackedWeight) is (name not in left)
    assert str(report).splitlines()[1:] == [f"left {name}: asked for" for name in left]


def test_what_cannot_be_packed_is_left_and_said() -> None:
    class Other(nn.Linear):
        pass

    class Scaled(nn.Module):
        def __init__(self, weight: Any) -> None:
            super().__init__()
            self.scale = weight

    model = nn.ModuleDict({name: nn.Linear(8, 8) for name in "abcdef"})
    model["b"] = Other(8, 8)
    model["c"].double()
    model["d"].to("meta")
    model["e"].forward = lambda x: x
    model["g"] = Scaled(model["f"].weight)
    model["h"] = nn.MultiheadAttention(8, 2)
    nn.utils.parametrizations.weight_norm(model["a"])
    assert pack_linears(model).skipped == {
        "a": "of type ParametrizedLinear",
        "b": "of type Other",
        "c": "its weight must be of float32, float16, bfloat16, got float64",
        "d": f"its weight must be on {' or '.join(PLACES)}, got meta",
        "e": "its forward was replaced",
        "f": "shares its weight with g.scale",
        "h.out_proj": "of type NonDynamicallyQuantizableLinear",
    }


def test_a_layer_shared_with_one_that_is_skipped_is_left() -> None:
    model = nn.ModuleList([nn.Linear(8, 8), nn.Linear(8, 8)])
    model[1].weight = model[0].weight
    report = pack_linears(model, skip="0")
    assert report.skipped == {"0": "asked for", "1": "shares its weight with 0.weight"}


def test_hooks_stay() -> None:
    """Those set before run, and their handles take them away, before and after undo."""
    model, seen = nn.Sequential(nn.Linear(8, 8)), []
    handle = model[0].register_forward_hook(lambda *_: seen.append(1))
    report = pack_linears(model)
    x = torch.ones(1, 8)
    model(x)
    report.undo()
    model(x)
    assert len(seen) == 2
    pack_linears(model)
    handle.remove()
    model(x)
    assert len(seen) == 2


def test_a_layer_alone() -> None:
    layer = nn.Linear(8, 8)
    report = pack_linears(layer)
    assert report.swapped == ("",)
    assert type(layer) is Linear
    report.undo()
    assert type(layer) is nn.Linear


def test_compiled_without_a_break() -> None:
    model = Model().requires_grad_(False)
    pack_linears(model)
    with torch.no_grad():
        for backend in ("eager", "aot_eager"):
            torch._dynamo.reset()
            compiled = torch.compile(model, fullgraph=True, backend=backend)
            assert torch.equal(compiled(TOKENS), model(TOKENS))
        assert torch._dynamo.explain(model)(TOKENS).graph_break_count == 0


def test_training_goes_on() -> None:
    """Slowly, and exactly: gradients reach every parameter, tied and packed."""
    models = Model(), Model()
    pack_linears(models[0])
    for model in models:
        optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
        model(TOKENS).square().mean().backward()
        optimiser.step()
    assert same(models[0].state_dict(), models[1].state_dict())


@pytest.mark.parametrize("tied", [True, False])
def test_llama_generates_and_saves_the_same(tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=500,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(5)
    model = transformers.LlamaForCausalLM(config).eval()
    prompt = torch.randint(3, 500, (2, 9))

    def generated() -> Any:
        mask = torch.ones_like(prompt)
        return model.generate(prompt, attention_mask=mask, max_new_tokens=24, do_sample=False)

    plain = generated()
    model.save_pretrained(tmp_path / "plain")
    report = pack_linears(model)
    assert len(report.swapped) == 3 * 7 + 1
    assert torch.equal(generated(), plain)
    model.save_pretrained(tmp_path / "packed")
    files = [tmp_path / name / "model.safetensors" for name in ("plain", "packed")]
    assert files[0].read_bytes() == files[1].read_bytes()
    report.undo()
    assert torch.equal(generated(), plain)

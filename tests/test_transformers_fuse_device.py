# SPDX-License-Identifier: Apache-2.0
"""``fewstep.transformers.fuse`` on a device that the CPU plays: results, waits, memory, moves."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fewstep
from harness import Worker
from hf_models import LLAMAS, close, model_of, text

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from torch.utils._pytree import tree_leaves  # noqa: E402

import pretend_device  # noqa: E402
from fewstep import _torch_weight  # noqa: E402
from fewstep.transformers import PagedCache, PagedModel, fuse  # noqa: E402
from fewstep.transformers._forward import Graphs  # noqa: E402
from fewstep.transformers._whole import fused_layers  # noqa: E402
from pretend_device import DEVICE, Placed, crossings, waits  # noqa: E402
from recorded import Operations  # noqa: E402
from recorded_cycles import Recording, recording  # noqa: E402

NAMES = tuple(f"model.layers.{i}" for i in range(3))
PADDED = 7  # tokens of padding before the second sequence of a batch


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretend_device.pretended(monkeypatch):
        yield


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no layer have another forward pass than a fused one."""
    for name in LLAMAS:
        home = getattr(transformers.models, name.lower())
        kind = getattr(getattr(home, f"modeling_{name.lower()}"), f"{name}DecoderLayer")
        monkeypatch.setattr(kind, "forward", None)


def fused(name: str, there: bool, dtype: Any = torch.float32, **options: Any) -> Any:
    model = model_of(name, dtype, **options)
    report = fuse(pretend_device.placed(model) if there else model)
    assert (report.fused, report.skipped) == (NAMES, {})
    return model


def logits(model: Any, tokens: Any, **options: Any) -> Any:
    with torch.no_grad():
        found = model(tokens.to(model.device), **options).logits
    assert isinstance(found, Placed) == (model.device == DEVICE)
    return getattr(found, "host", found)


@pytest.mark.usefixtures("device", "alone")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", LLAMAS)
def test_logits_are_those_of_the_host(name: str, dtype: Any) -> None:
    """Bit for bit, as the ops are the same; of ids that are one row for a whole batch, too."""
    tokens, found = text(2, 40), []
    for there in (False, True):
        model = fused(name, there, dtype)
        ids = torch.arange(40, device=model.device)[None]
        cache = PagedCache(model, tokens=256, page_tokens=8)
        found.append([
            logits(model, tokens),
            logits(model, tokens, position_ids=ids, use_cache=False),
            logits(model, tokens, cache=cache),
            logits(model, tokens[:, :3], cache=cache),
        ])  # fmt: skip
    for host, there in zip(*found, strict=True):
        assert torch.equal(there, host)


@pytest.mark.usefixtures("device", "alone")
@pytest.mark.parametrize("form", ["dynamic", "static", "paged", "int8", "beams"])
@pytest.mark.parametrize("name", LLAMAS)
def test_texts_are_those_of_the_host(name: str, form: str) -> None:
    """Of left-padded batches."""
    found = []
    for there in (False, True):
        model = fused(name, there)
        options: dict[str, Any] = {"max_new_tokens": 14, "do_sample": False}
        options["num_beams"] = 3 if form == "beams" else 1
        if form == "static":
            options["cache_implementation"] = "static"
        elif form != "dynamic":
            dtype = "int8" if form == "int8" else None
            options["cache"] = PagedCache(model, tokens=512, page_tokens=8, dtype=dtype)
        tokens = text(2, 24).to(model.device)
        mask = torch.ones_like(tokens)
        mask[1, :PADDED] = 0
        found.append(model.generate(tokens, attention_mask=mask, **options))
    assert torch.equal(found[1].host, found[0])


@pytest.mark.usefixtures("device", "alone")
@pytest.mark.parametrize("name", LLAMAS)
def test_nothing_waits_for_the_device(name: str) -> None:
    """And nothing is sent there but where rows lie in pages."""
    model, tokens = fused(name, True), text(1, 9).to(DEVICE)
    ids = torch.arange(9, device=DEVICE)[None]
    own = transformers.DynamicCache(config=model.config)
    for cache, sent in ((PagedCache(model, tokens=256), 1), (own, 0)):
        model(tokens, position_ids=ids, cache=cache)
        with Operations() as operations:
            model(tokens, position_ids=ids + 9, cache=cache)
        assert crossings(operations.calls) == (sent, 0)
        assert not waits(operations.calls)


@pytest.mark.usefixtures("device")
def test_many_rows_are_the_layers_own(monkeypatch: pytest.MonkeyPatch) -> None:
    host, there = (fused("Llama", place) for place in (False, True))
    kind = type(there.model.layers[0])
    calls = []
    own = kind.forward
    monkeypatch.setattr(kind, "forward", lambda *a, **k: (calls.append(1), own(*a, **k))[1])
    for rows in (256, 257):
        tokens = text(1, rows)
        want = logits(host, tokens)
        assert calls == []
        got = logits(there, tokens)
        assert torch.allclose(got, want, atol=2e-4)
        assert len(calls) == (0 if rows == 256 else 3)
    calls.clear()
    assert torch.equal(logits(there, tokens[:, :9]), logits(host, tokens[:, :9]))
    assert calls == []


@pytest.mark.usefixtures("device", "alone")
@pytest.mark.parametrize("kind", [None, "int8", "int4"])
@pytest.mark.parametrize("name", ["Llama", "Qwen2"])
def test_a_fused_model_may_move(name: str, kind: str | None) -> None:
    """There and back, between passes of several lengths; what was on a place is made anew."""
    model, lengths = model_of(name), (9, 40, 3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = fuse(model, kind)
    wants = [logits(model, text(1, n)) for n in lengths]
    for place in (DEVICE, "cpu", DEVICE, "cpu"):
        model.to(place)
        for n, want in zip(lengths, wants, strict=True):
            assert torch.equal(logits(model, text(1, n)), want)
    paged = PagedModel(model, pages=8)
    assert paged._whole is not None
    assert paged._whole.ready()
    assert len(fused_layers(model) or ()) == 3
    model.to(DEVICE)
    assert fused_layers(model) is None
    assert not paged._whole.ready()
    model.to("cpu")
    report.undo()
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.usefixtures("device")
def test_tensors_of_another_place_are_refused() -> None:
    model = fused("Llama", True)
    with pytest.raises(RuntimeError, match="tensors on the device and on the CPU"):
        model(text(1, 9))
    hidden, ids = torch.zeros(1, 3, 64), torch.arange(3)[None]
    rope = torch.ones(1, 3, 16), torch.zeros(1, 3, 16)
    for place in (ids, ids.to(DEVICE)):
        with pytest.raises(RuntimeError, match="tensors on the device and on the CPU"):
            model.model.layers[0](hidden, position_ids=place, position_embeddings=rope)


@pytest.mark.usefixtures("device")
def test_a_build_without_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_torch_weight, "PLACES", ("cpu",))
    report = fuse(pretend_device.placed(model_of("Llama")))
    assert report.fused == ()
    assert report.skipped == dict.fromkeys(NAMES, "its linear layers are not packed")
    assert set(report.linears.skipped.values()) == {"its weight must be on cpu, got meta"}


@pytest.mark.usefixtures("device")
def test_passes_share_no_memory() -> None:
    """Even with the same ids, and of a model whose first layer is not fused."""
    model = pretend_device.placed(model_of("Llama"))
    model.model.layers[0].mlp.register_forward_hook(lambda *_: None)
    assert fuse(model).fused == NAMES[1:]
    scratch = model.model.layers[1].forward.scratch
    tokens, ids = text(1, 9).to(DEVICE), torch.arange(9, device=DEVICE)[None]
    kept = []
    for _ in range(2):
        model(tokens, position_ids=ids, use_cache=False)
        assert list(scratch._buffers) == [9]
        kept.append((scratch._buffers[9], scratch.cos, scratch.positions))
    assert all(one is not two for one, two in zip(*kept, strict=True))


PROMPTS = [[5, 9, 5, 9, 5], [7], [int(t) for t in np.random.default_rng(0).integers(3, 97, 21)]]
DRAFTERS: dict[str, Any] = {
    "none": lambda there: None,
    "recycling": lambda there: fewstep.drafters.TokenRecycling(),
    "tree": lambda there: fewstep.drafters.DraftModel(
        PagedModel(fused("Llama", there), layers=1, pages=64), "tree", depth=3, adapt=False
    ),
    "chain": lambda there: fewstep.drafters.DraftModel(
        PagedModel(fused("Llama", there), layers=1, pages=64), depth=3, adapt=False
    ),
}


def written(model: PagedModel, drafter: Any) -> list[list[int]]:
    generator = fewstep.Generator(model, drafter=drafter, adapt=False)
    each = [
        fewstep.Sampling(temperature=0, max_tokens=24),
        fewstep.Sampling(temperature=0.9, top_k=20, max_tokens=24, seed=3),
        fewstep.Sampling(temperature=1.0, top_p=0.9, max_tokens=24, seed=4),
    ]
    results = generator.generate(PROMPTS, each)
    assert [result.error for result in results] == [None] * len(PROMPTS)
    assert generator.stats.drafter_errors == 0
    return [result.tokens for result in results]


@pytest.mark.usefixtures("device", "alone")
@pytest.mark.parametrize("drafter", DRAFTERS)
@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_a_generators_texts_are_those_of_the_host(name: str, drafter: str) -> None:
    found = []
    for there in (False, True):
        model = PagedModel(fused(name, there), pages=64, page_tokens=8)
        assert model._whole is not None
        assert model._whole.ready() is not there
        found.append(written(model, DRAFTERS[drafter](there)))
    assert found[0] == found[1]


@pytest.mark.usefixtures("device", "alone")
def test_cycles_are_captured() -> None:
    found = []
    for there in (False, True):
        model = PagedModel(fused("Llama", there), pages=128, page_tokens=8)
        Recording.made = 0
        found.append(written(recording(model) if there else model, DRAFTERS["recycling"](there)))
        assert (Recording.made > 0) == there
    assert found[0] == found[1]


def storage(tensor: Any) -> int:
    """Return where the memory of a tensor is."""
    tensor = getattr(tensor, "octets", tensor)
    place: int = getattr(tensor, "host", tensor).untyped_storage().data_ptr()
    return place


def borrowed(calls: list[tuple[Any, ...]]) -> set[int]:
    """Return where the memory is that recorded calls use and did not make."""
    made, found = {0}, set()
    for _, args, options, out in calls:
        given = [one for one in tree_leaves((args, options)) if isinstance(one, torch.Tensor)]
        found |= {storage(one) for one in given} - made
        made |= {storage(one) for one in tree_leaves(out) if isinstance(one, torch.Tensor)}
    return found


@pytest.mark.usefixtures("device", "alone")
def test_a_captured_pass_has_memory_of_its_own() -> None:
    """What it reads are weights, pages and what it is given; a larger pass leaves it as it is."""
    model = PagedModel(fused("Llama", True), pages=64, page_tokens=8)
    graphs = Graphs(model._forward, Recording)

    def run(count: int, seed: int = 0) -> Any:
        sequence, _ = model.add()
        model.extend(sequence, count)
        tokens, ends = text(count, seed=seed).numpy(), np.array([0, count], np.int32)
        found = model.forward([sequence], tokens.astype(np.int32), ends).host.clone()
        model.free(sequence)
        return found

    want, other = run(5), run(5, seed=1)
    model._forward = graphs  # type: ignore[assignment]
    Recording.made = 0
    for _ in range(graphs.SEEN + 1):
        assert torch.equal(run(5), want)
    assert (Recording.made, graphs.refused) == (1, None)
    run(40)
    assert torch.equal(run(5, seed=1), other)
    assert torch.equal(run(5), want)
    assert Recording.made == 1
    (entry,) = graphs._entries.values()
    cache = model._cache.store
    known = [*model.model.parameters(), *model.model.buffers(), *cache.k.values()]
    known += [*cache.v.values(), cache.scratch, entry._there]
    assert borrowed(entry._recording.calls) <= {storage(one) for one in known}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", ["Llama", "Qwen3"])
def test_logits_of_the_cuda_kernels(name: str, dtype: str, workers: dict[str, Worker]) -> None:
    """The kernels' code as C++, in seven calls a layer and the head's."""
    model = model_of(name, getattr(torch, dtype))
    exact = copy.deepcopy(model).double()
    exact.set_attn_implementation("eager")
    want, plain = logits(exact, text(2, 40)), logits(model, text(2, 40))
    found = workers["cuda_on_host"].linear(verb="fused", name=name, dtype=dtype)
    assert found["isa"] == "cuda_on_host"
    assert np.array_equal(found["there"], found["here"])
    assert close(torch.from_numpy(found["there"]).to(plain.dtype), plain, want)
    calls = ["linear_run", "kv_append", "kv_append", "tree_attention", *["linear_run"] * 3]
    assert found["calls"] == [*calls * len(NAMES), "linear_run"]

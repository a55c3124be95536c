# SPDX-License-Identifier: Apache-2.0
"""``fewstep.torch.Linear`` and `pack_linears` on a device that the CPU plays."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fewstep
from harness import Worker
from hf_models import VOCABULARY as V
from hf_models import model_of

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import fewstep.torch  # noqa: E402
import pretend_device  # noqa: E402
from fewstep import _core, _torch_weight  # noqa: E402
from fewstep._torch_weight import PackedWeight, address  # noqa: E402
from fewstep.transformers import PagedModel  # noqa: E402
from pretend_device import DEVICE, Placed, waits  # noqa: E402
from recorded import Operations  # noqa: E402

KINDS = [None, "int8", "int4"]


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pretend_device.pretended(monkeypatch):
        yield


def layer(dtype: Any = torch.float32, kind: str | None = None) -> Any:
    torch.manual_seed(1)
    return fewstep.torch.Linear.from_linear(nn.Linear(70, 40, dtype=dtype), kind)


def numbers(*shape: int, dtype: Any = torch.float32) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_bits_are_those_of_the_cuda_kernels(
    dtype: str, kind: str | None, workers: dict[str, Worker]
) -> None:
    """The code of the CUDA kernels, through the layer on a device and called alone."""
    for rows in (1, 5, 256):
        found = workers["cuda_on_host"].linear(verb="layer", dtype=dtype, kind=kind, rows=rows)
        assert np.array_equal(found["layer"], found["run"])
        assert found["calls"] == ["linear_run"]


@pytest.mark.parametrize("kind", KINDS)
def test_many_rows_are_torchs(
    kind: str | None, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the weight that it stands for, in the layer's type."""
    plain = layer(torch.bfloat16, kind)
    wanted = functional.linear(
        numbers(257, 70, dtype=torch.bfloat16), plain.weight.plain(), plain.bias
    )
    monkeypatch.setattr(_core, "linear_run", None)
    got = plain.to(DEVICE)(numbers(257, 70, dtype=torch.bfloat16).to(DEVICE))
    assert isinstance(got, Placed)
    assert torch.equal(got.host, wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_the_packed_bytes_move(
    kind: str | None, device: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There and back, with nothing unpacked on the way; the call's results go along."""
    ours, x = layer(kind=kind), numbers(2, 3, 70)
    octets, before, wanted = ours.weight.octets.clone(), ours.weight, ours(x)
    with monkeypatch.context() as patch:
        patch.setattr(_torch_weight, "unpack", None)
        patch.setattr(_torch_weight, "pack", None)
        ours.to(DEVICE)
    assert ours.weight is before
    assert ours.kind == (kind or "float32")
    assert ours.weight.device == DEVICE
    assert isinstance(ours.weight.octets, Placed)
    assert torch.equal(ours.weight.octets.host, octets)
    got = ours(x.to(DEVICE))
    assert isinstance(got, Placed)
    assert torch.equal(got.host, wanted)
    ours.to("cpu")
    assert torch.equal(ours.weight.octets, octets)
    assert torch.equal(ours(x), wanted)


@pytest.mark.filterwarnings("ignore:for .*copying from a non-meta parameter:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_state_dict_and_conversions(kind: str | None, device: None) -> None:
    ours, there = layer(kind=kind), layer(kind=kind).to(DEVICE)
    state = there.state_dict()
    assert type(state["weight"]) is Placed
    assert torch.equal(state["weight"].host, ours.state_dict()["weight"])
    other = fewstep.torch.Linear(70, 40)
    there.load_state_dict(other.state_dict())  # from the CPU
    ours.load_state_dict(other.state_dict())
    assert isinstance(there.weight.octets, Placed)
    assert torch.equal(there.weight.octets.host, ours.weight.octets)
    there.to(torch.bfloat16)
    ours.to(torch.bfloat16)
    assert there.kind == ours.kind == (kind or "bfloat16")
    assert torch.equal(there.weight.octets.host, ours.weight.octets)
    there.double()
    assert there.kind is None
    assert there.weight.device == DEVICE


def test_a_layer_built_there_is_packed_there(device: None) -> None:
    ours = fewstep.torch.Linear(70, 40, device=DEVICE)
    assert ours.kind == "float32"
    assert isinstance(ours.weight.octets, Placed)


def test_an_input_must_be_where_the_weight_is(device: None) -> None:
    message = r"^fewstep\.torch\.Linear: 'input' must be on meta, got cpu$"
    with pytest.raises(ValueError, match=message):
        layer().to(DEVICE)(numbers(2, 70))
    with pytest.raises(ValueError, match="'input' must be on cpu, got meta"):
        layer()(numbers(2, 70).to(DEVICE))


class Tied(nn.Module):
    """An embedding that shares its weight with the head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding, self.head = nn.Embedding(200, 64), nn.Linear(64, 200, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Any) -> Any:
        return self.head(self.embedding(tokens))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("packed_first", [True, False])
def test_a_model_is_packed_and_restored(packed_first: bool, kind: str | None, device: None) -> None:
    """Before it moves and after; tied weights stay tied."""
    tokens = torch.randint(0, 200, (2, 70), generator=torch.Generator().manual_seed(4))
    plain, model = Tied(), Tied()
    if packed_first:
        report = fewstep.torch.pack_linears(model, kind)
        model.to(DEVICE)
    else:
        report = fewstep.torch.pack_linears(pretend_device.placed(model), kind)
    assert report.swapped == ("head",)
    assert model.head.weight is model.embedding.weight
    assert isinstance(model.head.weight, PackedWeight)
    got = model(tokens.to(DEVICE))
    fewstep.torch.pack_linears(plain, kind)
    assert torch.equal(got.host, plain(tokens))
    if packed_first and kind:  # the report has the original on the CPU, a Placed does not fit it
        model.to("cpu")
    report.undo()
    assert type(model.head) is nn.Linear
    restored: Any = model.head.weight
    assert restored is model.embedding.weight
    assert isinstance(restored, Placed) == (not (packed_first and kind))
    assert torch.equal(getattr(restored, "host", restored), Tied().head.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_rows_are_looked_up_without_waiting(kind: str | None, device: None) -> None:
    """More than are unpacked at a time, some of them twice."""
    torch.manual_seed(5)
    plain = nn.Linear(64, 200, dtype=torch.bfloat16)
    ours = fewstep.torch.Linear.from_linear(plain, kind)
    index = torch.randint(0, 200, (2, 70), generator=torch.Generator().manual_seed(4))
    wanted = ours.weight.rows(index)
    assert torch.equal(wanted, ours.weight.plain()[index])
    ours.to(DEVICE)
    with Operations() as operations:
        got = ours.weight.rows(index.to(DEVICE))
    assert not waits(operations.calls)
    assert torch.equal(got.host, wanted)


def test_a_generators_texts_are_those_of_the_host(device: None) -> None:
    """Of a model whose linear layers are packed."""

    def texts(there: bool) -> list[list[int]]:
        model = model_of("Llama")
        assert fewstep.torch.pack_linears(model).swapped
        paged = PagedModel(pretend_device.placed(model) if there else model, pages=64)
        drafter = fewstep.drafters.TokenRecycling()
        generator = fewstep.Generator(paged, drafter=drafter, adapt=False)
        prompts = [[5, 9, 5, 9, 5], [7], [int(t) % V for t in range(21)]]
        results = generator.generate(prompts, fewstep.Sampling(temperature=0, max_tokens=12))
        assert [result.error for result in results] == [None] * 3
        return [result.tokens for result in results]

    assert texts(True) == texts(False)


def test_a_captured_models_packed_weights_are_seen_where_they_lie() -> None:
    """Torch has no address of a packed weight."""
    ours = layer()
    before = address(ours.weight)
    assert before == ours.weight.octets.data_ptr()
    with torch.no_grad():
        ours.weight.mul_(2)
    assert address(ours.weight) == before
    ours.weight.data = numbers(40, 70)
    assert address(ours.weight) != before
    assert address(ours.bias) == ours.bias.data_ptr()

# SPDX-License-Identifier: Apache-2.0
"""On a GPU: linear layers of torch on packed weights."""

from __future__ import annotations

from typing import Any

import pytest

import fewstep
from gpu import NEEDS_GPU

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import fewstep.torch  # noqa: E402

pytestmark = NEEDS_GPU

DEVICE = "cuda"
KINDS = [None, "int8", "int4"]


class Tied(nn.Module):
    """An embedding that shares its weight with the head."""

    def __init__(self, dtype: Any) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.embedding = nn.Embedding(200, 64, dtype=dtype)
        self.middle = nn.Linear(64, 64, dtype=dtype)
        self.head = nn.Linear(64, 200, bias=False, dtype=dtype)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Any) -> Any:
        return self.head(self.middle(self.embedding(tokens)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.no_grad()
def test_a_model_moves_runs_and_is_restored(dtype: Any, kind: str | None) -> None:
    """Its logits are those of the CPU but for the order of sums, for few rows and for many."""
    tokens = torch.randint(0, 200, (3, 100), generator=torch.Generator().manual_seed(4))
    host, model = Tied(dtype), Tied(dtype)
    fewstep.torch.pack_linears(host, kind)
    report = fewstep.torch.pack_linears(model, kind)
    model.to(DEVICE)
    assert model.head.weight is model.embedding.weight
    assert model.middle.weight.octets.is_cuda
    assert torch.equal(model.middle.weight.octets.cpu(), host.middle.weight.octets)
    for some in (tokens[:1, :5], tokens):
        found, wanted = model(some.to(DEVICE)).cpu(), host(some)
        tolerance = 2e-5 if dtype == torch.float32 else 2e-2
        assert (found - wanted).abs().max() <= tolerance * wanted.abs().max()
    state = model.state_dict()
    assert all(type(values) is torch.Tensor and values.is_cuda for values in state.values())
    assert torch.equal(state["head.weight"].cpu(), host.state_dict()["head.weight"])
    report.undo()
    assert type(model.head) is nn.Linear
    assert model.head.weight.is_cuda
    assert torch.equal(model.head.weight.cpu(), Tied(dtype).head.weight)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_packed_model_is_captured(kind: str | None) -> None:
    model = Tied(torch.bfloat16).to(DEVICE)
    fewstep.torch.pack_linears(model, kind)
    tokens = torch.randint(0, 200, (1, 9), device=DEVICE)
    wanted = model((tokens + 7) % 200)
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        model(tokens)
    torch.cuda.current_stream().wait_stream(stream)
    with torch.cuda.graph(graph):
        out = model(tokens)
    tokens.copy_((tokens + 7) % 200)
    graph.replay()
    assert torch.equal(out, wanted)

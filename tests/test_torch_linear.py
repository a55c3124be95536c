# SPDX-License-Identifier: Apache-2.0
"""``fewstep.torch.Linear``: torch.nn.Linear on a packed weight, whatever torch does with it."""

from __future__ import annotations

import copy
import io
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

import fewstep.torch  # noqa: E402
from fewstep import linear  # noqa: E402
from fewstep._torch_weight import PackedWeight  # noqa: E402

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
KINDS = [None, "int8", "int4"]


def layer(dtype: Any = torch.float32, bias: bool = True) -> Any:
    torch.manual_seed(1)
    return nn.Linear(70, 40, bias=bias, dtype=dtype)


def numbers(*shape: int, dtype: Any = torch.float32, seed: int = 2) -> Any:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def precise(ours: Any, plain: Any, exact: Any) -> None:
    """The rule: at most twice the error of the plain computation in the same type, and an ulp."""
    wanted = exact.double()
    ulp = torch.finfo(ours.dtype).eps * wanted.abs().max()
    assert ours.dtype == plain.dtype
    assert (ours - wanted).abs().max() <= 2 * (plain - wanted).abs().max() + ulp


@pytest.mark.parametrize(
    "shape", [(70,), (1, 70), (5, 70), (2, 3, 70), (0, 70), (600, 70)], ids=str
)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_calls_are_those_of_torch(dtype: Any, bias: bool, shape: tuple[int, ...]) -> None:
    plain = layer(dtype, bias)
    ours = fewstep.torch.Linear.from_linear(plain)
    x = numbers(*shape, dtype=dtype)
    with torch.no_grad():
        got, theirs = ours(x), plain(x)
    assert got.shape == theirs.shape
    if x.numel():
        plain.double()
        precise(got, theirs, plain(x.double()).detach())


def test_rows_have_the_same_bits_in_any_company() -> None:
    """Also beyond the rows of a block, and from rows that are not contiguous."""
    ours, x = fewstep.torch.Linear(70, 40), numbers(70, 300)
    with torch.inference_mode():
        every = ours(x.T)
        assert all(torch.equal(every[i], ours(x[:, i])) for i in (0, 255, 256, 299))


LAYOUTS: dict[str, Any] = {
    "folded": lambda: numbers(3, 4, 70),
    "every other": lambda: numbers(3, 8, 70)[:, ::2],
    "rows apart": lambda: numbers(5, 90)[:, :70],
    "rows apart in a batch": lambda: numbers(1, 5, 90)[..., :70],
    "transposed": lambda: numbers(4, 3, 70).transpose(0, 1),
    "columns apart": lambda: numbers(5, 140)[:, ::2],
    "one row for all": lambda: numbers(1, 70).expand(4, 70),
    "many dimensions": lambda: numbers(*[1] * 9, 2, 70),
    "a block and a row": lambda: numbers(257, 70),
    "none": lambda: numbers(2, 0, 70),
    "followed": lambda: numbers(2, 70).requires_grad_(),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_without_gradients_any_layout_gives_the_same(
    layout: str, bias: bool, kind: str | None
) -> None:
    """Few rows are handed over as they lie, for which the layer's checks are left to the op."""
    ours = fewstep.torch.Linear.from_linear(layer(bias=bias), kind)
    x = LAYOUTS[layout]()
    with torch.no_grad():
        got = ours(x)
    wanted = linear.run(x.detach().reshape(-1, 70).clone(), ours.weight.packed,
                        bias=None if ours.bias is None else ours.bias.detach())  # fmt: skip
    assert got.shape == (*x.shape[:-1], 40)
    assert not got.requires_grad
    assert torch.equal(got.reshape(-1, 40), wanted)


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_calls_stay_within_their_steps(kind: str) -> None:
    """As far from the unquantised layer as half a step of each weight allows."""
    plain = layer()
    ours = fewstep.torch.Linear.from_linear(plain, kind)
    x = numbers(6, 70)
    with torch.no_grad():
        got, wanted = ours(x), plain(x)
        size = plain.weight.abs()
        # int4: the largest of a group is -8 steps, so another of its size may miss a whole one.
        step = size.amax(1, keepdim=True) / (127 if kind == "int8" else 8)
        assert ours.weight.packed.nbytes < (0.6 if kind == "int8" else 0.4) * 40 * 70 * 4
        off = (ours.weight - plain.weight).abs()
        assert (off <= (0.51 if kind == "int8" else 1.02) * step).all()
        assert (got - wanted).abs().le(x.abs() @ off.T * 1.01 + 1e-3).all()
        assert torch.allclose(got, functional.linear(x, ours.weight.plain(), plain.bias), atol=1e-3)


def test_constructor_draws_what_torch_draws() -> None:
    torch.manual_seed(1)
    ours = fewstep.torch.Linear(70, 40)
    plain = layer()
    assert ours.kind == "float32"
    assert torch.equal(ours.weight, plain.weight)
    assert torch.equal(ours.bias, plain.bias)
    assert [(n, p.shape, p.dtype, p.requires_grad) for n, p in ours.named_parameters()] == [
        (n, p.shape, p.dtype, p.requires_grad) for n, p in plain.named_parameters()
    ]
    assert isinstance(ours.weight, nn.Parameter)
    assert fewstep.torch.Linear(70, 40, dtype=torch.float64).kind is None
    assert fewstep.torch.Linear(70, 40, device="meta").kind is None
    assert fewstep.torch.Linear(70, 40, bias=False).bias is None


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_state_dict_is_that_of_torch(dtype: Any) -> None:
    plain = layer(dtype)
    ours = fewstep.torch.Linear.from_linear(plain)
    state = ours.state_dict()
    assert list(state) == list(plain.state_dict())
    assert type(state["weight"]) is torch.Tensor
    assert torch.equal(state["weight"], plain.weight)
    stream = io.BytesIO()
    torch.save(state, stream)
    stream.seek(0)
    other = fewstep.torch.Linear(70, 40, dtype=dtype)
    octets = other.weight.octets.data_ptr()
    other.load_state_dict(torch.load(stream))
    assert other.weight.octets.data_ptr() == octets  # packed again where it was
    assert torch.equal(other.weight, plain.weight)
    other.load_state_dict({k: -v for k, v in state.items()}, assign=True)
    assert other.kind == str(dtype).removeprefix("torch.")
    assert torch.equal(other.weight, -plain.weight)
    assert other.state_dict(keep_vars=True)["weight"] is other.weight


@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_quantised_state_dict_is_what_the_weight_stands_for(kind: str) -> None:
    plain = layer(torch.bfloat16)
    ours = fewstep.torch.Linear.from_linear(plain, kind)
    state = ours.state_dict()
    stands_for = linear.unpack(linear.pack(plain.weight.detach(), kind=kind))
    assert torch.equal(state["weight"], stands_for.bfloat16())
    ours.load_state_dict(plain.state_dict())
    assert ours.kind == kind
    assert torch.equal(ours.weight, state["weight"])
    ours.load_state_dict(plain.state_dict(), assign=True)
    assert ours.kind == kind


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_gradients_are_those_of_the_weight_it_stands_for(dtype: Any, kind: str | None) -> None:
    ours = fewstep.torch.Linear.from_linear(layer(dtype), kind)
    plain = layer(dtype)
    plain.weight.data = ours.weight.plain()
    plain.weight.requires_grad_(kind is None)
    a, b = (numbers(5, 70, dtype=dtype).requires_grad_() for _ in range(2))
    ys = [ours(a), plain(b)]
    assert torch.equal(*ys)
    for y in ys:
        y.square().sum().backward()
    assert torch.equal(a.grad, b.grad)
    assert ours.weight.requires_grad is (kind is None)
    if kind is None:
        assert torch.equal(ours.weight.grad, plain.weight.grad)


def test_an_optimiser_trains_it() -> None:
    ours = copy.deepcopy(fewstep.torch.Linear.from_linear(layer()))
    plain = layer()
    pairs = [(m, torch.optim.AdamW(m.parameters(), lr=0.1)) for m in (ours, plain)]
    for _ in range(3):
        for module, optimiser in pairs:
            optimiser.zero_grad()
            module(numbers(5, 70)).square().sum().backward()
            optimiser.step()
    assert ours.kind == "float32"
    assert torch.equal(ours.weight, plain.weight)


def test_writing_the_whole_weight_packs_it_again() -> None:
    ours = fewstep.torch.Linear(70, 40)
    nn.init.constant_(ours.weight, 0.5)
    assert (ours.state_dict()["weight"] == 0.5).all()
    with torch.no_grad():
        ours.weight.mul_(2)
        torch.add(ours.weight, 1, out=ours.weight)
    assert (ours.weight == 2).all()
    ours.weight.data = numbers(40, 70)
    assert ours.kind == "float32"
    assert torch.equal(ours.weight, numbers(40, 70))
    ours.weight.data = ours.weight.data.clone()
    assert torch.equal(ours.weight, numbers(40, 70))
    assert "PackedWeight(float32, shape=(40, 70)" in repr(ours.weight)


@pytest.mark.parametrize("kind", KINDS)
def test_copies_own_their_memory(kind: str | None) -> None:
    ours = fewstep.torch.Linear.from_linear(layer(), kind)
    stream = io.BytesIO()
    torch.save(ours, stream)
    stream.seek(0)
    for other in (copy.deepcopy(ours), torch.load(stream, weights_only=False)):
        assert isinstance(other.weight, PackedWeight)
        assert isinstance(other.weight, nn.Parameter)
        assert other.weight.requires_grad == ours.weight.requires_grad
        assert torch.equal(other.weight, ours.weight)
        with torch.no_grad():
            other.weight.zero_()
        assert ours.weight.any()


@pytest.mark.parametrize("kind", KINDS)
def test_conversions(kind: str | None) -> None:
    """To another type and back; tied weights stay tied, those that cannot be packed are plain."""
    ours = fewstep.torch.Linear.from_linear(layer(), kind)
    model = nn.ModuleDict({"a": ours, "b": fewstep.torch.Linear(70, 40)})
    model["b"].weight = ours.weight
    ours.weight.grad = torch.ones(40, 70) if kind is None else None
    model.to(torch.bfloat16)
    assert ours.kind == (kind or "bfloat16")
    assert model["b"].weight is ours.weight
    assert ours.weight.dtype == ours(numbers(1, 70, dtype=torch.bfloat16)).dtype == torch.bfloat16
    model.double()
    assert ours.kind is None
    assert model["b"].weight is ours.weight
    assert ours(numbers(1, 70, dtype=torch.float64)).dtype == torch.float64
    model.float()
    assert ours.kind == "float32"
    assert model["b"].weight is ours.weight
    if kind is None:
        assert torch.equal(ours.weight, layer().weight.bfloat16())
    model.to("meta")
    assert ours(torch.empty(3, 70, device="meta")).shape == (3, 40)


def test_a_parameter_of_the_users_stays_plain() -> None:
    """One that is assigned, by which layers are tied, is neither packed nor replaced."""
    ours, weight = fewstep.torch.Linear(70, 40), layer().weight
    ours.weight = weight
    ours.load_state_dict(ours.state_dict())
    ours.bfloat16().float()
    assert ours.weight is weight
    assert ours.kind is None
    with torch.no_grad():
        assert ours(numbers(2, 70)).shape == (2, 40)


def test_a_layer_built_elsewhere_is_packed_when_it_comes() -> None:
    ours = fewstep.torch.Linear(70, 40, device="meta").to_empty(device="cpu")
    ours.load_state_dict(layer().state_dict())
    assert ours.kind == "float32"
    assert torch.equal(ours.weight, layer().weight)


@pytest.mark.parametrize("name", ["weight", "bias"])
def test_parametrised(name: str) -> None:
    class Double(nn.Module):
        def forward(self, x: Any) -> Any:
            return 2 * x

    ours, plain, x = fewstep.torch.Linear.from_linear(layer()), layer(), numbers(2, 70)
    for module in (ours, plain):
        nn.utils.parametrize.register_parametrization(module, name, Double())
    with torch.no_grad():
        assert torch.allclose(ours(x), plain(x), atol=1e-5)


def test_autocast_is_torchs() -> None:
    plain, x = layer(), numbers(5, 70)
    ours = fewstep.torch.Linear.from_linear(plain)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(ours(x), plain(x))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled_without_a_break(backend: str, kind: str | None) -> None:
    torch._dynamo.reset()
    ours = fewstep.torch.Linear.from_linear(layer(), kind)
    model = nn.Sequential(nn.ReLU(), ours, nn.ReLU())
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = numbers(2, 3, 70)
    with torch.no_grad():
        assert torch.equal(compiled(x), model(x))
        assert "fewstep.linear" in str(torch._dynamo.explain(model)(x).ops_per_graph)
    a, b = (x.clone().requires_grad_() for _ in range(2))
    model(a).sum().backward()
    compiled(b).sum().backward()
    assert torch.equal(a.grad, b.grad)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning")
def test_traced() -> None:
    """The old tracer records the op as well, not the numbers of one call."""
    ours, x = fewstep.torch.Linear(70, 40).requires_grad_(False), numbers(2, 70)
    traced = torch.jit.trace(ours, torch.zeros(2, 70))
    assert torch.equal(traced(x), ours(x))


def test_ops_follow_torchs_rules() -> None:
    packed = linear.pack(numbers(40, 70))
    octets = packed.data
    given = (numbers(3, 70), octets, numbers(40), 40, "float32", 32)
    torch.library.opcheck(torch.ops.fewstep.linear.default, given)
    given = (octets, [40, 70], "float32", 32)
    torch.library.opcheck(torch.ops.fewstep.linear_unpack.default, given)

# SPDX-License-Identifier: Apache-2.0
"""Packed weights: round trips, quantisation by its definition, sizes, kinds of arrays."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import fewstep
from cases.linear import DTYPES, KINDS, QUANTISED, SHAPES, arrays, rounded
from harness import Worker
from reference import linear as reference

linear = fewstep.linear


@pytest.mark.parametrize("shape", SHAPES[1:], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_unpack_gives_what_was_packed(
    worker: Worker, kind: str, shape: tuple[int, int, int]
) -> None:
    index = SHAPES.index(shape)
    stored, group = DTYPES[(index + KINDS.index(kind)) % 3], (32, 64)[index % 2]
    a = arrays(shape, "float32", stored)
    got = worker.linear(
        x=a["x"][:1], weight=a["weight"], kind=kind, stored=stored, group=group,
        offset=index % 3, gap=index % 2,
    )  # fmt: skip
    if kind in QUANTISED:
        wanted = reference.unpack(*reference.pack(a["weight"], kind, group))
    else:
        wanted = rounded(a["weight"], kind)
    assert np.array_equal(got["weight"], wanted)


@pytest.mark.parametrize(("kind", "most"), [("int8", 0.5), ("int4", 1.016)])
def test_quantisation_error(kind: str, most: float) -> None:
    """At most half a step; a whole one where int4 clips at 7."""
    weight = arrays((1, 640, 70), "float32", "float32")["weight"]
    _, scale = reference.pack(weight, kind)
    error = np.abs(linear.unpack(linear.pack(weight, kind=kind)) - weight) / np.abs(scale)
    assert error.max() <= most
    assert np.sqrt((error**2).mean()) < 0.33  # a uniform error has 0.29


@pytest.mark.parametrize("kind", QUANTISED)
def test_quantised_weights_unpack_to_halves(kind: str) -> None:
    """Rounded once, to the nearest even, at every place of a run of 16."""
    torch = pytest.importorskip("torch")
    for inputs in (1, 15, 16, 33):
        weight = np.random.default_rng(inputs).normal(size=(37, inputs)).astype(np.float32)
        packed = linear.pack(torch.from_numpy(weight), kind=kind)
        plain = linear.unpack(packed)
        for dtype in (torch.bfloat16, torch.float16):
            out = torch.empty(37, inputs, dtype=dtype)
            assert linear.unpack(packed, out=out) is out
            assert torch.equal(out, plain.to(dtype))


def test_every_bit_survives() -> None:
    """All 65536 halves, NaN's payloads and subnormal numbers too."""
    torch = pytest.importorskip("torch")
    for dtype in (torch.bfloat16, torch.float16):
        weight = torch.arange(65536).to(torch.uint16).view(dtype).reshape(128, 512)
        back = linear.unpack(linear.pack(weight))
        assert torch.equal(back.view(torch.uint16), weight.view(torch.uint16))


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_that_of_the_source(kind: str) -> None:
    weight = np.zeros((4096, 1024), np.float32)
    packed = linear.pack(weight, kind=kind)
    each = {"float32": 4.0, "float16": 2.0, "bfloat16": 2.0, "int8": 1.0, "int4": 0.5}[kind]
    scales = {"int8": 4 * 4096, "int4": 2 * 4096 * 32}.get(kind, 0)
    assert packed.nbytes == each * weight.size + scales
    assert packed.data.ctypes.data % 64 == 0
    assert packed.shape == (4096, 1024)


def test_kinds_of_arrays() -> None:
    torch = pytest.importorskip("torch")
    weight = torch.arange(12.0).reshape(3, 4).bfloat16()
    packed = linear.pack(weight)
    assert packed.kind == "bfloat16"
    assert isinstance(packed.data, torch.Tensor)
    assert torch.equal(linear.unpack(packed), weight)
    y = linear.run(torch.ones(2, 4), packed)
    assert y.dtype == torch.float32
    assert y.tolist() == [[6.0, 22.0, 38.0]] * 2
    out = torch.empty(2, 3)
    workspace = torch.empty(64, dtype=torch.int64)
    assert linear.run(torch.ones(2, 4), packed, out=out, workspace=workspace) is out
    assert torch.equal(out, y)
    assert isinstance(linear.run(np.ones((1, 4), np.float32), packed), np.ndarray)
    assert linear.run(torch.ones(0, 4), packed).shape == (0, 3)
    wide = torch.ones(2, 9)[:, 2:6]
    assert torch.equal(linear.run(wide, packed), y)
    assert linear.pack(weight.float().numpy()).kind == "float32"


def test_scratch_of_any_size() -> None:
    """A thread's own, which grows with what is asked for, and a call's where it is large."""
    generator = np.random.default_rng(5)
    for rows, inputs in ((1, 8), (256, 4200), (3, 64), (200, 2000), (2, 9)):  # 4.3 and 1.6 MB
        packed = linear.pack(generator.standard_normal((3, inputs), np.float32))
        x = generator.standard_normal((rows, inputs), np.float32)
        workspace = np.empty(8 + rows * inputs // 2 + 8, np.int64)
        assert np.array_equal(linear.run(x, packed), linear.run(x, packed, workspace=workspace))


def test_packed_is_frozen() -> None:
    packed = linear.pack(np.zeros((2, 2), np.float32))
    with pytest.raises(dataclasses.FrozenInstanceError):
        packed.kind = "int8"  # type: ignore[misc]


@pytest.mark.large
def test_offsets_beyond_32_bits() -> None:
    """A packed weight of more than 2^32 bytes; the source is one expanded row."""
    outputs, inputs = 70_000, 16_400
    row = np.arange(inputs, dtype=np.float32) % 7
    packed = linear.pack(np.broadcast_to(row, (outputs, inputs)))
    assert packed.nbytes > 2**32
    x = np.zeros((1, inputs), np.float32)
    x[0, 5::7] = 1.0
    y = linear.run(x, packed)
    assert (y == 5.0 * len(range(5, inputs, 7))).all()

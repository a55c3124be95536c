# SPDX-License-Identifier: Apache-2.0
"""``linear.pack``, ``linear.unpack`` and ``linear.run`` against float64, on every ISA."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from cases.linear import DTYPES, KINDS, QUANTISED, ROWS, SHAPES, arrays, rounded
from harness import Worker
from reference import linear as reference

ULP = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
LEVELS = 32639  # of a quantised activation
STORED = {"int8": "bfloat16", "int4": "float16"}  # what quantised weights are given in


def blocks(x: np.ndarray) -> list[np.ndarray]:
    """Return the blocks of inputs that are summed and quantised apart."""
    return [x[:, i : i + 512] for i in range(0, x.shape[1], 512)]


def bound(x: np.ndarray, weight: np.ndarray, kind: str) -> np.ndarray:
    """What the sums may be off by: roundings of chains of 512, and of the activations."""
    terms = min(x.shape[1], 512) + len(blocks(x)) + 2
    size = terms * 2.0**-24 * (np.abs(x) @ np.abs(weight).T)
    if kind in QUANTISED:
        for part, w in zip(blocks(x), blocks(weight), strict=True):
            step = np.abs(part).max(1, keepdims=True, initial=0) / LEVELS
            size = size + 0.51 * step * np.abs(w).sum(1)
    return size


def plain(x: np.ndarray, weight: np.ndarray, dtype: str) -> np.ndarray:
    """Return the same product as torch computes it in the type."""
    import torch

    kind = getattr(torch, dtype)
    y = torch.nn.functional.linear(torch.from_numpy(x).to(kind), torch.from_numpy(weight).to(kind))
    return y.double().numpy()


def weights_of(kind: str) -> str:
    return STORED.get(kind, kind)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_run_matches_float64(dot_worker: Worker, kind: str, shape: tuple[int, int, int]) -> None:
    """Every size, alignment and type; nothing else is written."""
    index = SHAPES.index(shape)
    dtype = DTYPES[(index + KINDS.index(kind)) % 3]
    a = arrays(shape, dtype, weights_of(kind))
    got = dot_worker.linear(
        x=a["x"],
        weight=a["weight"],
        kind=kind,
        dtype=dtype,
        stored=weights_of(kind),
        group=(32, 64)[index % 2],
        offset=index % 3,
        gap=index % 4,
    )
    wanted = reference.run(a["x"], got["weight"])
    limit = bound(a["x"], got["weight"], kind) + ULP[dtype] * np.abs(wanted)
    assert got["out"].shape == wanted.shape
    assert (np.abs(got["out"] - wanted) <= limit).all()


@pytest.mark.parametrize("kind", ["float32", "float16", "bfloat16"])
def test_run_is_as_precise_as_torch(dot_worker: Worker, kind: str) -> None:
    """The rule: at most twice the error of the plain computation in the same type."""
    a = arrays((9, 1100, 70), kind, kind)
    got = dot_worker.linear(x=a["x"], weight=a["weight"], kind=kind, dtype=kind, stored=kind)
    wanted = reference.run(a["x"], a["weight"])
    error = np.abs(got["out"] - wanted).max()
    rival = np.abs(plain(a["x"], a["weight"], kind) - wanted).max()
    assert error <= 2 * rival + 2 * ULP[kind] * np.abs(wanted).max()


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_has_the_same_bits_alone(dot_worker: Worker, kind: str) -> None:
    """Verification equals decoding: any number of rows, whatever the tiles and blocks."""
    stored = weights_of(kind)
    a = arrays((256, 600, 37), "bfloat16", stored)
    parts = (*((0, rows) for rows in ROWS), *((m, m + 1) for m in range(0, 256, 17)))
    options = {"kind": kind, "dtype": "bfloat16", "stored": stored, "weight": a["weight"]}
    # Sums as they are: rounded to bfloat16 they would hardly ever differ.
    got = dot_worker.linear(x=a["x"], parts=parts, out_dtype="float32", **options)
    for (begin, end), piece in zip(parts, got["parts"], strict=True):
        assert np.array_equal(piece, got["bits"][begin:end]), (begin, end)


@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_threads(dot_worker: Worker, kind: str) -> None:
    a = arrays((30, 600, 600), "float32", weights_of(kind))
    options = {"x": a["x"], "weight": a["weight"], "kind": kind, "stored": weights_of(kind)}
    one, *others = (dot_worker.linear(threads=t, norm=a["norm"], **options) for t in (1, 2, 3))
    for other in others:
        assert np.array_equal(one["bits"], other["bits"])
        assert np.array_equal(one["packed"], other["packed"])
        assert np.array_equal(one["weight_bits"], other["weight_bits"])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_bits_do_not_depend_on_the_isa(workers: dict[str, Worker], kind: str, dtype: str) -> None:
    """But those of 16-bit products on CUDA, where tensor cores add in an order of their own."""
    a = arrays((9, 1030, 75), dtype, weights_of(kind))
    options = {"kind": kind, "dtype": dtype, "stored": weights_of(kind)}
    isas = [*fewstep.info()["cpu"]["available"], "cuda_on_host"]
    results = [workers[isa].linear(**options, **a) for isa in isas]
    for isa, other in zip(isas, results, strict=True):
        assert np.array_equal(results[0]["packed"], other["packed"])
        if isa != "cuda_on_host" or dtype == "float32" or dtype != kind:
            assert np.array_equal(results[0]["bits"], other["bits"])


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("kind", ["float32", "int8", "int4"])
def test_exact_sums_are_the_cpus_on_cuda(
    workers: dict[str, Worker], cuda_worker: Worker, kind: str, rows: int
) -> None:
    """More blocks than warps, the last one short, both groups of int4, x in place and copied."""
    for inputs, group in ((5000, 32), (4648, 64), (72, 32)):
        a = arrays((rows, inputs, 40), "float32", weights_of(kind))
        given = {"x": a["x"], "weight": a["weight"], "stored": weights_of(kind), "group": group}
        for offset in (0, 1):
            options = {**given, "kind": kind, "offset": offset}
            expected = workers["scalar"].linear(**options)
            assert np.array_equal(expected["bits"], cuda_worker.linear(**options)["bits"])


def test_cuda_wants_packed_weights_at_16_bytes(cuda_worker: Worker) -> None:
    a = arrays((2, 40, 40), "float32", "float32")
    for past in (4, 8):
        with pytest.raises(
            ValueError,
            match=f"^fewstep_linear_run: 'packed' must begin at a multiple of 16 bytes on CUDA, "
            f"got {past} bytes past one$",
        ):
            cuda_worker.linear(x=a["x"], weight=a["weight"], kind="float32", past=past)


FUSIONS: list[tuple[str, ...]] = [
    ("bias",),
    ("up",),
    ("residual",),
    ("norm",),
    ("bias", "up", "residual", "norm"),
]


@pytest.mark.parametrize("fused", FUSIONS, ids="+".join)
@pytest.mark.parametrize("kind", KINDS)
def test_fused_neighbours(dot_worker: Worker, kind: str, fused: tuple[str, ...]) -> None:
    stored = weights_of(kind)
    for index, dtype in enumerate(DTYPES):
        a = arrays((7, 700, 45), dtype, stored)
        options: dict[str, Any] = {name: a[name] for name in fused}
        got = dot_worker.linear(
            x=a["x"], weight=a["weight"], kind=kind, dtype=dtype, stored=stored, **options,
            norm_eps=1e-3, offset=index, gap=index,
        )  # fmt: skip
        if kind in QUANTISED:
            options = options | {"up": unpacked(a["up"], kind)} if "up" in fused else options
        wanted = reference.run(a["x"], got["weight"], **options, norm_eps=1e-3)
        # Inputs of size 1 times weights of size 1 / sqrt(I): sums of size 1, gated ones less.
        sums = 2 * bound(np.abs(a["x"]) + 1, got["weight"], kind).max() * 4
        rounds = "norm" in fused and dtype == kind != "float32"  # to the type
        normed = 2.5 * ULP[kind] if rounds else 1e-6
        limit = sums + normed + ULP[dtype] * np.abs(wanted)
        assert (np.abs(got["out"] - wanted) <= limit).all()


def unpacked(weight: np.ndarray, kind: str, group: int = 32) -> np.ndarray:
    return reference.unpack(*reference.pack(weight, kind, group))


@pytest.mark.parametrize("dtype", DTYPES)
def test_residual_in_place(worker: Worker, dtype: str) -> None:
    a = arrays((5, 70, 45), dtype, "float32")
    options = {"x": a["x"], "weight": a["weight"], "kind": "float32", "residual": a["residual"]}
    apart = worker.linear(dtype=dtype, gap=3, **options)
    together = worker.linear(dtype=dtype, gap=3, in_place=True, **options)
    assert np.array_equal(apart["bits"], together["bits"])


@pytest.mark.parametrize("out", DTYPES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_types_may_differ(dot_worker: Worker, dtype: str, out: str) -> None:
    """Logits in float32 from a bfloat16 model, say: the sums, rounded once."""
    for kind in ("float32", "bfloat16"):
        a = arrays((3, 64, 40), dtype, kind)
        options = {"x": a["x"], "weight": a["weight"], "kind": kind, "dtype": dtype, "stored": kind}
        wide = dot_worker.linear(out_dtype="float32", **options)["out"]
        narrow = dot_worker.linear(out_dtype=out, **options)["out"]
        assert np.array_equal(rounded(wide, out), narrow)


def test_a_row_that_is_not_finite_leaves_others_alone(dot_worker: Worker) -> None:
    for kind in KINDS:
        stored = weights_of(kind)
        a = arrays((6, 600, 40), "bfloat16", stored)
        clean = dot_worker.linear(
            x=a["x"], weight=a["weight"], kind=kind, dtype="bfloat16", stored=stored
        )
        x = a["x"].copy()
        x[1, 3], x[4, 599] = np.nan, np.inf
        got = dot_worker.linear(x=x, weight=a["weight"], kind=kind, dtype="bfloat16", stored=stored)
        kept = [0, 2, 3, 5]
        assert np.array_equal(got["bits"][kept], clean["bits"][kept])
        assert not np.isfinite(got["out"][[1, 4]]).any()


@pytest.mark.parametrize("kind", QUANTISED)
def test_small_and_empty_rows_of_quantised_kinds(dot_worker: Worker, kind: str) -> None:
    a = arrays((4, 96, 33), "float32", "float32")
    x = a["x"] * np.array([[0.0], [1e-38], [1e30], [1.0]], np.float32)
    weight = a["weight"].copy()
    weight[5] = 0.0
    got = dot_worker.linear(x=x, weight=weight, kind=kind)
    assert (got["out"][0] == 0.0).all()
    assert (np.abs(got["out"][1]) < 1e-36).all()
    assert (got["out"][:, 5] == 0.0).all()
    wanted = reference.run(x, got["weight"])
    assert (np.abs(got["out"] - wanted)[2:] <= bound(x, got["weight"], kind)[2:]).all()


@pytest.mark.parametrize("lead", [(2, 3), (1, 1), (3, 1, 2), (0, 4), (1, 5)], ids=str)
def test_leading_dimensions_are_rows(lead: tuple[int, ...]) -> None:
    """Of x, residual and out, apart from each other too; what does not fold is refused."""
    random = np.random.default_rng(3)
    packed = fewstep.linear.pack(random.standard_normal((40, 24), dtype=np.float32))
    x, residual = (random.standard_normal((*lead, n), dtype=np.float32) for n in (24, 40))
    wanted = fewstep.linear.run(x.reshape(-1, 24), packed, residual=residual.reshape(-1, 40))
    got = fewstep.linear.run(x, packed, residual=residual)
    assert np.array_equal(got, wanted.reshape(*lead, 40))
    apart = np.zeros((*lead, 30), np.float32)[..., :24]  # rows apart
    apart[:] = x
    out = np.zeros((*lead, 50), np.float32)[..., :40]
    assert fewstep.linear.run(apart, packed, residual=residual, out=out) is out
    assert np.array_equal(out, got)
    assert not out.base[..., 40:].any()

# SPDX-License-Identifier: Apache-2.0
"""``kv.append`` and ``kv.commit``: every byte of the caches against a slot-by-slot reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases.kv import CACHE_DTYPES, CASES, DTYPES, Case
from harness import Worker
from reference import kv as reference

# Types of the rows and of the cache.
PAIRS = (
    *((t, t) for t in DTYPES),
    ("float32", "bfloat16"),
    ("bfloat16", "float16"),
    ("float16", "int8"),
    ("float32", "int8"),
    ("float16", "float8_e4m3fn"),
    ("float32", "float8_e4m3fn"),
)


def batch(case: Case) -> dict[str, np.ndarray]:
    """Return indptr and length."""
    return {
        "indptr": np.cumsum([0, *case.rows]).astype(np.int32),
        "length": np.array(case.lengths, np.int32),
    }


def place(case: Case) -> dict[str, Any]:
    return {"layout": case.layout, "offset": case.offset, "gap": case.gap}


def same(got: dict[str, np.ndarray], wanted: dict[str, np.ndarray]) -> None:
    """Compare caches bit by bit."""
    assert got.keys() == wanted.keys()
    for name, values in wanted.items():
        assert np.array_equal(got[name], values, equal_nan=values.dtype.kind == "f"), name


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
@pytest.mark.parametrize(("source", "target"), PAIRS)
def test_append_writes_the_rows_and_nothing_else(
    worker: Worker, case: Case, source: str, target: str
) -> None:
    rows, cache = case.new_rows(source), case.cache(target)
    table = case.table()
    got = worker.kv(
        verb="append", rows=rows, cache=cache, dtypes=(source, target), page_table=table,
        **batch(case), **place(case),
    )  # fmt: skip
    same(got, reference.append(rows, cache, (source, target), **batch(case), table=table))


def tables(pairs: int, positions: int = 64) -> tuple[np.ndarray, np.ndarray]:
    angle = np.arange(positions)[:, None] * 10000.0 ** (-np.arange(pairs) / max(pairs, 1))
    return np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)


@pytest.mark.parametrize("rope", ["neox", "gptj"])
@pytest.mark.parametrize("source", DTYPES)
@pytest.mark.parametrize("case", CASES[:9], ids=lambda c: c.name)
def test_append_rotates_keys(
    workers: dict[str, Worker], worker: Worker, case: Case, source: str, rope: str
) -> None:
    """Within twice the error of float32 NumPy, and the scalar kernel's bits."""
    cos, sin = tables(case.D // 2 if case.D != 80 else 12)
    rows, cache = case.new_rows(source), case.cache(source)
    rng = np.random.default_rng(3)
    positions = rng.integers(0, 64, sum(case.rows)).astype(np.int32) if case.D != 17 else None
    given = {"cos": cos, "sin": sin, "positions": positions, **batch(case)}
    call = {"verb": "append", "rows": rows, "cache": cache, "dtypes": (source, source)}
    call |= {"page_table": case.table(), "rope": rope, **given, **place(case)}
    got = worker.kv(**call)
    plain, exact = (
        reference.append(rows, cache, (source, source), table=case.table(), rope=rope, wide=w,
                         **given)
        for w in (np.float32, np.float64)
    )  # fmt: skip
    assert np.array_equal(got["v"], exact["v"])
    written = exact["k"] != cache["k"]
    assert np.array_equal(got["k"][~written], cache["k"][~written])
    k, p, e = (
        reference.values_of(x["k"][written], source).astype(np.float64) for x in (got, plain, exact)
    )
    digits = {"float32": 23, "float16": 10, "bfloat16": 7}[source]
    ulp = 2.0**-digits * np.abs(e).max(initial=0)
    assert np.abs(k - e).max(initial=0) <= 2 * np.abs(p - e).max(initial=0) + ulp
    same(got, workers["scalar"].kv(**call))


@pytest.mark.parametrize("target", reference.SCALED)
def test_append_quantises_rotated_keys(worker: Worker, target: str) -> None:
    """The scale is that of the row as it is stored."""
    case = Case((5, 2), (3, 9), G=2, D=32, T=4)
    cos, sin = tables(16)
    rows, cache = case.new_rows("bfloat16"), case.cache(target)
    got = worker.kv(
        verb="append", rows=rows, cache=cache, dtypes=("bfloat16", target), rope="neox", cos=cos,
        sin=sin, page_table=case.table(), **batch(case),
    )  # fmt: skip
    most = reference.SCALED[target]
    for n, (b, slot) in enumerate([*((0, 3 + i) for i in range(5)), (1, 9), (1, 10)]):
        at = reference.place_of(slot, b, 4, case.table())
        x = reference.turned(
            reference.values_of(rows["k"][n], "bfloat16"), cos[slot], sin[slot], "neox"
        )
        scale = got["k_scale"][at].astype(np.float64)
        assert np.abs(scale - np.abs(x).max(1) / most).max() <= 1e-6 * scale.max()
        number, step = got["k"][at].astype(np.float64), np.ones(x.shape)
        if target == "float8_e4m3fn":  # 3 bits of mantissa, or the smallest numbers' step
            number = reference.e4m3_values()[got["k"][at].view(np.uint8)]
            step = np.maximum(np.abs(number) / 8, 2.0**-9)
        error = np.abs(x - scale[:, None] * number)
        assert (error <= 0.501 * step * scale[:, None]).all()


@pytest.mark.parametrize("target", reference.SCALED)
def test_append_of_special_rows_to_bytes(worker: Worker, target: str) -> None:
    """Zeros, subnormals, NaN and infinities: no element is made up."""
    case = Case((7,), (0,), G=1, D=20, T=8)
    rows = {name: np.zeros((7, 1, 20), np.float32) for name in ("k", "v")}
    for n, value in enumerate((0.0, -1e-40, np.nan, np.inf, 3.4e38, 2.0**-99, -5.0)):
        rows["k"][n, 0, 3] = value
        rows["k"][n, 0, 4] = value / 2
    given = {name: values.view(np.uint32) for name, values in rows.items()}
    cache = case.cache(target)
    got = worker.kv(
        verb="append", rows=given, cache=cache, dtypes=("float32", target),
        page_table=case.table(), **batch(case),
    )  # fmt: skip
    same(got, reference.append(given, cache, ("float32", target), **batch(case),
                               table=case.table()))  # fmt: skip
    assert np.isnan(got["k_scale"]).sum() == 2
    page = got["k"][case.table()[0, 0]]
    assert not page[:4].any()
    largest = {"int8": [127, 127, -127], "float8_e4m3fn": [0x7E, 0x7E, 0x7E - 128]}
    assert page[4:7, 0, 3].tolist() == largest[target]


def test_append_rounds_to_the_nearest_e4m3(worker: Worker) -> None:
    """Every number, every midpoint and their neighbours, of both signs: torch's codes."""
    import torch

    numbers = reference.e4m3_values()[:127].astype(np.float32)
    codes = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    assert np.array_equal(codes.double().numpy(), reference.e4m3_values(), equal_nan=True)
    middle = (numbers[1:] + numbers[:-1]) / 2
    ends = [np.nextafter(middle, np.float32(to)) for to in (0, 500)]
    x = np.concatenate([numbers, middle, *ends])
    x = np.concatenate([x, -x])
    case = Case((1,), (0,), G=1, D=len(x), T=1)
    rows = {name: x.view(np.uint32).reshape(1, 1, -1) for name in ("k", "v")}
    got = worker.kv(
        verb="append", rows=rows, cache=case.cache("float8_e4m3fn"),
        dtypes=("float32", "float8_e4m3fn"), page_table=case.table(), **batch(case),
    )  # fmt: skip
    at = case.table()[0, 0]
    assert got["k_scale"][at] == got["v_scale"][at] == 1
    wanted = torch.from_numpy(x).to(torch.float8_e4m3fn).view(torch.int8).numpy()
    assert np.array_equal(got["k"][at, 0, 0], wanted)
    assert np.array_equal(got["v"][at, 0, 0], wanted)
    assert np.array_equal(reference.e4m3_codes(x), wanted)


def test_append_does_not_depend_on_the_threads(worker: Worker) -> None:
    case = Case((300, 0, 41), (0, 9, 100), G=4, D=64, T=16)
    rows, cache = case.new_rows("float32"), case.cache("bfloat16")
    given = {"rows": rows, "cache": cache, "dtypes": ("float32", "bfloat16"), **batch(case)}
    given["page_table"] = case.table()
    one, two, seven = (worker.kv(verb="append", threads=t, **given) for t in (1, 2, 7))
    same(two, one)
    same(seven, one)
    same(one, reference.append(rows, cache, given["dtypes"], **batch(case), table=case.table()))


# Ids along a path, by request; of these, accepted.
PATHS: tuple[tuple[tuple[int, ...], int], ...] = (
    ((0, 1, 2, 3, 4), 5),  # nothing moves
    ((0, 2, 5, 6, 8), 5),  # sources are targets of later rows
    ((3, 4, -1, -1, -1), 2),
    ((7, -1, -1, -1, -1), 0),
    ((1, 2, 3, 4, 5), 5),  # every row by one slot
)


@pytest.mark.parametrize("layout", ["tokens", "heads", "pages", "joined"])
@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize("T", [1, 3, 16, 0])
def test_commit_moves_the_rows_and_nothing_else(
    worker: Worker, layout: str, dtype: str, T: int
) -> None:
    """Ragged, overlapping, none accepted, across pages, in 3 layers; T = 0 is not paged."""
    bases = (0, 5, 14, 2, 9)
    case = Case((9,) * 5, bases, G=2, D=24, T=T or 32, paged=T > 0, layout=layout, gap=2)
    layers = [case.cache(dtype, seed) for seed in range(3)]
    arrays = {
        "path": np.array([p for p, _ in PATHS], np.int32),
        "accepted": np.array([n for _, n in PATHS], np.int32),
        "base": np.array(bases, np.int32),
    }
    got = worker.kv(
        verb="commit", layers=layers, dtype=dtype, page_table=case.table(), **arrays, **place(case)
    )
    for after, before in zip(got["layers"], layers, strict=True):
        same(after, reference.commit(before, **arrays, table=case.table()))
    assert np.array_equal(got["length"], arrays["base"] + arrays["accepted"])


@pytest.mark.parametrize(("threads", "layout"), [(1, "heads"), (2, "tokens"), (7, "heads")])
def test_commit_of_many_layers_with_a_root(worker: Worker, threads: int, layout: str) -> None:
    """A root that stays, rows of whole lines and more than are looked up at once, one tensor."""
    case = Case((300, 300), (5, 0), G=2, D=32, T=16, layout=layout)
    layers = [case.cache("bfloat16", seed) for seed in range(6)]
    rng = np.random.default_rng(2)
    path = np.stack([1 + np.sort(rng.permutation(299)[:150]) for _ in range(2)]).astype(np.int32)
    arrays = {
        "path": path,
        "accepted": np.array([150, 71], np.int32),
        "base": np.array([5, 0], np.int32),
    }
    got = worker.kv(
        verb="commit", layers=layers, dtype="bfloat16", page_table=case.table(),
        stacked=layout == "tokens", layout=layout, first=1, threads=threads, **arrays,
    )  # fmt: skip
    for after, before in zip(got["layers"], layers, strict=True):
        same(after, reference.commit(before, **arrays, table=case.table(), first=1))
    assert got["length"].tolist() == [156, 72]

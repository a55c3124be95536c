# SPDX-License-Identifier: Apache-2.0
"""``kv.export_tokens`` and ``kv.import_tokens``: messages byte by byte, round trips, damage."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases.kv import CACHE_DTYPES, LAYOUTS, Case
from conftest import CPU_ISAS
from fewstep import kv
from harness import Worker
from reference import kv as reference
from test_errors import refuses
from test_kv import same


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", CACHE_DTYPES)
@pytest.mark.parametrize(("T", "other"), [(1, 4), (5, 0), (0, 3)])
def test_round_trip_between_caches(
    worker: Worker, layout: str, dtype: str, T: int, other: int
) -> None:
    """The message is the reference's; it goes into a cache of another layout and page size."""
    made = [
        Case((8, 15), (0, 0), G=2, D=7, T=t or 15, paged=t > 0, layout=form, gap=2, offset=1)
        for t, form in ((T, layout), (other, LAYOUTS[(LAYOUTS.index(layout) + 1) % 4]))
    ]
    source, target = ([case.cache(dtype, 10 * i + n) for n in range(2)] for i, case in
                      enumerate(made))  # fmt: skip
    place = [{"layout": c.layout, "offset": c.offset, "gap": c.gap} for c in made]
    for given in place:
        given["message_offset"] = 0 if worker.isa in ("cuda", "cuda_on_host") else 1
    message = worker.kv(
        verb="transfer", layers=source, dtype=dtype, page_table=made[0].table(), row=1, begin=3,
        end=13, first_layer=4, **place[0],
    )  # fmt: skip
    wanted = reference.export_tokens(
        source, dtype, 3, 13, row=1, table=made[0].table(), first_layer=4
    )
    assert message.tobytes() == wanted
    tokens, got = worker.kv(
        verb="transfer", layers=target, dtype=dtype, page_table=made[1].table(), data=message,
        row=1, begin=5, first_layer=4, **place[1],
    )  # fmt: skip
    assert tokens == 10
    imported = reference.import_tokens(target, wanted, 5, row=1, table=made[1].table())
    for after, expected in zip(got, imported, strict=True):
        same(after, expected)


@pytest.mark.parametrize(
    ("layers", "tokens", "G", "D"), [(2, 40, 4, 64), (90, 3, 1, 5), (1, 0, 2, 3)]
)
def test_messages_of_any_size(worker: Worker, layers: int, tokens: int, G: int, D: int) -> None:
    """More chunks than a block sums up, more layers than a launch has, no tokens."""
    case = Case((tokens,), (0,), G=G, D=D, T=max(1, tokens), paged=False)
    source = [case.cache("float32", n) for n in range(layers)]
    given = {"verb": "transfer", "dtype": "float32"}
    message = worker.kv(layers=source, begin=0, end=tokens, **given)
    assert message.tobytes() == reference.export_tokens(source, "float32", 0, tokens)
    target = [case.cache("float32", 100 + n) for n in range(layers)]
    count, got = worker.kv(layers=target, data=message, begin=0, **given)
    assert count == tokens
    imported = reference.import_tokens(target, message.tobytes(), 0)
    for after, expected in zip(got, imported, strict=True):
        same(after, expected)


def test_messages_of_version_1_are_read(workers: dict[str, Worker]) -> None:
    case = Case((5,), (0,), G=2, D=300, T=5, paged=False)
    source, target = ([case.cache("float32", n)] for n in range(2))
    given = {"verb": "transfer", "dtype": "float32", "layers": target, "begin": 0}
    message = np.frombuffer(
        reference.export_tokens(source, "float32", 0, 5, version=1), "u1"
    ).copy()
    for isa in CPU_ISAS:
        tokens, got = workers[isa].kv(data=message, **given)
        assert tokens == 5
        same(got[0], source[0])
    with pytest.raises(ValueError, match="'data' must have a header with version 2, got 1"):
        workers["cuda_on_host"].kv(data=message, **given)
    damaged = message.copy()
    damaged[-1] ^= 1
    with pytest.raises(ValueError, match="'data' must have the checksum that its header tells"):
        workers["scalar"].kv(data=damaged, **given)


def test_messages_on_cuda_are_aligned(workers: dict[str, Worker]) -> None:
    case = Case((5,), (0,), G=2, D=3, T=5, paged=False)
    given = {"layers": [case.cache("float32", 1)], "dtype": "float32", "begin": 0}
    for name, more in (("out", {"end": 5}), ("data", {"data": np.zeros(64, np.uint8)})):
        text = f"'{name}' must begin at a multiple of 8 bytes on CUDA, got 3 bytes behind one"
        with pytest.raises(ValueError, match=text):
            workers["cuda_on_host"].kv(verb="transfer", message_offset=3, **given, **more)


def test_an_import_tells_that_it_was_one() -> None:
    status = np.full(2, 7)
    assert kv.import_tokens(MESSAGE, **caches(1), begin=0, status=status) == 3
    assert status[0] == 0


def caches(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {
        "k_cache": [rng.integers(-128, 128, (1, 6, 2, 3)).astype(np.int8) for _ in range(2)],
        "v_cache": [rng.integers(-128, 128, (1, 6, 2, 3)).astype(np.int8) for _ in range(2)],
        "k_scale": [rng.normal(size=(1, 6, 2)).astype(np.float32) for _ in range(2)],
        "v_scale": [rng.normal(size=(1, 6, 2)).astype(np.float32) for _ in range(2)],
    }


MESSAGE = kv.export_tokens(**caches(), begin=1, end=4)


def contents(given: dict[str, Any]) -> bytes:
    return b"".join(a.tobytes() for arrays in given.values() for a in arrays)


def test_a_damaged_message_is_refused_and_nothing_is_written() -> None:
    """Random changes, cuts and additions: an error, unless the message is the same."""
    rng = np.random.default_rng(11)
    given = caches(1)
    before = contents(given)
    for trial in range(4000):
        data = bytearray(MESSAGE.tobytes())
        kind = trial % 4
        if kind == 0:  # a bit
            data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        elif kind == 1:  # some bytes of the header
            for _ in range(int(rng.integers(1, 5))):
                data[rng.integers(64)] = int(rng.choice([0, 1, 2, 8, 127, 128, 255]))
        elif kind == 2:  # another length
            size = int(rng.integers(len(data) + 40))
            data = data[:size] + bytes(max(0, size - len(data)))
        else:  # bytes anywhere
            for _ in range(int(rng.integers(1, 20))):
                data[rng.integers(len(data))] = int(rng.integers(256))
        if bytes(data) == MESSAGE.tobytes():
            continue
        with pytest.raises(ValueError, match=r"^fewstep_kv_import_tokens: 'data' must have "):
            kv.import_tokens(np.frombuffer(bytes(data), np.uint8), **given, begin=2)
        assert contents(given) == before
    assert kv.import_tokens(MESSAGE, **given, begin=2) == 3
    assert contents(given) != before


FIELDS: list[tuple[int, bytes, str]] = [
    (0, b"X", "a header with magic 'FSTEPKV', got other bytes"),
    (8, b"\0", "a header with version 2, got 0"),
    (8, b"\3", "a header with version 2, got 3"),
    (12, b"\x48", "a header with header_bytes 64, got 72"),
    (16, b"\7", "a header with dtype of a cache, got code 7 with 8 bits"),
    (18, b"\2", "a header with lanes 1, got 2"),
    (20, b"\3", "a header with payload_bytes 252, got 168"),
    (24, b"\1", "a header with first_layer 0, got 1"),
    (36, b"\0", "a header with scales 1, got 0"),
    (40, b"\0" * 5 + b"\1", "a header with tokens that a cache can hold, got 1099511627776"),
    (48, b"\0", "a header with payload_bytes 168, got 0"),
    (56, b"\0\0", "the checksum that its header tells, got another"),
]


@pytest.mark.parametrize(("at", "value", "message"), FIELDS, ids=[f[2] for f in FIELDS])
def test_kv_import_tokens(at: int, value: bytes, message: str) -> None:
    data = bytearray(MESSAGE.tobytes())
    if at == 40:
        data[40:48] = bytes(8)
    data[at : at + len(value)] = value
    refuses(
        lambda: kv.import_tokens(np.frombuffer(bytes(data), np.uint8), **caches(), begin=0),
        ValueError,
        f"fewstep_kv_import_tokens: 'data' must have {message}",
    )


def one_layer() -> dict[str, Any]:
    return {name: arrays[:1] for name, arrays in caches().items()}


def floats() -> dict[str, Any]:
    return {name: np.zeros((2, 1, 6, 2, 3), np.float32) for name in ("k_cache", "v_cache")}


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (one_layer, {}, "'data' must have a header with layers 1, as the caches, got 2"),
        (floats, {}, "'data' must have a header with dtype code 2, as the caches, got 0"),
        (caches, {"first_layer": 3}, "'data' must have a header with first_layer 3, got 0"),
        (caches, {"first_layer": -3}, "'first_layer' must be 0 or more, got -3"),
        (caches, {"begin": 4}, "'begin' must leave request 0 within its cache of 6 slots, got 7"),
        (caches, {"begin": -1}, "'begin' must be 0 or more, got -1"),
        (caches, {"row": 1}, "'row' must lie in [0, B=1), got 1"),
        (
            caches,
            {"data": MESSAGE[:63]},
            "'data' must have the 64 bytes of a header or more, got 63",
        ),
        (
            caches,
            {"data": MESSAGE[:-1]},
            f"'data' must have the {MESSAGE.size} bytes that its header tells, got "
            f"{MESSAGE.size - 1}",
        ),
        (caches, {"data": MESSAGE[::2]}, "'data' must be contiguous, got a strided layout"),
        (caches, {"status": np.zeros(3, int)}, "'status' must have shape [2], got [3]"),
        (caches, {"status": np.zeros(2)}, "'status' must have dtype int64, got float64"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_kv_import_tokens_into(given: Any, options: dict[str, Any], message: str) -> None:
    call = {"data": MESSAGE, "begin": 0, **given(), **options}
    refuses(lambda: kv.import_tokens(**call), ValueError, f"fewstep_kv_import_tokens: {message}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"begin": 3, "end": 2}, "'end' must be begin=3 or more, got 2"),
        ({"end": 7}, "'begin' must leave request 0 within its cache of 6 slots, got 7"),
        ({"row": -1}, "'row' must lie in [0, B=1), got -1"),
        ({"first_layer": -1}, "'first_layer' must be 0 or more, got -1"),
        (
            {"page_table": np.array([[-1]], np.int32)},
            "'page_table' must have a page in [0, 1) for slot 1 of request 0, got -1",
        ),
        ({"out": np.zeros(5, np.uint8)}, f"'out' must have {MESSAGE.size} bytes, got 5"),
        ({"out": np.zeros(5, np.int8)}, "'out' must have dtype uint8, got int8"),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_kv_export_tokens(options: dict[str, Any], message: str) -> None:
    call = {"begin": 1, "end": 4, **caches(), **options}
    refuses(lambda: kv.export_tokens(**call), ValueError, f"fewstep_kv_export_tokens: {message}")


def test_kv_export_tokens_shape() -> None:
    refuses(
        lambda: kv.export_tokens(np.zeros(3), np.zeros(3), 0, 1),
        ValueError,
        "fewstep.kv.export_tokens: 'k_cache' must be arrays of shape [P, T, G, D] or one of "
        "[L, P, T, G, D], got [3]",
    )

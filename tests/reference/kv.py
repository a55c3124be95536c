# SPDX-License-Identifier: Apache-2.0
"""References of the KV cache's ops: slot by slot, on the bits of the elements."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
SCALED = {"int8": 127, "float8_e4m3fn": 448}  # types of caches with scales: the largest number
BITS = {
    "float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16,
    "int8": np.int8, "float8_e4m3fn": np.int8,
}  # fmt: skip


def bits_of(values: Array, dtype: str) -> Array:
    """Round float32 values to nearest even; return the bits."""
    values = np.asarray(values, np.float32)
    if dtype == "float32":
        return values.view(np.uint32)
    if dtype == "float16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    u = values.view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def values_of(bits: Array, dtype: str) -> Array:
    """Return the float32 values of bits."""
    if dtype == "float32":
        return bits.view(np.float32)
    if dtype == "float16":
        return bits.view(np.float16).astype(np.float32)
    return (bits.astype(np.uint32) << 16).view(np.float32)


def place_of(slot: int, b: int, T: int, table: Array | None) -> tuple[int, int]:
    """Return the page and the slot in it."""
    return (b, slot) if table is None else (int(table[b, slot // T]), slot % T)


def turned(row: Array, cos: Array, sin: Array, rope: str | None, wide: Any = np.float64) -> Array:
    """Rotate a row [G, D] by one position's tables (arXiv 2104.09864, eq. 34)."""
    x = row.astype(wide)
    if rope is None:
        return x
    half = len(cos)
    first = slice(0, half) if rope == "neox" else slice(0, 2 * half, 2)
    second = slice(half, 2 * half) if rope == "neox" else slice(1, 2 * half, 2)
    c, s = cos.astype(wide), sin.astype(wide)
    a, b = x[:, first].copy(), x[:, second].copy()
    x[:, first] = a * c - b * s
    x[:, second] = b * c + a * s
    return x


def e4m3_values() -> Array:
    """Return what the 256 codes of float8_e4m3fn are worth (OCP OFP8, sec. 5.2), in float64."""
    code = np.arange(256)
    exponent, mantissa = code >> 3 & 15, code & 7
    normal = (1 + mantissa / 8) * 2.0 ** (exponent - 7)
    values = np.where(exponent > 0, normal, mantissa / 8 * 2.0**-6)
    values[0x7F] = values[0xFF] = np.nan
    return np.where(code < 128, values, -values)


def e4m3_codes(x: Array) -> Array:
    """Return the codes of the numbers next to x, even ones where two are as near."""
    values = e4m3_values()[:127]
    distance = np.abs(np.abs(x.astype(np.float64))[..., None] - values)
    # Of equally near neighbours argmin takes the lower one.
    nearest = distance.argmin(-1)
    above = np.minimum(nearest + 1, 126)
    tie = np.take_along_axis(distance, above[..., None], -1)[..., 0] == distance.min(-1)
    nearest = np.where(tie & (nearest % 2 == 1), above, nearest)
    return (nearest + 128 * np.signbit(x)).astype(np.uint8).view(np.int8)


def quantised(row: Array, dtype: str) -> tuple[Array, Array]:
    """Return the bytes [G, D] and scales [G] of a float32 row."""
    scales = np.zeros(len(row), np.float32)
    numbers = np.zeros(row.shape, np.int8)
    most = np.float32(SCALED[dtype])
    for g, x in enumerate(row.astype(np.float32)):
        largest = np.abs(x).max(initial=0.0)
        if not np.isfinite(x).all():
            scales[g] = np.nan
        elif largest > 2.0**-100:
            scales[g] = largest / most
            inverse = most / largest
            if dtype == "int8":
                numbers[g] = np.rint(x.astype(np.float64) * np.float64(inverse))
            else:
                numbers[g] = e4m3_codes(x.astype(np.float32) * inverse)
    return numbers, scales


def append(
    rows: dict[str, Array],
    cache: dict[str, Array],
    dtypes: tuple[str, str],
    indptr: Array,
    length: Array,
    table: Array | None = None,
    rope: str | None = None,
    cos: Array | None = None,
    sin: Array | None = None,
    positions: Array | None = None,
    wide: Any = np.float32,
) -> dict[str, Array]:
    """Return the bits of a layer's cache [P, T, G, D] after the rows' bits [N, G, D] are in it."""
    out = {name: values.copy() for name, values in cache.items()}
    T = cache["k"].shape[1]
    for b in range(len(length)):
        for i in range(int(indptr[b + 1] - indptr[b])):
            n, slot = int(indptr[b]) + i, int(length[b]) + i
            at = place_of(slot, b, T, table)
            for name in ("k", "v"):
                if dtypes[0] == dtypes[1] and (rope is None or name == "v"):
                    out[name][at] = rows[name][n]
                    continue
                row = values_of(rows[name][n], dtypes[0])
                if name == "k" and cos is not None and sin is not None:
                    j = slot if positions is None else int(positions[n])
                    row = turned(row, cos[j], sin[j], rope, wide).astype(np.float32)
                if dtypes[1] in SCALED:
                    out[name][at], out[name + "_scale"][at] = quantised(row, dtypes[1])
                else:
                    out[name][at] = bits_of(row, dtypes[1])
    return out


def moved(cache: Array, targets: list[Any], sources: list[Any]) -> Array:
    """Return a cache after rows went from sources to targets, all read before any is written."""
    out = cache.copy()
    for target, source in zip(targets, sources, strict=True):
        out[target] = cache[source]
    return out


def commit(
    cache: dict[str, Array],
    path: Array,
    accepted: Array,
    base: Array,
    table: Array | None = None,
    first: int = 0,
) -> dict[str, Array]:
    """Return one layer's cache with the accepted rows in place."""
    T = cache["k"].shape[1]
    sources, targets = [], []
    for b in range(len(base)):
        for i in range(int(accepted[b])):
            targets.append(place_of(int(base[b]) + first + i, b, T, table))
            sources.append(place_of(int(base[b]) + int(path[b, i]), b, T, table))
    return {name: moved(values, targets, sources) for name, values in cache.items()}


def truncate(length: Array, kept: Array) -> Array:
    """Return the lengths."""
    return np.minimum(length, kept)


def gather(
    cache: dict[str, Array], index: Array, count: Array, table: Array | None = None
) -> dict[str, Array]:
    """Return one layer's cache with the listed slots in front."""
    return commit(cache, index, count, np.zeros(len(count), np.int32), table)


def copy_pages(cache: dict[str, Array], source: Array, target: Array) -> dict[str, Array]:
    """Return one layer's cache after pages were copied in order."""
    out = {name: values.copy() for name, values in cache.items()}
    for s, t in zip(source, target, strict=True):
        for values in out.values():
            if s >= 0:
                values[t] = values[s]
    return out


CODES = {
    "float32": (2, 32), "float16": (2, 16), "bfloat16": (4, 16),
    "int8": (0, 8), "float8_e4m3fn": (10, 8),
}  # fmt: skip
WORD = 2**64


def checksum(message: bytes) -> int:
    """Return the checksum of a message, by the description in csrc/kv/message.h."""
    prime = 0x9E3779B97F4A7C15

    def rotated(x: int, bits: int) -> int:
        return (x << bits | x >> (64 - bits)) % WORD

    def mixed(seed: int, data: bytes) -> int:
        lanes = [(seed + j * prime) % WORD for j in range(4)]
        padded = data + bytes(-len(data) % 32)
        words = struct.unpack(f"<{len(padded) // 8}Q", padded)
        for i, word in enumerate(words):
            lanes[i % 4] = rotated(lanes[i % 4] ^ word, 29) * prime % WORD
        total = len(data)
        for lane in lanes:
            total = rotated(total ^ lane, 31) * prime % WORD
        return total

    own, payload = mixed(0, message[:56]), message[64:]
    if message[8] == 1:
        return mixed(own, payload)
    chunks = range(0, len(payload), 1024)
    return (own + sum(mixed(i, payload[i : i + 1024]) for i in chunks)) % WORD


def export_tokens(
    layers: list[dict[str, Array]],
    dtype: str,
    begin: int,
    end: int,
    row: int = 0,
    table: Array | None = None,
    first_layer: int = 0,
    version: int = 2,
) -> bytes:
    """Return the message of a request's slots."""
    _, T, G, D = layers[0]["k"].shape
    places = [place_of(slot, row, T, table) for slot in range(begin, end)]
    names = ("k", "v", "k_scale", "v_scale") if dtype in SCALED else ("k", "v")
    payload = b"".join(
        layer[name][place].tobytes() for layer in layers for name in names for place in places
    )
    head = struct.pack(
        "<8sIIBBHIIIIIQQ", b"FSTEPKV", version, 64, *CODES[dtype], 1, len(layers), first_layer, G,
        D, int(dtype in SCALED), end - begin, len(payload),
    )  # fmt: skip
    return head + struct.pack("<Q", checksum(head + bytes(8) + payload)) + payload


def import_tokens(
    layers: list[dict[str, Array]],
    data: bytes,
    begin: int,
    row: int = 0,
    table: Array | None = None,
) -> list[dict[str, Array]]:
    """Return the caches with a message's tokens in them."""
    tokens = struct.unpack_from("<Q", data, 40)[0]
    T, at, out = layers[0]["k"].shape[1], 64, []
    for layer in layers:
        made = {name: values.copy() for name, values in layer.items()}
        for values in made.values():
            for slot in range(begin, begin + tokens):
                cell = values[place_of(slot, row, T, table)]
                cell[...] = np.frombuffer(data, cell.dtype, cell.size, at).reshape(cell.shape)
                at += cell.nbytes
        out.append(made)
    return out

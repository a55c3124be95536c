# SPDX-License-Identifier: Apache-2.0
"""Every error of the decoder family: type and whole message."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fewstep import decoder, linear
from test_errors import refuses, text, zeros

E, INNER, VOCABULARY = 32, 48, 7
CREATE, RUN = "fewstep_decoder_create", "fewstep_decoder_run"
CHAIN = "fewstep_decoder_chain"


def packed(outputs: int, inputs: int, kind: str = "float32") -> linear.Packed:
    return linear.pack(np.ones((outputs, inputs), np.float32), kind=kind)


def layer(**changes: Any) -> decoder.Layer:
    """Return one of 2 heads of 16 to one of keys, with 3 pages of 4 tokens."""
    given = decoder.Layer(
        q=packed(32, E), k=packed(16, E), v=packed(16, E), o=packed(E, 32), gate=packed(INNER, E),
        up=packed(INNER, E), down=packed(E, INNER), norm=zeros(E), mlp_norm=zeros(E),
        k_cache=zeros(3, 4, 1, 16), v_cache=zeros(3, 4, 1, 16),
    )  # fmt: skip
    return replace(given, **changes)


def make(*layers: decoder.Layer, heads: int = 2, **options: Any) -> decoder.Decoder:
    given = {"head": packed(VOCABULARY, E), "norm": zeros(E), "embedding": packed(5, E)} | options
    return decoder.Decoder(layers or [layer()], heads, **given)


def int8(scale: bool = True) -> dict[str, Any]:
    caches = {f"{n}_cache": zeros(3, 4, 1, 16, dtype=np.int8) for n in "kv"}
    return caches | ({f"{n}_scale": zeros(3, 4, 1) for n in "kv"} if scale else {})


def ints(*values: int) -> Any:
    return np.array(values, np.int32)


SHARED = zeros(3, 4, 1, 16)
LAYERS: list[tuple[dict[str, Any], str]] = [
    ({"q": packed(31, E), "norm": zeros(31)},
     "'q[0]' must have the 3968 bytes of O=32, I=31, got 4096"),
    ({"k": packed(33, E)}, "'k[0]' must have the 4096 bytes of O=16, I=32, got 8192"),
    ({"k": None}, "'k[0]' must be given, got NULL"),
    ({"up": packed(70, E)}, "'up[0]' must have the 8192 bytes of O=48, I=32, got 12288"),
    ({"norm": zeros(E, dtype=np.float64)},
     "'norm[0]' must have dtype float32 or float16 or bfloat16, got float64"),
    ({"norm": zeros(0)}, "'norm[0]' must have 1 element or more, got 0"),
    ({"mlp_norm": zeros(31)}, "'mlp_norm[0]' must have shape [Z=32], got [31]"),
    ({"q_norm": zeros(8)}, "'q_norm[0]' must have shape [Z=16], got [8]"),
    ({"o_bias": zeros(8)}, "'o[0]' must have shape [Z=32], got [8]"),
    ({"eps": -1.0}, "'norm[0]' must have an eps that is finite and 0 or more, got -1"),
    ({"window": -1}, "'window[0]' must be 0 or more, got -1"),
    ({"k_cache": zeros(3, 4, 1, 16, dtype=np.float16)},
     "'k_cache[0]' must have dtype float32 or int8 or float8_e4m3fn, got float16"),
    ({"v_cache": zeros(3, 4, 2, 16)},
     "'v_cache[0]' must have shape [P=3, T=4, G=1, D=16], got [3, 4, 2, 16]"),
    ({"k_cache": zeros(3, 0, 1, 16), "v_cache": zeros(3, 0, 1, 16)},
     "'k_cache[0]' must have pages of 1 token or more, got 0"),
    ({"k_cache": zeros(3, 4, 1, 24), "v_cache": zeros(3, 4, 1, 24)},
     "'k_cache[0]' must have a head dim that is a multiple of 16 from 16 to 256, got 24"),
    ({"k_cache": zeros(3, 4, 3, 16), "v_cache": zeros(3, 4, 3, 16)},
     "'heads' must be 1 to 16 times the cache's heads, of which there are 3, got 2"),
    ({"k_cache": SHARED, "v_cache": SHARED},
     "'v_cache[0]' must not overlap 'k_cache[0]', got shared memory"),
    (int8(False), "'k_scale[0]' must be given, got NULL"),
    ({"k_scale": zeros(3, 4, 1)},
     "'k_scale[0]' must be left out but for int8 and float8_e4m3fn caches, got one"),
]  # fmt: skip
DECODERS: list[tuple[dict[str, Any], str]] = [
    ({"scale": -1.0}, "'scale' must be finite and 0 or more, got -1"),
    ({"norm": None}, "'norm' must be given, got NULL"),
    ({"head": packed(70, 31)}, "'head' must have the 12288 bytes of O=70, I=32, got 11904"),
    ({"embedding": zeros(5, 31)}, "'embedding' must have shape [V=5, E=32], got [5, 31]"),
    ({"embedding": packed(5, E, "float16")},
     "'embedding' must unpack to float32, the type of layers[0].norm, got float16"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), LAYERS, ids=text)
def test_layers(changes: dict[str, Any], message: str) -> None:
    refuses(lambda: make(layer(**changes)), ValueError, f"{CREATE}: {message}")


@pytest.mark.parametrize(("changes", "message"), DECODERS, ids=text)
def test_decoders(changes: dict[str, Any], message: str) -> None:
    refuses(lambda: make(**changes), ValueError, f"{CREATE}: {message}")


def test_layers_are_equal() -> None:
    other = layer(**int8())
    message = f"{CREATE}: 'k_cache[1]' must have dtype float32, got int8"
    refuses(lambda: make(layer(), other), ValueError, message)
    message = "fewstep.decoder.Decoder: 'layers' must hold 1 or more, got 0"
    refuses(lambda: decoder.Decoder([], 2), ValueError, message)
    message = "fewstep.decoder.Decoder: 'o' must be a fewstep.linear.Packed, got ndarray"
    refuses(lambda: make(layer(o=zeros(E, 32))), TypeError, message)


TREE = {"bits": np.ones((3, 1), np.uint32)}
CALLS: list[tuple[dict[str, Any], str]] = [
    ({"x": zeros(3, 31)}, "'x' must have shape [N=3, E=32], got [3, 31]"),
    ({"x": zeros(3, E, dtype=np.float16)}, "'x' must have dtype float32, got float16"),
    ({"tokens": np.zeros(3, np.int32)}, "'tokens' must have dtype int64, got int32"),
    ({"tokens": np.array([0, 5, 0])}, "'tokens[1]' must lie in [0, 5), got 5"),
    ({"indptr": ints(0, 2)}, "'indptr' must have shape [B+1=3], got [2]"),
    ({"indptr": ints(0, 2, 2)}, "'indptr[2]' must be N=3, got 2"),
    ({"length": ints(0, -1)}, "'length[1]' must be 0 or more, got -1"),
    ({"length": ints(0, 4)}, "'x' must leave request 1 within its cache of 4 slots, got 5"),
    ({"page_table": None},
     "'page_table' must be given for caches of other than B=2 pages, got none with P=3"),
    ({"page_table": ints(1, 3)[:, None]},
     "'page_table' must have a page in [0, 3) for slot 0 of request 1, got 3"),
    ({"cos": zeros(9, 9), "sin": zeros(9, 9)}, "'cos' must have at most D/2=8 columns, got 9"),
    ({"sin": zeros(9, 7)}, "'sin' must have shape [S=9, R=8], got [9, 7]"),
    ({"cos": zeros(2, 8), "sin": zeros(2, 8)},
     "'cos' must give each row a position in [0, S=2), got 2"),
    ({"depth": ints(0, 1, 0)}, "'depth' must be left out without bits, got one"),
    ({"block": ints(2, 1)}, "'block' must be left out without bits, got one"),
    (TREE | {"depth": ints(0, 9, 0)},
     "'depth[1]' must give each row a position in [0, S=9), got 10"),
    (TREE | {"block": ints(1, 1)},
     "'block[0]' must lie in [2, 3], from the request's rows to its tokens, got 1"),
    (TREE | {"bits": np.ones((3, 0), np.uint32)},
     "'bits' must have a bit for each of request 0's 2 tokens, got 0 words"),
    ({"rows": np.array([0, 3])}, "'rows[1]' must lie in [0, 3), got 3"),
    ({"logits": zeros(3, 6)}, "'logits' must have shape [M=3, V=7], got [3, 6]"),
    ({"workspace": np.zeros(2, np.int64)}, "'workspace' must have 424 elements or more, got 2"),
    ({"workspace": np.zeros(2000, np.int64)[::2]},
     "'workspace' must be contiguous, got a strided layout"),
]  # fmt: skip


def call(**changes: Any) -> dict[str, Any]:
    return {
        "decoder": make(), "x": zeros(3, E), "indptr": ints(0, 2, 3), "length": ints(1, 3),
        "cos": zeros(9, 8), "sin": zeros(9, 8), "page_table": ints(1, 0)[:, None],
    } | changes  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), CALLS, ids=text)
def test_decoder_run(changes: dict[str, Any], message: str) -> None:
    given = call(**changes)
    before = given["x"].copy()
    refuses(lambda: decoder.run(**given), ValueError, f"{RUN}: {message}")
    assert np.array_equal(given["x"], before)


def test_what_a_decoder_lacks() -> None:
    given = call(decoder=make(head=None, norm=None, embedding=None))
    assert decoder.run(**given) is given["x"]
    message = f"{RUN}: 'tokens' must be left out for a decoder without embedding, got some"
    refuses(lambda: decoder.run(**given, tokens=np.zeros(3, np.int64)), ValueError, message)
    message = f"{RUN}: 'logits' must be left out for a decoder without head, got one"
    refuses(lambda: decoder.run(**given, logits=zeros(3, 7)), ValueError, message)
    message = f"{RUN}: 'rows' must be left out without logits, got one"
    refuses(lambda: decoder.run(**given, rows=np.zeros(1, np.int64)), ValueError, message)
    x = zeros(3, E)
    message = f"{RUN}: 'x' must not overlap 'logits', got shared memory"
    given = call(x=x, logits=x.reshape(-1)[:21].reshape(3, 7))
    refuses(lambda: decoder.run(**given), ValueError, message)


CHAINS: list[tuple[dict[str, Any], str]] = [
    ({"tokens": np.zeros(3, np.int32)}, "'tokens' must have dtype int64, got int32"),
    ({"tokens": np.array([0, 9, 0])}, "'tokens[1]' must lie in [0, 9), got 9"),
    ({"indptr": ints(0, 2)}, "'indptr' must have shape [B+1=3], got [2]"),
    ({"indptr": ints(0, 2, 2)}, "'indptr[2]' must be N=3, got 2"),
    ({"indptr": ints(0, 0, 3)}, "'indptr[1]' must give each request a row, got 0"),
    ({"length": ints(0, -1)}, "'length[1]' must be 0 or more, got -1"),
    ({"page_table": ints(1, 3)[:, None]},
     "'page_table' must have a page in [0, 3) for slot 0 of request 1, got 3"),
    ({"levels": ints(1)}, "'levels' must have shape [B=2], got [1]"),
    ({"levels": ints(0, 2)}, "'levels[0]' must lie in [1, K=2], got 0"),
    ({"levels": ints(1, 3), "ids": zeros(2, 2, dtype=np.int32)},
     "'levels[1]' must lie in [1, K=2], got 3"),
    ({"length": ints(2, 1)}, "'levels' must leave request 0 within its cache of 4 slots, got 5"),
    ({"cos": zeros(3, 8), "sin": zeros(3, 8)},
     "'cos' must give each row a position in [0, S=3), got 3"),
    ({"cos": zeros(9, 9), "sin": zeros(9, 9)}, "'cos' must have at most D/2=8 columns, got 9"),
    ({"least": -0.5}, "'least' must be finite and 0 or more, got -0.5"),
    ({"least": float("nan")}, "'least' must be finite and 0 or more, got nan"),
    ({"d2t": np.zeros(6, np.int32)}, "'d2t' must have shape [V=7], got [6]"),
    ({"d2t": ints(0, 1, 2, 9, 4, 5, 6)}, "'d2t[3]' must lie in [0, 9), got 9"),
    ({"decoder": make(embedding=packed(5, E)), "tokens": np.zeros(3, np.int64)},
     "'d2t' must be given for V=7 of 5 tokens, got none"),
    ({"decoder": make(embedding=None)}, "'decoder' must have an embedding, got none"),
    ({"decoder": make(head=None, norm=None)}, "'decoder' must have a head, got none"),
    ({"ids": zeros(2, 2)}, "'ids' must have dtype int32, got float32"),
    ({"logp": zeros(2, 3)}, "'logp' must have shape [B=2, K=2], got [2, 3]"),
    ({"workspace": np.zeros(2, np.int64)}, "'workspace' must have 536 elements or more, got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("changes", "message"), CHAINS, ids=text)
def test_decoder_chain(changes: dict[str, Any], message: str) -> None:
    given = {
        "decoder": make(embedding=packed(9, E)), "tokens": np.array([1, 2, 3]),
        "indptr": ints(0, 2, 3), "length": ints(1, 2), "cos": zeros(9, 8), "sin": zeros(9, 8),
        "levels": ints(2, 1), "page_table": ints(1, 0)[:, None],
    } | changes  # fmt: skip
    refuses(lambda: decoder.chain(**given), ValueError, f"{CHAIN}: {message}")


def test_chains_do_not_overlap() -> None:
    memory = np.zeros(3, np.int32)
    message = f"{CHAIN}: 'ids' must not overlap 'logp', got shared memory"
    given: dict[str, Any] = {
        "decoder": make(embedding=packed(9, E)), "tokens": np.array([1]), "indptr": ints(0, 1),
        "length": ints(1), "cos": zeros(9, 8), "sin": zeros(9, 8), "levels": ints(2),
        "page_table": ints(1)[:, None], "ids": memory[:2][None],
        "logp": memory[1:3].view(np.float32)[None],
    }  # fmt: skip
    refuses(lambda: decoder.chain(**given), ValueError, message)

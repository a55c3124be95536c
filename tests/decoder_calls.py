# SPDX-License-Identifier: Apache-2.0
"""Calls of the decoder and of the ops that it is made of; run in a worker of `harness`."""

from __future__ import annotations

from typing import Any

import numpy as np

from cases.decoder import INNER, LAYERS, TOKENS, VOCABULARY, Case, E
from harness import Buffers, bits


class Model:
    """Random weights and caches of a case, for `fewstep.decoder` and as plain arrays."""

    def __init__(self, case: Case, more: int = 0) -> None:
        """Make caches with room for some tokens more than the rows."""
        import torch

        import fewstep

        self.case, self.torch, self.fewstep = case, torch, fewstep
        self.dtype = getattr(torch, case.dtype)
        self.rng = np.random.default_rng(11)
        capacity = more + max(n + m for n, m in zip(case.rows, case.lengths, strict=True))
        columns, B = -(-capacity // case.T), len(case.rows)
        self.T = capacity if case.has("flat") else case.T
        self.P = B if case.has("flat") else B * columns + 1
        pages = self.rng.permutation(self.P)[: B * columns].reshape(B, -1).astype(np.int32)
        self.table = None if case.has("flat") else pages
        self.plain: list[dict[str, Any]] = []  # weights as float32 arrays
        self.layers = [self.layer() for _ in range(LAYERS)]
        self.head, self.norm = self.packed(self.matrix(VOCABULARY, E)), self.vector(E)
        self.embedding = self.tensor(self.rng.normal(size=(TOKENS, E)))
        angle = np.arange(3000)[:, None] / 50 ** (np.arange(case.heads[2] // 2) / 8)
        self.ids = np.arange(int(case.indptr[-1]), dtype=np.int64) * 7 % TOKENS
        self.wanted = np.arange(len(self.ids) - 1, -1, -2)
        self.cos, self.sin = np.cos(angle).astype(np.float32), np.sin(angle).astype(np.float32)

    def tensor(self, values: Any, dtype: Any = None) -> Any:
        """Round to the model's dtype, or another."""
        return self.torch.from_numpy(np.asarray(values, np.float32)).to(dtype or self.dtype)

    def vector(self, count: int) -> Any:
        return self.tensor(1 + 0.2 * self.rng.normal(size=count))

    def matrix(self, outputs: int, inputs: int) -> Any:
        return self.tensor(self.rng.normal(size=(outputs, inputs)) / np.sqrt(inputs))

    def packed(self, weight: Any) -> Any:
        return self.fewstep.linear.pack(weight, kind=self.case.kind)

    def unpacked(self, packed: Any) -> np.ndarray:
        return self.fewstep.linear.unpack(packed).float().numpy()

    def caches(self, G: int, D: int) -> dict[str, Any]:
        shape = (self.P, self.T, G, D)
        if self.case.scaled:
            kind = getattr(self.torch, self.case.scaled)
            made = {n: self.rng.integers(-127, 128, shape) for n in "kv"}
            out = {f"{n}_cache": self.tensor(made[n], kind) for n in "kv"}
            for n in "kv":
                scale = self.rng.uniform(0.5, 1, shape[:3]) / 127
                out[f"{n}_scale"] = self.tensor(scale, self.torch.float32)
            return out
        return {f"{n}_cache": self.tensor(self.rng.normal(size=shape)) for n in "kv"}

    def layer(self) -> Any:
        H, G, D = self.case.heads
        sizes = {
            "q": (H * D, E), "k": (G * D, E), "v": (G * D, E), "o": (E, H * D),
            "gate": (INNER, E), "up": (INNER, E), "down": (E, INNER),
        }  # fmt: skip
        matrices = {name: self.matrix(*size) for name, size in sizes.items()}
        given: dict[str, Any] = {"norm": self.vector(E), "mlp_norm": self.vector(E)}
        if self.case.has("head_norms"):
            given |= {"q_norm": self.vector(D), "k_norm": self.vector(D)}
        biases = {n: self.vector(len(matrices[n])) for n in "qkvo" if self.case.has("biases")}
        weights = {name: self.packed(matrix) for name, matrix in matrices.items()}
        window = 5 if self.case.has("window") else 0
        self.plain.append(
            {name: self.unpacked(w) for name, w in weights.items()}
            | {name: vector.float().numpy() for name, vector in given.items()}
            | {f"{n}_bias": bias.float().numpy() for n, bias in biases.items()}
            | {"window": window}
        )
        if self.case.has("joined"):
            joined = self.torch.cat([matrices.pop(n) for n in "qkv"])
            weights = {n: w for n, w in weights.items() if n not in "qkv"} | {
                "q": self.packed(joined)
            }
            if biases:
                biases = {"q": self.torch.cat([biases[n] for n in "qkv"]), "o": biases["o"]}
        given |= weights | {f"{n}_bias": bias for n, bias in biases.items()} | self.caches(G, D)
        return self.fewstep.decoder.Layer(**given, eps=1e-5, window=window)

    def cached(self, after: bool = False) -> list[list[tuple[np.ndarray, np.ndarray]]]:
        """Return keys and values by layer and request; with those of the rows, once they ran."""
        counts = [n + after * m for n, m in zip(self.case.lengths, self.case.rows, strict=True)]
        return [[self.read(layer, b, n) for b, n in enumerate(counts)] for layer in self.layers]

    def read(self, layer: Any, b: int, length: int) -> tuple[np.ndarray, np.ndarray]:
        """Return a request's tokens in the cache."""
        found = []
        for name in "kv":
            cache = getattr(layer, f"{name}_cache").float()
            if self.case.scaled:
                cache = cache * getattr(layer, f"{name}_scale")[..., None]
            pages = [b] if self.table is None else self.table[b]
            found.append(cache[np.asarray(pages)].flatten(0, 1)[:length].numpy())
        return found[0], found[1]

    def options(self) -> dict[str, Any]:
        """Return what says where rows go and what they see."""
        length = np.array(self.case.lengths, np.int32)
        return {"indptr": self.case.indptr, "length": length, "page_table": self.table}

    def composed(self, x: Any) -> Any:
        """Run the layers op by op."""
        case, f = self.case, self.fewstep
        H, G, D = case.heads
        batch, rows = case.batch(), self.options()
        tree = {n: batch[n] for n in ("bits", "depth", "block") if n in batch}
        positions = self.positions(batch)
        turn = {"rope": "neox", "cos": self.cos, "sin": self.sin, "positions": positions}
        for layer in self.layers:
            read = {"norm": layer.norm, "norm_eps": layer.eps}
            named = [n for n in "qkv" if getattr(layer, n) is not None]
            parts = [
                f.linear.run(x, getattr(layer, n), bias=getattr(layer, f"{n}_bias"), **read)
                for n in named
            ]
            q, k, v = self.torch.cat(parts, 1).view(len(x), -1, D).split([H, G, G], 1)
            scales = {n: getattr(layer, n) for n in ("k_scale", "v_scale")}
            f.kv.append(k, v, layer.k_cache, layer.v_cache, **rows, **turn, **scales)
            turned = self.torch.empty(1, len(x), H, D, dtype=x.dtype)
            ends, none = np.array([0, len(x)], np.int32), np.zeros(1, np.int32)
            f.kv.append(q, q, turned, self.torch.empty_like(turned), ends, none, **turn)
            indptr, kv_len, table = self.requests()
            a = f.tree.attention(
                turned[0], layer.k_cache, layer.v_cache, kv_len, indptr, page_table=table,
                window=layer.window, deterministic=case.deterministic, **tree, **scales,
            )  # fmt: skip
            x = f.linear.run(a.reshape(len(x), -1), layer.o, bias=layer.o_bias, residual=x)
            read = {"norm": layer.mlp_norm, "norm_eps": layer.eps}
            x = f.linear.run(
                f.linear.run(x, layer.gate, up=layer.up, **read), layer.down, residual=x
            )
        return x

    def positions(self, batch: dict[str, np.ndarray]) -> np.ndarray:
        """Return where RoPE has the rows."""
        out = []
        for b, (count, length) in enumerate(zip(self.case.rows, self.case.lengths, strict=True)):
            first, block = self.case.indptr[b], batch.get("block")
            start = length if block is None else length + count - block[b]
            for i in range(count):
                out.append(start + batch["depth"][first + i] if "depth" in batch else length + i)
        return np.array(out, np.int32)

    def requests(self) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return what attends: chains of more than 256 rows are several requests."""
        ends, kv_len, owner = [0], [], []
        for b, (count, length) in enumerate(zip(self.case.rows, self.case.lengths, strict=True)):
            for first in range(0, count, 256):
                size = min(256, count - first)
                ends.append(ends[-1] + size)
                kv_len.append(length + first + size)
                owner.append(b)
        table = np.arange(len(self.case.rows), dtype=np.int32)[:, None]
        table = (table if self.table is None else self.table)[owner]
        return np.array(ends, np.int32), np.array(kv_len, np.int32), table


def stored(model: Model) -> list[np.ndarray]:
    """Return the bits of all caches."""
    names = ("k_cache", "v_cache", "k_scale", "v_scale")
    found = [getattr(layer, name) for layer in model.layers for name in names]
    return [bits(cache) for cache in found if cache is not None]


def decoder(
    *, case: Case, threads: int = 1, tokens: bool = False, scratch_x: bool = False,
    every: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Run a case by `fewstep.decoder.run` between guard bands.

    With `tokens`, the decoder looks them up. Returns x, its rows before, logits of every other row
    (of these every so many; 0: of none) and the caches, and for a reference the weights and what
    was cached.
    """
    import torch

    import fewstep

    torch.set_num_threads(1)
    fewstep.set_num_threads(threads)
    model = Model(case)
    start, cached = model.embedding[model.ids], model.cached()
    embedding = model.embedding if case.kind != "float32" else model.packed(model.embedding)
    made = fewstep.decoder.Decoder(
        model.layers, case.heads[0], head=model.head, norm=model.norm,
        embedding=embedding if tokens else None, deterministic=case.deterministic,
    )  # fmt: skip
    buffers = Buffers()
    x = buffers.place("x", np.zeros(start.shape, np.float32), case.dtype, gap=8)
    if not tokens:
        x.copy_(start)
    rows = model.wanted[::every] if every else model.wanted[:0]
    logits = buffers.place("logits", np.zeros((len(rows), VOCABULARY)), case.dtype)
    columns = 1 if model.table is None else model.table.shape[1]
    sizes = len(model.ids), len(case.rows), len(rows), columns
    scratch = np.zeros(-(-made.core.workspace_bytes(*sizes) // 8), np.int64)
    fewstep.decoder.run(
        made, x, cos=model.cos, sin=model.sin, rows=rows, logits=logits, scratch_x=scratch_x,
        workspace=buffers.place("workspace", scratch, "int64", offset=1),
        tokens=model.ids if tokens else None, **model.options(), **case.batch(),
    )  # fmt: skip
    buffers.verify()
    bits_of = {"x": bits(x), "logits": bits(logits), "caches": stored(model)}
    values = {"values": x.float().numpy(), "start": start.float().numpy()}
    return bits_of | values | {"plain": model.plain, "cached": cached, "after": model.cached(True)}


def composed(*, case: Case) -> dict[str, Any]:
    """Run a case op by op; return the bits that `decoder` returns."""
    import torch

    import fewstep

    torch.set_num_threads(1)
    fewstep.set_num_threads(1)
    model = Model(case)
    x = model.composed(model.embedding[model.ids])
    norm = {"norm": model.norm, "norm_eps": 1e-5}
    logits = fewstep.linear.run(x[torch.from_numpy(model.wanted)], model.head, **norm)
    return {"x": bits(x), "logits": bits(logits), "caches": stored(model)}


class Chains:
    """A case's decoder with a token for each column, and what `fewstep.decoder.chain` takes."""

    def __init__(self, case: Case, levels: tuple[int, ...], mapped: bool) -> None:
        import fewstep

        self.model = model = Model(case, max(levels) - 1)
        embedding = model.tensor(model.rng.normal(size=(VOCABULARY, E)))
        self.plain = {
            "embedding": embedding.float().numpy(), "head": model.unpacked(model.head),
            "norm": model.norm.float().numpy(), "layers": model.plain, "caches": model.cached(),
            "cos": model.cos, "sin": model.sin,
        }  # fmt: skip
        self.decoder = fewstep.decoder.Decoder(
            model.layers, case.heads[0], head=model.head, norm=model.norm, embedding=embedding,
            deterministic=case.deterministic,
        )  # fmt: skip
        d2t = model.rng.permutation(VOCABULARY).astype(np.int32)
        self.d2t = self.plain["d2t"] = d2t if mapped else None
        self.levels = np.array(levels, np.int32)
        self.turn = {"cos": model.cos, "sin": model.sin}

    def result(self, ids: Any, logp: Any) -> dict[str, Any]:
        return {"ids": ids, "logp": logp, "caches": stored(self.model)}


def chain(
    *, case: Case, levels: tuple[int, ...], mapped: bool = True, least: float = 0.0,
    threads: int = 1,
) -> dict[str, Any]:  # fmt: skip
    """Draft chains by `fewstep.decoder.chain` between guard bands."""
    import torch

    import fewstep

    torch.set_num_threads(1)
    fewstep.set_num_threads(threads)
    chains, buffers = Chains(case, levels, mapped), Buffers()
    model, shape = chains.model, (len(levels), max(levels) + 1)
    ids = buffers.place("ids", np.zeros(shape, np.int32), "int32", gap=3)
    logp = buffers.place("logp", np.zeros(shape, np.float32), "float32", gap=1)
    columns = 1 if model.table is None else model.table.shape[1]
    sizes = len(model.ids), len(levels), columns
    scratch = np.zeros(-(-chains.decoder.core.chain_workspace_bytes(*sizes) // 8), np.int64)
    fewstep.decoder.chain(
        chains.decoder, model.ids, levels=chains.levels, least=least, d2t=chains.d2t, ids=ids,
        logp=logp, workspace=buffers.place("workspace", scratch, "int64", offset=1),
        **chains.turn, **model.options(),
    )  # fmt: skip
    buffers.verify()
    tokens = np.split(model.ids, case.indptr[1:-1])
    plain = chains.plain | {"tokens": tokens, "levels": levels, "heads": case.heads}
    return chains.result(ids.numpy().copy(), logp.numpy().copy()) | {"plain": plain}


def stepped(*, case: Case, levels: tuple[int, ...], mapped: bool = True) -> dict[str, Any]:
    """Draft chains request by request, by `fewstep.decoder.run` and `fewstep.tree.expand`."""
    import torch

    import fewstep

    torch.set_num_threads(1)
    fewstep.set_num_threads(1)
    chains = Chains(case, levels, mapped)
    model, ends = chains.model, case.indptr
    every = model.table if model.table is not None else np.arange(len(levels), dtype=np.int32)
    ids = np.full((len(levels), max(levels) + 1), -1, np.int32)
    logp = np.full(ids.shape, -np.inf, np.float32)
    for b, count in enumerate(levels):
        tokens, length = model.ids[ends[b] : ends[b + 1]], case.lengths[b]
        above, table = np.zeros(1, np.float32), every[b].reshape(1, -1)
        for k in range(count):
            logits = fewstep.decoder.run(
                chains.decoder, model.tensor(np.zeros((len(tokens), E))), tokens=tokens,
                indptr=np.array([0, len(tokens)], np.int32), length=np.array([length], np.int32),
                page_table=table, rows=np.array([len(tokens) - 1]), **chains.turn,
            )  # fmt: skip
            one = np.array([0, 1], np.int32)
            best = fewstep.tree.expand(above, logits, 1, indptr=one, d2t=chains.d2t)
            ids[b, k], logp[b, k] = best.ids[0, 0], best.logp[0, 0]
            length, tokens = length + len(tokens), ids[b, k : k + 1].astype(np.int64)
            above = logp[b, k : k + 1]
    return chains.result(ids, logp)


def broken() -> dict[str, Any]:
    """Draft chains of a model of which one logit is NaN."""
    import fewstep

    chains = Chains(Case("one"), (3,), True)
    chains.model.norm[0] = float("nan")
    found = fewstep.decoder.chain(
        chains.decoder, chains.model.ids, levels=chains.levels, d2t=chains.d2t, **chains.turn,
        **chains.model.options(),
    )  # fmt: skip
    return {"ids": found.ids}

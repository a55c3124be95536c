# SPDX-License-Identifier: Apache-2.0
"""Rows of draft trees in a draft model's cache, level by level."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from math import exp
from time import perf_counter
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep._generate.pack import MAX_NODES, ends_of
from fewstep._generate.request import Request
from fewstep._transfer import on_host
from fewstep.drafters._pace import Pace
from fewstep.drafters._protocol import Draft
from fewstep.language_model import LanguageModel

CHAIN = np.arange(-1, MAX_NODES - 1, dtype=np.int32)  # parents
_FEW = 8  # rows of a request with which a pass takes about as long as with one


@dataclass
class Rows:
    """What a draft model has of a request: its text up to `base`, and a block behind that.

    Attributes
    ----------
    sequence : int
    base : int
        Tokens before the block.
    token, parent : list of int
        Of the block's rows: the root, then nodes in the order in which they were run.
    sees : list of int
        Bits of the rows that each row sees, itself included.
    depth : list of int
    """

    sequence: int
    base: int
    token: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    sees: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)

    def walk(self, tokens: Sequence[int]) -> list[int]:
        """Return the rows below the root that hold these tokens, as far as they do."""
        path: list[int] = []
        at = 0
        for token in tokens:
            for row in range(at + 1, len(self.token)):
                if self.parent[row] == at and self.token[row] == token:
                    path.append(row)
                    at = row
                    break
            else:
                break
        return path

    def drop(self, rows: int) -> None:
        """Begin the block behind its first rows, which are a chain of text."""
        self.base += rows
        del self.token[:rows], self.parent[:rows], self.sees[:rows], self.depth[:rows]
        self.parent = [max(parent - rows, -1) for parent in self.parent]
        self.sees = [mask >> rows for mask in self.sees]
        self.depth = [depth - rows for depth in self.depth]

    def add(self, token: int, parent: int) -> int:
        """Add a row below another."""
        row = len(self.token)
        self.token.append(token)
        self.parent.append(parent)
        self.sees.append(1 << row if parent < 0 else self.sees[parent] | 1 << row)
        self.depth.append(0 if parent < 0 else self.depth[parent] + 1)
        return row


class Growing:
    """A draft of one request while it grows; node 0 is the root.

    Attributes
    ----------
    token, parent : list of int
        Of all nodes.
    row : dict of int to int
        Of the nodes that were run: their rows in the block.
    frontier : list of int
        The nodes whose children come next.
    """

    def __init__(self, root: int) -> None:
        self.token, self.parent = [root], [-1]
        self.row = {0: 0}
        self.frontier = [0]


@dataclass
class Run:
    """Nodes of a request's tree that are to run.

    Attributes
    ----------
    node, token, parent : list of int
        Parents before children, the root's -1.
    wanted : list of int
        The nodes, some of these, whose logits are wanted, ascending.
    row : dict of int to int
        Rows in the block of all nodes that ran; empty at first.
    """

    node: list[int] = field(default_factory=list)
    token: list[int] = field(default_factory=list)
    parent: list[int] = field(default_factory=list)
    wanted: list[int] = field(default_factory=list)
    row: dict[int, int] = field(default_factory=dict)


class Answers(NamedTuple):
    """What `Cache.answers` found.

    Attributes
    ----------
    ran : list of bool
        Which requests there was room for.
    logits : array
        After all their wanted nodes; None where there are none.
    alike : bool
        Whether it took the time that such calls take: no long text was read before.
    """

    ran: list[bool]
    logits: Any
    alike: bool


class Cache:
    """The draft model's side of a batch of requests."""

    def __init__(self, model: LanguageModel) -> None:
        self.model = model
        self._rows: dict[int, Rows] = {}

    def forget(self, request: Request) -> None:
        """Free what there is of a request."""
        rows = self._rows.pop(request.number, None)
        if rows is not None:
            self.model.free(rows.sequence)

    def settle(self, requests: Sequence[Request]) -> None:
        """Keep of the last drafts' rows those that became part of the texts."""
        blocks = [(request, self._rows.get(request.number)) for request in requests]
        known = [(request, rows) for request, rows in blocks if rows is not None and rows.token]
        if not known:
            return
        # The last token has no row to look for: it is the next root, whose logits are wanted.
        paths = [rows.walk(request.tokens[rows.base + 1 : -1]) for request, rows in known]
        most = max(1, *map(len, paths))
        self.model.keep(
            [rows.sequence for _, rows in known],
            np.array([own + [0] * (most - len(own)) for own in paths], np.int32),
            np.array([len(own) for own in paths], np.int32),
            np.array([len(rows.token) for _, rows in known], np.int32),
        )
        for (request, rows), own in zip(known, paths, strict=True):
            self._rows[request.number] = Rows(rows.sequence, rows.base + 1 + len(own))

    def root(self, requests: Sequence[Request]) -> tuple[list[Rows | None], Any]:
        """Run what is new of each text; return its block and the logits after its last token.

        A request that the cache has no room for has no block, and no row of logits.
        """
        self.settle(requests)
        blocks = [self._begin(request) for request in requests]
        pairs = [(r, b) for r, b in zip(requests, blocks, strict=True) if b is not None]
        if not pairs:
            return blocks, None
        tokens, ends = _new_rows(pairs)
        sequences = [rows.sequence for _, rows in pairs]
        wanted = ends[1:].astype(np.int64) - 1
        logits = on_host(self.model.forward(sequences, tokens, ends, rows=wanted))
        for request, rows in pairs:
            rows.base = len(request.tokens) - 1
            rows.add(request.tokens[-1], -1)
        return blocks, logits

    def chains(
        self, requests: Sequence[Request], levels: Sequence[int], pace: Pace | None
    ) -> list[Draft | None] | None:
        """Draft the chain of likeliest tokens behind each text, in one call of the model.

        None of a model that does it call by call; a request without room has no draft.
        """
        call = getattr(self.model, "chain", None)
        if call is None:
            return None
        began = perf_counter()
        self.settle(requests)
        blocks = [self._begin(r, n - 1) for r, n in zip(requests, levels, strict=True)]
        ready = [n for n, block in enumerate(blocks) if block is not None]
        pairs = [(requests[n], block) for n in ready if (block := blocks[n]) is not None]
        drafts: list[Draft | None] = [None] * len(blocks)
        if not pairs:
            return drafts
        tokens, ends = _new_rows(pairs)
        found = call(
            [rows.sequence for _, rows in pairs], tokens, ends,
            np.array([levels[n] for n in ready], np.int32), pace.least() if pace else 0.0,
        )  # fmt: skip
        if found is None:
            return None
        ids, logp = (array.tolist() for array in found)
        passes = 0
        for n, (request, rows), own, values in zip(ready, pairs, ids, logp, strict=True):
            own = own[: own.index(-1)] if -1 in own else own
            passes = max(passes, len(own))
            rows.base = len(request.tokens) - 1
            for row, token in enumerate([request.tokens[-1], *own[:-1]]):
                rows.add(token, row - 1)
            drafts[n] = chain_draft([request.tokens[-1], *own], [0.0, *values[: len(own)]])
        if pace:
            pace.chained(perf_counter() - began, passes, len(tokens) <= _FEW * len(pairs))
        return drafts

    def _begin(self, request: Request, more: int = 0) -> Rows | None:
        """Make room for what is new of a text, and for more tokens."""
        rows = self._rows.get(request.number)
        try:
            if rows is None:
                rows = self._rows[request.number] = Rows(*self.model.add(request.tokens[:-1]))
            self.model.extend(rows.sequence, len(request.tokens) - rows.base + more)
        except MemoryError:
            self.forget(request)
            return None
        return rows

    def level(self, blocks: Sequence[Rows], trees: Sequence[Growing]) -> Any:
        """Run the frontiers of trees; return their logits, tree after tree.

        Raises
        ------
        MemoryError
            There is no room; nothing was run.
        """
        for rows, one in zip(blocks, trees, strict=True):
            self.model.extend(rows.sequence, len(one.frontier))
        for rows, one in zip(blocks, trees, strict=True):
            for node in one.frontier:
                one.row[node] = rows.add(one.token[node], one.row[one.parent[node]])
        return self._run(blocks, [len(one.frontier) for one in trees])

    def answers(self, requests: Sequence[Request], runs: Sequence[Run]) -> Answers:
        """Run nodes of trees, at first behind what is new of their texts."""
        blocks: list[Rows] = []
        counts: list[int] = []
        wanted: list[int] = []
        fresh = [request for request, run in zip(requests, runs, strict=True) if not run.row]
        self.settle(fresh)
        alike = not self._read(fresh)
        is_run = [self._room_for(request, run) for request, run in zip(requests, runs, strict=True)]
        for request, run, ready in zip(requests, runs, is_run, strict=True):
            if not ready:
                continue
            rows = self._rows[request.number]
            before, first = len(rows.token), sum(counts)
            text = [] if run.row else request.tokens[rows.base : -1]
            for token in text:
                rows.add(token, len(rows.token) - 1)
            for node, token, parent in zip(run.node, run.token, run.parent, strict=True):
                up = len(text) - 1 if parent < 0 else run.row[parent]
                run.row[node] = rows.add(token, up)
            blocks.append(rows)
            counts.append(len(rows.token) - before)
            wanted += [first + run.row[node] - before for node in run.wanted]
        if not blocks:
            return Answers(is_run, None, alike)
        try:
            logits = self._run(blocks, counts, np.array(wanted, np.int64))
        except BaseException:
            for request in requests:  # what ran of these rows is not known
                self.forget(request)
            raise
        ran = compress(zip(requests, runs, strict=True), is_run)
        for (request, run), rows in zip(ran, blocks, strict=True):
            read = len(request.tokens) - 1 - rows.base
            if read:
                rows.drop(read)
                run.row = {node: row - read for node, row in run.row.items()}
        return Answers(is_run, logits, alike)

    def _read(self, requests: Sequence[Request]) -> bool:
        """Run all but the end of texts that are long, such as prompts; tell whether there were."""
        long: list[tuple[Request, Rows]] = []
        for request in requests:
            rows = self._rows.get(request.number)
            if rows is None or len(request.tokens) - rows.base > 2 * _FEW:
                rows = self._begin(request)
            if rows is not None and len(request.tokens) - rows.base > 2 * _FEW:
                long.append((request, rows))
        if not long:
            return False
        tokens, ends = _new_rows(long, -_FEW)
        sequences = [rows.sequence for _, rows in long]
        self.model.forward(sequences, tokens, ends, rows=np.zeros(0, np.int64))
        for request, rows in long:
            rows.base = len(request.tokens) - _FEW
        return True

    def _room_for(self, request: Request, run: Run) -> bool:
        """Make room for nodes and, where none of a draft has run, for the text before them."""
        rows = self._rows.get(request.number)
        if rows is None:
            return False
        text = 0 if run.row else len(request.tokens) - 1 - rows.base
        try:
            self.model.extend(rows.sequence, text + len(run.node))
        except MemoryError:
            if not run.row:
                self.forget(request)
            return False
        return True

    def _run(self, blocks: Sequence[Rows], counts: Sequence[int], wanted: Any = None) -> Any:
        """Run the last rows of blocks; return the logits of all or of those that are wanted."""
        sizes = [len(rows.token) for rows in blocks]
        width = 4 * ((max(sizes) + 31) // 32)
        token: list[int] = []
        depth: list[int] = []
        bits = bytearray()
        for rows, n in zip(blocks, counts, strict=True):
            token += rows.token[-n:]
            depth += rows.depth[-n:]
            for mask in rows.sees[-n:]:
                bits += mask.to_bytes(width, "little")
        logits = self.model.forward(
            [rows.sequence for rows in blocks],
            np.array(token, np.int32),
            np.array(ends_of(counts), np.int32),
            bits=np.frombuffer(bits, np.uint32).reshape(len(token), width // 4),
            depth=np.array(depth, np.int32),
            block=np.array(sizes, np.int32),
            rows=wanted,
        )
        return on_host(logits)  # where trees grow


def chain_draft(tokens: Sequence[int], logp: Sequence[float]) -> Draft:
    """Return a chain, the root first, of which the log-probabilities up to each token are known."""
    return Draft(
        np.array(tokens, np.int32),
        CHAIN[: len(tokens)],
        score=np.array(list(map(exp, logp)), np.float32),
    )


def _new_rows(
    pairs: Sequence[tuple[Request, Rows]], until: int | None = None
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return the tokens of texts that the model has not run, and where each text's begin."""
    parts = [request.tokens[rows.base : until] for request, rows in pairs]
    ends = np.array(ends_of(map(len, parts)), np.int32)
    return np.array(list(chain.from_iterable(parts)), np.int32), ends

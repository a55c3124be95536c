# SPDX-License-Identifier: Apache-2.0
"""Draft, forward pass, verification and commit as one CUDA graph, again and again without the host.

What a cycle leaves is what the next one begins with: the last tokens, the lengths, the table that
drafts come from. The host looks at the tokens of several cycles at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from .. import _core
from .._arrays import Arrays
from .._graph import CudaRecording, Recording
from .._transfer import Parcel
from ..draft import recycle
from ..drafters._protocol import Ahead, Known
from ..kv import commit
from ..logits import top_k
from ..tree import LAWS, RULES, build, from_template
from ._captures import Captures
from ._checks import FUNCTION
from ._forward import Forward
from ._rows import Requests, Rows, wide

if TYPE_CHECKING:
    from ._paged_model import PagedModel

MOST = 8  # cycles between two looks of the host
_MATCH, _DETERMINISTIC = RULES.index("match"), LAWS.index("deterministic")
_TEMPERATURE = 0  # which filter is given always
_STATE = 4  # arrays of a call before the filters: last tokens, lengths, seeds, pages


@lru_cache(maxsize=8)
def depth_of(parent: bytes) -> int:
    """Return how far below its root a node of a template lies at most."""
    return int(build(np.frombuffer(parent, np.int32)).depth.max())


class _Cycle:
    """One graph: a number of sequences, a template, a width of page tables, some filters."""

    def __init__(
        self, forward: Forward, known: Known, table: torch.Tensor, parcel: Parcel, params: Any,
        greedy: bool, record: Any,
    ) -> None:  # fmt: skip
        self._forward, self._table, self._params = forward, table, params
        self._greedy = greedy
        device = self._device = forward.device
        self._there = parcel.packed.to(device, copy=True)
        unpacked = parcel.unpacked(self._there)
        self._last, self._length, self._seeds, self._pages = unpacked[:_STATE]
        self._filters = tuple(unpacked[_STATE:])
        batch, nodes = len(self._last), len(known.parent)
        tree = build(known.parent)
        self._deepest = int(tree.depth.max())

        def put(array: Any) -> torch.Tensor:
            return torch.from_numpy(np.array(array)).to(device)

        self._parent, self._rank = put(known.parent), put(known.rank)
        self._parents = self._parent.repeat(batch)
        self._depth = put(tree.depth)
        self._bits = put(tree.bits.view(np.int32)).repeat(batch, 1)
        self._indptr = put(np.arange(batch + 1, dtype=np.int32) * nodes)
        self._every = torch.arange(batch * nodes, device=device)
        self._columns = torch.arange(self._deepest, device=device)
        room = partial(torch.empty, dtype=torch.int32, device=device)
        self._token = room(batch, nodes)
        self._best = room(batch * nodes, table.shape[1])
        self._values = torch.empty(batch * nodes, table.shape[1], device=device)
        self._path = room(batch, self._deepest)
        self._accepted, self._next, self._status = (room(batch) for _ in range(3))
        self._number = torch.zeros(1, dtype=torch.int64, device=device)
        # Of each cycle: the accepted tokens and the next one, how many, and the last node.
        self._found = room(MOST, batch, self._deepest + 3)
        self._recording: Recording = record(Arrays(torch, device), self._work, FUNCTION)
        self._scratch = forward.cache.store.scratch  # which a longer one may replace

    @torch.no_grad()
    def _work(self) -> None:
        batch, nodes = self._token.shape
        from_template(self._parent, self._rank, self._last, table=self._table, tokens=self._token)
        ids = self._token.clamp(min=0).flatten()  # what is not known is never accepted
        options = {"bits": self._bits, "depth": self._depth.repeat(batch)}
        requests = Requests(self._indptr, self._length + nodes, self._pages, options=options)
        store = self._forward.cache.store
        vars(requests)["longest"] = self._pages.shape[1] * store.shape[1]
        positions = (self._length[:, None] + self._depth).flatten()
        rows = Rows(self._indptr, self._length, self._pages, positions, requests)
        logits = self._forward.compute(ids.long(), self._every, rows, False)
        top_k(logits, self._table.shape[1], ids=self._best, values=self._values)
        # Greedy texts follow the best token of each node, which is known by now.
        read, target = (None, self._best[:, 0]) if self._greedy else (logits, None)
        given = (
            self._parents, self._indptr, self._token.flatten(), read, self._seeds,
            self._length + 1, target, None, *(None,) * 6,
        )  # fmt: skip
        outputs = self._path, self._accepted, self._next, None, self._status
        _core.tree_verify(_MATCH, _DETERMINISTIC, self._params, self._filters, given, outputs)
        recycle(self._table, ids, self._best)
        k, v = store.parts()
        commit(
            k, v, self._path, self._accepted, self._length, page_table=self._pages, first=1,
            **store.part_scales(),
        )  # fmt: skip
        self._write_down()
        self._last.copy_(self._next.clamp(min=0))
        self._length.add_(self._accepted + 1)

    def _write_down(self) -> None:
        """Keep what the host is to see of a cycle."""
        counts = self._accepted[:, None].long()
        nodes = self._path.clamp(min=0).long()
        tokens = torch.where(self._columns < counts, self._token.gather(1, nodes), -1)
        tokens = torch.nn.functional.pad(tokens, (0, 1), value=-1)
        tokens = tokens.scatter(1, counts, self._next[:, None])
        ends = torch.nn.functional.pad(self._path, (1, 0)).gather(1, counts)
        row = torch.cat([tokens, self._accepted[:, None], ends], 1).int()
        self._found.index_copy_(0, self._number, row[None])
        self._number.add_(1)

    def run(self, parcel: Parcel) -> Ahead:
        """Run cycles from where a parcel says."""

        def fill() -> None:
            self._there.copy_(parcel.packed)
            self._number.zero_()

        memory = [self._there, self._number, self._found, self._table, self._scratch]
        for number in range(MOST):
            self._recording.replay(memory, (lambda: None) if number else fill, lambda: None)
        found = self._found.cpu().numpy()
        return Ahead(found[..., :-2], found[..., -2], found[..., -1])


class Cycles(Captures[_Cycle]):
    """Cycles of drafts that are recycled.

    The table of drafts is here, made from the drafter's; what prompts add there is taken over.
    """

    CAPACITY = 8

    def __init__(self, forward: Forward, record: Any = CudaRecording) -> None:
        super().__init__(forward.model, record)
        self._forward = forward
        self._table: torch.Tensor | None = None

    @torch.no_grad()
    def run(
        self,
        model: PagedModel,
        sequences: Sequence[int],
        last: Sequence[int],
        verified: tuple[Any, Sequence[Any], Any],
        known: Known,
    ) -> Ahead | None:
        """Run cycles of a model's sequences; None where that cannot be."""
        if self.refused is not None:
            return None
        length = [model.length(sequence) for sequence in sequences]
        needed = (MOST - 1) * (depth_of(known.parent.tobytes()) + 1) + len(known.parent)
        if model.max_length is not None and max(length) + needed > model.max_length:
            return None
        try:
            for sequence in sequences:
                model.extend(sequence, needed)
        except MemoryError:
            return None
        numbers = np.array([last, length], np.int32)
        cycle = self._cycle(numbers, model.pool.page_table(sequences), verified, known)
        if cycle is None:
            return None
        found = cycle()
        after = numbers[1] + (found.accepted + 1).sum(0)
        for sequence, tokens in zip(sequences, after.tolist(), strict=True):
            model._settle(sequence, tokens)
        return found

    def _cycle(
        self,
        numbers: NDArray[np.int32],
        pages: NDArray[np.int32],
        verified: tuple[Any, Sequence[Any], Any],
        known: Known,
    ) -> Callable[[], Ahead] | None:
        """Return what runs the cycles; None where they cannot be captured."""
        seeds, filters, params = verified
        table = self._filled(known)
        more = wide(pages.shape[1]) - pages.shape[1]
        pages = np.pad(pages, ((0, 0), (0, more)), constant_values=-1)
        parcel = Parcel((*numbers, seeds, pages, *filters))
        greedy = not filters[_TEMPERATURE].any()
        tree = known.parent.tobytes(), known.rank.tobytes()
        key = parcel.layout, *tree, params, table.shape, greedy
        cycle = self.find(key) or self.capture(
            key, lambda: _Cycle(self._forward, known, table, parcel, params, greedy, self.record)
        )
        return None if cycle is None else partial(cycle.run, parcel)

    def _filled(self, known: Known) -> torch.Tensor:
        """Return the table with what prompts said since the last call."""
        whole = torch.from_numpy(known.table)
        if self._table is None or self._table.shape != whole.shape:
            self._table = whole.to(self._forward.device, copy=True)
        elif len(known.fresh):
            rows = torch.from_numpy(known.fresh)
            device = self._forward.device
            self._table.index_copy_(0, rows.to(device), whole[rows].to(device))
        return self._table

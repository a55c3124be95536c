# SPDX-License-Identifier: Apache-2.0
"""Where the rows of a forward pass lie in a paged cache, and what they see."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .._transfer import uploaded

Ints = NDArray[np.int32]

LONGEST = 256  # rows of a request of `fewstep.tree.attention`


@dataclass(frozen=True)
class Requests:
    """The arguments of `fewstep.tree.attention` that all layers share.

    A chain of more than `LONGEST` rows is several requests, each of which has those before it as
    its prefix.
    """

    indptr: torch.Tensor
    kv_len: torch.Tensor
    table: torch.Tensor
    single: bool = False  # whether the table is one of tokens rather than of pages
    index: torch.Tensor | None = None  # the rows that there are, where some see nothing
    options: dict[str, torch.Tensor] = field(default_factory=dict)  # bits, depth, block

    @cached_property
    def longest(self) -> int:
        """Tokens of the longest one, its rows included."""
        return int(self.kv_len.max()) + int(self.indptr[-1])

    def on(self, device: torch.device) -> Requests:
        """Return the same, of the host and without options, on a device."""
        if device.type == "cpu":
            return self
        given = self.indptr, self.kv_len, self.table, self.index
        indptr, kv_len, table, index = uploaded(device, given)
        return Requests(indptr, kv_len, table, self.single, index)


@dataclass(frozen=True)
class Rows:
    """The rows of a forward pass: where they go, and as which requests they attend."""

    indptr: torch.Tensor
    length: torch.Tensor  # tokens of each sequence before its rows
    table: torch.Tensor
    positions: torch.Tensor
    requests: Requests
    padded: dict[int, Requests] = field(default_factory=dict)  # by the first token that is seen

    @property
    def fields(self) -> tuple[torch.Tensor, ...]:
        """All tensors, in the order in which `placed` takes them."""
        seen = self.requests
        own = self.indptr, self.length, self.table, self.positions
        return (*own, seen.indptr, seen.kv_len, seen.table, *seen.options.values())

    def placed(self, fields: Sequence[torch.Tensor]) -> Rows:
        """Return the same with its tensors elsewhere."""
        indptr, length, table, positions, ends, kv_len, pages, *options = fields
        named = dict(zip(self.requests.options, options, strict=True))
        requests = Requests(ends, kv_len, pages, self.requests.single, options=named)
        vars(requests)["longest"] = self.requests.longest  # which nobody shall wait for
        return Rows(indptr, length, table, positions, requests)

    def on(self, device: torch.device) -> Rows:
        """Return the same, of the host, on a device: one copy."""
        return self if device.type == "cpu" else self.placed(uploaded(device, self.fields))

    def widened(self, page_tokens: int) -> Rows:
        """Return the same with page tables as wide as the next power of two."""
        fields = list(self.fields)
        for i in (2, 6):
            more = wide(fields[i].shape[1]) - fields[i].shape[1]
            fields[i] = torch.nn.functional.pad(fields[i], (0, more), value=-1)
        made = self.placed(fields)
        vars(made.requests)["longest"] = fields[6].shape[1] * page_tokens
        return made


def wide(columns: int) -> int:
    """Return how many columns a page table gets that is to have few widths."""
    return 1 << max(columns - 1, 0).bit_length()


def tensor(values: Any, dtype: Any = np.int32) -> torch.Tensor:
    """Return a tensor of integers that ops can borrow."""
    return torch.from_numpy(np.ascontiguousarray(values, dtype))


def rows_of(
    length: Ints,
    indptr: Ints,
    table: Ints,
    *,
    bits: NDArray[Any] | None = None,
    depth: NDArray[Any] | None = None,
    block: NDArray[Any] | None = None,
) -> Rows:
    """Lay out ragged rows of sequences that have `length` tokens so far.

    Without `bits` the rows of a sequence are a causal chain.
    """
    counts = indptr[1:] - indptr[:-1]
    after = length + counts
    first = np.repeat(length - indptr[:-1], counts)  # plus the row's number is its slot
    slots = first + np.arange(indptr[-1], dtype=np.int32)
    table_, indptr_ = tensor(table), tensor(indptr)
    if bits is None:
        requests = chains(after, counts, table)
        return Rows(indptr_, tensor(length), table_, tensor(slots), requests)
    before = after - (counts if block is None else block)
    options = {"bits": tensor(bits, bits.dtype)}
    positions = slots
    if depth is not None:
        options["depth"] = tensor(depth)
        positions = np.repeat(before, counts) + depth
    if block is not None and (block != counts).any():
        options["block"] = tensor(block)
    requests = Requests(indptr_, tensor(after), table_, options=options)
    return Rows(indptr_, tensor(length), table_, tensor(positions), requests)


def chains(after: Ints, counts: Ints, table: Ints, single: bool = False) -> Requests:
    """Return causal chains that are the last `counts` of `after` tokens, long ones in parts."""
    if counts.max(initial=0) > LONGEST:
        parts = -(-counts // LONGEST)
        owner = np.repeat(np.arange(len(counts)), parts)
        # The last part of a chain is the one that is filled in part.
        number = np.arange(len(owner)) - np.repeat(np.cumsum(parts) - parts, parts)
        sizes = np.minimum(counts[owner] - number * LONGEST, LONGEST)
        after = (after - counts)[owner] + number * LONGEST + sizes
        counts, table = sizes, table[owner]
    ends = np.concatenate(([0], np.cumsum(counts)))
    return Requests(tensor(ends), tensor(after), tensor(table), single)

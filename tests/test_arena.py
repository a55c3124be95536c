# SPDX-License-Identifier: Apache-2.0
"""Memory of packed weights: aligned, shared by no two, and let go with the last of a block."""

from __future__ import annotations

import gc
import weakref
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from fewstep import _arena, linear
from fewstep._arena import Arena

MIB = 1 << 20


def address(piece: Any) -> int:
    return int(piece.__array_interface__["data"][0])


def test_pieces_are_aligned_and_overlap_nowhere() -> None:
    arena = Arena()
    sizes = [1, 63, _arena._SMALL, _arena._SMALL + 1, 3 * MIB + 5, 4 * MIB, 33 * MIB] * 12
    pieces = [arena.take(size) for size in sizes]
    assert [piece.nbytes for piece in pieces] == sizes
    assert all(address(piece) % 64 == 0 for piece in pieces)
    spans = sorted((address(piece), address(piece) + piece.nbytes) for piece in pieces)
    assert all(end <= begin for (_, end), (begin, _) in pairwise(spans))


def test_a_block_is_shared_and_goes_with_its_last_piece() -> None:
    arena = Arena()
    pieces = [arena.take(MIB) for _ in range(3)]
    assert len({id(piece.base) for piece in pieces}) == 1
    block = weakref.ref(pieces[0].base)
    del pieces[0], pieces[0]
    gc.collect()
    assert block() is not None
    del pieces[0]
    gc.collect()
    assert block() is None
    assert arena.take(MIB).base is not None


@pytest.mark.parametrize("size", [_arena._SMALL - 1, _arena._LARGE])
def test_small_and_large_pieces_stand_alone(size: int) -> None:
    arena = Arena()
    assert arena.take(size).base is not arena.take(size).base
    assert arena.take(size).base.nbytes == size + 64


def test_packed_weights_lie_in_blocks() -> None:
    packed = [linear.pack(np.ones((512, 256), np.float32)) for _ in range(2)]
    assert packed[0].data.base is packed[1].data.base
    assert all((linear.unpack(p) == 1).all() for p in packed)

# SPDX-License-Identifier: Apache-2.0
"""The harness sees what it is there to see."""

from __future__ import annotations

import numpy as np
import pytest

import harness

pytest.importorskip("torch")


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("at", [-1, 3, 4, 8])
def test_a_write_outside_of_a_tensor_is_found(at: int, exact: bool) -> None:
    """Before it, in the gap between its samples, and where there is memory behind it."""
    if exact and at == 8:
        return  # past the memory's end: for the memory checker
    harness.use("cpu", exact=exact)
    try:
        buffers = harness.Buffers()
        tensor = buffers.place("x", np.ones((2, 3)), "float32", offset=1, gap=2)
    finally:
        harness.use("cpu")
    buffers.verify()
    assert tensor.tolist() == [[1.0] * 3] * 2
    assert tensor.stride() == (5, 1)
    tensor.as_strided((1,), (1,), tensor.storage_offset() + at).fill_(2.0)
    with pytest.raises(AssertionError, match="guard band of x was written"):
        buffers.verify()


def test_exact_tensors_end_where_their_memory_ends() -> None:
    harness.use("cpu", exact=True)
    try:
        tensor = harness.Buffers().place("x", np.ones((2, 3)), "float16", offset=1, gap=4)
    finally:
        harness.use("cpu")
    end = tensor.storage_offset() + 7 + 3
    assert 2 * end == tensor.untyped_storage().nbytes()


def test_a_written_input_is_found() -> None:
    buffers = harness.Buffers()
    tensor = buffers.freeze("x", buffers.place("x", np.ones((1, 3)), "bfloat16"))
    tensor[0, 1] = 2
    with pytest.raises(AssertionError, match="input x was written"):
        buffers.verify()

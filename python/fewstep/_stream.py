# SPDX-License-Identifier: Apache-2.0
"""Which CUDA stream ops run on."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fewstep import _core


@contextmanager
def use_stream(stream: Any) -> Iterator[None]:
    """Run this thread's CUDA ops on a stream, whatever arrays they get.

    Without it an op runs on the current stream of torch when any of its arrays on that device is a
    torch tensor (more exactly, of the first argument whose type has DLPack's C exchange API), else
    on the legacy default stream. An op runs on one stream; arrays that have ``__dlpack__`` alone
    (CuPy, JAX) are asked with it, so that it waits for the work that makes them. What comes after
    the op is in the caller's hands: let it run on that stream, or wait for it.

    Parameters
    ----------
    stream : int or object
        A ``cudaStream_t`` as an integer (0 and 1: the legacy default stream, 2: the thread's), or a
        stream of another library: an object with ``__cuda_stream__`` (cuda.core), ``cuda_stream``
        (torch) or ``ptr`` (CuPy). It must belong to the device of the arrays and live until the
        work on it is done.

    Raises
    ------
    TypeError
        `stream` is something else.
    ValueError
        The handle is negative.

    Notes
    -----
    Holds for the calling thread and may be nested. With torch's tensors ``torch.cuda.stream``
    is enough and, around a `Sampler`, the right choice: its model follows torch's stream only.

    References
    ----------
    .. [1] Python array API standard, ``__dlpack__``, argument ``stream``

    Examples
    --------
    >>> with fewstep.use_stream(2):
    ...     pass
    """
    before = _core.set_stream(_handle(stream))
    try:
        yield
    finally:
        _core.set_stream(before)


def _handle(stream: Any) -> int:
    protocol = getattr(stream, "__cuda_stream__", None)
    if protocol is not None:  # a method that returns (version, handle); once it was a property
        value = (protocol() if callable(protocol) else protocol)[1]
    else:
        value = getattr(stream, "cuda_stream", getattr(stream, "ptr", stream))
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        raise TypeError(
            "fewstep.use_stream: 'stream' must be an int or a CUDA stream, "
            f"got {type(stream).__name__}"
        )
    handle = operator.index(value)
    if not 0 <= handle < 2**64:
        raise ValueError(
            f"fewstep.use_stream: 'stream' must be a handle in [0, 2**64), got {handle}"
        )
    return handle

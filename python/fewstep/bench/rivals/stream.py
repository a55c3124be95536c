# SPDX-License-Identifier: Apache-2.0
"""A STREAM-style loop over the arrays that a step reads and writes: the machine's limit."""

from __future__ import annotations

import ctypes
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch

FLAGS = ("-std=c++20", "-O3", "-march=native", "-shared", "-fPIC", "-pthread")


@lru_cache(maxsize=1)
def _library() -> Any:
    """Build the loop with this machine's compiler, once per user."""
    source = files("fewstep.bench.rivals").joinpath("stream.cc").read_text()
    compiler = os.environ.get("CXX", "c++")
    key = hashlib.sha256("\0".join([source, compiler, *FLAGS]).encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"fewstep-bench-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to another user")
    library = folder / f"stream-{key}.so"
    if not library.exists():
        (folder / f"{key}.cc").write_text(source)
        building = library.with_suffix(f".{os.getpid()}")
        command = [compiler, *FLAGS, "-o", str(building), str(folder / f"{key}.cc")]
        subprocess.run(command, check=True)
        building.replace(library)
    return ctypes.CDLL(str(library))


class Stream:
    """The loop over the given float32 tensors.

    Parameters
    ----------
    reads, writes : sequence of torch.Tensor
        Contiguous, equal in size; a tensor may be in both.
    threads : int
    """

    def __init__(
        self, reads: Sequence[torch.Tensor], writes: Sequence[torch.Tensor], threads: int
    ) -> None:
        # Copies: what the loop writes means nothing.
        copies = {t.data_ptr(): t.clone() for t in [*reads, *writes]}
        self.kept = copies
        self._function = _library().fewstep_bench_stream
        self._in = (ctypes.c_void_p * len(reads))(*[copies[t.data_ptr()].data_ptr() for t in reads])
        self._out = (ctypes.c_void_p * len(writes))(
            *[copies[t.data_ptr()].data_ptr() for t in writes]
        )
        self._n = ctypes.c_int64(reads[0].numel())
        self._threads = threads

    def _run(self, bypass_cache: int) -> None:
        status = self._function(
            self._in, len(self._in), self._out, len(self._out), self._n, self._threads, bypass_cache
        )
        if status != 0:
            raise ValueError("Stream: at most 8 tensors to read and 4 to write")

    def timed(self) -> None:
        """Run with ordinary stores."""
        self._run(0)

    def timed_bypassing(self) -> None:
        """Run with stores that bypass the caches."""
        self._run(1)


def reader(a: torch.Tensor, b: torch.Tensor, threads: int) -> Callable[[], float]:
    """Return a call that reads two contiguous tensors of one size as memory allows."""
    read = _library().fewstep_bench_read
    read.restype = ctypes.c_float
    count = ctypes.c_int64(a.numel() * a.element_size() // 4)
    pointers = ctypes.c_void_p(a.data_ptr()), ctypes.c_void_p(b.data_ptr())

    def call() -> float:
        return float(read(*pointers, count, threads))

    return call

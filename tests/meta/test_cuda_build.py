# SPDX-License-Identifier: Apache-2.0
"""What a build with CUDA kernels does where there is no driver: all CPU work, and a clear no."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

import fewstep

from .project import exported, library

FACTS = fewstep.info()["cuda"]
WORK = """
import fewstep, numpy as np
plan = fewstep.solver.plan("euler", steps=2, schedule=fewstep.schedules.karras(0.1, 2.0))
state = np.ones((plan.slots, 1, 8), np.float32)
fewstep.solver.step(plan, 0, state, fewstep.noise.normal([1], (8,)))
"""


def looked_for(code: str) -> str:
    """Return the libraries that a process asks the dynamic linker for at run time."""
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LD_DEBUG": "libs"},
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stderr


def test_cpu_work_asks_for_no_cuda_library() -> None:
    text = looked_for(WORK)
    assert "libfewstep" in text
    assert "libcuda" not in text


@pytest.mark.skipif(not FACTS["built"], reason="this build has no CUDA kernels")
def test_the_driver_is_looked_for_when_devices_are() -> None:
    assert "libcuda.so" in looked_for("import fewstep; fewstep.info()")


@pytest.mark.skipif(FACTS["devices"] > 0, reason="this machine has a CUDA device")
def test_a_context_without_a_device_is_an_error() -> None:
    core = ctypes.CDLL(str(library()))
    core.fewstep_last_error.restype = ctypes.c_char_p
    context = ctypes.c_void_p()
    assert core.fewstep_context_create(2, 0, ctypes.byref(context)) == 2  # FEWSTEP_UNSUPPORTED
    assert core.fewstep_last_error() == (
        b"fewstep_context_create: 'device_id' must be below 0, the number of usable CUDA devices, "
        b"got 0"
    )
    assert not context


def test_no_symbol_of_the_runtime_is_exported() -> None:
    """The CUDA runtime is linked in whole; a host's own must not meet it."""
    assert [name for name in exported() if "cuda" in name.removeprefix("fewstep_cuda")] == []

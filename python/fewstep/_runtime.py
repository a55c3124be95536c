# SPDX-License-Identifier: Apache-2.0
"""The library's settings and what it found on this machine."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from fewstep import _core


def set_num_threads(threads: int) -> None:
    """Set the number of CPU threads that ops use.

    Parameters
    ----------
    threads : int
        1 or more; 0 returns to the default: ``FEWSTEP_NUM_THREADS``, else ``OMP_NUM_THREADS``,
        else the number of cores.

    Raises
    ------
    ValueError
        `threads` is negative.

    Notes
    -----
    The result of an op does not depend on it.

    Examples
    --------
    >>> fewstep.set_num_threads(1)
    >>> fewstep.get_num_threads()
    1
    >>> fewstep.set_num_threads(0)
    """
    _core.set_num_threads(threads)


def get_num_threads() -> int:
    """Return the number of CPU threads that ops use.

    Returns
    -------
    int

    Examples
    --------
    >>> fewstep.get_num_threads() >= 1
    True
    """
    return _core.num_threads()


def info() -> dict[str, Any]:
    """Describe the library: version, CPU kernels, threads, CUDA and where its C files are.

    Returns
    -------
    dict
        ``version``, ``cpu`` (``isa`` in use, ``available``, ``threads``), ``cuda`` (``built``,
        ``devices``), ``include_dir`` and ``cmake_dir`` for C and C++ hosts.

    Raises
    ------
    NotImplementedError
        ``FEWSTEP_CPU_ISA`` names an instruction set that this machine or build lacks.

    Examples
    --------
    >>> sorted(fewstep.info())
    ['cmake_dir', 'cpu', 'cuda', 'include_dir', 'version']
    """
    # Beside _core, where the library lies too: an editable install keeps the two apart from the
    # Python files.
    root = Path(os.fspath(_core.__file__)).parent
    return {
        "version": _core.__version__,
        "cpu": {
            "isa": _core.cpu_isa(),
            "available": _core.cpu_isa_available(),
            "threads": _core.num_threads(),
        },
        "cuda": {"built": _core.cuda_built(), "devices": _core.cuda_device_count()},
        "include_dir": str(root / "include"),
        "cmake_dir": str(root / "lib" / "cmake" / "fewstep"),
    }

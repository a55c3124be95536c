# SPDX-License-Identifier: Apache-2.0
"""Where a measurement was made."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fewstep

PACKAGES = ("fewstep", "numpy", "torch", "diffusers")


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _last_level_cache() -> str | None:
    levels = sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"))
    try:
        return levels[-1].read_text().strip() if levels else None
    except OSError:
        return None


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Describe this machine and the versions measured on it.

    Returns
    -------
    dict
        ``cpu``, ``cores``, ``cache``, ``isa``, ``load`` (average over the last minute),
        ``system``, ``versions``.
    """
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "cache": _last_level_cache(),
        "isa": fewstep.info()["cpu"]["isa"],
        "load": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": _versions(),
    }


def gpu() -> dict[str, Any]:
    """Describe the current CUDA device.

    Returns
    -------
    dict
        ``name``, ``sm``, ``multiprocessors``, ``memory_bytes``, ``l2_bytes``, ``cuda`` (torch's
        runtime), and from ``nvidia-smi``, where it is: ``driver``, ``sm_clock`` and
        ``memory_clock``, each now and at most.
    """
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    facts = {
        "name": properties.name,
        "sm": f"{properties.major}.{properties.minor}",
        "multiprocessors": properties.multi_processor_count,
        "memory_bytes": properties.total_memory,
        "l2_bytes": getattr(properties, "L2_cache_size", None),
        "cuda": torch.version.cuda,
    }
    return facts | smi()


QUERIES = {
    "driver": "driver_version",
    "sm_clock": "clocks.sm",
    "sm_clock_max": "clocks.max.sm",
    "memory_clock": "clocks.mem",
    "memory_clock_max": "clocks.max.mem",
    "compute_cap": "compute_cap",
}


def smi() -> dict[str, str]:
    """Return what ``nvidia-smi`` says of the first device; nothing without it."""
    command = ["nvidia-smi", "--format=csv,noheader", f"--query-gpu={','.join(QUERIES.values())}"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return {}
    values = [value.strip() for value in result.stdout.partition("\n")[0].split(",")]
    if result.returncode != 0 or len(values) != len(QUERIES):
        return {}
    return dict(zip(QUERIES, values, strict=True))


def commit() -> str | None:
    """Return the commit of the checkout that the command runs in, if it is fewstep's.

    Returns
    -------
    str or None
        With ``-dirty`` when tracked files differ from it.
    """
    project = Path("pyproject.toml")
    if not project.is_file() or 'name = "fewstep"' not in project.read_text():
        return None
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or None

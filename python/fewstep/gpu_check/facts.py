# SPDX-License-Identifier: Apache-2.0
"""The machine: GPU, driver, clocks, versions."""

from __future__ import annotations

import subprocess

import fewstep

from . import build
from .section import Check, Outcome


def facts(check: Check, limit_s: float) -> Outcome:
    """Describe the machine; the GPU must do one op of ours and have the CPU's bits."""
    import numpy as np
    import torch

    from fewstep.bench.machine import gpu, machine

    found = {"machine": machine(), "cuda": fewstep.info()["cuda"]}
    if not torch.cuda.is_available():
        return Outcome("failed", "torch sees no CUDA device", found)
    found["gpu"] = gpu()
    found["tools"] = {name: _version(name) for name in ("nvcc", "compute-sanitizer")}
    seeds = torch.tensor([1, 2], device="cuda")
    drawn = fewstep.noise.normal(seeds, (1001,))
    same = np.array_equal(drawn.cpu().numpy(), fewstep.noise.normal([1, 2], (1001,)))
    if not same:
        return Outcome("failed", "noise.normal has other bits than on the CPU", found)
    return Outcome("passed", "", found)


def _version(name: str) -> str | None:
    """Return the last line of what a tool says of its version; None where it is missing."""
    tool = build.find_tool(name)
    if tool is None:
        return None
    command = [tool, "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "unknown"

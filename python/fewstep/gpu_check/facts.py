# SPDX-License-Identifier: Apache-2.0
"""The machine: GPU, driver, clocks, versions. A program of its own: a driver may hang or crash."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import fewstep

from . import build
from .section import Check, Outcome

MARK = "facts: "


def facts(check: Check, limit_s: float) -> Outcome:
    """Describe the machine; its GPU must do one op of ours and have the CPU's bits."""
    child = check.child("facts", [sys.executable, "-m", "fewstep.gpu_check.facts"], limit_s)
    return judged(child.code, child.cut, child.output)


def judged(code: int, cut: bool, output: str) -> Outcome:
    """Read what the program says."""
    said = [line for line in output.splitlines() if line.startswith(MARK)]
    found: dict[str, Any] = json.loads(said[-1][len(MARK) :]) if said else {}
    problem = found.pop("problem", None)
    if problem:
        return Outcome("failed", problem, found)
    if cut:
        return Outcome("cut", "time was up", found)
    if code != 0 or not found:
        return Outcome("failed", f"ended with {code}: {output[-300:].strip()}", found)
    return Outcome("passed", "", found)


def gather() -> dict[str, Any]:
    """Return all facts, and as ``problem`` what keeps the GPU from being used."""
    import torch

    from fewstep.bench.machine import gpu, machine

    found: dict[str, Any] = {"machine": machine(), "cuda": fewstep.info()["cuda"]}
    found["tools"] = {name: version_of(name) for name in ("nvcc", "compute-sanitizer")}
    if not torch.cuda.is_available():
        return found | {"problem": "torch sees no CUDA device"}
    found["gpu"] = gpu()
    drawn = fewstep.noise.normal(torch.tensor([1, 2], device="cuda"), (1001,)).cpu()
    if not torch.equal(drawn, fewstep.noise.normal(torch.tensor([1, 2]), (1001,))):
        return found | {"problem": "noise.normal has other bits than on the CPU"}
    return found


def version_of(name: str) -> str | None:
    """Return the last line of what a tool says of its version; None where it is missing."""
    tool = build.find_tool(name)
    if tool is None:
        return None
    command = [tool, "--version"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    lines = [line for line in result.stdout.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "unknown"


if __name__ == "__main__":
    print(MARK + json.dumps(gather()))

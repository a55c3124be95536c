# SPDX-License-Identifier: Apache-2.0
"""``fewstep gpu-check`` from a checkout where nothing is installed: python tools/gpu_check.py.

Builds the package with CUDA kernels for this machine's GPU into build/ and runs the command of that
build, with all arguments. Needs nvcc, a C++20 compiler, cmake, and pybind11, typer, rich, NumPy,
torch and pytest in this Python.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parents[1]
BUDGET_S = 530.0


def builder() -> ModuleType:
    """Load the package's build file without the package, which is not built yet."""
    path = ROOT / "python" / "fewstep" / "gpu_check" / "build.py"
    spec = importlib.util.spec_from_file_location("fewstep_gpu_build", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main(arguments: list[str]) -> int:
    """Build, then become the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--budget", type=float, default=BUDGET_S, help="seconds in all")
    options, rest = parser.parse_known_args(arguments)
    build = builder()
    begin = time.time()
    capability = build.compute_capability()
    if capability is None:
        print("gpu_check: no GPU: neither nvidia-smi nor torch finds one", file=sys.stderr)
        return 2
    architecture = build.architecture(capability)
    folder = ROOT / "build" / f"gpu-check-{architecture}"
    try:
        site = build.build(ROOT, folder, capability, lambda command: subprocess.call(command))
    except build.BuildError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    how = f"{architecture}, built in {time.time() - begin:.0f} s"
    command = [sys.executable, "-m", "fewstep", "gpu-check", "--built", how, *rest]
    command += ["--ends-at", str(begin + options.budget)]  # the build's time is part of it
    environment = {**os.environ, **build.child_environment(site)}
    os.execve(sys.executable, command, environment)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

# SPDX-License-Identifier: Apache-2.0
"""Builds the checkout with CUDA kernels for this machine's GPU, into a folder of its own.

Standard library only, and no import of the package: ``tools/gpu_check.py`` runs this file where
nothing is installed. CMake alone: a machine with a GPU need not have the wheel's build backend.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Editable installs put a finder before all paths; in a child it must not hide the build.
SITE = """\
import sys

sys.meta_path[:] = [
    finder
    for finder in sys.meta_path
    if "fewstep" not in getattr(finder, "known_source_files", ())
]
"""


class BuildError(RuntimeError):
    """There is nothing to build, or nothing to build with; or building failed."""


def find_source(*starts: Path) -> Path | None:
    """Return the nearest checkout that holds one of the given paths, the first ones first."""
    for start in starts:
        for folder in (start, *start.parents):
            lists = folder / "CMakeLists.txt"
            if lists.is_file() and "project(fewstep" in lists.read_text():
                return folder
    return None


def find_tool(name: str, *variables: str) -> str | None:
    """Return a program's path: from a variable that names it, the path, or CUDA's folders."""
    for variable in variables:
        named = os.environ.get(variable)
        if named and shutil.which(named):
            return shutil.which(named)
    folders = [str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)]
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(variable):
            folders.append(str(Path(os.environ[variable]) / "bin"))
    folders += ["/usr/local/cuda/bin", "/opt/cuda/bin"]
    return shutil.which(name, path=os.pathsep.join(folders))


def compute_capability() -> str | None:
    """Return that of the first GPU, such as ``9.0``; None when there is none."""
    smi = shutil.which("nvidia-smi")
    first = _first_line([smi, "--query-gpu=compute_cap", "--format=csv,noheader"]) if smi else ""
    if first.replace(".", "").isdigit():
        return first
    try:
        import torch
    except ImportError:
        return None
    if not torch.cuda.is_available():
        return None
    major, minor = torch.cuda.get_device_capability()
    return f"{major}.{minor}"


def _first_line(command: list[str]) -> str:
    """Return what a command prints first; nothing when it fails."""
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return result.stdout.partition("\n")[0].strip() if result.returncode == 0 else ""


def architecture(capability: str) -> str:
    """Return CMake's name for a GPU's machine code: ``9.0`` to ``90a-real``."""
    # Only code for 90a may use Hopper's own instructions.
    suffix = "a" if capability == "9.0" else ""
    return f"{capability.replace('.', '')}{suffix}-real"


def pybind11_folder() -> str:
    """Return where pybind11's CMake package is."""
    command = [sys.executable, "-m", "pybind11", "--cmakedir"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise BuildError("pybind11 is missing; install it to build the CUDA kernels")
    return result.stdout.strip()


def configuration(source: Path, folder: Path, capability: str) -> list[str]:
    """Return the command that configures the build; BuildError names what is missing."""
    cmake, nvcc = find_tool("cmake"), find_tool("nvcc", "CUDACXX")
    if cmake is None:
        raise BuildError("cmake is missing; install it to build the CUDA kernels")
    if nvcc is None:
        raise BuildError("nvcc is not in PATH, CUDACXX or CUDA_HOME/bin: no CUDA kernels to build")
    ninja = find_tool("ninja")
    options = {
        "CMAKE_BUILD_TYPE": "Release",
        "CMAKE_CUDA_COMPILER": nvcc,
        "CMAKE_INSTALL_LIBDIR": "lib",
        "CMAKE_INSTALL_PREFIX": str(site_of(folder) / "fewstep"),
        "FEWSTEP_CUDA": "ON",
        "FEWSTEP_CUDA_ARCHS": architecture(capability),
        "FEWSTEP_DEVELOPER_MODE": "OFF",
        "FEWSTEP_PYTHON": "ON",
        "FEWSTEP_TESTS": "OFF",
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind11_folder(),
    }
    generator = ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"] if ninja else []
    defined = [f"-D{name}={value}" for name, value in options.items()]
    return [cmake, "-S", str(source), "-B", str(folder), *generator, *defined]


def site_of(folder: Path) -> Path:
    """Return the folder beside a build that Python is to import from."""
    return folder / "site"


def build(source: Path, folder: Path, capability: str, run: Callable[[list[str]], int]) -> Path:
    """Build and install.

    Parameters
    ----------
    source : Path
        The checkout.
    folder : Path
        Of the build; kept, so that a second build compiles what changed.
    capability : str
        Of the GPU.
    run : callable
        Runs a command and returns its exit status.

    Returns
    -------
    Path
        What to put first into ``PYTHONPATH``.
    """
    commands = [configuration(source, folder, capability)]
    jobs = str(len(os.sched_getaffinity(0)))
    commands.append([commands[0][0], "--build", str(folder), "--parallel", jobs])
    commands.append([commands[0][0], "--install", str(folder)])
    site = site_of(folder)
    shutil.rmtree(site, ignore_errors=True)
    site.mkdir(parents=True)
    for command in commands:
        if run(command) != 0:
            raise BuildError(f"'{' '.join(command[:3])} ...' failed")
    package = source / "python" / "fewstep"
    skip = shutil.ignore_patterns("__pycache__", "*.so")
    shutil.copytree(package, site / "fewstep", dirs_exist_ok=True, ignore=skip)
    (site / "sitecustomize.py").write_text(SITE)
    return site


def child_environment(site: Path) -> dict[str, str]:
    """Return what makes a child import the build."""
    before = os.environ.get("PYTHONPATH")
    return {"PYTHONPATH": os.pathsep.join([str(site), *([before] if before else [])])}

# SPDX-License-Identifier: Apache-2.0
"""Compiles the CUDA kernels with the build's own flags and reads what came of them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

from .project import CSRC, ROOT

SOURCES = sorted(CSRC.glob("*/cuda/*.cu"))
REGISTERS = 65536  # of a multiprocessor; given out to warps in units of 8 per thread


def nvcc() -> str:
    """Return the CUDA compiler; skip the test without one."""
    homes = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    folders = [f"{home}/bin" for home in [*homes, "/usr/local/cuda"] if home]
    for candidate in (os.environ.get("CUDACXX"), "nvcc", *(f"{x}/nvcc" for x in folders)):
        if candidate and (found := shutil.which(candidate)):
            return found
    pytest.skip("no nvcc")


def disassembler() -> list[str]:
    """Return the command that prints a cubin's instructions; skip the test without one."""
    site = [Path(entry) for entry in sys.path if entry.endswith("site-packages")]
    folders = [os.environ.get("PATH", ""), str(Path(nvcc()).resolve().parent)]
    folders += [f"{home}/bin" for home in map(os.environ.get, ("CUDA_HOME", "CUDA_PATH")) if home]
    for pattern in ("nvidia/cu*/bin", "triton/backends/nvidia/bin"):
        folders += [str(found) for entry in site for found in sorted(entry.glob(pattern))]
    path = os.pathsep.join(folders)
    if found := shutil.which("nvdisasm", path=path):
        return [found, "--print-code"]
    if found := shutil.which("cuobjdump", path=path):
        return [found, "--dump-sass"]
    pytest.skip("no nvdisasm or cuobjdump (pip install nvidia-cuda-nvdisasm has one)")


def architectures() -> list[str]:
    """Return the architectures that a build has machine code for by default."""
    text = (ROOT / "cmake" / "FewstepOptions.cmake").read_text()
    listed = re.search(r'set\(FEWSTEP_CUDA_ARCHS "([^"]+)"', text)
    assert listed
    return re.findall(r"(\w+)-real", listed[1])


def flags() -> list[str]:
    """Return what the build gives nvcc for a kernel file, from its own file."""
    text = (ROOT / "cmake" / "FewstepFamily.cmake").read_text()
    found = re.search(r"set\(flags (-fmad[^)]*)\)", text)
    assert found
    return [flag for flag in found[1].split() if "fatbin" not in flag and flag != "-lineinfo"]


@dataclass(frozen=True)
class Kernel:
    """A kernel of one architecture: the assembler's report, and the bounds that it had."""

    name: str
    registers: int
    stack: int
    spilled: int
    threads: int
    blocks: int


@dataclass(frozen=True)
class Compiled:
    """A kernel file compiled for one architecture."""

    source: Path
    cubin: Path
    ptx: str
    report: str


_started: dict[tuple[Path, str, Path], Future[subprocess.CompletedProcess[str]]] = {}


def start_compiling(pool: Executor, folder: Path) -> None:
    """Compile all kernel files for all architectures, as long as `pool` is open."""
    compiler = nvcc()
    for architecture in architectures():
        for source in SOURCES:
            key = (source, architecture, folder)
            _started[key] = pool.submit(_compile, compiler, *key)


def _compile(
    compiler: str, source: Path, architecture: str, folder: Path
) -> subprocess.CompletedProcess[str]:
    """Compile a kernel file as the build does: -O3 and no assertions."""
    kept = _kept(source, architecture, folder)
    kept.mkdir()
    command = [compiler, "-std=c++20", "-O3", "-DNDEBUG", "-DFEWSTEP_ISA=cuda", *flags()]
    command += [f"-I{CSRC}", f"-I{CSRC / 'include'}", "-DFEWSTEP_WITH_CUDA", "-Xptxas", "-v"]
    command += [f"-arch=sm_{architecture}", "--keep", "--keep-dir", str(kept)]
    command += ["-cubin", str(source), "-o", str(kept / "code.cubin")]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _kept(source: Path, architecture: str, folder: Path) -> Path:
    return folder / f"{source.parents[1].name}_{source.stem}_{architecture}"


def compiled(source: Path, architecture: str, folder: Path) -> Compiled:
    """Return a kernel file that `start_compiling` compiles."""
    result = _started[source, architecture, folder].result()
    if "Unsupported gpu architecture" in result.stderr:
        pytest.skip(f"this nvcc does not know sm_{architecture}")
    assert result.returncode == 0, result.stderr
    kept = _kept(source, architecture, folder)
    ptx = (kept / f"{source.stem}.ptx").read_text()
    return Compiled(source, kept / "code.cubin", ptx, result.stderr)


def readable(mangled: str) -> str:
    """Return ``SumKernel<4>`` for the symbol of ``run_kernel<...::SumKernel<4>>``.

    A sum of terms is called by them: ``PieceKernel<GramTerms<4>>``.
    """
    terms = re.search(r"PieceKernel.*?\d([A-Z]\w*?Terms)I((?:L[ib]\d+E)+)E", mangled)
    if terms:
        values = ", ".join(re.findall(r"L[ib](\d+)E", terms[2]))
        return f"PieceKernel<{terms[1]}<{values}>>"
    found = re.search(r"\d(?P<name>[A-Z][A-Za-z]*Kernel)(?:I(?P<values>(?:L[ib]\d+E)+))?", mangled)
    assert found, mangled
    values = ", ".join(re.findall(r"L[ib](\d+)E", found["values"] or ""))
    return found["name"] + (f"<{values}>" if values else "")


def kernels(result: Compiled) -> list[Kernel]:
    """Return the kernels of a file as ``-Xptxas -v`` reports them."""
    bounds = {
        mangled: (int(threads), int(blocks))
        for mangled, threads, blocks in re.findall(
            r"\.entry (\w+)\(.*?\)\s*\.maxntid (\d+).*?\.minnctapersm (\d+)", result.ptx, re.S
        )
    }
    found = re.findall(
        r"Compiling entry function '(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads.*?Used (\d+) registers",
        result.report,
        re.S,
    )
    return [
        Kernel(
            readable(mangled),
            int(registers),
            int(stack),
            int(stores) + int(loads),
            *bounds[mangled],
        )
        for mangled, stack, stores, loads, registers in found
    ]


@lru_cache
def instructions(cubin: Path) -> dict[str, list[str]]:
    """Return each kernel's operations in their order, such as ``LDG.E.128``, without guards."""
    command = [*disassembler(), str(cubin)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    functions: dict[str, list[str]] = {}
    current: list[str] = []
    for line in result.stdout.splitlines():
        if entry := re.match(r"\.text\.(\w+):|\s*Function : (\w+)", line):
            current = functions.setdefault(readable(entry[1] or entry[2]), [])
        elif found := re.match(r"\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Zx0-9_.]*)", line):
            current.append(found[1])
    return functions

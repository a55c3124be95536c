# SPDX-License-Identifier: Apache-2.0
"""Where the project's files and the built library are, and what the public headers declare."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pytest

import fewstep

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
INCLUDE = CSRC / "include"
HEADERS = sorted((INCLUDE / "fewstep").glob("*.h"))

SOURCE_FOLDERS = (".ci", "bench", "cmake", "csrc", "python", "tests", "tools")
SOURCE_SUFFIXES = {".c", ".cc", ".cmake", ".cu", ".cuh", ".h", ".hpp", ".in", ".map", ".py", ".pyi"}


def sources(*suffixes: str) -> Iterator[Path]:
    """Yield the project's source files, those with the given suffixes only if any are given."""
    for folder in SOURCE_FOLDERS:
        for path in sorted((ROOT / folder).rglob("*")):
            if not path.is_file() or "__pycache__" in path.parts:
                continue
            known = path.suffix in SOURCE_SUFFIXES or path.name == "CMakeLists.txt"
            if path.suffix in suffixes if suffixes else known:
                yield path
    if not suffixes:
        yield ROOT / "CMakeLists.txt"


def relative(path: Path) -> str:
    """Return the path as the project's files name it."""
    return path.relative_to(ROOT).as_posix()


def tool(name: str, variable: str = "") -> str:
    """Return the path of a program that compiling needs anyway; skip the test without it."""
    found = shutil.which(os.environ.get(variable) or name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def output_of(*command: str | Path) -> str:
    """Return what a command prints; its error output is part of a failure's message."""
    result = subprocess.run(
        list(map(str, command)), capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert result.returncode == 0, f"{command}\n{result.stdout}{result.stderr}"
    return result.stdout


def library() -> Path:
    """Return the installed libfewstep.so."""
    folder = Path(fewstep.info()["cmake_dir"]).parents[1]
    found = sorted(folder.glob("libfewstep.so*"))
    assert found, f"no libfewstep.so in {folder}"
    return found[0]


@lru_cache(maxsize=1)
def exported() -> frozenset[str]:
    """Return the names that the library defines for others."""
    lines = output_of(tool("nm"), "--dynamic", "--defined-only", library()).splitlines()
    return frozenset(line.split()[-1].split("@")[0] for line in lines if line.strip())


@dataclass(frozen=True)
class Declaration:
    """A public C function with the comment above it."""

    name: str
    parameters: str
    comment: str
    header: str

    @property
    def is_op(self) -> bool:
        """Whether it works on tensors where a context says."""
        return "fewstep_context* ctx" in self.parameters and bool(
            re.search(r"fewstep_tensor|_args\b", self.parameters)
        )


_DECLARATION = re.compile(
    r"(?:/\*(?P<comment>(?:[^*]|\*(?!/))*)\*/\s*)?"
    r"FEWSTEP_API\s+[\w\s*]+?\b(?P<name>fewstep_\w+)\s*\((?P<parameters>[^;]*)\)\s*;"
)


@lru_cache(maxsize=1)
def declarations() -> tuple[Declaration, ...]:
    """Return every function that the public headers declare."""
    return tuple(
        Declaration(m["name"], " ".join(m["parameters"].split()), m["comment"] or "", path.name)
        for path in HEADERS
        for m in _DECLARATION.finditer(path.read_text())
    )


def ops() -> list[Declaration]:
    """Return the declared functions that are ops."""
    return [d for d in declarations() if d.is_op]

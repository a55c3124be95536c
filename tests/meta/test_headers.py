# SPDX-License-Identifier: Apache-2.0
"""Each public header stands alone in C11 and C++20, and each op's contract is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .project import CSRC, HEADERS, INCLUDE, Declaration, ops, output_of, tool

WARNINGS = ("-Wall", "-Wextra", "-pedantic", "-Werror", "-fsyntax-only")
FIELDS = ["Shapes", "Types", "Layout", "Alias", "Memory", "Order", "Repeat", "Errors", "Source"]


@pytest.mark.parametrize("header", HEADERS, ids=lambda path: path.name)
def test_header_alone_is_c11(header: Path, tmp_path: Path) -> None:
    main = tmp_path / "main.c"
    main.write_text(f'#include "fewstep/{header.name}"\nint main(void) {{ return 0; }}\n')
    output_of(tool("gcc", "CC"), "-std=c11", *WARNINGS, f"-I{INCLUDE}", main)


@pytest.mark.parametrize(
    "header", sorted((INCLUDE / "fewstep").glob("*.h*")), ids=lambda path: path.name
)
def test_header_alone_is_cpp20(header: Path, tmp_path: Path) -> None:
    main = tmp_path / "main.cc"
    # Twice: the guard must hold.
    main.write_text(f'#include "fewstep/{header.name}"\n' * 2 + "int main() {}\n")
    output_of(tool("g++", "CXX"), "-std=c++20", "-Wshadow", *WARNINGS, f"-I{INCLUDE}", main)


def test_there_are_ops() -> None:
    """An empty parametrisation below would pass in silence."""
    assert {op.name for op in ops()} >= {"fewstep_noise_normal", "fewstep_solver_step"}


@pytest.mark.parametrize("op", ops(), ids=lambda op: op.name)
def test_contract_is_complete(op: Declaration) -> None:
    lines = [line.strip().lstrip("*") for line in op.comment.splitlines()]
    labels = [m[1] for line in lines if (m := re.match(r" ([A-Z][a-z]+) {2,}\S", line))]
    assert [label for label in labels if label in FIELDS] == FIELDS, op.header
    assert set(labels) <= {*FIELDS, "Random"}
    takes_seeds = "seeds" in op.comment
    assert ("Random" in labels) == takes_seeds, "an op that takes seeds says what it draws"


@pytest.mark.parametrize("op", ops(), ids=lambda op: op.name)
def test_contract_names_every_tensor_and_checks_it(op: Declaration) -> None:
    """Every tensor of the prototype, or of its args struct, has a shape and a check."""
    header = (INCLUDE / "fewstep" / op.header).read_text()
    text = op.parameters
    if struct := re.search(r"const (fewstep_\w+_args)\* args", text):
        text = re.search(rf"typedef struct {struct[1]} {{(.*?)}} {struct[1]};", header, re.S)[1]
    tensors = re.findall(r"const fewstep_tensor\* (\w+)", text)
    assert tensors
    _, family, verb = op.name.split("_", 2)
    source = (CSRC / family / f"{verb}.cc").read_text()
    shared = CSRC / family / "checks.cc"  # what several ops of the family check alike
    if f'"{family}/checks.h"' in source and shared.exists():
        source += shared.read_text()
    checked = set(re.findall(r'\.(?:in|out)(?:_strided)?\(\s*\{?\s*"(\w+)"', source))
    described = re.search(r"\* Shapes(.*?)\n \* [A-Z]", op.comment, re.S)
    for name in tensors:
        assert re.search(rf"\b{name}\b", described[1] if described else ""), f"no shape for {name}"
        assert name in checked, f"{op.name} does not check '{name}'"

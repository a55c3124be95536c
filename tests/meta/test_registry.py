# SPDX-License-Identifier: Apache-2.0
"""Every op the library exports is complete: nobody has to remember to register one.

The list of ops is read from the library and its headers, never from a list kept by hand.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import pytest

from .project import ROOT, Declaration, declarations, exported, ops

OPS = [op for op in ops() if op.name in exported()]
SECTIONS = ("Parameters", "Returns", "Raises", "Notes", "Examples")


def family_and_verb(op: Declaration) -> tuple[str, str]:
    """Return ("solver", "step") for fewstep_solver_step."""
    _, family, verb = op.name.split("_", 2)
    return family, verb


def wrapper(op: Declaration) -> Any:
    """Return the op's Python function."""
    family, verb = family_and_verb(op)
    return getattr(importlib.import_module(f"fewstep.{family}"), verb)


def sections_of(doc: str) -> dict[str, str]:
    """Return a numpydoc text's sections by title."""
    found: dict[str, str] = {}
    parts = re.split(r"^(\w[\w ]*)\n-{3,}\n", inspect.cleandoc(doc), flags=re.M)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        found[title] = body
    return found


def test_ops_are_found() -> None:
    assert {op.name for op in OPS} >= {"fewstep_solver_step", "fewstep_noise_normal"}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_python_wrapper_with_a_complete_docstring(op: Declaration) -> None:
    function = wrapper(op)
    doc = inspect.getdoc(function) or ""
    sections = sections_of(doc)
    assert [title for title in SECTIONS if title not in sections] == []
    first = doc.split("\n", 1)[0]
    assert first.endswith(".")
    assert len(first) <= 100
    described = set()
    for line in sections["Parameters"].splitlines():
        if match := re.match(r"(\*{0,2}\w+(?:, \w+)*) : \S", line):
            described.update(name.strip("* ") for name in match[1].split(","))
    assert described == set(inspect.signature(function).parameters)
    assert ">>>" in sections["Examples"]
    assert "ValueError" in sections["Raises"]


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_wrapper_takes_what_the_contract_names(op: Declaration) -> None:
    """The C tensors' names are the Python names, but for plural containers."""
    allowed = {"slots": "state", "models": "model_output", "rows": "row"}
    text = op.parameters
    if match := re.search(r"const (fewstep_\w+_args)\*", text):
        header = (ROOT / "csrc" / "include" / "fewstep" / op.header).read_text()
        text = re.search(rf"typedef struct {match[1]} {{(.*?)}}", header, re.S)[1]
    parameters = set(inspect.signature(wrapper(op)).parameters)
    names = re.findall(r"const fewstep_tensor\* (\w+)", text)
    assert [n for n in names if not {n, allowed.get(n, n)} & parameters] == []


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_reference_cases_error_test_and_changelog(op: Declaration) -> None:
    family, verb = family_and_verb(op)
    reference = importlib.import_module(f"reference.{family}")
    assert callable(getattr(reference, verb, None)), f"no reference.{family}.{verb}"
    cases = ROOT / "tests" / "cases" / f"{family}.py"
    assert cases.is_file(), f"no cases of {family}"
    assert f"{family}.{verb}" in cases.read_text(), f"no cases of {family}.{verb}"
    errors = "".join(p.read_text() for p in (ROOT / "tests").glob("test_errors*.py"))
    assert f"def test_{family}_{verb}" in errors
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^- .*\bfewstep\.{family}\.{verb}\b", changelog, re.M)


def test_every_function_is_declared_and_reached() -> None:
    """What C has, C++ and the binding have: the ABI cannot rot unused."""
    face = (ROOT / "csrc" / "include" / "fewstep" / "fewstep.hpp").read_text()
    binding = "".join(p.read_text() for p in (ROOT / "csrc" / "bindings").glob("*.cc"))
    names = {d.name for d in declarations()}
    assert names == exported()
    for name in sorted(names):
        call = re.compile(rf"\b{name}\b")
        assert call.search(face) or call.search(binding), f"nothing calls {name}"

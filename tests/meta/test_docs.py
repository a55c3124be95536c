# SPDX-License-Identifier: Apache-2.0
"""What the README and the docstrings show runs and gives what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from typing import Any

import numpy as np
import pytest

import fewstep

from .project import ROOT

OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
README = (ROOT / "README.md").read_text()
SESSIONS = ("README.md", "docs/linear.md")


def modules() -> list[str]:
    """Return the package's modules."""
    found = pkgutil.walk_packages(fewstep.__path__, "fewstep.")
    # __main__ runs the command; the benchmarks' rivals need packages that a user may lack.
    return ["fewstep", *(m.name for m in found if not re.search(r"__main__|\.bench\b", m.name))]


def run(test: doctest.DocTest) -> None:
    """Run one docstring's examples; say what differs."""
    lines: list[str] = []
    result = doctest.DocTestRunner(optionflags=OPTIONS).run(test, out=lines.append)
    assert result.failed == 0, "".join(lines)


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    scope: dict[str, Any] = {"fewstep": fewstep, "np": np}
    for test in doctest.DocTestFinder(exclude_empty=True).find(module, extraglobs=scope):
        run(test)


def test_examples_exist() -> None:
    """The main entry points show how they are called."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    for item in (fewstep.solver.step, fewstep.solver.plan, fewstep.noise.normal, fewstep.Sampler):
        assert any(test.examples for test in finder.find(item)), item


@pytest.mark.parametrize("name", SESSIONS)
def test_samples(name: str) -> None:
    """A document's Python, in its order, as one session."""
    if "import torch" in (text := (ROOT / name).read_text()):
        pytest.importorskip("torch")
    blocks = re.findall(r"^```(?:python|pycon)\n(.*?)^```", text, re.M | re.S)
    assert blocks, "it shows no Python"
    scope: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        title = f"{name} block {number}"
        if ">>>" in block:
            test = doctest.DocTestParser().get_doctest(block, scope, title, name, None)
            scope = test.globs
            runner = doctest.DocTestRunner(optionflags=OPTIONS)
            lines: list[str] = []
            assert runner.run(test, out=lines.append, clear_globs=False).failed == 0, "".join(lines)
        else:
            exec(compile(block, title, "exec"), scope)


def test_readme_lists_every_environment_variable() -> None:
    pattern = re.compile(r'getenv\("(FEWSTEP_\w+)"|environ(?:\.get\(|\[)"(FEWSTEP_\w+)"')
    used = {
        a or b
        for path in [*(ROOT / "csrc").rglob("*.cc"), *(ROOT / "python").rglob("*.py")]
        for a, b in pattern.findall(path.read_text())
    }
    assert used >= {"FEWSTEP_CPU_ISA"}
    assert [name for name in sorted(used) if name not in README] == []


@pytest.mark.parametrize("last", ["fewstep demo image", "pytest"])
def test_readme_commands_start_from_nothing(last: str) -> None:
    """One line each, which .ci/run and a reader can paste."""
    pattern = rf"^python3 -m venv .+ && .+/pip install .+ && \S+/{last}$"
    assert len(re.findall(pattern, README, re.M)) == 1

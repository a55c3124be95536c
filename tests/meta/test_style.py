# SPDX-License-Identifier: Apache-2.0
"""Style that a machine can check."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from .project import CSRC, ROOT, output_of, relative, sources

FILES = list(sources())
MAX_LINES = 400
MAX_COLUMNS = 100
# Files that may be longer, each with its reason.
LONG_FILES: dict[str, str] = {
    "python/fewstep/_core.pyi": "one module has one stub",
}
# The library never prints and never aborts; it throws inside and returns a status outside.
FORBIDDEN = re.compile(
    r"\b(?:v?f?printf|puts|fputs|abort|assert|exit|_exit|quick_exit|terminate)\s*\("
    r"|\bstd::(?:cout|cerr|clog)\b|#\s*include\s*<(?:iostream|cassert|assert\.h)>"
)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/|\"(?:[^\"\\\n]|\\.)*\"", re.S)


def code_of(text: str) -> str:
    """Return C++ text without comments and strings."""
    return COMMENT.sub(" ", text)


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(CSRC)], ids=relative)
def test_library_neither_prints_nor_aborts(path: Path) -> None:
    assert FORBIDDEN.findall(code_of(path.read_text())) == []


@pytest.mark.parametrize(
    "text",
    ['printf("x");', "std::abort();", "assert(x);", "std::cerr << 1;", "fprintf(stderr, x);"],
)
def test_printing_and_aborting_are_found(text: str) -> None:
    assert FORBIDDEN.search(code_of(text))


@pytest.mark.parametrize("text", ["static_assert(true);", "std::snprintf(a, b);", "// printf()"])
def test_what_is_allowed_is_not_found(text: str) -> None:
    assert not FORBIDDEN.search(code_of(text))


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_file_form(path: Path) -> None:
    text = path.read_text()
    lines = text.splitlines()
    if not text.strip():
        return
    is_template = path.suffix in {".in", ".map"}
    assert is_template or any("SPDX-License-Identifier: Apache-2.0" in x for x in lines[:2])
    assert len(lines) <= MAX_LINES or relative(path) in LONG_FILES
    assert [line for line in lines if re.match(r"(<{7}|={7}|>{7}|\|{7})( |$)", line)] == []
    assert text.isascii()
    assert text.endswith("\n")
    if not is_template and path.suffix != ".cmake":
        assert [line for line in lines if len(line) > MAX_COLUMNS] == []
        assert [line for line in lines if line != line.rstrip()] == []
    assert not re.search(r"\bTODO(?!\(#\d+\))", text) or path.name == "test_style.py"


def test_long_files_are_still_long() -> None:
    """An entry that is no longer needed goes."""
    for name in LONG_FILES:
        assert len((ROOT / name).read_text().splitlines()) > MAX_LINES


def test_functions_are_short() -> None:
    """No Python function is above 60 lines, its docstring not counted."""
    import ast

    long = []
    for path in sources(".py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef):
                continue
            first = node.body[0]
            has_text = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
            start = (first.end_lineno if has_text else node.lineno) or 0
            if (node.end_lineno or 0) - start > 60:
                long.append(f"{relative(path)}:{node.lineno} {node.name}")
    assert long == []


def test_spelling() -> None:
    """Codespell over the text that people read, its words to skip in pyproject.toml."""
    pytest.importorskip("codespell_lib")
    names = [str(ROOT / name) for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
    output_of(sys.executable, "-m", "codespell_lib", *map(str, FILES), *names)

# SPDX-License-Identifier: Apache-2.0
"""_core.pyi describes the module _core, no more and no less."""

from __future__ import annotations

import ast
import re
from types import ModuleType
from typing import Any

import pytest

from fewstep import _core

from .project import ROOT

STUB = ast.parse((ROOT / "python" / "fewstep" / "_core.pyi").read_text())


def stub_names(body: list[ast.stmt]) -> dict[str, ast.stmt]:
    """Return what a stub's module or class declares, by name."""
    names: dict[str, ast.stmt] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names[node.name] = node
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names[node.target.id] = node
    return names


def public(owner: Any) -> set[str]:
    """Return the names a module or class has of its own and offers."""
    own = vars(owner)
    return {n for n in own if not n.startswith("_") and not isinstance(own[n], ModuleType)}


def signature(function: Any) -> list[str] | None:
    """Return the parameter names that a bound function's docstring gives, if it does."""
    text = getattr(function, "__text_signature__", None)
    if not text:
        first = (getattr(function, "__doc__", None) or "").split("\n", 1)[0]
        match = re.match(r"\w+(\(.*\))(?: ->.*)?$", first)
        text = match[1] if match else None
    if not text:
        return None
    text = re.sub(r"<[^>]*>", "None", text).replace("$", "")
    try:
        parsed = ast.parse(f"def f{text}: ...").body[0]
    except SyntaxError:
        return None
    assert isinstance(parsed, ast.FunctionDef)
    return parameters(parsed)


def parameters(node: ast.FunctionDef) -> list[str]:
    """Return a function's parameter names but for self."""
    args = node.args
    names = [a.arg for a in [*args.posonlyargs, *args.args, *args.kwonlyargs]]
    return [name for name in names if name not in {"self", "arg0"}]


CLASSES = {n: node for n, node in stub_names(STUB.body).items() if isinstance(node, ast.ClassDef)}


def test_module_names() -> None:
    declared = {n for n in stub_names(STUB.body) if not n.startswith("_")}
    assert declared == public(_core)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_class_names(name: str) -> None:
    declared = {n for n in stub_names(CLASSES[name].body) if not n.startswith("_")}
    assert declared == public(getattr(_core, name))


def functions() -> list[tuple[str, Any, ast.FunctionDef]]:
    """Return the functions and methods that both sides have."""
    found = []
    for name, node in stub_names(STUB.body).items():
        if isinstance(node, ast.FunctionDef):
            found.append((name, getattr(_core, name, None), node))
        if isinstance(node, ast.ClassDef):
            for method, inner in stub_names(node.body).items():
                is_plain = isinstance(inner, ast.FunctionDef) and not method.startswith("__")
                if is_plain and not inner.decorator_list:
                    owner = getattr(_core, name, None)
                    found.append((f"{name}.{method}", getattr(owner, method, None), inner))
    return found


@pytest.mark.parametrize(
    ("name", "function", "node"), functions(), ids=lambda v: v if isinstance(v, str) else ""
)
def test_parameters(name: str, function: Any, node: ast.FunctionDef) -> None:
    assert callable(function), name
    real = signature(function)
    if real is None:
        pytest.skip("the module does not tell this function's parameters")
    own = [p for p in real if p not in {"self", "arg0", "/"}]
    assert own == parameters(node), name

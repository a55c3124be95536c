# SPDX-License-Identifier: Apache-2.0
"""Who may include whom.

L5 ``python/fewstep``; L4 ``csrc/bindings``, a client of the C ABI; L3 ``csrc/include/fewstep``,
which includes nothing of the inside; L2 ``csrc/<family>``, problems, checks, entry points;
L1 ``csrc/<family>/cpu`` and ``cuda``, kernels, which see a problem and no tensor, context or
framework; L0 ``csrc/core``.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .project import CSRC, relative

FILES = [p for p in sorted(CSRC.rglob("*")) if p.suffix in {".h", ".hpp", ".cc", ".cu", ".cuh"}]
# What kernels may use of the C library: no header here emits code that a linker could share
# between instruction sets.
C_HEADERS = {"float.h", "limits.h", "math.h", "stddef.h", "stdint.h", "string.h", "immintrin.h"}
FRAMEWORKS = re.compile(r"^(pybind11|Python\.h|torch|ATen|c10|numpy|dlpack)\b")


def includes(path: Path) -> list[str]:
    """Return what a file includes, as written."""
    return re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', path.read_text(), re.M)


def is_standard(name: str) -> bool:
    """Whether a header belongs to the C or C++ library or the operating system."""
    return "/" not in name and (not name.endswith((".h", ".hpp")) or name in SYSTEM)


SYSTEM = C_HEADERS | {"dlfcn.h", "link.h", "pthread.h", "sched.h", "unistd.h", "cpuid.h"}
FAMILIES = {
    p.name for p in CSRC.iterdir() if p.is_dir() and p.name not in {"bindings", "core", "include"}
}
# A family that builds on another: verification filters and draws as sampling does.
DEPENDS: dict[str, tuple[str, ...]] = {
    "decoder": ("kv/", "linear/", "tree/"),
    "logits": ("linear/",),
    "tree": ("logits/",),
}

CORE_OF_KERNELS = {
    "core/draws.h", "core/dtype.h", "core/host_device.h", "core/philox.h", "core/scaled_bytes.h",
}  # fmt: skip


def problem(path: Path, name: str) -> str | None:
    """Return what is wrong with an include, if anything."""
    parts = path.relative_to(CSRC).parts
    layer = parts[0]
    if layer == "include":
        own = (path.parent / name).is_file()
        allowed = own or (
            is_standard(name) if path.suffix == ".hpp" else name in C_HEADERS - {"immintrin.h"}
        )
        return None if allowed else "a public header includes the C library and its siblings"
    if layer == "bindings":
        local = "/" not in name and (path.parent / name).is_file()
        allowed = local or name.startswith(("fewstep/", "pybind11/")) or is_standard(name)
        return None if allowed else "the binding is a client of the public headers"
    if FRAMEWORKS.match(name):
        return "frameworks stay in csrc/bindings"
    is_kernel = len(parts) > 2 and parts[1] in {"cpu", "cuda"} and layer != "core"
    if is_kernel:
        own = name.startswith((f"{layer}/", *DEPENDS.get(layer, ())))
        core = name.startswith(f"core/{parts[1]}/") or name in CORE_OF_KERNELS
        return None if own or core or name in C_HEADERS else "a kernel sees a problem and core/cpu"
    if layer == "core":
        runtime = parts[1] == "cuda" and name in {"cuda.h", "cuda_runtime_api.h"}
        allowed = runtime or name.startswith(("core/", "fewstep/")) or is_standard(name)
        return None if allowed else "core knows no family"
    own = (f"{layer}/", *DEPENDS.get(layer, ()))
    allowed = name.startswith((*own, "core/", "fewstep/")) or is_standard(name)
    return None if allowed else "a family includes itself, core and the public headers"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_includes_follow_the_layers(path: Path) -> None:
    wrong = [(name, why) for name in includes(path) if (why := problem(path, name))]
    assert not wrong


def test_layers_exist() -> None:
    """The rules above speak of something."""
    assert {"solver", "noise"} <= FAMILIES
    assert any("cpu" in p.parts for p in FILES)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("solver/cpu/step.cc", "vector"),
        ("solver/cpu/step.cc", "fewstep/tensor.h"),
        ("solver/cpu/step.cc", "core/context.h"),
        ("solver/step.cc", "noise/normal.h"),
        ("core/check.cc", "solver/step.h"),
        ("bindings/module.cc", "core/status.h"),
        ("include/fewstep/plan.h", "vector"),
        ("noise/normal.cc", "pybind11/pybind11.h"),
    ],
)
def test_a_wrong_include_is_found(path: str, name: str) -> None:
    assert problem(CSRC / path, name)


def test_python_does_not_reach_around_the_package() -> None:
    """Only fewstep._core speaks to the library."""
    package = CSRC.parent / "python" / "fewstep"
    for path in package.rglob("*.py"):
        if path.is_relative_to(package / "bench"):
            continue  # a rival is a library of its own
        assert "ctypes" not in path.read_text(), relative(path)

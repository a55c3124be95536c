# SPDX-License-Identifier: Apache-2.0
"""What the built library exports and needs, and what kernel objects must not contain."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from .project import CSRC, ROOT, declarations, exported, library, output_of, relative, tool

SYSTEM_LIBRARIES = re.compile(
    r"lib(c|m|stdc\+\+|gcc_s|dl|pthread|rt)\.so\.\d+|ld-linux[\w-]*\.so\.\d+"
)
ISAS = ("scalar", "avx2", "avx512", "avx512_vnni", "avx512_bf16")
KERNELS = [path for path in sorted(CSRC.glob("*/cpu/*.cc")) if "FEWSTEP_ISA" in path.read_text()]


def test_exports_are_what_the_headers_declare() -> None:
    assert exported() == {d.name for d in declarations()}


def test_needs_the_system_only() -> None:
    lines = output_of(tool("readelf"), "--dynamic", "--wide", library()).splitlines()
    needed = [m[1] for line in lines if (m := re.search(r"\(NEEDED\).*\[(.+)\]", line))]
    assert needed
    assert [name for name in needed if not SYSTEM_LIBRARIES.fullmatch(name)] == []


def isa_flags() -> dict[str, list[str]]:
    """Return the compiler flags of each instruction set, from the build's own file."""
    text = (ROOT / "cmake" / "FewstepFlags.cmake").read_text()
    found = re.findall(r"set\(FEWSTEP_ISA_FLAGS_(\w+)\s+([^)]*)\)", text)
    flags: dict[str, list[str]] = {}
    for isa, text in found:
        for name, given in flags.items():
            text = text.replace(f"${{FEWSTEP_ISA_FLAGS_{name}}}", " ".join(given))
        flags[isa] = text.replace('""', "").split()
    return flags


def weak_symbols(path: Path) -> list[str]:
    """Return the symbols of an object that a linker may share with other objects."""
    lines = output_of(tool("nm"), "--demangle", path).splitlines()
    return [line for line in lines if re.search(r" [WVu] ", line)]


def compile_kernel(source: Path, flags: list[str], isa: str, folder: Path) -> Path:
    """Compile without optimisation, which keeps every inline function as a symbol."""
    target = folder / f"{isa}.o"
    command = [tool("g++", "CXX"), "-std=c++20", "-O0", "-ffp-contract=off", *flags]
    command += [f"-DFEWSTEP_ISA={isa}", "-DFEWSTEP_X86_KERNELS", f"-I{CSRC}", f"-I{CSRC}/include"]
    output_of(*command, "-c", source, "-o", target)
    return target


def test_there_are_kernels_and_isas() -> None:
    assert {path.stem for path in KERNELS} >= {"normal", "step"}
    assert set(isa_flags()) == set(ISAS)
    assert {"-mavx512f", "-mavx512vnni"} <= set(isa_flags()["avx512_bf16"])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("source", KERNELS, ids=relative)
def test_kernel_objects_have_no_weak_symbols(source: Path, isa: str, tmp_path: Path) -> None:
    """A weak function compiled for AVX-512 may be the one a baseline machine ends up calling."""
    assert weak_symbols(compile_kernel(source, isa_flags()[isa], isa, tmp_path)) == []


def test_a_weak_symbol_is_found(tmp_path: Path) -> None:
    source = tmp_path / "weak.cc"
    source.write_text("#include <vector>\nint f(int n) { return std::vector<int>(n, 1)[0]; }\n")
    assert weak_symbols(compile_kernel(source, [], "scalar", tmp_path))


@pytest.mark.parametrize("isa", ["avx512", "avx512_vnni", "avx512_bf16"])
def test_dot_products_of_integers_are_those_of_the_isa(isa: str, tmp_path: Path) -> None:
    """Equal bits cannot tell kernels apart."""
    source = CSRC / "linear" / "cpu" / "run.cc"
    code = output_of(
        tool("objdump"), "-d", "-C", compile_kernel(source, isa_flags()[isa], isa, tmp_path)
    )
    found = {name for name in ("vpdpwssd", "vpdpbusd", "vdpbf16ps") if name in code}
    wanted = {"avx512": set(), "avx512_vnni": {"vpdpwssd", "vpdpbusd"}}
    assert found == wanted.get(isa, {"vpdpwssd", "vpdpbusd", "vdpbf16ps"})

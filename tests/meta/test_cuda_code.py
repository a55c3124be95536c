# SPDX-License-Identifier: Apache-2.0
"""The machine code of the CUDA kernels: registers, spills, and how wide and how early they read."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .cuda_code import (
    REGISTERS,
    SOURCES,
    architectures,
    compiled,
    instructions,
    kernels,
    readable,
    start_compiling,
)
from .project import relative

ARCHITECTURE = "90a"  # whose instructions are looked at
KERNELS = {f"SumKernel<{r}>" for r in (1, 2, 3, 4)} | {"RowKernel<0>", "RowKernel<1>"}
KERNELS |= {"NormalKernel", "BrownianKernel"}
STREAMS = set(KERNELS)  # kernels that read and write whole samples at the memory's speed
GRAM_SUMS = {1: 2, 2: 5, 3: 9, 4: 14}  # of K arrays
KERNELS |= {f"PieceKernel<GramTerms<{k}>>" for k in GRAM_SUMS}
KERNELS |= {f"PieceKernel<ErrorTerms<{m}, {x}>>" for m in (0, 1) for x in (0, 1)}
KERNELS |= {f"SampleKernel<{sums}>" for sums in (1, *GRAM_SUMS.values())}
KERNELS |= {"StartKernel", "FindKernel", *(f"CountKernel<{level}>" for level in (0, 1, 2))}
KERNELS |= {"AppendKernel<0>", "AppendKernel<1>", "CommitKernel", "CopyPagesKernel"}
KERNELS |= {f"{name}<{i}>" for name in ("HeaderKernel", "TransferKernel") for i in (0, 1)}
KERNELS |= {
    "ChecksumKernel",
    "TruncateKernel",
    "BuildKernel",
    "FromTemplateKernel",
    "RerankKernel",
    "RecycleKernel",
}
KERNELS |= {"SampleKernel", "TopKKernel", "RenormKernel", "PenaliseKernel"}
KERNELS |= {"GumbelTopKKernel", "SampleArithmeticKernel"}
KERNELS |= {"ExpandKernel", "KSeqRhoKernel", "SampleChildrenKernel", "BeamKernel", "VerifyKernel"}
HALF_ATTENTION = {
    f"HalfAttentionKernel<{bf16}, {width}, {warps}, {bytes_}>"
    for bf16 in (0, 1)
    for width in (64, 128, 256)
    for warps in (1, 4)
    for bytes_ in (0, 1)
}
WARPGROUP_ATTENTION = {
    f"WarpgroupAttentionKernel<{bf16}, {width}, {tiles}>"
    for bf16 in (0, 1)
    for width, most in ((64, 2), (128, 2), (256, 1))
    for tiles in range(1, most + 1)
}
KERNELS |= HALF_ATTENTION | WARPGROUP_ATTENTION | {"JoinKernel", "MergeKernel"}
KERNELS |= {f"FloatAttentionKernel<{i}, {width}>" for i in (0, 1) for width in (64, 128, 256)}
# Kinds of weights by number, 1 float16, 2 bfloat16, 3 int8, 4 int4; tiles of 8 rows.
PRODUCTS = {f"MmaKernel<{kind}, {tiles}>" for kind in (1, 2) for tiles in (1, 4)}
PRODUCTS |= {f"MmaKernel<{kind}, {tiles}>" for kind in (3, 4) for tiles in (1, 2)}
PRODUCTS |= {f"HeadMmaKernel<{kind}, {tiles}>" for kind in (1, 2, 4) for tiles in (1, 2)}
PRODUCTS |= {"HeadMmaKernel<3, 1>"}
KERNELS |= PRODUCTS | {"PrepareKernel", "HeadJoinKernel"}
KERNELS |= {f"{name}<{kind}>" for name in ("FmaKernel", "HeadFmaKernel") for kind in (0, 1, 2)}
KERNELS |= {"PackKernel", "PackBytesKernel", "PackHalfBytesKernel", "UnpackKernel"}
COPIES = {"CommitKernel": 4, "CopyPagesKernel": 1}  # accesses of 16 bytes that are in flight
STREAM_SOURCES = [source for source in SOURCES if source.stem in ("normal", "step")]
# Folds guidance weights into a row's coefficients with one thread per block, in float64: arrays
# that are indexed at run time. Its packs are in registers like the others'.
LOCAL_ARRAYS = {"RowKernel<1>"}
# What divisions and logarithms of float64, and divisions of 128-bit integers, start from; what they
# end with is rounded like any other result.
FIRST_GUESSES = ("rcp.approx.ftz.f64", "rcp.approx.f32")
# And weights of attention, which are rounded to 16 bits.
GUESSES = {
    "sample_arithmetic": FIRST_GUESSES,
    "attention": (FIRST_GUESSES[0], "ex2.approx.ftz.f32"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where compiled kernels go, each compiled once, as many at a time as there are cores."""
    made = tmp_path_factory.mktemp("cuda")
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        start_compiling(pool, made)
        yield made
        pool.shutdown(cancel_futures=True)


def code(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the instructions of every kernel."""
    for source in SOURCES:
        yield from instructions(compiled(source, ARCHITECTURE, folder).cubin).items()


@pytest.mark.parametrize("architecture", architectures())
@pytest.mark.parametrize("source", SOURCES, ids=relative)
def test_nothing_spills_and_arrays_are_registers(
    source: Path, architecture: str, folder: Path
) -> None:
    found = kernels(compiled(source, architecture, folder))
    assert found
    for kernel in found:
        assert kernel.spilled == 0, kernel
        assert kernel.stack == 0 or kernel.name in LOCAL_ARRAYS, kernel
        granted = (kernel.registers + 7) // 8 * 8 * kernel.threads * kernel.blocks
        assert granted <= REGISTERS, kernel


def test_every_kernel_is_looked_at(folder: Path) -> None:
    assert {name for name, _ in code(folder)} == KERNELS
    reported = [kernels(compiled(source, ARCHITECTURE, folder)) for source in SOURCES]
    assert {kernel.name for file in reported for kernel in file} == KERNELS


def test_nothing_but_guidance_is_in_local_memory(folder: Path) -> None:
    for name, operations in code(folder):
        if name not in LOCAL_ARRAYS:
            assert [op for op in operations if re.match(r"(LDL|STL)\b", op)] == [], name


def test_streams_are_16_bytes_wide(folder: Path) -> None:
    """A pack in float32 is two accesses of 16 bytes, of the global kind and never the generic.

    Narrow accesses are there too, for what is short or not aligned.
    """
    least = {"NormalKernel": (0, 2), "BrownianKernel": (0, 2)}
    least |= {"RowKernel<0>": (24, 8), "RowKernel<1>": (24, 8)}
    for name, operations in code(folder):
        if name not in STREAMS:
            continue
        r = re.search(r"SumKernel<(\d)>", name)
        loads, stores = (8, 2 * int(r[1])) if r else least[name]
        assert operations.count("LDG.E.128") >= loads, name
        assert operations.count("STG.E.128") >= stores, name
        assert [op for op in operations if re.match(r"(LD|ST)\.E\.128", op)] == [], name


def test_four_terms_are_read_before_the_first_is_used(folder: Path) -> None:
    """Eight wide loads, two per term, stand before the products of their group of terms."""
    groups = {"RowKernel<0>": 2, "RowKernel<1>": 2, "NormalKernel": 0, "BrownianKernel": 0}
    # Two groups: the conversion and the row. None: normals are made, not read.
    for name, operations in code(folder):
        if name not in STREAMS:
            continue
        letters = {"LDG.E.128": "L", "FFMA": "f", "FFMA2": "f"}
        order = "".join(letters.get(op, "") for op in operations)
        assert len(re.findall(r"L{8,}f+", order)) == groups.get(name, 1), (name, order)


def test_copies_read_16_bytes_at_once_and_several_rows_before_they_write(folder: Path) -> None:
    found = {name: operations for name, operations in code(folder) if name in COPIES}
    for name, loads in COPIES.items():
        letters = {"LDG.E.128": "L", "STG.E.128": "S"}
        order = "".join(letters.get(op, "") for op in found[name])
        assert re.search("L" * loads + "S", order), (name, order)


def test_halves_are_multiplied_on_tensor_cores_and_copied_16_bytes_at_once(folder: Path) -> None:
    """A kernel has the products of one step of dims, and of a tile's values with all dims."""
    for name, operations in code(folder):
        if name not in HALF_ATTENTION:
            continue
        width, warps = (int(value) for value in re.findall(r"\d+", name)[1:3])
        keys = (32 if width == 256 else 64) if warps == 4 else 16  # of a warp
        products = [op for op in operations if op.startswith("HMMA.16816.F32")]
        is_bf16 = [op.endswith(".BF16") for op in products]
        assert is_bf16 == [name.startswith("HalfAttentionKernel<1")] * len(products), name
        assert len(products) == keys // 8 + keys // 16 * width // 8, name
        assert "LDSM.16.M88.4" in operations, name
        assert "LDSM.16.MT88.4" in operations, name
        assert [op for op in operations if re.match(r"LDGSTS\.E\.BYPASS\.128", op)], name


def test_bytes_of_a_cache_are_on_their_way_while_halves_are_multiplied(folder: Path) -> None:
    """A thread's share of a tile's values and of its next keys, eight bytes at a time."""
    for name, operations in code(folder):
        if name not in HALF_ATTENTION or not name.endswith(" 1>"):
            continue
        width, warps = (int(value) for value in re.findall(r"\d+", name)[1:3])
        reads = (32 if width == 256 and warps == 4 else 64) * width // 8 // 128
        letters = {"LDG.E.64": "L", "STS.128": "S", "BAR.SYNC.DEFER_BLOCKING": "B"}
        order = "".join("M" if op.startswith("HMMA") else letters.get(op, "") for op in operations)
        read, stored = "L" * reads + "S*", "S" * 2 * reads  # as int8 or float8
        assert re.search(f"{stored}{read}BM+B{stored}{read}BM+", order), (name, order)
        pairs = [op for op in operations if re.match("H(FMA|ADD|MUL)2", op)]
        assert len(pairs) >= 2 * 2 * reads * 4, name


def test_many_rows_are_multiplied_by_warpgroups_without_waits_in_between(folder: Path) -> None:
    """A tile's logits and values: steps of 16 dims and of 16 keys times 64 dims.

    Where the assembler cannot tell that nobody needs a product's registers meanwhile, it waits
    after each.
    """
    for name, operations in code(folder):
        if name not in WARPGROUP_ATTENTION:
            continue
        is_bf16, width, tiles = (int(value) for value in re.findall(r"\d+", name))
        products = [op for op in operations if op.startswith("HGMMA")]
        product = "HGMMA.64x64x16.F32" + (".BF16" if is_bf16 else "")
        assert products == [product] * (tiles * (width // 16 + 64 // 16 * width // 64)), name
        assert [op for op in operations if re.match(r"LDGSTS\.E\.BYPASS\.128", op)], name
        boxes = 2 * 2 * (width // 64)  # keys and values, before the loop and in it
        assert [op for op in operations if op.startswith("UTMALDG.4D")] == ["UTMALDG.4D"] * boxes
    for source in SOURCES:
        assert "serialized" not in compiled(source, ARCHITECTURE, folder).report


def test_weights_are_multiplied_on_tensor_cores_and_read_ahead(folder: Path) -> None:
    """Of each of several units, before the loop and in it, a thread reads its weights at once."""
    reads = {1: (8, "64"), 2: (4, "128"), 3: (4, "64"), 4: (2, "64")}  # of a unit, and their bits
    product = {1: "HMMA.16816.F32", 2: "HMMA.16816.F32.BF16"}
    for name, operations in code(folder):
        if name not in PRODUCTS:
            continue
        kind, tiles = (int(value) for value in re.findall(r"\d+", name))
        ahead = 4 if tiles == 1 and name != "HeadMmaKernel<3, 1>" else 2
        found = [op for op in operations if op.startswith(("HMMA", "IMMA"))]
        # Of two halves of the outputs and, with halves, of the inputs; or high bytes and low ones.
        assert found == [product.get(kind, "IMMA.16832.S8.S8")] * (4 * tiles * ahead), name
        count, width = reads[kind]
        rows = tiles if width == "128" else 0  # of x, which is read in as wide accesses always
        assert operations.count(f"LDG.E.{width}") == 2 * ahead * (count + rows), name


@pytest.mark.parametrize("source", SOURCES, ids=relative)
def test_arithmetic_is_the_cpus(source: Path, folder: Path) -> None:
    """No product and sum that the assembler may fuse, nothing approximate, denormals kept.

    Explicit fma stays. A multiplication without a rounding mode may be contracted; -fmad=false
    gives all of them one.
    """
    text = compiled(source, ARCHITECTURE, folder).ptx
    if source in STREAM_SOURCES:
        assert re.search(r"\bmul\.rn\.f32\b", text)
        assert re.search(r"\bfma\.rn\.f32\b", text)
    assert re.findall(r"\b(?:mul|add|sub|mad)\.f(?:32|64)\b", text) == []
    guesses = GUESSES.get(source.stem, FIRST_GUESSES[:1])
    approximate = re.findall(r"\b\w+(?:\.\w+)*\.(?:approx|ftz)\b[.\w]*", text)
    assert set(approximate) <= set(guesses)


def test_names_of_kernels() -> None:
    piece = (
        "_ZN3gpu10run_kernelIN6solver11PieceKernelINS1_10ErrorTermsILb0ELb1EEENS1_8SumInputEEEEvT_"
    )
    assert readable(piece) == "PieceKernel<ErrorTerms<0, 1>>"
    assert readable("_ZN3gpu10run_kernelIN6solver9SumKernelILi4EEEEEvT_") == "SumKernel<4>"
    assert readable("_ZN3gpu10run_kernelIN6solver9RowKernelILb0EEEEEvT_") == "RowKernel<0>"
    half = "_ZN3gpu10run_kernelIN4tree19HalfAttentionKernelILb1ELi64ELi4ELb0EEEEEvT_"
    assert readable(half) == "HalfAttentionKernel<1, 64, 4, 0>"
    assert readable("_ZN3gpu10run_kernelIN5noise12NormalKernelEEEvT_") == "NormalKernel"

# SPDX-License-Identifier: Apache-2.0
"""What ``tree.attention`` promises of its bits, and ``tree.merge``."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import fewstep
from cases.attention import DTYPES, cache_dtype, problem, rounded, tree_bits
from harness import Worker
from reference import attention as reference
from reference.kv import SCALED
from test_attention import ULP, run

LONG = [(2100, 5), (1030, 4), (40, 1)]  # several parts, tiles and one


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("deterministic", [False, True])
def test_thread_counts_change_no_bit(
    kernel_worker: Worker, dtype: str, deterministic: bool
) -> None:
    a = problem(LONG, dtype=dtype, dim=32, tree="random") | {"deterministic": deterministic}
    one, two, three = (run(kernel_worker, a, dtype, threads=n) for n in (1, 2, 3))
    for other in (two, three):
        assert np.array_equal(one["out"], other["out"])
        assert np.array_equal(one["lse"], other["lse"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("names", [("k", "v"), ("draft_k", "draft_v")])
def test_where_heads_lie_changes_no_bit(dtype: torch.dtype, names: tuple[str, str]) -> None:
    """Few rows, which read all heads of a token at once where they lie side by side."""
    a = problem([(300, 2), (127, 1)], heads=6, groups=3, draft="view")
    for name in ("q", "k", "v", "draft_k", "draft_v"):
        a[name] = torch.from_numpy(a[name]).to(dtype)
    want = fewstep.tree.attention(**a)
    for name in names:
        a[name] = a[name].movedim(-2, 0).contiguous().movedim(0, -2)
    assert torch.equal(fewstep.tree.attention(**a), want)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("draft", ["cache", "view"])
def test_rows_of_a_chain_equal_single_steps(kernel_worker: Worker, dtype: str, draft: str) -> None:
    """K + 1 rows, across ends of tiles and parts, with every option that a chain can have."""
    for prefix in (3, 126, 1021, 2046):
        a = problem(
            [(prefix, 6)], dtype=dtype, dim=32, draft=draft, sinks=True, softcap=20.0,
            window=prefix - 1, page=100 if prefix > 1000 else 0,
        )  # fmt: skip
        many = run(kernel_worker, a, dtype, deterministic=True)
        ends = np.array([0, 1], np.int32)
        for i in range(6):
            own = {"q": a["q"][i : i + 1], "indptr": ends}
            if draft == "cache":
                own["kv_len"] = np.array([prefix + i + 1], np.int32)
            else:  # the earlier rows are cached by now
                own["kv_len"] = np.array([prefix + i], np.int32)
                for name in ("k", "v"):
                    own[name] = a[name].copy()
                    for j in range(i):
                        page, token = 0, prefix + j
                        if "page_table" in a:
                            page, token = a["page_table"][0, token // 100], token % 100
                        if token < own[name].shape[1]:
                            own[name][page, token] = a[f"draft_{name}"][j]
                    own[f"draft_{name}"] = a[f"draft_{name}"][i : i + 1]
                if "page_table" in a and (prefix + i) // 100 >= a["page_table"].shape[1]:
                    continue
                if "page_table" not in a and prefix + i > a["k"].shape[1]:
                    continue
            one = run(kernel_worker, a | own, dtype, deterministic=True)
            assert np.array_equal(one["out"][0], many["out"][i])
            assert np.array_equal(one["lse"][0], many["lse"][i])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [16, 64, 80, 96, 128, 256])
def test_few_rows_have_the_bits_of_many(workers: dict[str, Worker], dtype: str, dim: int) -> None:
    """Up to 4 rows take keys and values as they lie, more take them packed: the same sums."""
    a = problem([(1030, 9)], dtype=dtype, dim=dim, heads=2, groups=2)
    for isa in [*fewstep.info()["cpu"]["available"], "cuda_on_host"]:
        many = run(workers[isa], a, dtype, deterministic=True)
        first = 0
        for count in (1, 2, 3, 3):
            own = {"q": a["q"][first : first + count], "indptr": np.array([0, count], np.int32)}
            own["kv_len"] = np.array([1030 + first + count], np.int32)
            few = run(workers[isa], a | own, dtype, deterministic=True)
            assert np.array_equal(few["out"], many["out"][first : first + count])
            assert np.array_equal(few["lse"], many["lse"][first : first + count])
            first += count


@pytest.mark.parametrize("dim", [32, 64, 96, 128])
@pytest.mark.parametrize("rows", [16, 20, 31, 34, 64])
def test_rows_in_lanes_have_the_bits_of_few(bf16_worker: Worker, rows: int, dim: int) -> None:
    """Rows of bfloat16 that fill vectors, or leave some, of heads that share keys or not."""
    options: list[dict[str, Any]] = [
        {"groups": 2}, {"groups": 1}, {"groups": 2, "softcap": 20.0, "window": 900, "sinks": True}
    ]  # fmt: skip
    for more in options:
        lengths = [(1029, rows * more["groups"] // 2)]
        a = problem(lengths, dtype="bfloat16", dim=dim, heads=2, **more)
        many = run(bf16_worker, a, "bfloat16", deterministic=True)
        for first, count in ((0, 2), (len(a["q"]) - 1, 1)):
            own = {"q": a["q"][first : first + count], "indptr": np.array([0, count], np.int32)}
            own["kv_len"] = np.array([1029 + first + count], np.int32)
            few = run(bf16_worker, a | own, "bfloat16", deterministic=True)
            assert np.array_equal(few["out"], many["out"][first : first + count])
            assert np.array_equal(few["lse"], many["lse"][first : first + count])


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_of_a_tree_equal_the_tree_at_once(kernel_worker: Worker, dtype: str) -> None:
    """Rows level by level over a growing block, of two requests whose levels differ in size."""
    a = problem([(1019, 11), (60, 5)], dtype=dtype, dim=32, page=100, sinks=True, window=1020)
    parents = [[-1, 0, 0, 0, 1, 1, 2, 3, 4, 4, 6], [-1, 0, 0, 1, 2]]
    a["bits"] = tree_bits(parents)
    at_once = run(kernel_worker, a, dtype, deterministic=True)
    levels = [([0], [0]), ([1, 2, 3], [1, 2]), ([4, 5, 6, 7], [3, 4]), ([8, 9, 10], [])]
    prefix, done = a["kv_len"] - [11, 5], np.zeros(2, np.int64)
    for level in levels:
        count = [len(nodes) for nodes in level]
        rows = np.array([*level[0], *(11 + node for node in level[1])])
        done += count
        own = {name: a[name][rows] for name in ("q", "bits")}
        own["indptr"] = np.cumsum([0, *count]).astype(np.int32)
        own["kv_len"] = (prefix + done).astype(np.int32)
        own["block"] = done.astype(np.int32)
        got = run(kernel_worker, a | own, dtype, deterministic=True)
        assert np.array_equal(got["out"], at_once["out"][rows])
        assert np.array_equal(got["lse"], at_once["lse"][rows])


def test_rows_alone_are_the_default_block(kernel_worker: Worker) -> None:
    a = problem([(100, 9), (31, 4), (0, 1)], tree="random", window=20)
    own = {"block": np.diff(a["indptr"]).astype(np.int32)}
    default = run(kernel_worker, a, "float32")["out"]
    assert np.array_equal(run(kernel_worker, a | own, "float32")["out"], default)


@pytest.mark.parametrize("dtype", DTYPES)
def test_requests_do_not_know_each_other(kernel_worker: Worker, dtype: str) -> None:
    """Deterministic: alone, in a batch and in another order a request has the same bits."""
    a = problem(LONG, dtype=dtype, dim=32, tree="random")
    together = run(kernel_worker, a, dtype, deterministic=True)["out"]
    ends = a["indptr"]
    rows = [np.arange(ends[b], ends[b + 1]) for b in range(3)]
    for order in ([0], [1], [2], [2, 0, 1]):
        own = {name: a[name][order] for name in ("k", "v", "kv_len")}
        own["indptr"] = np.cumsum([0, *(len(rows[b]) for b in order)]).astype(np.int32)
        picked = np.concatenate([rows[b] for b in order])
        own |= {name: a[name][picked] for name in ("q", "bits")}
        got = run(kernel_worker, a | own, dtype, deterministic=True)["out"]
        assert np.array_equal(got, together[picked])


def test_default_mode_repeats_and_differs_from_the_fixed_parts(kernel_worker: Worker) -> None:
    """The two modes are two orders of the same sums: close, and each the same every time."""
    a = problem(LONG, dim=32)
    first, again = (run(kernel_worker, a, "float32")["out"] for _ in range(2))
    fixed = run(kernel_worker, a, "float32", deterministic=True)["out"]
    assert np.array_equal(first, again)
    assert 0.0 < np.abs(first - fixed).max() < 1e-5


@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_arrays(dtype: str) -> None:
    """A transformers cache is passed as its transpose; q and out may be views as well."""
    a = problem([(70, 3), (20, 5)], dtype=dtype)
    kind = getattr(torch, dtype)
    q, k, v = (torch.from_numpy(a[name]).to(kind) for name in ("q", "k", "v"))
    length, ends = torch.from_numpy(a["kv_len"]), torch.from_numpy(a["indptr"])
    plain = fewstep.tree.attention(q, k, v, length, ends)
    wide = torch.zeros(8, 4, 3, 64, dtype=kind)
    wide[:, :, 1] = q
    out = torch.zeros(4, 8, 64, dtype=kind).transpose(0, 1)
    kept = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v)]
    assert kept[0].stride() != k.stride()
    got = fewstep.tree.attention(wide[:, :, 1], *kept, length, ends, out=out)
    assert got is out
    assert torch.equal(out, plain)


@settings(max_examples=60)
@given(st.data())
def test_any_problem_matches_float64(data: st.DataObject) -> None:
    draw = data.draw
    requests = draw(st.lists(st.tuples(st.integers(0, 150), st.integers(0, 6)), max_size=3))
    groups = draw(st.integers(1, 3))
    draft = draw(st.sampled_from(["cache", "view", "none"]))
    earlier = st.lists(st.integers(0, 40), min_size=len(requests), max_size=len(requests))
    a = problem(
        requests,
        earlier=draw(earlier) if draft == "cache" else None,
        groups=groups,
        heads=groups * draw(st.integers(1, 5)),
        dim=16 * draw(st.integers(1, 4)),
        draft=draft,
        page=draw(st.integers(0, 40)),
        tree=draw(st.sampled_from(["", "star", "random"])),
        cache=draw(st.sampled_from(["", *SCALED])),
        sinks=draw(st.booleans()),
        softcap=draw(st.sampled_from([0.0, 5.0])),
        window=draw(st.integers(0, 200)),
        seed=draw(st.integers(0, 99)),
    )
    lse = np.empty(a["q"].shape[:2], np.float32)
    kind = getattr(torch, cache_dtype(a, "float32"))
    caches = {name: torch.from_numpy(a[name]).to(kind) for name in ("k", "v")}
    out = fewstep.tree.attention(**a | caches, lse=lse, deterministic=draw(st.booleans()))
    exact, logs = reference.attention(**a)
    assert np.abs(out - exact).max(initial=0.0) <= 1e-5 * np.abs(exact).max(initial=1.0)
    finite = np.isfinite(logs)
    assert np.array_equal(np.isfinite(lse), finite)
    assert np.abs(lse[finite] - logs[finite]).max(initial=0.0) < 2e-5


def parts_of(count: int, shape: tuple[int, int, int], seed: int = 0) -> Any:
    rng = np.random.default_rng([78, seed])
    parts = [rng.normal(size=shape).astype(np.float32) for _ in range(count)]
    lses = [rng.normal(size=shape[:2], scale=5.0).astype(np.float32) for _ in range(count)]
    return parts, lses


def merged(worker: Worker, parts: Any, lses: Any, dtype: str, **layout: Any) -> Any:
    """Run the op on strided copies of the parts in `dtype`; out and lse lie in guard bands."""
    kind, shape = getattr(torch, dtype), parts[0].shape
    wide = [torch.zeros(len(p), 2, *p.shape[1:]).to(kind) for p in parts]
    for store, values in zip(wide, parts, strict=True):
        store[:, 1] = torch.from_numpy(values).to(kind)
    return worker.run(
        op="tree.merge",
        inputs={},
        outputs={"out": (shape, dtype), "lse": (shape[:2], "float32")},
        options={"parts": [store[:, 1] for store in wide], "lses": lses},
        **layout,
    )


@pytest.mark.parametrize("shape", [(0, 2, 8), (1, 1, 1), (3, 2, 7), (2, 3, 64), (40, 8, 130)])
@pytest.mark.parametrize("count", [1, 2, 3, 8])
def test_merge_matches_float64(worker: Worker, count: int, shape: tuple[int, int, int]) -> None:
    for dtype in DTYPES:
        parts, lses = parts_of(count, shape)
        parts = [rounded(p, dtype) for p in parts]
        lses[0][:1, :1] = -np.inf  # with one part: a row of none
        lses[-1][-1:] = -np.inf
        got = merged(worker, parts, lses, dtype, offset=1, gap=shape[0] and 3)
        exact, lse = reference.merge(parts, lses)
        size = np.abs(exact).max(initial=0.0)
        assert np.abs(got["out"] - exact).max(initial=0.0) <= size * (ULP[dtype] + count * 2.0**-22)
        finite = np.isfinite(lse)
        assert np.array_equal(np.isneginf(got["lse"]), ~finite)
        assert np.abs(got["lse"][finite] - lse[finite]).max(initial=0.0) <= 2.0**-19


def test_merge_has_the_same_bits_on_every_isa(workers: dict[str, Worker]) -> None:
    parts, lses = parts_of(5, (40, 8, 130))
    isas = [*fewstep.info()["cpu"]["available"], "cuda_on_host"]
    results = [merged(workers[isa], parts, lses, "float32", threads=1 + i % 2)
               for i, isa in enumerate(isas)]  # fmt: skip
    for other in results[1:]:
        assert np.array_equal(other["out"], results[0]["out"])
        assert np.array_equal(other["lse"], results[0]["lse"])


def test_merge_ignores_a_part_without_weight() -> None:
    parts, lses = parts_of(3, (4, 2, 16))
    want = fewstep.tree.merge([parts[0], parts[2]], [lses[0], lses[2]])
    lses[1][:] = -np.inf
    parts[1][:] = np.nan
    assert np.array_equal(fewstep.tree.merge(parts, lses), want)
    lse = np.empty((4, 2), np.float32)
    nothing = fewstep.tree.merge([parts[1]], [lses[1]], lse=lse)
    assert not nothing.any()
    assert np.isneginf(lse).all()


def test_merge_of_split_caches_is_attention_to_all() -> None:
    """Prefix in two halves and the block apart, the last two merged first."""
    a = problem([(300, 4)], draft="view", tree="random", dim=64)
    whole = fewstep.tree.attention(**a)
    rest = {name: a[name] for name in ("q", "indptr")}
    parts, lses = [], []
    for begin, end in ((0, 130), (130, 300), (300, 300)):
        own = {"k": a["k"][:, begin:], "v": a["v"][:, begin:], "draft": "none"}
        if begin == 300:
            own |= {name: a[name] for name in ("draft_k", "draft_v", "bits")} | {"draft": "view"}
        lse = np.empty((4, 4), np.float32)
        length = np.array([end - begin], np.int32)
        parts.append(fewstep.tree.attention(kv_len=length, lse=lse, **rest, **own))
        lses.append(lse)
    joined = np.empty((4, 4), np.float32)
    last = fewstep.tree.merge(parts[1:], lses[1:], lse=joined)
    got = fewstep.tree.merge([parts[0], last], [lses[0], joined])
    assert np.abs(got - whole).max() < 1e-6

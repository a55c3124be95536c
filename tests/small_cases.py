# SPDX-License-Identifier: Apache-2.0
"""Small cases of every op, in one process, for a memory checker: python small_cases.py cuda.

Tensors end where their memory ends, so that the checker sees an access past them. The results are
the tests' business.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import numpy as np

import harness
import kv_calls
import linear_calls
from cases import kv, linear, logits, noise, solver, sums
from reference import kv as reference
from small_token_cases import run_cases

LARGEST = 4500  # elements of a sample


def step_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Rows of every kind, over the layouts; rows and guidance per sample too."""
    for index, layout in enumerate(solver.LAYOUTS):
        if np.prod(layout.shape[1:]) > LARGEST:
            continue
        for seed in range(2 if few else 6):
            problem = solver.random_problem(1000 * index + seed)
            given = solver.arrays(problem, layout.shape, seed)
            given |= {"dtype": solver.DTYPES[seed % 3], "offset": layout.offset, "gap": layout.gap}
            yield given
            batch = layout.shape[0]
            yield given | {"row": np.zeros(batch, np.int32)}
            if problem.models:
                weights = np.ones((batch, problem.models), np.float32)
                yield given | {"guidance": weights}


def normal_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Lengths around the tiles, in every type and alignment."""
    for length in noise.LENGTHS[:: 3 if few else 1]:
        if length <= LARGEST:
            for dtype in noise.DTYPES:
                yield {
                    "seeds": noise.SEEDS[:3],
                    "shape": (length,),
                    "dtype": dtype,
                    "offset": length % 3,
                    "gap": 5,
                }


def brownian_cases(few: bool) -> Iterator[dict[str, Any]]:
    """The same, with times for all samples and for each."""
    times = np.array(noise.TIMES[3:6])
    for given in normal_cases(few):
        ends = {"t_min": noise.T_MIN, "t_max": noise.T_MAX}
        yield given | ends | {"t0": 0.3, "t1": 5.0}
        yield given | ends | {"t0": times[:, 0].copy(), "t1": times[:, 1].copy()}


def sum_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Gram matrices of one to four arrays over the reductions' lengths."""
    for index, layout in enumerate(sums.SUM_LAYOUTS[:: 3 if few else 1]):
        if np.prod(layout.shape[1:]) <= LARGEST:
            count = index % 4 + 1
            yield {
                "arrays": sums.normals(count, layout.shape),
                "dtypes": [noise.DTYPES[k % 3] for k in range(count)],
                "offset": layout.offset,
                "gap": layout.gap,
            }


def quantile_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Quantiles of values and of magnitudes, in every type."""
    for index, layout in enumerate(sums.QUANTILE_LAYOUTS[:: 3 if few else 1]):
        if np.prod(layout.shape[1:]) <= LARGEST:
            place = {"offset": layout.offset, "gap": layout.gap, "dtype": noise.DTYPES[index % 3]}
            for magnitude in (False, True):
                yield {
                    "x": sums.normals(1, layout.shape)[0],
                    "q": 0.37,
                    "magnitude": magnitude,
                    **place,
                }


def error_norm_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Errors between the arrays of three that the same shapes have."""
    for given in sum_cases(few):
        shape = given["arrays"][0].shape
        arrays = dict(zip(("error", "before", "after"), sums.normals(3, shape), strict=True))
        place = {"offset": given["offset"], "gap": given["gap"]}
        yield {"arrays": arrays, "dtypes": list(noise.DTYPES), **place}


def append_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Every layout of a cache, float32 to each type, with and without rotation."""
    for index, case in enumerate(kv.CASES[:: 3 if few else 1]):
        target = ("float32", "bfloat16", "int8", "float8_e4m3fn")[index % 4]
        given = {
            "rows": case.new_rows("float32"),
            "cache": case.cache(target),
            "dtypes": ("float32", target),
            "indptr": np.cumsum([0, *case.rows]).astype(np.int32),
            "length": np.array(case.lengths, np.int32),
            "page_table": case.table(),
            "layout": case.layout,
        }
        yield given
        if case.D >= 4:
            angles = np.linspace(0, 1, 64 * 2).reshape(64, 2).astype(np.float32)
            yield given | {"rope": "neox", "cos": np.cos(angles), "sin": np.sin(angles)}


def commit_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Every layout; the last two rows of each request move to where its rows began."""
    for case in kv.CASES[:: 3 if few else 1]:
        rows = np.array(case.rows, np.int32)
        path = np.stack([np.maximum(rows - 2, 0), np.maximum(rows - 1, 1)], 1).astype(np.int32)
        yield {
            "layers": [case.cache("bfloat16", seed) for seed in range(3)],
            "dtype": "bfloat16",
            "layout": case.layout,
            "path": path,
            "accepted": np.minimum(rows, 2).astype(np.int32),
            "base": np.array(case.lengths, np.int32),
            "page_table": case.table(),
        }


def transfer_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Every layout, as a message and back."""
    for index, case in enumerate(kv.CASES[:: 3 if few else 1]):
        dtype = ("float32", "bfloat16", "int8", "float8_e4m3fn")[index % 4]
        layers = [case.cache(dtype, seed) for seed in range(2)]
        given = {
            "layers": layers,
            "dtype": dtype,
            "layout": case.layout,
            "page_table": case.table(),
            "begin": 0,
        }
        if not case.lengths:
            continue
        yield given | {"end": case.lengths[0]}
        message = reference.export_tokens(layers, dtype, 0, case.lengths[0], table=case.table())
        yield given | {"data": np.frombuffer(message, np.uint8).copy()}


def linear_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Every kind and type over sizes around steps, groups, blocks and panels, with all fusions."""
    for index, (M, inputs, outputs) in enumerate(linear.SHAPES[:: 4 if few else 1]):
        for number, kind in enumerate(linear.KINDS):
            dtype = linear.DTYPES[(index + number) % 3]
            stored = "float32" if kind in linear.QUANTISED else kind
            given = linear.arrays((M * (1 + 4 * (index % 2)), inputs, outputs), dtype, stored)
            if index % 3 == 0:
                given = {"x": given["x"], "weight": given["weight"]}
            group = (32, 64)[index % 2]
            place = {"offset": index % 3, "gap": index % 4}
            yield given | {"kind": kind, "dtype": dtype, "stored": stored, "group": group} | place


def head_cases(few: bool) -> Iterator[dict[str, Any]]:
    """One group of packed rows and several, one row of x and several."""
    for index, (M, outputs, inputs) in enumerate(logits.HEADS[:: 2 if few else 1]):
        if outputs <= LARGEST:
            for kind in linear.KINDS:
                given = linear.arrays((M, inputs, outputs), "float32", "float32")
                one = {"x": given["x"], "weight": given["weight"], "kind": kind}
                yield one | {"k": 7, "offset": index % 2, "gap": index % 3}


OPS = {
    harness.step: step_cases,
    harness.normal: normal_cases,
    harness.brownian: brownian_cases,
    harness.gram: sum_cases,
    harness.quantile: quantile_cases,
    harness.error_norm: error_norm_cases,
    kv_calls.append: append_cases,
    kv_calls.commit: commit_cases,
    kv_calls.transfer: transfer_cases,
    linear_calls.linear: linear_cases,
    linear_calls.head_top_k: head_cases,
    harness.run: run_cases,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the cases on a device."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("device", choices=["cpu", "cuda"])
    parser.add_argument("--few", action="store_true", help="a third of them")
    options = parser.parse_args(arguments)
    harness.use(options.device, exact=True)
    calls = 0
    for op, cases in OPS.items():
        for given in cases(options.few):
            op(**given)
            calls += 1
    print(f"checked {calls} calls", flush=True)


if __name__ == "__main__":
    main()

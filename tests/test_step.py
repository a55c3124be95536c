# SPDX-License-Identifier: Apache-2.0
"""``solver.step`` against the float64 reference, and the promises of its contract."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fewstep
from cases.solver import (
    CONVERTED,
    DTYPES,
    GUIDED,
    KNOWN,
    LAYOUTS,
    MODEL,
    MODEL_INPUT,
    SLOTS,
    Layout,
    Problem,
    arrays,
    random_problem,
)
from harness import Worker
from reference import solver as reference

Arrays = dict[str, Any]
NAN, INF = float("nan"), float("inf")


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values rounded to `dtype` and back to float32."""
    import torch

    tensor = torch.from_numpy(np.array(values, np.float32))
    return tensor.to(getattr(torch, dtype)).float().numpy()


def ulp(scale: float, dtype: str) -> float:
    """Distance between neighbours of `scale` in `dtype`."""
    bits = {"float32": 23, "float16": 10, "bfloat16": 7}[dtype]
    return float(2.0 ** (np.floor(np.log2(scale)) - bits)) if scale > 0 else 2.0**-24


def row_of(problem: Arrays, index: int = 0) -> SimpleNamespace:
    """A row's fields as the reference reads them."""
    row = SimpleNamespace(**problem["rows"][index])
    row.n_inputs, row.n_outputs = len(row.input), len(row.output)
    row.n_noises, row.n_guidance = len(row.noise_stream), len(row.gamma)
    return row


def noises(problem: Arrays, row: SimpleNamespace) -> list[np.ndarray]:
    """The row's normals, which test_noise.py checks on their own."""
    shape = problem["state"].shape[2:]
    return [
        fewstep.noise.normal(problem["seeds"], shape, step=step, stream=stream)
        for stream, step in zip(row.noise_stream, row.noise_step, strict=True)
    ]


def plain(
    row: SimpleNamespace,
    slots: np.ndarray,
    models: list[np.ndarray],
    xi: list[np.ndarray],
    known: np.ndarray,
    mask: np.ndarray | None,
    gamma: Any,
) -> list[np.ndarray]:
    """The row's outputs as plain float32 NumPy computes them, each operation rounded."""
    f = np.float32
    operands: dict[int, np.ndarray] = dict(enumerate(slots))
    operands[KNOWN] = known
    if row.evaluates:
        weights = row.gamma if gamma is None else gamma
        for j, model in enumerate(models):
            operands[MODEL + j] = model
        g = sum((f(w) * m for w, m in zip(weights, models, strict=True)), f(0))
        operands[GUIDED] = g
        operands[CONVERTED] = np.clip(f(row.p) * slots[0] + f(row.q) * g, -row.clip, row.clip)
    outputs = []
    for r in range(row.n_outputs):
        terms = [f(row.a[r][k]) * operands[code] for k, code in enumerate(row.input)]
        terms += [f(row.noise[r][z]) * xi[z] for z in range(row.n_noises)]
        u = sum(terms, f(0))
        if mask is not None and row.blend[r]:
            kept = [f(row.known[r]) * known]
            kept += [f(row.known_noise[r][z]) * xi[z] for z in range(row.n_noises)]
            u = mask * u + (f(1) - mask) * sum(kept, f(0))
        outputs.append(np.broadcast_to(u, slots[0].shape))
    return outputs


def magnitudes(row: SimpleNamespace, *arrays: Any) -> list[float]:
    """The largest sum of the sizes of an output's terms: what roundings are relative to."""
    slots, models, xi, known, mask, gamma = arrays
    size = SimpleNamespace(**vars(row))
    for name in ("a", "noise", "known", "known_noise", "gamma", "p", "q"):
        value = getattr(size, name, 0.0)
        setattr(size, name, np.abs(value) if np.size(value) else value)
    size.clip = INF
    gamma = None if gamma is None else [np.abs(g) for g in gamma]
    sizes = plain(size, np.abs(slots), [*map(np.abs, models)], [*map(np.abs, xi)], np.abs(known),
                  mask, gamma)  # fmt: skip
    return [float(s.max(initial=0)) for s in sizes]


def check(problem: Arrays, result: Arrays, dtype: str, index: int = 0) -> None:
    """At most twice the error of plain float32 arithmetic, and a unit in the last place."""
    row = row_of(problem, index)
    models = [rounded(m, dtype) for m in problem["models"]]
    xi = noises(problem, row)
    gamma = problem.get("guidance")
    if gamma is not None:
        gamma = [g.reshape(-1, *[1] * (problem["known"].ndim - 1)) for g in gamma.T]
    mask = problem["mask"]
    wanted, wanted_input = reference.step(
        row, problem["state"], models, [x.astype(np.float64) for x in xi], mask,
        problem["known"], gamma,
    )  # fmt: skip
    given = (problem["state"], models, xi, problem["known"], mask, gamma)
    simple, scales = plain(row, *given), magnitudes(row, *given)
    for r, code in enumerate(row.output):
        kind, copies = ("float32", 1) if code < SLOTS else (dtype, problem["copies"])
        if copies == 0:
            continue
        got = result["state"][code] if code < SLOTS else result["model_input"]
        exact = wanted[code] if code < SLOTS else wanted_input
        assert exact is not None
        exact = np.concatenate([exact] * copies)
        usual = np.concatenate([rounded(simple[r], kind)] * copies)
        if exact.size == 0:
            continue
        error, allowed = np.abs(got - exact).max(), np.abs(usual - exact).max()
        limit = 2 * allowed + ulp(scales[r], kind)
        assert error <= limit, f"output {r} ({code}): error {error:.3g}, limit {limit:.3g}"
    for slot in set(range(SLOTS)) - set(row.output):
        assert np.array_equal(result["state"][slot], problem["state"][slot])


def same(a: Arrays, b: Arrays) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].tobytes() == b[name].tobytes(), f"{name} differs"


def simple_problem(**changes: Any) -> Problem:
    """A row that uses everything: two model outputs, noise, clamp, mask, three outputs."""
    row = {
        "input": [0, CONVERTED, 1, GUIDED],
        "output": [0, 1, MODEL_INPUT],
        "role": [0, 1, 3],
        "blend": [1, 0, 1],
        "noise_stream": [0, 2],
        "noise_step": [3, 4],
        "evaluates": 1,
        "gamma": [3.0, -2.0],
        "p": 1.1,
        "q": -0.7,
        "clip": 1.0,
        "a": [[0.9, 0.3, 0.2, 0.1], [0.0, 1.0, 0.0, 0.0], [0.4, 0.1, 0.1, 0.05]],
        "noise": [[0.5, 0.0], [0.0, 0.0], [0.2, 0.0]],
        "known": [0.9, 0.0, 0.5],
        "known_noise": [[0.0, 0.4], [0.0, 0.0], [0.0, 0.2]],
    }
    return Problem({**row, **changes}, models=2, has_mask=True, copies=2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.name)
def test_step_matches_reference(worker: Worker, dtype: str, layout: Layout) -> None:
    # Rows with every number of outputs and inputs turn up over the seeds.
    for seed in range(8):
        problem = random_problem(100 * LAYOUTS.index(layout) + seed)
        given = arrays(problem, layout.shape, seed)
        result = worker.step(**given, dtype=dtype, offset=layout.offset, gap=layout.gap)
        check(given, result, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_has_the_same_bits_on_every_isa(all_workers: list[Worker], dtype: str) -> None:
    for seed in range(24):
        given = arrays(random_problem(5000 + seed), LAYOUTS[3 + seed % 9].shape, seed)
        results = [worker.step(**given, dtype=dtype) for worker in all_workers]
        for other in results[1:]:
            same(results[0], other)


def test_step_has_the_same_bits_on_any_number_of_threads(worker: Worker) -> None:
    shapes = [(3, 50000), (40, 3001), (20000, 11), (1, 140000)]
    for seed, shape in enumerate(shapes if worker.isa != "scalar" else shapes[:3]):
        given = arrays(random_problem(6000 + seed), shape)
        results = [worker.step(**given, threads=threads) for threads in (1, 2, 7)]
        same(results[0], results[1])
        same(results[0], results[2])


def split(given: Arrays, samples: Any) -> Arrays:
    """The problem of some of the samples."""
    part = dict(given)
    part["state"] = given["state"][:, samples]
    part["models"] = [m[samples] for m in given["models"]]
    for name in ("seeds", "known", "guidance"):
        if given.get(name) is not None:
            part[name] = given[name][samples]
    if given["mask"] is not None and len(given["mask"]) > 1:
        part["mask"] = given["mask"][samples]
    return part


def take(result: Arrays, samples: Any, batch: int) -> Arrays:
    """Some of the samples of a result."""
    part = {"state": result["state"][:, samples]}
    for name in ("model_input", "bits"):
        if name in result:
            copies = result[name].reshape(-1, batch, *result[name].shape[1:])
            part[name] = copies[:, samples].reshape(-1, *result[name].shape[1:])
    return part


def test_step_does_not_depend_on_the_batch(worker: Worker) -> None:
    for seed in range(12):
        given = arrays(random_problem(7000 + seed), (5, 3, 111), seed)
        whole = worker.step(**given)
        order = np.random.default_rng(seed).permutation(5)
        for samples in (slice(0, 1), slice(1, 5), order):
            same(worker.step(**split(given, samples)), take(whole, samples, 5))


def test_step_follows_a_row_per_sample(worker: Worker) -> None:
    """Rows per sample equal a loop over samples, and a negative row leaves its sample alone."""
    problems = [random_problem(8000 + i) for i in range(40)]
    problems = [p for p in problems if p.models == 2][:4]
    given = arrays(problems[0], (6, 130))
    given |= {"rows": [p.row for p in problems], "copies": 1}
    given["mask"] = given["known"] * 0.5
    rows = np.array([2, 0, -1, 3, 1, 0], np.int32)
    together = worker.step(**(given | {"row": rows}))
    for b, row in enumerate(rows):
        alone = take(together, slice(b, b + 1), 6)
        if row < 0:
            assert np.array_equal(alone["state"], given["state"][:, b : b + 1])
            assert (alone["model_input"] == 7.0).all()
        else:
            same(worker.step(**(split(given, slice(b, b + 1)) | {"row": int(row)})), alone)


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_takes_guidance_per_sample(worker: Worker, dtype: str) -> None:
    given = arrays(simple_problem(), (4, 33))
    weights = np.random.default_rng(1).normal(size=(4, 2)).astype(np.float32)
    guided = worker.step(**given, guidance=weights, dtype=dtype)
    check(given | {"guidance": weights}, guided, dtype)
    for b in range(4):
        part = split(given, slice(b, b + 1))
        part["rows"] = [part["rows"][0] | {"gamma": [float(w) for w in weights[b]]}]
        same(worker.step(**part, dtype=dtype), take(guided, slice(b, b + 1), 4))


def test_step_takes_model_outputs_in_one_tensor(worker: Worker) -> None:
    for seed in range(6):
        given = arrays(random_problem(9000 + seed), (3, 70), seed)
        same(worker.step(**given, together=True), worker.step(**given))


@pytest.mark.parametrize("dtype", DTYPES)
def test_step_keeps_nan_and_infinity(worker: Worker, dtype: str) -> None:
    special = np.array([NAN, INF, -INF, 0.0, 1.0, 3e38, -65504.0, 1e-40], np.float32)
    x = np.repeat(special, 8)[None]
    model = np.tile(special, 8)[None]
    row = {
        "input": [0, MODEL, 1], "output": [0, MODEL_INPUT], "evaluates": 1, "gamma": [1.0],
        "role": [0, 3], "blend": [0, 0], "a": [[0.5, -0.25, 0.0], [2.0, 0.0, 0.0]],
        "known": [0.0, 0.0],
    }  # fmt: skip
    # Slot 1 has no coefficient anywhere: what it holds must not matter.
    state = np.stack([x, np.full_like(x, NAN)])
    result = worker.step(rows=[row], row=0, state=state, models=[model], dtype=dtype, copies=1)
    with np.errstate(all="ignore"):
        wanted = np.float32(0.5) * x - np.float32(0.25) * rounded(model, dtype)
        wanted_input = rounded(2 * x, dtype)
    assert np.array_equal(np.isnan(result["state"][0]), np.isnan(wanted))
    finite = np.isfinite(wanted)
    assert np.array_equal(result["state"][0][~finite], wanted[~finite], equal_nan=True)
    assert np.allclose(result["state"][0][finite], wanted[finite], rtol=1e-6, atol=1e-44)
    assert np.array_equal(result["model_input"], wanted_input, equal_nan=True)


def test_step_clamps_and_lets_nan_through(worker: Worker) -> None:
    row = {
        "input": [CONVERTED], "output": [1], "evaluates": 1, "gamma": [1.0], "p": 0.0, "q": 2.0,
        "clip": 1.0, "a": [[1.0]], "role": [1], "blend": [0], "known": [0.0],
    }  # fmt: skip
    model = np.array([[0.25, 3.0, -3.0, NAN, INF, -INF, 0.5, -0.5, -0.1]], np.float32)
    state = np.zeros((2, 1, 9), np.float32)
    result = worker.step(rows=[row], row=0, state=state, models=[model])
    wanted = np.array([[0.5, 1, -1, NAN, 1, -1, 1, -1, -0.2]], np.float32)
    assert np.array_equal(result["state"][1], wanted, equal_nan=True)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_step_converts_every_16_bit_value(worker: Worker, dtype: str) -> None:
    """Every 16-bit number comes in exactly; every rounding out is to nearest, ties to even."""
    import torch

    kind = getattr(torch, dtype)
    every = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(kind).float().numpy()
    copy = {
        "input": [MODEL], "output": [0], "evaluates": 1, "gamma": [1.0], "a": [[1.0]],
        "role": [4], "blend": [0], "known": [0.0],
    }  # fmt: skip
    state = np.zeros((1, 1, every.size), np.float32)
    got = worker.step(rows=[copy], row=0, state=state, models=[every[None]], dtype=dtype)
    assert np.array_equal(got["state"][0, 0], every, equal_nan=True)

    rng = np.random.default_rng(3)
    wide = rng.integers(0, 2**32, 200_000, dtype=np.uint32).view(np.float32)
    finite = every[np.isfinite(every)]
    ties = (finite[:-1].astype(np.float64) + finite[1:]) / 2  # halfway between neighbours
    near = np.float32(ties)
    steps = [np.nextafter(near, np.float32(d)) for d in (INF, -INF)]
    values = np.concatenate([wide, near, *steps, finite])
    cast = {
        "input": [0], "output": [MODEL_INPUT], "a": [[1.0]], "role": [3], "blend": [0],
        "known": [0.0],
    }  # fmt: skip
    got = worker.step(
        rows=[cast], row=0, state=values[None, None], models=[], dtype=dtype, copies=1
    )
    assert np.array_equal(got["model_input"][0], rounded(values, dtype), equal_nan=True)


def test_step_writes_every_copy_of_the_model_input(worker: Worker) -> None:
    for shape in ((3, 40), (1, 5)):
        given = arrays(simple_problem(), shape) | {"copies": 3}
        result = worker.step(**given, dtype="bfloat16")
        copies = result["bits"].reshape(3, -1)
        assert (copies == copies[0]).all()


def test_step_streams_large_outputs(workers: dict[str, Worker]) -> None:
    """Outputs that bypass the caches: tensors larger than the last-level cache."""
    given = arrays(simple_problem(), (2, 1_000_003), 2)
    whole = workers[fewstep.info()["cpu"]["isa"]].step(**given, threads=2)
    for b in range(2):
        part = split(given, slice(b, b + 1))
        part = {**part, "state": part["state"][..., :70000], "known": part["known"][..., :70000]}
        part["models"] = [m[..., :70000] for m in part["models"]]
        part["mask"] = part["mask"][..., :70000]
        small = workers["scalar"].step(**part)
        assert np.array_equal(whole["state"][:, b : b + 1, :70000], small["state"])
        large = whole["model_input"].reshape(2, 2, -1)[:, b, :70000]
        assert np.array_equal(large, small["model_input"])

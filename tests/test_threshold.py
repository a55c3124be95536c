# SPDX-License-Identifier: Apache-2.0
"""``clip`` of ``solver.step``: limits and factors per sample, and dynamic thresholding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from cases.solver import DTYPES, arrays, random_problem
from fewstep import guidance, schedules, solver
from harness import Worker
from reference import solver as reference
from test_step import noises, rounded, row_of

SHAPE = (4, 3, 700)
SEEDS = [s for s in range(400) if random_problem(s).row["clip"] < np.inf][:12]


def limits(count: int) -> np.ndarray:
    """One limit and factor per sample; some clamp much, one nothing."""
    rng = np.random.default_rng(9)
    values = rng.uniform(0.2, 3.0, size=(count, 2)).astype(np.float32)
    values[-1] = (np.inf, 0.5)
    return values


def clamps(seed: int) -> bool:
    row = random_problem(seed).row
    used = [k for k, code in enumerate(row["input"]) if code == 21]
    return any(weights[k] != 0.0 for k in used for weights in row["a"])


@pytest.mark.parametrize("seed", [s for s in SEEDS if clamps(s)])
def test_clip_matches_reference(worker: Worker, seed: int) -> None:
    """Random rows with everything: masks, noises, several outputs, guidance of the call."""
    problem = {**arrays(random_problem(seed), SHAPE, seed), "copies": 0}
    problem["rows"][0]["output"] = [o if o < 16 else 4 for o in problem["rows"][0]["output"]]
    if len(set(problem["rows"][0]["output"])) < len(problem["rows"][0]["output"]):
        problem["rows"][0]["output"] = list(range(len(problem["rows"][0]["output"])))
    clip = limits(SHAPE[0])
    row = row_of(problem)
    per_sample = clip.T.reshape(2, -1, 1, 1).astype(np.float64)
    xi = [x.astype(np.float64) for x in noises(problem, row)]
    for dtype in DTYPES:
        models = [rounded(m, dtype) for m in problem["models"]]
        wanted, _ = reference.step(
            row, problem["state"], models, xi, problem["mask"], problem["known"],
            clip=(per_sample[0], per_sample[1]),
        )  # fmt: skip
        got = worker.step(**problem, dtype=dtype, clip=clip, gap=5)["state"]
        scale = max(1.0, float(np.abs(wanted).max()))
        assert np.abs(got - np.stack(wanted)).max() <= 4e-6 * scale


def test_clip_has_the_same_bits_everywhere(all_workers: list[Worker]) -> None:
    seed = next(s for s in SEEDS if clamps(s))
    problem = arrays(random_problem(seed), SHAPE, seed)
    for guided in (False, True):
        extra: dict[str, Any] = {"clip": limits(SHAPE[0])}
        if guided:
            count = len(problem["models"])
            extra["guidance"] = np.linspace(-1, 1, SHAPE[0] * count, dtype="f4").reshape(-1, count)
        results = [w.step(**problem, **extra, threads=t) for w in all_workers for t in (1, 3)]
        for other in results[1:]:
            assert np.array_equal(results[0]["state"], other["state"])


def test_clip_of_the_plan_is_a_factor_of_one(worker: Worker) -> None:
    seed = next(s for s in SEEDS if clamps(s))
    problem = arrays(random_problem(seed), SHAPE, seed)
    same = np.tile(np.array([problem["rows"][0]["clip"], 1.0], np.float32), (SHAPE[0], 1))
    assert np.array_equal(
        worker.step(**problem, clip=same)["state"], worker.step(**problem)["state"]
    )


def threshold_step(plan: Any, row: int, x: Any, output: Any, ratio: float, maximum: float) -> Any:
    """One step with dynamic thresholding: look at x0, its quantile, step."""
    looks = guidance.prediction_plan(plan)
    x0 = np.empty_like(x)
    solver.step(looks, row, [x, x0], output)
    clip = guidance.threshold(solver.quantile(x0, ratio), maximum=maximum)
    state = x[None].copy()
    solver.step(plan, row, state, output, clip=clip)
    return state[0]


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction", "sample"])
def test_dynamic_thresholding_equals_diffusers(prediction: str) -> None:
    """The whole step of DDIM, whose thresholding is diffusers' own."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    rival = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear",
        beta_start=0.00085,
        beta_end=0.012,
        thresholding=True,
        dynamic_thresholding_ratio=0.9,
        sample_max_value=3.0,
        prediction_type=prediction,
        clip_sample=False,
    )
    rival.set_timesteps(10)
    rng = np.random.default_rng(4)
    x = rng.normal(size=(3, 4, 8, 8)).astype(np.float32)
    x *= np.array([0.2, 1.0, 4.0], np.float32)[:, None, None, None]  # below, inside, above
    name = {"epsilon": "epsilon", "v_prediction": "v", "sample": "x0"}[prediction]
    alphas = rival.alphas_cumprod.double().numpy()
    nodes = [float(np.sqrt((1 - alphas[t]) / alphas[t])) for t in [*rival.timesteps.tolist(), 0]]
    schedule = schedules.sigmas([*nodes[:-1], 0.01], process="vp")
    plan = solver.plan("ddim", schedule=schedule, prediction=name, clip=1.0)
    for i in (0, 4, 7):
        output = rng.normal(size=x.shape).astype(np.float32)
        t = rival.timesteps[i]
        # As diffusers with use_clipped_model_output: the noise follows the thresholded sample.
        wanted = rival.step(
            torch.from_numpy(output), t, torch.from_numpy(x), use_clipped_model_output=True
        ).prev_sample
        got = threshold_step(plan, i, x, output, 0.9, 3.0)
        np.testing.assert_allclose(got, wanted.numpy(), rtol=2e-5, atol=2e-5)


def test_threshold_kinds() -> None:
    torch = pytest.importorskip("torch")
    values = guidance.threshold(torch.tensor([0.5, 2.0, 9.0]), maximum=4.0)
    assert values.tolist() == [[1.0, 1.0], [2.0, 0.5], [4.0, 0.25]]
    assert np.isnan(guidance.threshold(np.array([np.nan], np.float32))).all()
    assert fewstep.guidance.threshold(np.float32([3.0]), minimum=5.0).tolist() == [
        [5.0, np.float32(0.2)]
    ]

# SPDX-License-Identifier: Apache-2.0
"""Whole trajectories of plans against samplers written as loops, on a nonlinear model."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from fewstep import schedules
from fewstep.solver import Plan, plan
from reference import samplers
from reference import solver as reference

SIGMAS = schedules.karras(0.05, 20.0).nodes(9).sigma.tolist()
FLOW = schedules.flow(2.0).nodes(7).sigma.tolist()
START = np.linspace(-1.5, 1.7, 6)


def noise(x: np.ndarray, s: float) -> np.ndarray:
    """Noise that a smooth nonlinear denoiser finds."""
    x0 = np.tanh(x / np.hypot(1.0, s)) + 0.1 * np.sin(x + s)
    return (x - x0) / s


def velocity(x: np.ndarray, s: float) -> np.ndarray:
    return np.sin(1.3 * x + s) - 0.4 * x


def run(made: Plan, model: Any, x: np.ndarray) -> np.ndarray:
    slots = [x] + [np.full_like(x, np.nan) for _ in range(made.slots - 1)]
    for row in made.rows:
        out = model(slots[0], row.sigma)
        slots, _ = reference.step(row, slots, [out])
    return slots[0]


NOISE = [
    ("dpm2", {}, samplers.dpm2),
    ("dpm_2s", {}, samplers.dpm2),
    ("dpmpp_2s", {}, samplers.dpmpp_2s),
    ("dpm_3s", {}, samplers.dpm_3s),
    ("res_2m", {"lower_order_final": False}, samplers.res_2m),
    *(("lms", {"order": p}, partial(samplers.lms, order=p)) for p in (1, 2, 3, 4)),
    *(("ipndm_v", {"order": p}, partial(samplers.lms, order=p)) for p in (2, 3, 4)),
    *(("ipndm", {"order": p}, partial(samplers.ipndm, order=p)) for p in (1, 2, 3, 4)),
    ("pndm", {}, samplers.pndm),
    *(("gradient_estimation", {"gamma": g}, partial(samplers.gradient_estimation, gamma=g))
      for g in (1.0, 1.6, 2.0)),
    *(("hb", {"order": p, "beta": b}, partial(samplers.heavy_ball, order=p, beta=b))
      for p in (1, 2, 3, 4, 5) for b in (0.4, 1.0)),
    ("hb", {"order": 3, "beta": 0.6, "variant": "nesterov"},
     partial(samplers.heavy_ball, order=3, beta=0.6, nesterov=True)),
    *(("ghvb", {"order": p, "beta": b}, partial(samplers.generalised_heavy_ball, order=p, beta=b))
      for p in (1, 2, 3, 4) for b in (0.4, 1.0)),
]  # fmt: skip


@pytest.mark.parametrize("ending", [0.0, None])
@pytest.mark.parametrize("entry", NOISE, ids=lambda e: "-".join([e[0], *map(str, e[1].values())]))
def test_noise_solver(entry: Any, ending: float | None) -> None:
    name, options, sampler = entry
    nodes = SIGMAS if ending == 0.0 else SIGMAS[:-1]
    made = plan(name, schedule=schedules.sigmas(nodes), prediction="x0", **options)
    start = 20.0 * START
    got = run(made, lambda x, s: x - s * noise(x, s), start)
    assert got == pytest.approx(sampler(noise, start, nodes), rel=1e-12, abs=1e-12)


FLOWS = [
    ("rectified_flow", {"variant": "keep_noise"}, samplers.keep_noise),
    *(("flowturbo", {"variant": blocks}, partial(samplers.flowturbo, refine=None, blocks=blocks))
      for blocks in ("HPPPPPP", "PPPPPPP", "HHHHHHH", "HHPHPPH")),
]  # fmt: skip


@pytest.mark.parametrize("entry", FLOWS, ids=lambda e: "-".join([e[0], *map(str, e[1].values())]))
def test_flow_solver(entry: Any) -> None:
    name, options, sampler = entry
    schedule = schedules.sigmas(FLOW, process="flow")
    made = plan(name, schedule=schedule, prediction="flow", **options)
    got = run(made, velocity, START)
    assert got == pytest.approx(sampler(velocity, x=START, s=FLOW), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("blocks", ["H1P3R3", "HRPRPPR", "PRRRHPR"])
def test_flowturbo_refines_the_velocity_kept_in_slot_2(blocks: str) -> None:
    def refine(x: np.ndarray, s: float, v: np.ndarray) -> np.ndarray:
        return 0.2 * np.cos(x - s) * v

    letters = {"H1P3R3": "HPPPRRR"}.get(blocks, blocks)
    schedule = schedules.sigmas(FLOW, process="flow")
    made = plan("flowturbo", schedule=schedule, prediction="flow", variant=blocks)
    assert made.validate() < 1e-10
    slots = [START] + [np.full_like(START, np.nan) for _ in range(made.slots - 1)]
    for row in made.rows:
        if letters[row.step] == "R":
            out = refine(slots[0], row.sigma, slots[2])
        else:
            out = velocity(slots[0], row.sigma)
        slots, _ = reference.step(row, slots, [out])
    want = samplers.flowturbo(velocity, refine, START, FLOW, letters)
    assert slots[0] == pytest.approx(want, rel=1e-12, abs=1e-12)


def test_flowturbo_blocks() -> None:
    """P costs one call, H and R two, one where a step ends at sigma = 0."""

    def made(steps: int, **options: Any) -> Plan:
        return plan("flowturbo", steps=steps, schedule=schedules.flow(), prediction="flow",
                    **options)  # fmt: skip

    assert made(8).calls == 2 + 6 + 1
    assert made(8, variant="H8").calls == 15
    assert made(8, variant="H1P4R3") == made(8, variant="HPPPPRRR")
    for variant, message in (
        ("HX", 'be letters H, P, R and counts for flowturbo, got "HX"'),
        ("RH", 'not begin with R, which refines a velocity for flowturbo, got "RH"'),
        ("H1P5", 'name 2 blocks, one a step, for flowturbo, got "H1P5"'),
    ):
        with pytest.raises(ValueError, match="'variant' must") as error:
            made(2, variant=variant)
        assert str(error.value) == f"fewstep_plan_create: 'variant' must {message}"


@pytest.mark.parametrize("process", ["vp", "ve", "flow"])
@pytest.mark.parametrize("variant", ["evaluate", "reuse"])
def test_accelerated_ddim(variant: str, process: schedules.Process) -> None:
    ratios = np.geomspace(8.0, 0.1, 9)
    values = ratios / (1 + ratios) if process == "flow" else ratios
    made = plan("accelerated_ddim", schedule=schedules.sigmas(values, process=process),
                prediction="x0", variant=variant)  # fmt: skip
    assert made.calls == (15 if variant == "evaluate" else 8)

    def x0(y: np.ndarray, bar: float) -> np.ndarray:
        return np.tanh(y) + 0.1 * np.sin(3 * y + bar)

    def score(y: np.ndarray, bar: float) -> np.ndarray:
        return -(y - np.sqrt(bar) * x0(y, bar)) / (1 - bar)

    slots = [np.hypot(made.alphas[0], made.sigmas[0]) * START]
    slots += [np.full_like(START, np.nan) for _ in range(made.slots - 1)]
    for row in made.rows:
        unit = np.hypot(row.alpha, row.sigma)
        out = x0(slots[0] / unit, (row.alpha / unit) ** 2)
        slots, _ = reference.step(row, slots, [out])
    want = samplers.accelerated_ddim(score, START, (1 / (1 + ratios**2)).tolist(),
                                     variant == "reuse")  # fmt: skip
    end = made.rows[-1]
    got = slots[0] / np.hypot(end.next_alpha, end.next_sigma)
    assert got == pytest.approx(want, rel=1e-11, abs=1e-12)


def gaussian_moments(made: Plan, mean: float, variance: float) -> tuple[float, float]:
    """Mean and variance of the end on Gaussian data, exactly, from the exact marginal."""
    draws: dict[tuple[int, int], int] = {}
    for row in made.rows:
        for pair in zip(row.noise_stream, row.noise_step, strict=True):
            draws.setdefault(pair, len(draws) + 2)
    alpha, sigma = made.rows[0].alpha, made.rows[0].sigma
    # Coefficients of 1, of the start's own deviation, and of each draw.
    start = np.zeros(2 + len(draws))
    start[:2] = alpha * mean, np.sqrt(alpha**2 * variance + sigma**2)
    slots = [start] + [np.zeros_like(start) for _ in range(made.slots - 1)]
    for row in made.rows:
        xi = [np.eye(len(start))[draws[pair]]
              for pair in zip(row.noise_stream, row.noise_step, strict=True)]  # fmt: skip
        away = slots[0] - row.alpha * mean * np.eye(len(start))[0]
        told = row.sigma * away / (row.alpha**2 * variance + row.sigma**2)
        slots, _ = reference.step(row, slots, [told] if row.evaluates else [], xi)
    return float(slots[0][0]), float(np.sum(slots[0][1:] ** 2))


def test_accelerated_ddpm_gains_an_order() -> None:
    """Weak error on Gaussian data: DDPM falls as 1 / T, the accelerated sampler as 1 / T^2."""
    mean, variance = 0.7, 0.25
    errors: dict[str, list[float]] = {"ddpm": [], "accelerated_ddpm": []}
    for name, found in errors.items():
        for steps in (50, 100, 200):
            schedule = schedules.log_snr(0.1, 10.0, process="vp", final_zero=False)
            made = plan(name, steps=steps, schedule=schedule)
            end = made.rows[-1]
            got, spread = gaussian_moments(made, mean, variance)
            want = end.next_alpha**2 * variance + end.next_sigma**2
            found.append(abs(spread / want - 1) + abs(got / (end.next_alpha * mean) - 1))
    slope = {k: float(-np.polyfit(np.log([50, 100, 200]), np.log(v), 1)[0])
             for k, v in errors.items()}  # fmt: skip
    assert slope["ddpm"] < 1.3, errors
    assert slope["accelerated_ddpm"] > 1.7, errors
    assert errors["accelerated_ddpm"][-1] < 0.2 * errors["ddpm"][-1]


def test_accelerated_ddpm_draws() -> None:
    """The published step by hand: half the variance before the call, half after."""
    schedule = schedules.sigmas([2.0, 1.0, 0.5], process="vp")
    made = plan("accelerated_ddpm", schedule=schedule)
    assert [row.evaluates for row in made.rows] == [0, 1, 1]
    bars = [1 / (1 + r * r) for r in (2.0, 1.0, 0.5)]
    alphas = [bars[0] / bars[1], bars[1] / bars[2]]
    half = [np.sqrt((1 - a) / 2) for a in alphas]
    begin, first, last = made.rows

    def drawn(row: Any) -> list[float]:
        return sorted(v for v in row.noise[0] if v != 0)  # the others are of a known image

    assert drawn(begin) == pytest.approx([half[0]], rel=1e-14)
    state = dict(zip(first.input, first.a[0], strict=True))
    assert state[0] == pytest.approx(1 / np.sqrt(alphas[0]), rel=1e-14)
    want = -(1 - alphas[0]) / np.sqrt(1 - bars[0]) / np.sqrt(alphas[0])
    assert state[16] == pytest.approx(want, rel=1e-14)
    both = sorted([half[0] / np.sqrt(alphas[0]), half[1]])
    assert drawn(first) == pytest.approx(both, rel=1e-14)
    assert drawn(last) == pytest.approx([half[1] / np.sqrt(alphas[1])], rel=1e-14)

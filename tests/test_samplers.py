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

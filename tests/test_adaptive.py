# SPDX-License-Identifier: Apache-2.0
"""Adaptive steps: against the published loop in float64, per sample, and to their tolerance."""

from __future__ import annotations

from math import atan, exp, expm1, log
from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep import AdaptiveSampler, schedules
from fewstep.adaptive import PID

Array = np.ndarray
RANGE = schedules.sigmas([20.0, 0.05])
SHAPE = (3, 5)
FIRST = 4.0  # too long a step, so that the first ones are rejected


def x0(x: Array, s: Any) -> Array:
    return np.tanh(2.0 * np.asarray(x, np.float64) / np.hypot(1.0, s)) + 0.1 * np.sin(x)


def model(x: Array, t: Array) -> Array:
    return x0(x, t[:, None])


def start(seeds: Any = range(3)) -> Array:
    return 20.0 * fewstep.noise.normal(seeds, SHAPE[1:], stream=1).astype(np.float64)


def reference(x: Array, order: int, noise_frame: bool, rtol: float, atol: float, gains: Any) -> Any:
    """k-diffusion's DPMSolver.dpm_solver_adaptive on VE, one sample; x0 frame: DPM-Solver++."""

    def move(x: Array, m: list[Array], weights: list[float], a: float, b: float) -> Array:
        sign = -b if noise_frame else 1.0
        scale = 1.0 if noise_frame else b / a
        return scale * x + sign * sum(w * v for w, v in zip(weights, m, strict=True))

    def quantity(x: Array, s: float) -> Array:
        return (x - x0(x, s)) / s if noise_frame else x0(x, s)

    def phi(h: float) -> tuple[float, float]:  # first two moments of the kernel
        if noise_frame:
            return expm1(h), expm1(h) / h - 1
        return -expm1(-h), expm1(-h) / h + 1

    lam, end, h, past, counts = -log(20.0), -log(0.05), FIRST, [], [0, 0, 0]
    while lam < end - 1e-7:
        target = min(end, lam + h)
        h = target - lam
        a, b = exp(-lam), exp(-target)
        first = quantity(x, a)
        r = 1 / 2 if order == 2 else 1 / 3
        s1 = exp(-(lam + r * h))
        m1 = quantity(move(x, [first], [phi(r * h)[0]], a, s1), s1)
        total, moment = phi(h)
        half = [total * (1 - 0.5 / r), total * 0.5 / r]
        if order == 2:
            low, high = move(x, [first], [total], a, b), move(x, [first, m1], half, a, b)
        else:
            low = move(x, [first, m1], half, a, b)
            s2 = exp(-(lam + 2 / 3 * h))
            t2, mo2 = phi(2 / 3 * h)
            u2 = move(x, [first, m1], [t2 - 2 * mo2, 2 * mo2], a, s2)
            m2 = quantity(u2, s2)
            high = move(x, [first, m2], [total - 1.5 * moment, 1.5 * moment], a, b)
        delta = np.maximum(atol, rtol * np.maximum(np.abs(low), np.abs(x)))
        inverse = 1 / (float(np.sqrt(np.mean(((low - high) / delta) ** 2))) + 1e-8)
        errors = [inverse, *(past or [inverse, inverse])]
        p, i, d = gains
        powers = ((p + i + d) / order, -(p + 2 * d) / order, d / order)
        factor = 1 + atan(np.prod([e**w for e, w in zip(errors, powers, strict=True)]) - 1)
        counts[0] += order
        if factor >= 0.81:
            x, lam, past = high, target, [inverse, (past or [inverse])[0]]
            counts[1] += 1
        else:
            counts[2] += 1
        h *= factor
    return x, counts


@pytest.mark.parametrize("gains", [(0.0, 1.0, 0.0), (0.4, 0.3, 0.1)])
@pytest.mark.parametrize("solver", ["dpm_12", "dpm_23", "dpmpp_12", "dpmpp_23"])
def test_steps_are_those_of_the_published_loop(solver: str, gains: Any) -> None:
    order = int(solver[-1])
    sampler = AdaptiveSampler(RANGE, solver=solver, prediction="x0", rtol=0.01, atol=1e-4,
                              first_step=FIRST, controller=PID(*gains))  # fmt: skip
    got, report = sampler(model, SHAPE)
    rejected = 0
    for b in range(SHAPE[0]):
        want, counts = reference(start()[b], order, not solver.startswith("dpmpp"), 0.01, 1e-4,
                                 gains)  # fmt: skip
        assert got[b] == pytest.approx(want, rel=2e-5, abs=2e-5)
        assert [int(report.accepted[b]), int(report.rejected[b])] == counts[1:]
        # A step that is tried again keeps its first answer.
        assert report.calls[b] == counts[0] - counts[2]
        rejected += counts[2]
    if gains == (0.0, 1.0, 0.0):
        assert rejected > 0, "nothing was tried again, so that is not tested"


def test_a_sample_does_not_depend_on_its_batch() -> None:
    sampler = AdaptiveSampler(RANGE, prediction="x0", rtol=1e-3, atol=1e-4, first_step=2.0)
    together, report = sampler(model, SHAPE, seeds=[5, 6, 7])
    for b, seed in enumerate([5, 6, 7]):
        alone, one = sampler(model, (1, SHAPE[1]), seeds=[seed])
        assert alone[0].tobytes() == together[b].tobytes()
        assert one.calls[0] == report.calls[b]
    assert len(set(report.calls.tolist())) > 1, "all samples took the same steps"


@pytest.mark.parametrize("process", ["ve", "vp", "flow"])
def test_error_follows_the_tolerance(process: schedules.Process) -> None:
    ratios = np.array([20.0, 0.05])
    values = ratios / (1 + ratios) if process == "flow" else ratios
    schedule = schedules.sigmas(values, process=process)

    def told(x: Array, t: Array) -> Array:
        ratio = t[:, None] / (1 - t[:, None]) if process == "flow" else t[:, None]
        unit = {"ve": 1.0, "vp": np.hypot(1.0, ratio), "flow": 1.0 + ratio}[process]
        return x0(x * unit, ratio)

    def draw(tolerance: float) -> tuple[Array, int]:
        sampler = AdaptiveSampler(schedule, prediction="x0", rtol=tolerance, atol=tolerance)
        x, report = sampler(told, SHAPE)
        return x, int(report.calls.max())

    exact, _ = draw(1e-6)
    errors, calls = zip(
        *((float(np.abs(x - exact).max()), n) for x, n in map(draw, (1e-2, 1e-3, 1e-4))),
        strict=True,
    )
    assert errors[0] > 3 * errors[1] > 9 * errors[2]
    assert calls[0] < calls[1] < calls[2]
    assert errors[2] < 2e-3


def test_discrete_time_zero_end_and_guidance() -> None:
    seen: list[float] = []

    def network(x: Array, t: Array, *, shift: Array) -> Array:
        seen.extend(np.asarray(t).tolist())
        return (0.3 * np.tanh(x) + shift[:, None]).astype(np.float32)

    sampler = AdaptiveSampler(schedules.scaled_linear(spacing="trailing"), steps=20,
                              guidance=fewstep.guidance.cfg(3.0))  # fmt: skip
    cond, uncond = {"shift": np.full(3, 0.1, "f4")}, {"shift": np.zeros(3, "f4")}
    x, report = sampler(network, SHAPE, cond=cond, uncond=uncond)
    assert np.isfinite(x).all()
    assert max(seen) <= 999.0
    assert min(seen) >= 0.0
    assert (report.calls > report.accepted).all()
    plain, _ = AdaptiveSampler(schedules.scaled_linear(spacing="trailing"), steps=20)(
        network, SHAPE, cond={"shift": np.full(3, 0.3, "f4")}
    )
    assert x == pytest.approx(plain, abs=1e-5)  # 3 * 0.1 - 2 * 0


def test_errors() -> None:
    for options, message in (
        ({"solver": "dpm_34"}, "'solver' must be one of dpm_12, dpm_23, dpmpp_12, dpmpp_23, got"),
        ({"rtol": 0.0}, "'rtol' must be above 0, got 0.0"),
        ({"prediction": "x"}, "'prediction' must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            AdaptiveSampler(RANGE, **options)
    with pytest.raises(ValueError, match="'schedule' must begin with signal"):
        AdaptiveSampler(schedules.flow())
    sampler = AdaptiveSampler(RANGE, prediction="x0", max_calls=30)
    with pytest.raises(RuntimeError, match="'max_calls' must be above 30 for a sample"):
        sampler(lambda x, t: np.full_like(x, np.nan), SHAPE)


def test_torch_on_the_host_equals_numpy() -> None:
    torch = pytest.importorskip("torch")
    sampler = AdaptiveSampler(RANGE, prediction="x0")

    def network(x: Any, t: Any) -> Any:
        return torch.from_numpy(model(x.numpy(), t.numpy())).float()

    x, report = sampler(network, SHAPE, device="cpu")
    y, other = sampler(model, SHAPE)
    assert x.numpy().tobytes() == y.tobytes()
    assert report.calls.tolist() == other.calls.tolist()

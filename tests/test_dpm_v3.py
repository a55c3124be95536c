# SPDX-License-Identifier: Apache-2.0
"""DPM-Solver-v3: its degenerate cases are DPM-Solver++ and DPM-Solver; its maps, exact problems."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from fewstep import Sampler, guidance, schedules
from fewstep.dpm_v3 import DPMSolverV3, Statistics
from fewstep.solver import plan

GRID = np.linspace(-3.1, 3.1, 25)
OPEN = schedules.log_snr(0.05, 20.0, final_zero=False)
SHAPE = (2, 3)


def constant(l: float, s: float, b: float) -> Statistics:  # noqa: E741
    ones = np.ones((len(GRID), 1))
    return Statistics(GRID, l * ones, s * ones, b * ones)


def weights(made: DPMSolverV3, i: int) -> list[float]:
    maps = made.predictors[i]
    assert maps is not None
    return [float(np.squeeze(v)) for v in (maps.P, *maps.Q, maps.R)]


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("process", ["vp", "ve"])
def test_degenerate_statistics_are_dpm_solver(order: int, process: schedules.Process) -> None:
    """L = 1, s = b = 0: DPM-Solver++; l = 0, s = -1, b = 0: DPM-Solver; coefficient by coefficient.

    f is -x0 in the first and rho times the noise in the second.
    """
    schedule = schedules.log_snr(0.05, 20.0, process=process, final_zero=False)
    nodes = schedule.nodes(9)
    names = {1: ("ddim", "ddim"), 2: ("dpmpp_2m", "dpm_2m"), 3: ("dpmpp_3m", "dpm_3m")}[order]
    heun = {"variant": "heun"} if order == 2 else {}
    for (l, s), name in zip(((1.0, 0.0), (0.0, -1.0)), names, strict=True):  # noqa: E741
        v3 = DPMSolverV3(constant(l, s, 0.0), schedule, steps=9, order=order)
        # The model tells x0 or the noise, whichever the solver interpolates.
        prediction = "x0" if l == 1 else "epsilon"
        if process == "ve" and prediction == "epsilon":
            continue  # epsilon is scaled there
        rows = plan(name, schedule=schedule, steps=9, prediction=prediction, **heun).rows
        for i, row in enumerate(rows):
            got = weights(v3, i)
            here = dict(zip(row.input, row.a[0], strict=True))
            size = len(got) - 2
            slots = [16, *(1 + (i - j) % max(order - 1, 1) for j in range(1, size))]
            for j, slot in enumerate(slots):
                scale = -1.0 if l == 1 else nodes.sigma[i - j] / nodes.alpha[i - j]
                assert got[1 + j] * scale == pytest.approx(here[slot], rel=1e-10)
            # The first-order step of `ddim` is written in its own way.
            if order > 1:
                assert got[0] == pytest.approx(here[0], rel=1e-10)
            assert got[-1] == 0.0


@pytest.mark.parametrize("schedule", [OPEN, schedules.log_snr(0.05, 20.0)], ids=["open", "zero"])
@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_3m"])
def test_samples_equal_those_of_the_plan(name: str, schedule: schedules.Schedule) -> None:
    def network(x: Any, t: Any) -> Any:
        return np.tanh(x) * (1 + 0.1 * np.sin(t[:, None]))

    options = {"variant": "heun"} if name == "dpmpp_2m" else {}
    made = plan(name, schedule=schedule, steps=8, prediction="x0", **options)
    want = Sampler(made)(network, SHAPE, seeds=[1, 2])
    v3 = DPMSolverV3(constant(1.0, 0.0, 0.0), schedule, steps=8, order=int(name[-2]),
                     prediction="x0")  # fmt: skip
    assert v3(network, SHAPE, seeds=[1, 2]) == pytest.approx(want, rel=1e-5, abs=1e-6)


def varying() -> Statistics:
    random = np.random.default_rng(2)
    return Statistics(GRID, *(0.5 * random.normal(size=(len(GRID), 3)) + m for m in (1, 0, 0.2)))


@pytest.mark.parametrize("corrector", [False, True])
def test_an_exact_model_is_solved_exactly(corrector: bool) -> None:
    """Where f' = s f + b holds, one step of any order is exact, element by element."""
    stats = varying()
    nodes = OPEN.nodes(3)

    def flow(lam: float, z: np.ndarray) -> np.ndarray:
        y, f = z.reshape(2, 3)
        l, s, b = stats.at(lam)  # noqa: E741
        return np.concatenate([-l * y - f, s * f + b])

    path, z = [], np.array([4.0, -3.0, 1.0, 0.3, 0.5, -0.2])
    for begin, end in zip(nodes.lam, [*nodes.lam[1:], None], strict=True):
        path.append(z.reshape(2, 3))
        if end is not None:
            z = solve_ivp(flow, (begin, end), z, method="DOP853", rtol=1e-11, atol=1e-12,
                          max_step=0.05).y[:, -1]  # fmt: skip
    for order in (1, 2, 3):
        v3 = DPMSolverV3(stats, OPEN, steps=3, order=order, corrector=corrector,
                         lower_order_final=False)  # fmt: skip
        for i in range(3):
            maps = v3.predictors[i]
            assert maps is not None
            got = maps.P * path[i][0] * nodes.alpha[i] + maps.R
            got = got + sum(q * path[i - j][1] for j, q in enumerate(maps.Q))
            assert got == pytest.approx(path[i + 1][0] * nodes.alpha[i + 1], rel=1e-7, abs=1e-8)
        corrected = [c for c in v3.correctors if c is not None]
        assert len(corrected) == (1 if corrector and order > 1 else 0)
        for i, maps in enumerate(v3.correctors):
            if maps is None:
                continue
            at = [i - 1, i, *range(i - 2, i - len(maps.Q), -1)]
            got = maps.P * path[i - 1][0] * nodes.alpha[i - 1] + maps.R
            got = got + sum(q * path[k][1] for k, q in zip(at, maps.Q, strict=True))
            assert got == pytest.approx(path[i][0] * nodes.alpha[i], rel=1e-7, abs=1e-8)


def test_pseudo_differences() -> None:
    """Equal to the plain ones at order 2; at order 3 the first derivative is left one-sided."""
    stats = varying()
    for order in (2, 3):
        plain = DPMSolverV3(stats, OPEN, steps=6, order=order)
        pseudo = DPMSolverV3(stats, OPEN, steps=6, order=order, pseudo=True)
        a, b = plain.predictors[3], pseudo.predictors[3]
        assert a is not None
        assert b is not None
        same = [np.allclose(q, p, rtol=1e-10) for q, p in zip(a.Q, b.Q, strict=True)]
        assert all(same) if order == 2 else not any(same[1:])
        # Both reproduce constants of g.
        assert sum(a.Q) == pytest.approx(sum(b.Q), rel=1e-9) or order == 3


def test_torch_equals_numpy_and_errors() -> None:
    torch = pytest.importorskip("torch")
    v3 = DPMSolverV3(varying(), OPEN, steps=5, corrector=True, pseudo_corrector=True)
    x = v3(lambda x, t: 0.1 * x, SHAPE)
    y = v3(lambda x, t: 0.1 * x, SHAPE, device="cpu")
    assert torch.is_tensor(y)
    assert y.numpy() == pytest.approx(x, rel=1e-6)
    with pytest.raises(ValueError, match="'order' must be 1, 2 or 3, got 4"):
        DPMSolverV3(varying(), OPEN, steps=5, order=4)
    with pytest.raises(ValueError, match="'statistics' must cover the schedule"):
        DPMSolverV3(varying(), schedules.log_snr(0.001, 20.0), steps=5)
    with pytest.raises(ValueError, match="'lam' must be two or more increasing numbers"):
        Statistics([1.0, 0.0], np.ones((2, 1)), np.ones((2, 1)), np.ones((2, 1)))
    with pytest.raises(ValueError, match="'s' must have 2 finite rows"):
        Statistics([0.0, 1.0], np.ones((2, 1)), np.ones((3, 1)), np.ones((2, 1)))


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize(
    "made", [guidance.cfg(3.0, interval=(0.1, 5.0)), guidance.apg(4.0, momentum=-0.5)]
)
def test_guided_as_dpm_solver_pp(made: Any, kind: str) -> None:
    """With l = 1 and s = b = 0 the guided samples of DPM-Solver++."""
    schedule = schedules.log_snr(0.05, 20.0, process="vp")
    options = {"device": "cpu"} if kind == "torch" else {}

    def model(x: Any, t: Any, mean: Any) -> Any:
        return mean[:, None] + 0.1 * x

    call: dict[str, Any] = {
        "seeds": [4, 5],
        "cond": {"mean": np.array([0.5, -0.3], np.float32)},
        "uncond": {"mean": np.zeros(1, np.float32)},
    }
    v3 = DPMSolverV3(
        constant(1.0, 0.0, 0.0), schedule, steps=8, order=2, prediction="x0", guidance=made
    )
    wanted = Sampler(
        plan("dpmpp_2m", schedule=schedule, steps=8, prediction="x0", variant="heun"), made
    )
    for _ in range(2):
        got = v3(model, SHAPE, **call, **options)
        assert np.asarray(got) == pytest.approx(wanted(model, SHAPE, **call), abs=2e-5)


def test_refuses_guidance_of_the_noise() -> None:
    message = "^DPMSolverV3: 'guidance' must change the prediction alone, got cfg_pp$"
    with pytest.raises(ValueError, match=message):
        DPMSolverV3(constant(1.0, 0.0, 0.0), OPEN, steps=4, guidance=guidance.cfg_pp(0.5))

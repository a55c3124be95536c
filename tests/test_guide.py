# SPDX-License-Identifier: Apache-2.0
"""``guidance.Guide``: whole trajectories of guided steps against float64 formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fewstep import guidance, schedules, solver
from reference import guidance as reference

SHAPE = (3, 2, 50)
SCHEDULE = schedules.sigmas([8.0, 3.0, 1.0, 0.4, 0.0], process="vp")


def outputs(count: int, step: int) -> list[np.ndarray]:
    rng = np.random.default_rng([40, step])
    return [rng.normal(size=SHAPE).astype(np.float32) for _ in range(count)]


def ddim(plan: Any, row: int, x: np.ndarray, g: np.ndarray) -> np.ndarray:
    fields = plan.rows[row]
    noise = g
    clean = (x - fields.sigma * noise) / fields.alpha
    return fields.next_alpha * clean + fields.next_sigma * noise


@pytest.mark.parametrize("kind", ["numpy", "torch", "joined"])
def test_apg_with_momentum_over_a_trajectory(kind: str) -> None:
    torch = pytest.importorskip("torch")
    plan = solver.plan("ddim", schedule=SCHEDULE)
    guide = guidance.Guide(
        guidance.apg(6.0, eta=0.2, norm_threshold=5.0, momentum=-0.5, interval=(0.5, 5.0))
    )
    guided = guide.plan(plan)
    assert [row.n_guidance for row in guided.rows] == [1, 2, 2, 1]
    state = np.zeros((guided.slots, *SHAPE), np.float32)
    if kind == "torch":
        state = torch.from_numpy(state)
    for _ in range(2):  # the second trajectory starts without a running difference
        x = np.random.default_rng(1).normal(size=SHAPE)
        average = np.zeros(SHAPE)
        guide.restart()
        state[0] = torch.from_numpy(x) if kind == "torch" else x
        for i in range(len(plan)):
            c, u = outputs(2, i)
            inside = i in (1, 2)
            models: Any = (c, u) if inside else c
            if kind == "joined":
                models = np.concatenate([c, u]) if inside else c
            if kind == "torch":
                models = tuple(torch.from_numpy(m) for m in ((c, u) if inside else (c,)))
            assert guide.step(guided, i, state, models) is state
            c, u = c.astype(float), u.astype(float)
            g = c
            if inside:
                g = reference.apg(c, u, 6.0, 0.2, 5.0, average, -0.5)
                average = c - u - 0.5 * average
            x = ddim(plan, i, x, g)
            np.testing.assert_allclose(np.asarray(state[0]), x, rtol=2e-5, atol=2e-5)


def test_zero_init_takes_the_first_outputs_for_zero() -> None:
    schedule = schedules.flow(3.0)
    plan = solver.plan("flow_euler", steps=4, schedule=schedule, prediction="flow")
    guide = guidance.Guide(guidance.cfg_zero_star(4.0, zero_init=2))
    guided = guide.plan(plan)
    x = np.random.default_rng(1).normal(size=SHAPE)
    state = np.zeros((guided.slots, *SHAPE), np.float32)
    state[0] = x
    for i, row in enumerate(plan.rows):
        c, u = outputs(2, i)
        guide.step(guided, i, state, (c, u))
        v = reference.zero_star(c.astype(float), u.astype(float), 4.0)
        if i >= 2:
            x = x + (row.next_sigma - row.sigma) * v
        np.testing.assert_allclose(state[0], x, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("made", [None, guidance.cfg(3.0), guidance.tcfg(3.0)])
def test_thresholding_with_and_without_guidance(made: Any) -> None:
    plan = solver.plan("ddim", schedule=SCHEDULE, clip=1.0)
    guide = guidance.Guide(made, guidance.Thresholding(0.9, maximum=2.5))
    guided = guide.plan(plan)
    x = np.random.default_rng(1).normal(size=SHAPE) * np.array([0.1, 1.0, 5.0])[:, None, None]
    state = np.zeros((guided.slots, *SHAPE), np.float32)
    state[0] = x
    for i, row in enumerate(plan.rows):
        c, u = outputs(2, i)
        guide.step(guided, i, state, c if made is None else (c, u))
        c, u = c.astype(float), u.astype(float)
        g = c
        if made is not None:
            formula = reference.tangential if made.needs_gram else reference.cfg
            g = formula(c, u, 3.0)
        clean = (x - row.sigma * g) / row.alpha
        limit = np.quantile(np.abs(clean).reshape(3, -1), 0.9, axis=1).clip(1.0, 2.5)
        limit = limit[:, None, None]
        clean = np.clip(clean, -limit, limit) / limit
        noise = (x - row.alpha * clean) / row.sigma
        x = row.next_alpha * clean + row.next_sigma * noise
        np.testing.assert_allclose(state[0], x, rtol=5e-5, atol=5e-5)


def test_a_guide_without_anything_is_a_step() -> None:
    plan = solver.plan("dpmpp_2m", schedule=SCHEDULE)
    guide = guidance.Guide()
    one, two = (np.ones((plan.slots, *SHAPE), np.float32) for _ in range(2))
    (c,) = outputs(1, 0)
    solver.step(plan, 1, one, c)
    guide.step(guide.plan(plan), 1, two, c)
    assert np.array_equal(one, two)


def test_guide_errors() -> None:
    with pytest.raises(ValueError, match=r"^Thresholding: 'ratio' must lie in \[0, 1\], got 2$"):
        guidance.Thresholding(2)
    with pytest.raises(ValueError, match="'minimum' must be above 0 and not above 'maximum'"):
        guidance.Thresholding(minimum=0.0)

# SPDX-License-Identifier: Apache-2.0
"""CFG++ of solvers that take several outputs, against the authors' loops and its own rule."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep import guidance, schedules, solver
from reference import solver as reference

SIGMAS = [8.0, 3.0, 1.0, 0.4, 0.1, 0.0]
VE = schedules.sigmas(SIGMAS)
VP = schedules.sigmas(SIGMAS, process="vp")
X = np.random.default_rng(8).normal(size=(2, 5))
MULTISTEP = ("dpmpp_2m", "dpmpp_3m", "dpmpp_2m_sde", "ipndm", "deis", "lms", "gradient_estimation")

Denoiser = Callable[[np.ndarray, float], np.ndarray]


def conditional(x: np.ndarray, sigma: float) -> np.ndarray:
    return 0.5 + np.tanh(x) / (1 + sigma)


def unconditional(x: np.ndarray, sigma: float) -> np.ndarray:
    return -0.3 + np.sin(x) / (2 + sigma)


def run(plan: Any, start: np.ndarray) -> np.ndarray:
    """Run a plan for a model that predicts x0, in float64."""
    slots = [start, *(np.full_like(start, np.nan) for _ in range(plan.slots - 1))]
    for row in plan.rows:
        outputs = [f(slots[0], row.sigma) for f in (conditional, unconditional)]
        slots = reference.step(row, slots, outputs[: len(row.gamma)], ())[0]
    return slots[0]


def published_2m(x: np.ndarray, scale: float) -> np.ndarray:
    """``dpm++_2m_cfg++`` of the authors' repository."""
    old = last = None
    for here, there in pairwise(SIGMAS):
        c, u = conditional(x, here), unconditional(x, here)
        mixed = u + scale * (c - u)
        if old is None or there == 0:
            x = mixed + (x - u) / here * there
        else:
            h, ratio = np.log(here / there), there / here
            r = np.log(last / here) / h
            x = mixed - ratio * u + (1 - ratio) * (mixed - old) / (2 * r) + ratio * x
        old, last = u, here
    return x


def published_2s(x: np.ndarray, scale: float) -> np.ndarray:
    """``dpm++_2s_a_cfg++`` of the authors' repository with eta = 0."""
    for here, there in pairwise(SIGMAS):
        c, u = conditional(x, here), unconditional(x, here)
        if there == 0:
            return u + scale * (c - u)
        middle = np.sqrt(here * there)
        between = middle / here * x + (1 - middle / here) * u
        c, u = conditional(between, middle), unconditional(between, middle)
        x = u + scale * (c - u) - there / here * u + there / here * x
    return x


@pytest.mark.parametrize(
    ("name", "published"), [("dpmpp_2m", published_2m), ("dpmpp_2s", published_2s)]
)
def test_second_order_solvers_are_the_authors(name: str, published: Any) -> None:
    plan = solver.plan(name, schedule=VE, prediction="x0")
    for scale in (0.0, 0.6, 1.0):
        got = run(guidance.cfg_pp(scale).plan(plan), 8 * X)
        np.testing.assert_allclose(got, published(8 * X, scale), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("schedule", [VE, VP], ids=["ve", "vp"])
@pytest.mark.parametrize("name", MULTISTEP)
def test_guidance_moves_the_signal_that_older_outputs_leave(name: str, schedule: Any) -> None:
    """A row's result moves by ``scale * A * (x0_c - x0_u)``.

    A is what the row makes of a clean sample of 1 that the newest output knows and no older one.
    """
    for prediction in ("epsilon", "x0", "v"):
        plan = solver.plan(name, schedule=schedule, prediction=prediction)
        guided = guidance.cfg_pp(0.7).plan(plan)
        for last, row in enumerate(plan.rows):
            slots = [np.full_like(X, np.nan) for _ in range(plan.slots)]
            for number, before in enumerate(plan.rows[: last + 1]):
                slots[0] = np.full_like(X, before.alpha)
                known = 1.0 if number == last else 0.0
                output = (np.full_like(X, known) - before.p * slots[0]) / before.q
                noises = [np.zeros_like(X)] * before.n_noises
                slots = reference.step(before, slots, [output], noises)[0]
            signal = slots[0]

            history = [X, *(np.full_like(X, 0.2 * k) for k in range(1, plan.slots))]
            c, u = np.sin(X), np.cos(X)
            noises = [0.5 * X] * row.n_noises
            got, inputs = reference.step(guided.rows[last], history, [c, u], noises)
            wanted, wanted_inputs = reference.step(row, history, [u], noises)
            moved = 0.7 * signal * row.q * (c - u)
            np.testing.assert_allclose(got[0], wanted[0] + moved, rtol=1e-11, atol=1e-11)
            for mine, plain in zip(got[1:], wanted[1:], strict=True):  # unconditional history
                np.testing.assert_allclose(mine, plain, rtol=1e-12, atol=1e-12)
            if inputs is not None and wanted_inputs is not None:
                moved = row.next_scale * moved
                np.testing.assert_allclose(inputs, wanted_inputs + moved, rtol=1e-11, atol=1e-11)


def test_an_interval_leaves_the_conditional_output_alone() -> None:
    plan = solver.plan("dpmpp_2m", schedule=VE)
    made = guidance.cfg_pp(0.6, interval=(0.5, 3.0)).plan(plan)
    assert [row.gamma for row in made.rows] == [(1.0,), (0.0, 1.0), (0.0, 1.0), (1.0,), (1.0,)]


def test_sampler_takes_it() -> None:
    plan = solver.plan("dpmpp_2m", schedule=VE, prediction="x0")
    made = guidance.cfg_pp(0.6)

    def model(x: np.ndarray, t: np.ndarray, condition: np.ndarray) -> np.ndarray:
        level = t[:, None]
        first, second = 0.5 + np.tanh(x) / (1 + level), -0.3 + np.sin(x) / (2 + level)
        return np.where(condition[:, None], first, second).astype(np.float32)

    on, off = {"condition": np.ones(2, bool)}, {"condition": np.zeros(2, bool)}
    start = (8 * X).astype(np.float32)
    got = fewstep.Sampler(plan, made)(model, initial=start, cond=on, uncond=off)
    np.testing.assert_allclose(got, published_2m(8 * X, 0.6), rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"^Sampler: 'start' must leave every row the slots"):
        fewstep.Sampler(plan, made)(model, x0=start, cond=on, uncond=off, start=1)


REFUSED: list[tuple[Any, str]] = [
    (
        "unipc",
        "'plan' must not correct a sample after its step, got one whose row 1 does otherwise",
    ),
    ("heun", "'plan' must keep samples and model outputs only, got one whose row 0 does otherwise"),
    (
        "dpmpp_3s",
        "'plan' must not weigh an output from inside a step, got one whose row 2 does otherwise",
    ),
]


@pytest.mark.parametrize(("name", "message"), REFUSED)
def test_refuses(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^cfg_pp: {message}$"):
        guidance.cfg_pp(0.5).plan(solver.plan(name, schedule=VE))


def test_weights_alone_need_rows_that_keep_nothing() -> None:
    message = (
        "cfg_pp: 'plan' must take one model output per step and keep none for weights alone (the "
        "method 'plan' takes multistep solvers too), got another solver's row 0"
    )
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        guidance.cfg_pp(0.5).weights(solver.plan("dpmpp_2m", schedule=VE))

# SPDX-License-Identifier: Apache-2.0
"""The sampler with every kind of guidance: the same as the formulas around a plain sampler."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep import guidance, schedules, solver
from reference import guidance as reference

SCHEDULE = schedules.sigmas([8.0, 3.0, 1.0, 0.4, 0.05], process="vp")
SHAPE = (3, 40)
SEEDS = [7, 8, 9]
LABELS = np.array([0.3, -0.2, 0.9], np.float32)
EMPTY = np.zeros(1, np.float32)


def one(x: Any, t: Any, y: Any) -> Any:
    """A model of one output, in float32, whose outputs for two labels differ."""
    values = np.asarray(x)
    place = np.linspace(-1.0, 1.0, values.shape[1], dtype=np.float32)
    scale = 1.0 + 0.001 * np.asarray(t)[:, None]
    y = np.asarray(y)[:, None]
    out = (np.tanh(values / scale) + y * np.sin(3 * place + y)).astype(np.float32)
    if isinstance(x, np.ndarray):
        return out
    import torch

    return torch.from_numpy(out)


def plain(plan: Any, combine: Any, labels: list[np.ndarray]) -> np.ndarray:
    """A trajectory whose model combines the outputs itself, in float64."""
    step = iter(range(100))

    def model(x: Any, t: Any) -> Any:
        outputs = [one(x, t, np.broadcast_to(y, len(x))).astype(np.float64) for y in labels]
        return combine(next(step), *outputs).astype(np.float32)

    return fewstep.Sampler(plan)(model, SHAPE, seeds=SEEDS)


CASES: dict[str, tuple[Any, Any]] = {
    "cfg_rescale": (
        guidance.cfg_rescale(5.0, 0.6),
        lambda i, c, u: reference.rescale(reference.cfg(c, u, 5.0), c, 0.6),
    ),
    "apg": (guidance.apg(5.0, eta=0.3), lambda i, c, u: reference.apg(c, u, 5.0, 0.3)),
    "apg_interval": (
        guidance.apg(5.0, norm_threshold=1.0, interval=(0.5, 4.0)),
        lambda i, c, u: reference.apg(c, u, 5.0, 0.0, 1.0) if i in (1, 2) else c,
    ),
    "zero_star": (
        guidance.cfg_zero_star(4.0, zero_init=1),
        lambda i, c, u: 0.0 * c if i == 0 else reference.zero_star(c, u, 4.0),
    ),
    "tcfg": (guidance.tcfg(3.0), lambda i, c, u: reference.tangential(c, u, 3.0)),
    "mambo_g": (guidance.mambo_g(3.0), lambda i, c, u: reference.magnitude(c, u, 3.0, 8.0)),
}


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("solver_name", ["ddim", "dpmpp_2m"])
@pytest.mark.parametrize("name", CASES)
def test_sampler_guides(name: str, solver_name: str, kind: str) -> None:
    made, combine = CASES[name]
    plan = solver.plan(solver_name, schedule=SCHEDULE)
    options = {"device": "cpu"} if kind == "torch" else {}
    got = fewstep.Sampler(plan, guidance=made)(
        one, SHAPE, seeds=SEEDS, cond={"y": LABELS}, uncond={"y": EMPTY}, **options
    )
    wanted = plain(plan, combine, [LABELS, EMPTY])
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=1e-3, atol=2e-4)


def test_sampler_keeps_the_running_difference_of_each_trajectory() -> None:
    made = guidance.apg(4.0, eta=0.2, momentum=-0.5)
    plan = solver.plan("ddim", schedule=SCHEDULE)
    average = [np.zeros(SHAPE)]

    def combine(i: int, c: Any, u: Any) -> Any:
        if i == 0:
            average[0] = np.zeros(SHAPE)
        g = reference.apg(c, u, 4.0, 0.2, 0.0, average[0], -0.5)
        average[0] = c - u - 0.5 * average[0]
        return g

    sampler = fewstep.Sampler(plan, guidance=made)
    wanted = plain(plan, combine, [LABELS, EMPTY])
    for _ in range(2):
        got = sampler(one, SHAPE, seeds=SEEDS, cond={"y": LABELS}, uncond={"y": EMPTY})
        np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-4)


def test_sampler_combines_several_conditions() -> None:
    plan = solver.plan("dpmpp_2m", schedule=SCHEDULE)
    negative = np.full(1, -0.7, np.float32)
    got = fewstep.Sampler(plan, guidance=guidance.compose([4.0, -1.5]))(
        one, SHAPE, seeds=SEEDS, cond=[{"y": LABELS}, {"y": negative}], uncond={"y": EMPTY}
    )

    def combine(i: int, c: Any, n: Any, u: Any) -> Any:
        return u + 4.0 * (c - u) - 1.5 * (n - u)

    wanted = plain(plan, combine, [LABELS, negative, EMPTY])
    np.testing.assert_allclose(got, wanted, rtol=1e-3, atol=2e-4)


def test_sampler_thresholds() -> None:
    """A sample in a batch is thresholded as alone, and stays within its limit."""
    plan = solver.plan("dpmpp_2m", schedule=schedules.sigmas([8.0, 1.0, 0.0]), clip=1.0)
    sampler = fewstep.Sampler(plan, thresholding=guidance.Thresholding(0.7, maximum=3.0))
    together = sampler(lambda x, t: 0.5 * x, SHAPE, seeds=SEEDS)
    assert np.abs(together).max() <= 1.0
    for b, seed in enumerate(SEEDS):
        alone = sampler(lambda x, t: 0.5 * x, (1, SHAPE[1]), seeds=[seed])
        assert np.array_equal(alone[0], together[b])
    clamped = fewstep.Sampler(plan)(lambda x, t: 0.5 * x, SHAPE, seeds=SEEDS)
    assert not np.array_equal(clamped, together)


def test_sampler_guidance_is_pickled() -> None:
    import pickle

    plan = solver.plan("ddim", schedule=SCHEDULE)
    sampler = fewstep.Sampler(plan, guidance=guidance.apg(5.0, momentum=-0.2))
    again = pickle.loads(pickle.dumps(sampler))
    arguments: dict[str, Any] = {"cond": {"y": LABELS}, "uncond": {"y": EMPTY}, "seeds": SEEDS}
    assert np.array_equal(again(one, SHAPE, **arguments), sampler(one, SHAPE, **arguments))


def test_sampler_guidance_errors() -> None:
    plan = solver.plan("ddim", schedule=SCHEDULE)
    with pytest.raises(ValueError, match=r"^Sampler: 'thresholding' must be None for plans made"):
        fewstep.Sampler(plan, thresholding=guidance.Thresholding())
    three = fewstep.Sampler(plan, guidance=guidance.compose([4.0, -1.5]))
    with pytest.raises(ValueError, match=r"^Sampler: 'cond' must hold 2 mappings, one for each"):
        three(one, SHAPE, cond={"y": LABELS}, uncond={"y": EMPTY})
    with pytest.raises(ValueError, match=r"^Sampler: 'cond\[1\]' must have the keys \['y'\]"):
        three(one, SHAPE, cond=[{"y": LABELS}, {}], uncond={"y": EMPTY})


PLANS = [
    solver.plan("ddim", schedule=SCHEDULE, clip=1.5),
    solver.plan("dpmpp_2m", schedule=schedules.karras(0.1, 9.0, process="vp"), steps=6, clip=1.5),
    solver.plan("heun", schedule=schedules.karras(0.1, 9.0, process="vp"), steps=2, clip=1.5),
]
MIXED: dict[str, Any] = {
    **{name: made for name, (made, _) in CASES.items()},
    "momentum": guidance.apg(5.0, momentum=-0.5, interval=(0.3, 5.0)),
    "cfg": guidance.cfg(5.0, interval=(0.3, 5.0)),
}


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("thresholds", [False, True], ids=["", "threshold"])
@pytest.mark.parametrize("name", MIXED)
def test_a_sample_among_others_is_as_alone(name: str, thresholds: bool, kind: str) -> None:
    """Whatever plan the others follow: the same bits."""
    thresholding = guidance.Thresholding(0.8) if thresholds else None
    options = {"device": "cpu"} if kind == "torch" else {}
    together = fewstep.Sampler(PLANS, MIXED[name], thresholding)(
        one, SHAPE, seeds=SEEDS, cond={"y": LABELS}, uncond={"y": EMPTY}, plan_index=[0, 1, 2],
        **options,
    )  # fmt: skip
    for b, plan in enumerate(PLANS):
        alone = fewstep.Sampler(plan, MIXED[name], thresholding)(
            one, (1, SHAPE[1]), seeds=SEEDS[b : b + 1], cond={"y": LABELS[b : b + 1]},
            uncond={"y": EMPTY}, **options,
        )  # fmt: skip
        assert np.array_equal(np.asarray(alone[0]), np.asarray(together[b]))


def test_samples_that_start_apart_are_guided_as_alone() -> None:
    sampler = fewstep.Sampler(PLANS[1], MIXED["momentum"])
    x0 = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    together = sampler(
        one, x0=x0, seeds=SEEDS, cond={"y": LABELS}, uncond={"y": EMPTY}, start=[0, 4, 2]
    )
    for b, start in enumerate([0, 4, 2]):
        alone = sampler(
            one, x0=x0[b : b + 1], seeds=SEEDS[b : b + 1], cond={"y": LABELS[b : b + 1]},
            uncond={"y": EMPTY}, start=start,
        )  # fmt: skip
        assert np.array_equal(alone[0], together[b])


@pytest.mark.parametrize("kind", ["numpy", "torch"])
@pytest.mark.parametrize("name", ["cfg_rescale", "apg_interval", "tcfg", "cfg"])
def test_adaptive_sampler_guides(name: str, kind: str) -> None:
    """As with a model that combines its outputs itself."""
    combine = {**CASES, "cfg": (None, lambda i, c, u: reference.cfg(c, u, 5.0))}[name][1]
    made = guidance.cfg(5.0) if name == "cfg" else CASES[name][0]

    def combined(x: Any, t: Any) -> Any:
        c, u = (one(x, t, np.broadcast_to(y, len(x))).astype(np.float64) for y in (LABELS, EMPTY))
        level = np.interp(t, times[::-1], levels[::-1])
        inside = (level > 0.5) & (level <= 4.0) if name == "apg_interval" else np.ones(len(t))
        return np.where(inside[:, None], combine(1, c, u), c).astype(np.float32)

    schedule = schedules.karras(0.05, 8.0)
    nodes = schedule.nodes(1000)
    times, levels = nodes.t, nodes.sigma
    options = {"device": "cpu"} if kind == "torch" else {}
    wanted, plain_report = fewstep.AdaptiveSampler(schedule)(combined, SHAPE, seeds=SEEDS)
    got, report = fewstep.AdaptiveSampler(schedule, guidance=made)(
        one, SHAPE, seeds=SEEDS, cond={"y": LABELS}, uncond={"y": EMPTY}, **options
    )
    assert np.array_equal(report.calls, plain_report.calls)
    np.testing.assert_allclose(np.asarray(got), wanted, rtol=2e-3, atol=2e-3)


def test_adaptive_sampler_refuses_what_counts_steps() -> None:
    message = r"^AdaptiveSampler: 'guidance' must have momentum 0, got -0\.5$"
    with pytest.raises(ValueError, match=message):
        fewstep.AdaptiveSampler(SCHEDULE, guidance=guidance.apg(5.0, momentum=-0.5))
    with pytest.raises(ValueError, match=r"'guidance' must have zero_init 0, got 1$"):
        fewstep.AdaptiveSampler(SCHEDULE, guidance=guidance.cfg_zero_star(5.0))

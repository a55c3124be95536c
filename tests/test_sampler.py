# SPDX-License-Identifier: Apache-2.0
"""The sampler: one batch, any model; and guidance weights."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fewstep
from fewstep import Sampler, schedules, solver
from fewstep._tail import tail
from fewstep.guidance import cfg

MEAN, SPREAD = 0.3, 0.7
SHAPE = (3, 5)
DETERMINISTIC = ("euler", "heun", "dpmpp_2m", "dpmpp_3m", "unipc", "deis", "ddim")
STOCHASTIC = ("euler_ancestral", "ddpm", "dpmpp_2m_sde", "lcm")


def make(name, steps=6, prediction="x0", **options):
    schedule = schedules.karras(0.02, 40.0)
    return solver.plan(name, steps=steps, schedule=schedule, prediction=prediction, **options)


def gaussian(x, t, mean=MEAN):
    """Denoise Gaussian data exactly; only operations that numpy and torch round alike."""
    variance = (t * t).reshape(-1, *[1] * (x.ndim - 1))
    pull = 1 / (1 + variance * (1 / (SPREAD * SPREAD)))
    if hasattr(mean, "reshape"):
        mean = mean.reshape(-1, *[1] * (x.ndim - 1))
    return mean + pull * (x - mean)


def same(a, b):
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", ["unipc", "deis", "dpmpp_3m", "heun"])
def test_solves_the_ode(name):
    """The end point is known in closed form for Gaussian data."""
    trajectory = Sampler(make(name, steps=100))(
        gaussian, (4, *SHAPE), seeds=range(4), trajectory=True
    )[1]
    # The last step denoises at sigma = 0.02.
    shrink = SPREAD**2 / np.hypot(SPREAD, 0.02) / np.hypot(SPREAD, 40.0)
    exact = MEAN + shrink * (trajectory[0] - MEAN)
    assert np.abs(trajectory[-1] - exact).max() < 3e-3
    assert np.abs(exact - MEAN).max() > 0.5


@pytest.mark.parametrize("name", DETERMINISTIC + STOCHASTIC)
def test_a_sample_depends_on_its_seed_alone(name):
    sampler = Sampler(make(name))
    seeds = [7, 2**63 + 5, 0, 7, 123456789]
    together = sampler(gaussian, (5, *SHAPE), seeds=seeds)
    for row, seed in enumerate(seeds):
        same(together[row : row + 1], sampler(gaussian, (1, *SHAPE), seeds=[seed]))
    same(together[0], together[3])
    assert np.abs(together[0] - together[1]).max() > 1e-3


def test_plans_mix_in_one_batch():
    plans = [
        make("heun", 3),
        make("unipc", 9, order=3),
        make("euler_ancestral", 5),
        make("dpmpp_2m", 1),
    ]
    mixed = Sampler(plans)(gaussian, (4, *SHAPE), seeds=range(10, 14))
    for row, plan in enumerate(plans):
        same(mixed[row : row + 1], Sampler(plan)(gaussian, (1, *SHAPE), seeds=[10 + row]))
    chosen = Sampler(plans)(gaussian, (3, *SHAPE), seeds=[12, 10, 12], plan_index=[2, 0, 2])
    same(chosen, mixed[[2, 0, 2]])


def test_finished_samples_cost_no_model_call():
    seen = []

    def model(x, t):
        seen.append(t.copy())
        return gaussian(x, t)

    plans = [make("euler", 2), make("euler", 5)]
    Sampler(plans)(model, (2, *SHAPE))
    assert len(seen) == 5
    assert (np.array(seen)[2:, 0] == seen[1][0]).all()
    np.testing.assert_allclose(np.array(seen)[:, 1], plans[1].times, rtol=1e-6)


@pytest.mark.parametrize("name", ["unipc", "dpmpp_2m_sde", "heun"])
def test_numpy_and_torch_agree(name):
    torch = pytest.importorskip("torch")
    sampler = Sampler(make(name))
    ours = sampler(gaussian, (2, *SHAPE), seeds=[1, 2])
    theirs = sampler(gaussian, (2, *SHAPE), seeds=[1, 2], device="cpu")
    assert isinstance(ours, np.ndarray)
    assert isinstance(theirs, torch.Tensor)
    same(ours, theirs)


def test_torch_results_may_be_trained_on():
    torch = pytest.importorskip("torch")
    layer = torch.nn.Linear(4, 4)
    x = Sampler(make("euler"))(lambda x, t: layer(x), (2, 4), device="cpu")
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    assert not x.requires_grad


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_model_dtype(dtype):
    torch = pytest.importorskip("torch")
    seen = set()

    def model(x, t):
        seen.add((x.dtype, t.dtype))
        return gaussian(x.float(), t).to(x.dtype)

    sampler = Sampler(make("unipc", prediction="edm"))
    half = sampler(model, (2, *SHAPE), dtype=dtype, device="cpu")
    full = sampler(lambda x, t: gaussian(x, t), (2, *SHAPE), device="cpu")
    assert seen == {(getattr(torch, dtype), torch.float32)}
    assert half.dtype == torch.float32
    assert 0 < (half - full).abs().max() < (0.3 if dtype == "bfloat16" else 0.03)


@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_guidance_is_one_batched_call(kind):
    """Equal to two calls of the model and the weights by hand."""
    scale, plan = 3.0, make("unipc")
    arrays = (lambda a: a) if kind == "numpy" else pytest.importorskip("torch").from_numpy
    count = 4
    conditional = np.linspace(-1, 1, count, dtype=np.float32)
    calls = []

    def model(x, t, mean, scale_of_mean):
        calls.append(tuple(x.shape))
        return gaussian(x, t, mean * scale_of_mean)

    x = Sampler(plan, cfg(scale))(
        model,
        (count, *SHAPE),
        cond={"mean": arrays(conditional), "scale_of_mean": 0.5},
        uncond={"mean": arrays(np.zeros(1, np.float32)), "scale_of_mean": 0.5},
    )
    assert calls == [(2 * count, *SHAPE)] * plan.calls

    guided = plan.with_guidance([scale, 1 - scale])
    state = [np.zeros((count, *SHAPE), np.float32) for _ in range(guided.slots)]
    model_input = np.zeros((count, *SHAPE), np.float32)
    seeds = np.arange(count)
    solver.step(plan.start(), 0, state, None, seeds=seeds, model_input=model_input)
    for row, time in enumerate(plan.times):
        t = np.full(count, time, np.float32)
        means = (0.5 * conditional, np.zeros(count, np.float32))
        outputs = tuple(gaussian(model_input, t, m) for m in means)
        solver.step(guided, row, state, outputs, seeds=seeds, model_input=model_input)
    same(x, state[0])


def test_no_unconditional_output_where_guidance_is_off():
    sizes = []

    def model(x, t, mean):
        sizes.append(len(x))
        return gaussian(x, t, mean)

    plan = make("unipc", 8)
    cond = {"mean": np.full(2, 0.5, np.float32)}
    uncond = {"mean": np.zeros(1, np.float32)}
    interval = cfg(3.0, interval=(0.1, 5.0))
    x = Sampler(plan, interval)(model, (2, *SHAPE), cond=cond, uncond=uncond)
    guided = [w[1] != 0 for w in interval.weights(plan)]
    assert sizes == [4 if on else 2 for on in guided]
    # The same as asking for both outputs throughout.
    always = Sampler(plan)
    always.guidance = interval
    always.plans = (plan.with_guidance(interval.weights(plan)),)
    same(x, always(model, (2, *SHAPE), cond=cond, uncond=uncond))
    # Mixed with samples that are guided at other times, nothing changes.
    mixed = Sampler([plan, make("euler", 5)], interval)
    both = mixed(model, (2, *SHAPE), cond=cond, uncond=uncond)
    same(both[0], x[0])
    sizes.clear()
    plain = Sampler(plan, cfg(1.0))(model, (2, *SHAPE), cond=cond, uncond=uncond)
    same(plain, Sampler(plan)(model, (2, *SHAPE), cond=cond))
    assert set(sizes) == {2}


def test_models_may_answer_in_any_layout():
    torch = pytest.importorskip("torch")
    sampler = Sampler(make("unipc"))
    shape = (2, 3, 4, 4)
    plain = sampler(gaussian, shape, device="cpu")

    def channels_last(x, t):
        return gaussian(x, t).contiguous(memory_format=torch.channels_last)

    same(sampler(channels_last, shape, device="cpu"), plain)
    same(sampler(lambda x, t: np.asfortranarray(gaussian(x, t)), shape), plain)

    def in_place(x, t):
        x[...] = gaussian(x, t)
        return x

    same(sampler(in_place, shape), plain)


def test_guidance_weights():
    plan = make("euler", 6)
    np.testing.assert_array_equal(cfg(4.0).weights(plan), [[4.0, -3.0]])
    weights = cfg(4.0, interval=(0.1, 5.0)).weights(plan)
    ratio = np.asarray(plan.sigmas) / np.asarray(plan.alphas)
    inside = (ratio > 0.1) & (ratio <= 5.0)
    assert 0 < inside.sum() < len(plan)
    np.testing.assert_array_equal(weights[inside], [[4.0, -3.0]] * inside.sum())
    np.testing.assert_array_equal(weights[~inside], [[1.0, 0.0]] * (~inside).sum())
    for bad in (np.nan, np.inf):
        with pytest.raises(ValueError, match="'scale' must be finite"):
            cfg(bad)
    with pytest.raises(ValueError, match=r"'interval' must be 0 <= low < high, got \(2, 1\)"):
        cfg(1.0, interval=(2, 1))


@pytest.mark.parametrize("name", DETERMINISTIC + STOCHASTIC)
def test_image_to_image(name):
    plan = make(name, steps=8)
    x0 = np.random.default_rng(0).standard_normal((3, *SHAPE)).astype(np.float32)
    whole, path = Sampler(plan)(gaussian, x0=x0, strength=0.5, trajectory=True)
    first = min(i for i, row in enumerate(plan.rows) if row.step == 4)
    noise = fewstep.noise.normal(np.arange(3), SHAPE, stream=1)
    noised = plan.alphas[first] * x0 + plan.sigmas[first] * noise
    np.testing.assert_allclose(path[0], noised, rtol=1e-6, atol=1e-6)
    same(whole, Sampler(plan)(gaussian, x0=x0, start=first))
    starts = [0, first, 0]
    mixed = Sampler(plan)(gaussian, x0=x0, start=starts)
    same(mixed[1], whole[1])
    same(mixed[2:], Sampler(plan)(gaussian, x0=x0[2:], seeds=[2], start=0))
    # Whatever the solver, a model that knows the answer is followed to it.
    answer = Sampler(plan)(lambda x, t: 0 * x + 0.25, x0=x0, strength=0.5)
    np.testing.assert_allclose(answer, 0.25, atol=1e-5)


@pytest.mark.parametrize("name", ["dpmpp_2m", "dpmpp_2m_sde", "heun", "ddpm"])
def test_a_start_row_equals_a_plan_made_to_start_there(name):
    """Up to second order the two build up the same history."""
    x0 = np.random.default_rng(3).standard_normal((2, *SHAPE)).astype(np.float32)
    whole, part = make(name, steps=8), make(name, steps=8, start=3)
    first = [row.step for row in whole.rows].index(3)
    ours = Sampler(whole)(gaussian, x0=x0, start=first)
    theirs = Sampler(part)(gaussian, x0=x0)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", DETERMINISTIC + STOCHASTIC)
@pytest.mark.parametrize("process", ["ve", "vp", "flow"])
def test_tails_keep_their_moments(name, process):
    if process == "flow":
        schedule = schedules.flow(sigma_min=0.02, sigma_max=0.98)
    else:
        schedule = schedules.karras(0.02, 40.0, process=process)
    plan = solver.plan(name, steps=7, schedule=schedule, prediction="x0")
    start = [row.step for row in plan.rows].index(2)
    if name == "dpmpp_2m_sde":  # a strength that differs from its square
        plan = solver.plan(name, steps=7, schedule=schedule, prediction="x0", eta=0.5)
    assert tail(plan, start).validate() < 1e-9
    assert tail(plan, 0) == plan


def test_refuses_to_start_inside_a_step():
    with pytest.raises(ValueError, match="'start' must be the first row of a step, got 1"):
        Sampler(make("heun"))(gaussian, x0=X0, start=1)


def test_low_strength_keeps_the_image():
    x0 = np.random.default_rng(1).standard_normal((2, 64)).astype(np.float32)
    near, far = (
        Sampler(make("dpmpp_2m", 12))(gaussian, x0=x0, strength=s) - x0 for s in (0.25, 1.0)
    )
    assert np.abs(near).mean() < 0.3 * np.abs(far).mean()


def test_inpainting_keeps_what_is_known():
    known = np.random.default_rng(2).standard_normal((2, 8)).astype(np.float32)
    mask = np.zeros((1, 8), np.float32)
    mask[:, :4] = 1
    for name in ("unipc", "dpmpp_2m_sde"):
        x = Sampler(make(name))(gaussian, known=known, mask=mask, seeds=[3, 4])
        same(x[:, 4:], known[:, 4:])
        assert np.abs(x[:, :4] - known[:, :4]).max() > 0.1


def test_trajectory_and_callback():
    plan, seen = make("heun", 4), []

    def watch(progress):
        seen.append((progress.index, progress.total, progress.x.copy(), progress.output is None))

    x, path = Sampler(plan)(gaussian, (2, *SHAPE), trajectory=True, callback=watch)
    assert path.shape == (len(plan) + 1, 2, *SHAPE)
    same(path[-1], x)
    assert [s[:2] for s in seen] == [(i, len(plan)) for i in range(len(plan))]
    assert not any(s[3] for s in seen)
    same(path[1:], np.array([s[2] for s in seen]))
    same(x, Sampler(plan)(gaussian, (2, *SHAPE)))


def test_progress_bar(capsys):
    pytest.importorskip("tqdm")
    Sampler(make("euler", 4))(gaussian, (1, 2), progress=True)
    assert "4/4" in capsys.readouterr().err


def test_an_empty_batch_is_no_error():
    assert Sampler(make("unipc"))(gaussian, (0, 3)).shape == (0, 3)


def test_float64_models_are_accepted():
    plan = make("unipc")
    x = Sampler(plan)(lambda x, t: gaussian(x.astype(float), t.astype(float)), (2, 3))
    np.testing.assert_allclose(x, Sampler(plan)(gaussian, (2, 3)), atol=1e-4)


X0 = np.zeros((2, 3), np.float32)
REFUSED = [
    ({}, "'shape' must be given without 'x0' or 'known', got None"),
    ({"shape": ()}, "'shape' must be (B, N...), got []"),
    ({"shape": (2, 3), "seeds": [1]}, "'seeds' must have B=2 integers, got 1"),
    ({"shape": (2, 4), "x0": X0}, "'x0' must have shape [2, 4], got [2, 3]"),
    ({"x0": X0, "mask": X0}, "'known' must be given with 'mask', got None"),
    ({"known": X0}, "'mask' must be given with 'known', got None"),
    ({"shape": (2, 3), "start": 1}, "'start' must be None without 'x0', got 1"),
    ({"shape": (2, 3), "strength": 0.5}, "'strength' must be None without 'x0', got 0.5"),
    ({"x0": X0, "strength": 1.5}, "'strength' must be in (0, 1], got 1.5"),
    ({"x0": X0, "start": 1, "strength": 0.5}, "'strength' must be None when 'start' is given"),
    ({"x0": X0, "start": 99}, "'start' must be in [0, 6), got 99"),
    ({"x0": X0, "start": [0]}, "'start' must have B=2 integers, got 1"),
    ({"shape": (2, 3), "plan_index": [0, 1]}, "'plan_index' must be in [0, 1), got 1"),
    ({"shape": (2, 3), "uncond": {}}, "'uncond' must be None without guidance, got a mapping"),
    ({"shape": (2, 3), "cond": {"y": np.zeros(3)}}, "'cond['y']' must have B=2 rows or 1, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        Sampler(make("euler"))(gaussian, **arguments)
    assert str(error.value).startswith("Sampler: ")


def test_refuses_a_model_of_the_wrong_shape_or_kind():
    sampler = Sampler(make("euler"))
    with pytest.raises(ValueError, match=r"'model' must return shape \[2, 3\], got \[2, 1\]"):
        sampler(lambda x, t: x[:, :1], (2, 3))
    with pytest.raises(TypeError, match="'model' must return an array, got dict"):
        sampler(lambda x, t: {"sample": x}, (2, 3))
    with pytest.raises(TypeError, match="'model' must be callable, got int"):
        sampler(3, (2, 3))


def test_refuses_what_is_no_plan():
    with pytest.raises(ValueError, match="'plan' must be a Plan or several"):
        Sampler([])
    with pytest.raises(TypeError, match="'plan' must hold Plans, got str"):
        Sampler(["unipc"])
    with pytest.raises(TypeError, match="'guidance' must be a Guidance"):
        Sampler(make("euler"), 4.0)
    with pytest.raises(ValueError, match="'plan_index' must be given for 2 plans and B=3"):
        Sampler([make("euler"), make("heun")])(gaussian, (3, 2))


def test_guidance_needs_both_conditions():
    sampler = Sampler(make("euler"), cfg(2.0))
    mean = np.zeros(2, np.float32)
    with pytest.raises(ValueError, match=r"'uncond' must have the keys \['mean'\], got None"):
        sampler(gaussian, (2, 3), cond={"mean": mean})
    with pytest.raises(ValueError, match=r"'uncond\['mean'\]' must be an array as cond's"):
        sampler(gaussian, (2, 3), cond={"mean": mean}, uncond={"mean": 0.0})

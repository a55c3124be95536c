# SPDX-License-Identifier: Apache-2.0
"""Gradients through steps and trajectories against a float64 torch formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import fewstep  # noqa: E402
import fewstep.torch  # noqa: E402
from fewstep import schedules, solver  # noqa: E402

VE = schedules.karras(0.05, 20.0)
VP = schedules.scaled_linear(spacing="trailing")
FLOW = schedules.flow(3.0, sigma_max=0.98)
PLANS: dict[str, Any] = {
    "unipc edm": solver.plan("unipc", order=3, steps=6, schedule=VE, prediction="edm"),
    "deis vp": solver.plan("deis", order=3, steps=6, schedule=VP),
    "dpmpp_3m flow": solver.plan("dpmpp_3m", steps=6, schedule=FLOW, prediction="flow"),
    "heun": solver.plan("heun", steps=4, schedule=VE),
    "clamped": solver.plan("dpmpp_2m", steps=6, schedule=VE, prediction="x0", clip=0.4),
    "clamped unipc": solver.plan("unipc", steps=6, schedule=VP, prediction="v", clip=0.4),
    "noise": solver.plan("dpmpp_2m_sde", steps=5, schedule=VE, prediction="x0"),
    "guided": solver.plan("unipc", steps=5, schedule=VE).with_guidance([[2.5, -1.5]]),
    "guided clamped": solver.plan("ddim", steps=5, schedule=VE, prediction="x0", clip=0.5)
    .with_guidance([[2.5, -1.5]]),
}  # fmt: skip


def column(weights: Any, j: int, like: Any) -> Any:
    return weights[:, j].reshape(-1, *[1] * (like.ndim - 1))


def formula(
    plan: Any, row: int, state: list[Any], models: list[Any], noises: Any = None, *,
    guidance: Any = None, known: Any = None, mask: Any = None,
) -> tuple[list[Any], Any]:  # fmt: skip
    """The row as its definition says, in float64; noises: constants added to each output."""
    r = plan.rows[row]
    gammas = r.gamma
    if guidance is not None:
        gammas = [column(guidance, j, state[0]) for j in range(len(models))]
    guided = sum(g * m for g, m in zip(gammas, models, strict=True)) if models else 0.0
    x0 = torch.clamp(r.p * state[0] + r.q * guided, -r.clip, r.clip)
    value = {16: guided, 21: x0, 22: known, **{17 + j: m for j, m in enumerate(models)}}
    slots, made = list(state) + [None] * (plan.slots - len(state)), None
    fresh = {}
    for i, (output, line) in enumerate(zip(r.output, r.a, strict=True)):
        u = sum(w * (state[k] if k < 16 else value[k])
                for w, k in zip(line, r.input, strict=True) if w)  # fmt: skip
        u = u + (noises[i] if noises is not None else 0.0)
        if mask is not None and r.blend[i]:
            u = mask * u + (1 - mask) * r.known[i] * known
        fresh[output] = u
    for output, u in fresh.items():
        if output == 23:
            made = u
        else:
            slots[output] = u
    return slots, made


def noise_of(plan: Any, row: int, seeds: Any, shape: Any) -> list[Any]:
    r = plan.rows[row]
    out = []
    for line in r.noise:
        total = torch.zeros(shape, dtype=torch.float64)
        for c, stream, step in zip(line, r.noise_stream, r.noise_step, strict=True):
            if c:
                drawn = fewstep.noise.normal(seeds.numpy(), shape[1:], step=step, stream=stream)
                total += c * torch.from_numpy(drawn).double()
        out.append(total)
    return out


def close(ours: Any, exact: Any, name: str) -> None:
    if exact is None:
        assert ours is None or not ours.any(), name
        return
    error = float((ours.double() - exact).norm())
    assert error <= 3e-6 * float(exact.norm()) + 1e-9, (name, error, float(exact.norm()))


def leaves(tensors: list[Any], dtype: Any) -> list[Any]:
    return [None if t is None else t.to(dtype).detach().clone().requires_grad_() for t in tensors]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_every_row_is_transposed(name: str, masked: bool) -> None:
    plan, shape = PLANS[name], (3, 5, 2)
    random = torch.Generator().manual_seed(1)
    seeds = torch.arange(3)
    mask = torch.rand(shape, generator=random) if masked else None
    for row, r in enumerate(plan.rows):
        count = max(1, len(r.gamma))
        base = [torch.randn(shape, generator=random) for _ in range(plan.slots)]
        outs = [torch.randn(shape, generator=random) for _ in range(count)]
        known = torch.randn(shape, generator=random)
        results = []
        for dtype in (torch.float32, torch.float64):
            state, models = leaves(base, dtype), leaves(outs, dtype)
            picture = leaves([known], dtype)[0]
            extra = {"mask": mask.to(dtype), "known": picture} if mask is not None else {}
            if dtype == torch.float32:
                new, made = fewstep.torch.step(
                    plan, row, state, tuple(models), seeds=seeds,
                    input_dtype=dtype if 23 in r.output else None, **extra)  # fmt: skip
            else:
                noises = noise_of(plan, row, seeds, shape)
                if masked:  # the noise on the known side is constant: no gradient
                    extra["noises"] = noises
                    new, made = formula(plan, row, state, models, **extra)
                else:
                    new, made = formula(plan, row, state, models, noises)
            weigh = torch.Generator().manual_seed(row)
            loss = sum((t * torch.randn(shape, generator=weigh).to(dtype)).sum()
                       for t in (*new, made) if t is not None)  # fmt: skip
            loss.backward()
            results.append([t.grad for t in (*state, *models, picture)])
        for k, (ours, exact) in enumerate(zip(*results, strict=True)):
            close(ours, exact, f"{name} row {row} input {k}")


def network(x: Any, t: Any) -> Any:
    return torch.sin(x) * 0.7 + 0.1 * torch.log1p(t.abs()).to(x.dtype).reshape(
        -1, *[1] * (x.ndim - 1)
    )


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("name", PLANS)
def test_whole_trajectories(name: str, checkpoint: bool) -> None:
    plan, shape = PLANS[name], (2, 6)
    seeds = torch.tensor([5, 6])
    start = torch.randn(shape, generator=torch.Generator().manual_seed(2)) * plan.rows[0].sigma
    scale = torch.tensor(1.1, requires_grad=True)
    x = start.clone().requires_grad_()
    end = fewstep.torch.sample(plan, lambda x, t: scale * network(x, t), x, seeds=seeds,
                               checkpoint=checkpoint)  # fmt: skip
    (end**2).sum().backward()

    wide = torch.tensor(1.1, dtype=torch.float64, requires_grad=True)
    y = start.double().requires_grad_()
    state: list[Any] = [y]
    model_input = plan.rows[0].scale * y
    for row, r in enumerate(plan.rows):
        count = max(1, len(r.gamma))
        t = torch.full((2,), r.t, dtype=torch.float32)
        models = [wide * network(model_input, t) for _ in range(count)]
        state, made = formula(plan, row, state, models, noise_of(plan, row, seeds, shape))
        model_input = made
    (state[0] ** 2).sum().backward()
    assert end.detach().numpy() == pytest.approx(state[0].detach().numpy(), rel=1e-3, abs=1e-4)
    assert x.grad.numpy() == pytest.approx(
        y.grad.numpy(), rel=2e-3, abs=1e-4 * float(y.grad.abs().max())
    )
    assert float(scale.grad) == pytest.approx(float(wide.grad), rel=2e-3)


def test_samples_at_different_rows() -> None:
    plan = PLANS["deis vp"]
    shape = (4, 7)
    random = torch.Generator().manual_seed(3)
    base = [torch.randn(shape, generator=random) for _ in range(plan.slots)]
    out = torch.randn(shape, generator=random)
    rows = torch.tensor([3, -1, 0, 4], dtype=torch.int32)
    weigh = [torch.randn(shape, generator=random) for _ in range(plan.slots)]
    state, models = leaves(base, torch.float32), leaves([out], torch.float32)
    new, _ = fewstep.torch.step(plan, rows, state, models[0])
    sum((t * w).sum() for t, w in zip(new, weigh, strict=True)).backward()
    for b, row in enumerate(rows.tolist()):
        one, m = (
            leaves([t[b : b + 1] for t in base], torch.float64),
            leaves([out[b : b + 1]], torch.float64),
        )
        moved = formula(plan, row, one, m)[0] if row >= 0 else one
        sum((t * w[b : b + 1].double()).sum() for t, w in zip(moved, weigh, strict=True)).backward()
        for k, (ours, exact) in enumerate(zip([*state, *models], [*one, *m], strict=True)):
            grad = exact.grad if exact.grad is not None else torch.zeros_like(exact)
            close(ours.grad[b : b + 1], grad, f"sample {b} input {k}")


@pytest.mark.parametrize("name", ["guided", "guided clamped"])
def test_guidance_weights_have_gradients(name: str) -> None:
    plan, shape = PLANS[name], (3, 4)
    random = torch.Generator().manual_seed(4)
    base = [torch.randn(shape, generator=random) for _ in range(plan.slots)]
    outs = [torch.randn(shape, generator=random) for _ in range(2)]
    weights = torch.tensor([[3.0, -2.0], [1.0, 0.0], [7.0, -6.0]])
    grads = []
    for dtype in (torch.float32, torch.float64):
        state, models = leaves(base, dtype), leaves(outs, dtype)
        guidance = leaves([weights], dtype)[0]
        if dtype == torch.float32:
            new, _ = fewstep.torch.step(plan, 1, state, tuple(models), guidance=guidance)
        else:
            new, _ = formula(plan, 1, state, models, guidance=guidance)
        (new[0] ** 2).sum().backward()
        grads.append([guidance.grad, state[0].grad, *(m.grad for m in models)])
    for k, (ours, exact) in enumerate(zip(*grads, strict=True)):
        close(ours, exact, f"{name} {k}")


def test_start_rows_pass_gradients_to_the_known_image() -> None:
    plan = solver.plan("euler", steps=4, schedule=VP)
    start = plan.start(2, known=True)
    image = torch.ones(2, 3, requires_grad=True)
    state, _ = fewstep.torch.step(start, 0, [torch.zeros(2, 3)], None, seeds=torch.arange(2),
                                  known=image)  # fmt: skip
    state[0].sum().backward()
    alpha = plan.rows[2].alpha
    assert image.grad.numpy() == pytest.approx(np.full((2, 3), alpha), rel=1e-6)


def test_half_precision_outputs() -> None:
    plan = PLANS["deis vp"]
    out = torch.randn(2, 3).half().requires_grad_()
    state, made = fewstep.torch.step(plan, 0, [torch.randn(2, 3)], out, input_dtype=torch.float16)
    assert made.dtype == torch.float16
    (state[0].sum() + made.float().sum()).backward()
    assert out.grad.dtype == torch.float16
    assert out.grad.any()


def test_nothing_changes_in_place_and_values_are_steps() -> None:
    plan = PLANS["unipc edm"]
    slots = [torch.randn(2, 3) for _ in range(plan.slots)]
    copies, out = [s.clone() for s in slots], torch.randn(2, 3)
    new, _ = fewstep.torch.step(plan, 2, slots, out)
    assert all(torch.equal(a, b) for a, b in zip(slots, copies, strict=True))
    solver.step(plan, 2, copies, out)
    assert all(torch.equal(a, b) for a, b in zip(new, copies, strict=True))


def test_optimised_noise_reaches_a_target() -> None:
    """Inference-time optimisation: a few gradient steps on the noise move the sample."""
    plan = solver.plan("dpmpp_2m", steps=5, schedule=VE, prediction="x0")
    target = torch.tensor([[0.6, -0.4, 0.2]])
    x = torch.zeros(1, 3).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=1.0)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        end = fewstep.torch.sample(plan, lambda x, t: torch.tanh(x / (1 + t[:, None])), x)
        loss = ((end - target) ** 2).sum()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-2 * losses[0]


def test_errors() -> None:
    plan = PLANS["deis vp"]
    with pytest.raises(ValueError, match=r"'row' must be in \[0, 6\), got 6"):
        fewstep.torch.step(plan, 6, [torch.zeros(1, 2)], torch.zeros(1, 2))
    x = torch.zeros(1, 2, requires_grad=True)
    state, _ = fewstep.torch.step(plan, 0, [x], torch.ones(1, 2))
    (first,) = torch.autograd.grad(state[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match=r"does not require grad|once_differentiable"):
        first.sum().backward()

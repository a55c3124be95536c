# SPDX-License-Identifier: Apache-2.0
"""Guidance from Gram matrices against the papers' formulas and against diffusers' guiders."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fewstep
from fewstep import guidance
from reference import guidance as reference

SHAPE = (3, 4, 9, 5)
Weights = Callable[[Any], Any]


def outputs(kind: str, dtype: Any = np.float32) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Conditional and unconditional output and a running difference, near or far apart."""
    rng = np.random.default_rng(11)
    c = rng.normal(size=SHAPE) + 0.3
    spread = {"near": 1e-3, "far": 2.0}[kind]
    u = 0.8 * c + spread * rng.normal(size=SHAPE)
    m = spread * rng.normal(size=SHAPE)
    return c.astype(dtype), u.astype(dtype), m.astype(dtype)


def combined(weights: Any, arrays: tuple[np.ndarray, ...]) -> np.ndarray:
    """The step's combination in float64."""
    weights = np.asarray(weights, np.float64)
    assert weights.shape == (SHAPE[0], len(arrays))
    axes = (slice(None), *[None] * (len(SHAPE) - 1))
    return sum(weights[:, k][axes] * a.astype(np.float64) for k, a in enumerate(arrays))


CASES: dict[str, tuple[Weights, Callable[..., Any], int]] = {
    "cfg_rescale": (
        lambda g: guidance.rescale_weights(g, 7.5, 0.7),
        lambda c, u: reference.rescale(reference.cfg(c, u, 7.5), c, 0.7),
        2,
    ),
    "apg": (
        lambda g: guidance.apg_weights(g, 9.0, eta=0.2),
        lambda c, u: reference.apg(c, u, 9.0, 0.2),
        2,
    ),
    "apg_is_cfg": (
        lambda g: guidance.apg_weights(g, 9.0, eta=1.0),
        lambda c, u: reference.cfg(c, u, 9.0),
        2,
    ),
    "apg_threshold": (
        lambda g: guidance.apg_weights(g, 9.0, norm_threshold=2.5),
        lambda c, u: reference.apg(c, u, 9.0, 0.0, 2.5),
        2,
    ),
    "apg_momentum": (
        lambda g: guidance.apg_weights(g, 9.0, eta=0.1, norm_threshold=2.5, momentum=-0.5),
        lambda c, u, m: reference.apg(c, u, 9.0, 0.1, 2.5, m, -0.5),
        3,
    ),
    "apg_rescale": (
        lambda g: guidance.apg_weights(g, 9.0, rescale=0.4),
        lambda c, u: reference.rescale(reference.apg(c, u, 9.0, 0.0), c, 0.4),
        2,
    ),
    "zero_star": (
        lambda g: guidance.zero_star_weights(g, 5.0),
        lambda c, u: reference.zero_star(c, u, 5.0),
        2,
    ),
    "zero_star_rescale": (
        lambda g: guidance.zero_star_weights(g, 5.0, rescale=1.0),
        lambda c, u: reference.rescale(reference.zero_star(c, u, 5.0), c, 1.0),
        2,
    ),
    "tangential": (
        lambda g: guidance.tangential_weights(g, 4.0),
        lambda c, u: reference.tangential(c, u, 4.0),
        2,
    ),
    "magnitude": (
        lambda g: guidance.magnitude_weights(g, 6.0, alpha=3.0),
        lambda c, u: reference.magnitude(c, u, 6.0, 3.0),
        2,
    ),
}


@pytest.mark.parametrize("kind", ["near", "far"])
@pytest.mark.parametrize("name", CASES)
def test_weights_give_the_papers_formula(name: str, kind: str) -> None:
    """float32 weights: differences of the outputs may lose what the weights were rounded by."""
    weigh, formula, inputs = CASES[name]
    arrays = outputs(kind)[:inputs]
    weights = weigh(fewstep.solver.gram(arrays))
    wanted = formula(*(a.astype(np.float64) for a in arrays))
    error = np.abs(combined(weights, arrays) - wanted).max()
    scale = max(np.abs(w).max() * np.abs(a).max() for w, a in zip(weights.T, arrays, strict=True))
    assert error <= 2 * 2.0**-24 * inputs * scale


@pytest.mark.parametrize("name", CASES)
def test_weights_of_a_sample_do_not_depend_on_its_batch_or_kind(name: str) -> None:
    torch = pytest.importorskip("torch")
    weigh, _, inputs = CASES[name]
    gram = fewstep.solver.gram(outputs("far")[:inputs])
    together = weigh(gram)
    assert together.dtype == np.float32
    for b in range(SHAPE[0]):
        assert np.array_equal(weigh(gram[b : b + 1])[0], together[b])
    tensor = weigh(torch.from_numpy(gram))
    assert tensor.dtype == torch.float32
    assert np.array_equal(tensor.numpy(), together)


@pytest.mark.parametrize("name", CASES)
def test_weights_on_a_device_wait_for_nothing(name: str) -> None:
    """Meta tensors have no values: whatever looked at one would fail."""
    torch = pytest.importorskip("torch")
    weigh, _, inputs = CASES[name]
    gram = torch.empty((2, inputs + 1, inputs + 1), dtype=torch.float64, device="meta")
    weights = weigh(gram)
    assert weights.shape == (2, inputs)
    assert weights.dtype == torch.float32
    assert weights.device.type == "meta"


@pytest.mark.parametrize("name", CASES)
def test_weights_of_zero_outputs_are_finite(name: str) -> None:
    weigh, _, inputs = CASES[name]
    zeros = [np.zeros((1, 6), np.float32)] * inputs
    assert np.isfinite(weigh(fewstep.solver.gram(zeros))).all()


def test_tangential_keeps_an_output_that_has_no_direction() -> None:
    c, u = np.array([[1.0, 0.0]], np.float32), np.array([[0.0, 1.0]], np.float32)
    weights = guidance.tangential_weights(fewstep.solver.gram([c, u]), 3.0)
    assert np.array_equal(weights, [[3.0, -2.0]])


def guider(module: str, name: str, **options: Any) -> Any:
    """A guider of diffusers in the middle of its steps."""
    pytest.importorskip("diffusers")
    made = getattr(importlib.import_module(f"diffusers.guiders.{module}"), name)(**options)
    made.set_state(step=5, num_inference_steps=20, timestep=None)
    return made


DIFFUSERS: dict[str, tuple[str, str, dict[str, Any], Weights]] = {
    "apg": (
        "adaptive_projected_guidance",
        "AdaptiveProjectedGuidance",
        {"guidance_scale": 7.0, "eta": 0.3, "adaptive_projected_guidance_rescale": 2.0},
        lambda g: guidance.apg_weights(g, 7.0, eta=0.3, norm_threshold=2.0, parity="diffusers"),
    ),
    "apg_original": (
        "adaptive_projected_guidance",
        "AdaptiveProjectedGuidance",
        {
            "guidance_scale": 6.0,
            "eta": 0.3,
            "adaptive_projected_guidance_rescale": 2.0,
            "use_original_formulation": True,
            "guidance_rescale": 0.6,
        },
        lambda g: guidance.apg_weights(g, 7.0, eta=0.3, norm_threshold=2.0, rescale=0.6),
    ),
    "cfg_rescale": (
        "classifier_free_guidance",
        "ClassifierFreeGuidance",
        {"guidance_scale": 7.0, "guidance_rescale": 0.7},
        lambda g: guidance.rescale_weights(g, 7.0, 0.7),
    ),
    "zero_star": (
        "classifier_free_zero_star_guidance",
        "ClassifierFreeZeroStarGuidance",
        {"guidance_scale": 4.0, "guidance_rescale": 0.2},
        lambda g: guidance.zero_star_weights(g, 4.0, rescale=0.2),
    ),
    "tangential": (
        "tangential_classifier_free_guidance",
        "TangentialClassifierFreeGuidance",
        {"guidance_scale": 4.0},
        lambda g: guidance.tangential_weights(g, 4.0),
    ),
    "magnitude": (
        "magnitude_aware_guidance",
        "MagnitudeAwareGuidance",
        {"guidance_scale": 4.0, "alpha": 2.0},
        lambda g: guidance.magnitude_weights(g, 4.0, alpha=2.0),
    ),
}


@pytest.mark.parametrize("name", DIFFUSERS)
def test_weights_equal_diffusers(name: str) -> None:
    torch = pytest.importorskip("torch")
    module, kind, options, weigh = DIFFUSERS[name]
    arrays = outputs("far")[:2]
    c, u = (torch.from_numpy(a) for a in arrays)
    made = guider(module, kind, **options)
    # Flat: diffusers' magnitude-aware guider refuses images, whose norm it takes for a matrix's.
    wanted = made.forward(c.flatten(1), u.flatten(1)).pred.double().numpy().reshape(SHAPE)
    got = combined(weigh(fewstep.solver.gram([c, u])), arrays)
    assert np.abs(got - wanted).max() <= 4e-6 * np.abs(wanted).max()


def test_apg_momentum_equals_diffusers_over_steps() -> None:
    """Diffusers keeps m <- c - u + momentum * m; so does a slot that a plan's row writes."""
    torch = pytest.importorskip("torch")
    name = "adaptive_projected_guidance"
    rival = guider(
        name,
        "AdaptiveProjectedGuidance",
        guidance_scale=5.0,
        eta=0.1,
        adaptive_projected_guidance_rescale=0.0,
    )
    rival.momentum_buffer = importlib.import_module(f"diffusers.guiders.{name}").MomentumBuffer(
        -0.6
    )
    average = np.zeros(SHAPE, np.float32)
    rng = np.random.default_rng(2)
    for _ in range(4):
        c, u = (rng.normal(size=SHAPE).astype(np.float32) for _ in range(2))
        wanted = rival.forward(torch.from_numpy(c), torch.from_numpy(u)).pred.double().numpy()
        weights = guidance.apg_weights(
            fewstep.solver.gram([c, u, average]), 5.0, eta=0.1, momentum=-0.6, parity="diffusers"
        )
        got = combined(weights, (c, u, average))
        assert np.abs(got - wanted).max() <= 4e-6 * np.abs(wanted).max()
        average = c - u - np.float32(0.6) * average


def test_a_step_applies_the_weights(worker: Any) -> None:
    """gram, weights, step: the three calls of a guided step."""
    c, u, _ = outputs("far")
    weights = guidance.apg_weights(fewstep.solver.gram([c, u]), 9.0, eta=0.2)
    row = {"input": [16], "output": [0], "a": [[1.0]], "evaluates": 1, "gamma": [1.0, 0.0]}
    got = worker.step(
        rows=[row], row=0, state=np.zeros((1, *SHAPE), "f4"), models=[c, u], guidance=weights
    )
    wanted = reference.apg(c.astype(float), u.astype(float), 9.0, 0.2)
    assert np.abs(got["state"][0] - wanted).max() <= 1e-6 * np.abs(wanted).max()


REFUSED: list[tuple[Callable[[], Any], str]] = [
    (
        lambda: guidance.apg_weights(np.zeros((2, 3, 3)), 2.0, momentum=0.5),
        "apg_weights: 'gram' must have shape [B, 4, 4], got [2, 3, 3]",
    ),
    (
        lambda: guidance.zero_star_weights(np.zeros((3, 3)), 2.0),
        "zero_star_weights: 'gram' must have shape [B, 3, 3], got [3, 3]",
    ),
    (
        lambda: guidance.apg_weights(np.zeros((2, 3, 3)), 2.0, parity="x"),
        "apg_weights: 'parity' must be 'diffusers' or None, got 'x'",
    ),
    (lambda: guidance.apg(2.0, parity="x"), "apg: 'parity' must be 'diffusers' or None, got 'x'"),
    (lambda: guidance.apg(float("nan")), "apg: 'scale' must be finite, got nan"),
    (
        lambda: guidance.apg(2.0, norm_threshold=-1.0),
        "apg: 'norm_threshold' must be 0 or more, got -1.0",
    ),
    (lambda: guidance.cfg_rescale(2.0, 1.5), "cfg_rescale: 'amount' must lie in [0, 1], got 1.5"),
    (
        lambda: guidance.tcfg(2.0, interval=(3.0, 2.0)),
        "tcfg: 'interval' must be 0 <= low < high, got (3.0, 2.0)",
    ),
    (lambda: guidance.compose([]), "compose: 'scales' must hold 1 to 3 numbers, got 0"),
    (lambda: guidance.compose([1.0] * 4), "compose: 'scales' must hold 1 to 3 numbers, got 4"),
    (
        lambda: guidance.threshold(np.ones(2, "f4"), minimum=3.0, maximum=2.0),
        "threshold: 'minimum' must be above 0 and not above 'maximum', got 3.0 and 2.0",
    ),
]


@pytest.mark.parametrize(
    ("call", "message"), REFUSED, ids=lambda v: v if isinstance(v, str) else ""
)
def test_guidance_errors(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match="must") as caught:
        call()
    assert str(caught.value) == message

# SPDX-License-Identifier: Apache-2.0
"""The image demo: its network, its distance, its figures."""

from __future__ import annotations

import importlib.util
import json
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("safetensors")
pytest.importorskip("sklearn")
pytest.importorskip("scipy")
pytest.importorskip("matplotlib")
pytest.importorskip("threadpoolctl")

from threadpoolctl import threadpool_limits

from fewstep.demo import compare, frechet, image, network, problem, reference


@pytest.fixture(autouse=True)
def _one_blas_thread():
    """As `image.run` does: on a busy machine a second one costs more than it gives."""
    with threadpool_limits(limits=1, user_api="blas"):
        yield


@pytest.fixture(scope="module")
def settings():
    return compare.Settings(samples=300)


def test_weights_are_small_and_tell_their_story():
    path = files("fewstep.demo") / "weights" / "digits.safetensors"
    assert path.stat().st_size <= 1_500_000
    facts = network.facts()
    assert facts["metrics"]["classifier_accuracy"] >= 0.97
    assert {"seed", "steps", "drop_label"} <= set(facts["settings"])


def training_script():
    """Import the training script; it lies beside the tests, not in the package."""
    path = Path(__file__).resolve().parents[1] / "tools" / "train_digits.py"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    spec = importlib.util.spec_from_file_location("train_digits", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_numpy_network_is_the_trained_one():
    """The training script's torch module with the shipped weights gives the same output."""
    torch = pytest.importorskip("torch")
    train = training_script()
    tensors = network._read()[0]
    theirs = train.Denoiser(0.0).double()
    theirs.load_state_dict(
        {
            name.removeprefix("denoiser."): torch.from_numpy(value.astype(np.float64))
            for name, value in tensors.items()
            if name.startswith("denoiser.")
        }
    )
    x = np.random.default_rng(0).standard_normal((12, 64))
    sigma, label = np.geomspace(0.02, 40, 12), np.arange(12) % 11
    ours = network.Denoiser(np.float64)(x, sigma, label)
    noise = torch.from_numpy(np.log(sigma) / 4)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x), noise, torch.from_numpy(label)).numpy()
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)
    single = network.Denoiser()(x, sigma, label)
    np.testing.assert_allclose(single, expected, rtol=1e-3, atol=1e-4)


def test_classifier_knows_real_digits():
    images, labels = frechet.real_digits()
    assert np.mean(network.Classifier().predict(images) == labels) > 0.98


def test_frechet_distance_against_closed_form():
    """Diagonal covariances have a closed form; rotation must not change it."""
    rng = np.random.default_rng(0)
    mean = rng.standard_normal((2, 6))
    spread = rng.uniform(0.1, 3, (2, 6))
    exact = np.sum((mean[0] - mean[1]) ** 2) + np.sum((spread[0] - spread[1]) ** 2)
    turn = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    a, b = (
        frechet.Gaussian(turn @ m, turn @ np.diag(s**2) @ turn.T)
        for m, s in zip(mean, spread, strict=True)
    )
    assert frechet.distance(a, b) == pytest.approx(exact, rel=1e-10)
    assert frechet.distance(a, a) == pytest.approx(0, abs=1e-10)
    with pytest.raises(ValueError, match=r"'features' must have shape \[n >= 2, D\], got \[1, 6\]"):
        frechet.Gaussian.fit(mean[:1])


def test_reference_is_converged(monkeypatch):
    """A hundredfold tighter tolerance moves no pixel by more than the float32 solvers round."""
    start = 20 * np.random.default_rng(0).standard_normal((10, 64))
    loose = reference.solve(start, np.arange(10), 2.0)
    monkeypatch.setattr(reference, "TOLERANCE", 1e-10)
    tight = reference.solve(start, np.arange(10), 2.0)
    assert np.abs(loose - tight).max() < 2e-6


def test_solvers_converge_to_the_reference(settings):
    truth = compare.exact(settings)
    for solver in ("heun", "unipc", "dpmpp_3m", "deis", "flow_heun"):
        coarse, fine = (
            compare.rms(compare.draw(solver, n, 40, settings)[0], truth) for n in (10, 80)
        )
        assert fine < 0.1 * coarse, solver
        assert fine < 5e-3, solver


def test_digits_are_digits(settings):
    """Guided samples are read as the digit asked for, and score near the real ones."""
    distances = {}
    for solver, calls in (("unipc", 12), ("euler", 2)):
        images, model, _ = compare.draw(solver, calls, 300, settings)
        assert model.calls == calls
        distances[solver] = frechet.to_real(images)
        if solver == "unipc":
            predicted = network.Classifier().predict(images)
            assert np.mean(predicted == problem.labels_for(300)) > 0.95
    assert distances["unipc"] < 0.5 * distances["euler"]
    assert distances["unipc"] < 0.1 * compare.noise_frechet(settings)
    assert 0 < frechet.floor() < distances["euler"]


def test_run_writes_figures_and_pictures(tmp_path):
    reports = []
    result = image.run(
        compare.Settings(samples=100, steps=4),
        tmp_path / "made",
        lambda *report: reports.append(report),
        calls=(4, 8),
    )
    json.dumps(result, allow_nan=False)
    assert {r[0] for r in reports} == {"reference", "solvers", "error curves"}
    assert reports[-1][1] == reports[-1][2]
    assert len(result["solvers"]) >= 8
    for line in result["solvers"]:
        assert 0 < line["model_calls"] <= 4
        assert (line["rms"] is None) == (line["solver"] in problem.STOCHASTIC)
        assert min(line["frechet"], line["model_ms"], line["fewstep_ms"]) > 0
    assert all(len(points) == 2 for points in result["curves"].values())
    for name in ("digits.png", "error.png"):
        picture = (tmp_path / "made" / name).read_bytes()
        assert picture.startswith(b"\x89PNG")
        assert len(picture) > 10_000


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"samples": 55}, "'samples' must be a multiple of 10, at least 100"),
        ({"steps": 1}, r"'steps' must be in \[2, 1000\], got 1"),
        ({"guidance": float("nan")}, r"'guidance' must be in \[0, 20\], got nan"),
        ({"solver": "unipcc"}, "'solver' must be one of .*, got unipcc"),
    ],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(ValueError, match=message):
        compare.Settings(**wrong).check()

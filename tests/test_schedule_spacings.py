# SPDX-License-Identifier: Apache-2.0
"""Every spacing: against diffusers' nodes, and against the published formula in NumPy."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import beta as beta_distribution

from fewstep import schedules, solver

GOLDEN = json.loads((Path(__file__).parent / "golden" / "schedules.json").read_text())
GRID = schedules.scaled_linear().nodes(1000)
RATIO = (GRID.sigma / GRID.alpha)[:-1][::-1]  # by training step


def at(t: Any) -> Any:
    """Sigma / alpha at training steps, the logarithm linear between them."""
    return np.exp(np.interp(t, np.arange(1000), np.log(RATIO)))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda c: c["call"])
def test_equals_diffusers(case: dict[str, Any]) -> None:
    nodes = eval(f"schedules.{case['call']}".replace("(dynamic", "(schedules.dynamic"))
    values = np.array(case["values"])
    ours = nodes.sigma / nodes.alpha if case["array"] == "ratio" else nodes.sigma
    # Theirs are float32, and 1 - cumprod cancels in it.
    assert ours == pytest.approx(values, rel=3e-5, abs=2e-7)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 10, 50, 999])
def test_training_step_spacings(steps: int) -> None:
    def t(spacing: Any, **more: Any) -> list[float]:
        nodes = schedules.scaled_linear(spacing=spacing, **more).nodes(steps)
        assert nodes.sigma[:-1] / nodes.alpha[:-1] == pytest.approx(at(nodes.t[:-1]), rel=1e-12)
        assert nodes.t[-1] == -1
        return nodes.t[:-1].tolist()

    width = 1000 / steps
    assert t("simple") == [999 - int(i * width) for i in range(steps)]
    assert t("ddim_uniform") == list(range(1, 1000, 1000 // steps))[::-1]
    assert t("normal") == pytest.approx(np.linspace(999, 0, steps), rel=1e-12)
    assert t("sgm_uniform") == pytest.approx(np.linspace(999, 0, steps + 1)[:-1], rel=1e-12)
    for a, b in ((0.6, 0.6), (0.5, 0.7), (2.0, 3.0)):
        p = 1 - np.linspace(0, 1, steps, endpoint=False)
        published = np.rint(beta_distribution.ppf(p, a, b) * 999)
        assert t("beta", beta_a=a, beta_b=b) == list(dict.fromkeys(published))


@pytest.mark.parametrize("a", [0.3, 0.6, 1.0, 2.5, 40.0])
@pytest.mark.parametrize("b", [0.4, 0.6, 1.0, 7.0, 300.0])
def test_beta_quantiles_are_scipys(a: float, b: float) -> None:
    # sigma from 2 to 1: the quantile is sigma - 1.
    nodes = schedules.beta(1.0, 2.0, a=a, b=b, final_zero=False).nodes(24)
    exact = beta_distribution.ppf(1 - np.arange(25) / 24, a, b)
    assert nodes.sigma - 1 == pytest.approx(exact, rel=1e-9, abs=1e-13)


def test_collapsed_beta_quantiles_are_an_error() -> None:
    with pytest.raises(ValueError, match="give a larger log"):
        schedules.beta(1.0, 2.0, a=0.001, b=0.001, final_zero=False).nodes(24)


@pytest.mark.parametrize("n", [2, 3, 10])
def test_range_formulas(n: int) -> None:
    lo, hi = 0.03, 14.0
    ramp = np.arange(n) / (n - 1)
    kl = np.tan(ramp * np.arctan(lo) + (1 - ramp) * np.arctan(hi))
    assert schedules.kl_optimal(lo, hi).nodes(n).sigma[:-1] == pytest.approx(kl, rel=1e-12)
    for rho in (0.5, 1.0, 3.0):
        poly = np.exp((1 - ramp) ** rho * np.log(hi / lo) + np.log(lo))
        nodes = schedules.polyexponential(lo, hi, rho=rho).nodes(n)
        assert nodes.sigma[:-1] == pytest.approx(poly, rel=1e-12)
        power = (hi ** (1 / rho) + ramp * (lo ** (1 / rho) - hi ** (1 / rho))) ** rho
        nodes = schedules.polynomial(rho, lo, hi).nodes(n)
        assert nodes.sigma[:-1] == pytest.approx(power, rel=1e-12)
        time = (1 + ramp * (1e-3 ** (1 / rho) - 1)) ** rho
        nodes = schedules.vp_sde(rho=rho).nodes(n)
        assert nodes.t[:-1] == pytest.approx(time, rel=1e-12)
        squared = np.expm1(19.9 * time**2 / 2 + 0.1 * time)
        assert (nodes.sigma / nodes.alpha)[:-1] ** 2 == pytest.approx(squared, rel=1e-11)
        assert nodes.alpha**2 + nodes.sigma**2 == pytest.approx(np.ones(n + 1), abs=1e-15)


@pytest.mark.parametrize("spacing", ["kl_optimal", "polyexponential", "karras", "beta_sigma"])
def test_ratio_spacings_of_a_training_grid_span_it(spacing: Any) -> None:
    nodes = schedules.scaled_linear(spacing=spacing, rho=2.0).nodes(8)
    assert (nodes.t[0], nodes.t[-2]) == (999, 0)
    assert (nodes.sigma / nodes.alpha)[:-1] == pytest.approx(at(nodes.t[:-1]), rel=1e-9)


def test_more_steps_than_the_training_grid_has() -> None:
    assert len(schedules.scaled_linear(spacing="karras").nodes(1500).t) == 1501


@pytest.mark.parametrize("steps", [1, 4, 10, 37])
def test_tables_are_resampled_log_linearly(steps: int) -> None:
    table = np.array([14.615, 6.475, 3.861, 2.697, 1.886, 1.396, 0.963, 0.652, 0.399, 0.152, 0.029])
    where = np.linspace(0, 1, steps + 1)
    expected = np.exp(np.interp(where, np.linspace(0, 1, 11), np.log(table)))
    nodes = schedules.ays("sd15", final_zero=False).nodes(steps)
    assert nodes.sigma / nodes.alpha == pytest.approx(expected, rel=1e-12)
    nodes = schedules.ays("sd15").nodes(steps)
    assert (nodes.sigma / nodes.alpha)[:-1] == pytest.approx(expected[:-1], rel=1e-12)
    assert nodes.sigma[-1] == 0


def test_published_interpolation_of_align_your_steps() -> None:
    nodes = schedules.ays("sd15", final_zero=False).nodes(4)
    values = [14.615, 3.22693616, 1.396, 0.51004706, 0.029]
    assert nodes.sigma / nodes.alpha == pytest.approx(values, rel=1e-8)


GITS = {  # published rows
    2: [14.61464119, 0.803307, 0.02916753],
    6: [14.61464119, 5.85520077, 2.05039096, 0.95350921, 0.45573691, 0.17026083, 0.02916753],
    10: [14.61464119, 5.85520077, 2.84484982, 1.67050016, 1.08895338, 0.74807048, 0.50118381,
         0.32104823, 0.19894916, 0.09824532, 0.02916753],
    20: [14.61464119, 7.49001646, 4.65472794, 3.07277966, 2.19988537, 1.61558151, 1.24153244,
         0.95350921, 0.74807048, 0.59516323, 0.50118381, 0.41087446, 0.34370604, 0.29807833,
         0.25053367, 0.22545385, 0.19894916, 0.17026083, 0.13792117, 0.09824532, 0.02916753],
}  # fmt: skip


def test_gits_tables() -> None:
    for steps in range(2, 21):
        nodes = schedules.gits(final_zero=False).nodes(steps)
        ratio = nodes.sigma / nodes.alpha
        assert len(ratio) == steps + 1
        assert ratio[[0, -1]] == pytest.approx([14.61464119, 0.02916753], rel=1e-9)
        if steps in GITS:
            assert ratio == pytest.approx(GITS[steps], rel=1e-9)
    longer = schedules.gits(final_zero=False).nodes(40)
    ratio = longer.sigma / longer.alpha
    assert ratio[::2] == pytest.approx(GITS[20], rel=1e-9)
    assert ratio[1] == pytest.approx(np.sqrt(GITS[20][0] * GITS[20][1]), rel=1e-9)
    assert schedules.gits() == schedules.gits()
    assert schedules.gits().nodes(7).sigma[-1] == 0
    assert solver.plan("unipc", steps=7, schedule=schedules.gits()).validate() < 1e-9


def test_zero_terminal_snr_is_algorithm_1_of_lin_et_al() -> None:
    root = np.sqrt(np.cumprod(1 - np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2))
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    nodes = schedules.scaled_linear(zero_terminal_snr=True).nodes(1000)
    assert (nodes.alpha[0], nodes.sigma[0], nodes.lam[0]) == (0, 1, -np.inf)
    assert nodes.alpha[:-1] == pytest.approx(root[::-1], rel=1e-11, abs=1e-14)
    assert nodes.sigma[:-1] == pytest.approx(np.sqrt(1 - root**2)[::-1], rel=1e-9)


@pytest.mark.parametrize("name", ["euler", "dpmpp_2m", "unipc", "ddim"])
@pytest.mark.parametrize("prediction", ["v", "x0"])
def test_plans_begin_without_signal(name: str, prediction: str) -> None:
    schedule = schedules.scaled_linear(spacing="trailing", zero_terminal_snr=True)
    plan = solver.plan(name, steps=6, schedule=schedule, prediction=prediction)
    assert plan.validate() < 1e-9


def test_flow_beta_times() -> None:
    p = 1 - np.arange(7) / 6
    q = beta_distribution.ppf(p, 0.6, 0.6)
    assert schedules.flow(spacing="beta").nodes(6).sigma == pytest.approx(q, abs=1e-12)
    nodes = schedules.flow(3.0, spacing="beta", sigma_min=0.1).nodes(7)
    sigma = 0.1 + 0.9 * q
    assert nodes.sigma[:-1] == pytest.approx(3 * sigma / (1 + 2 * sigma), rel=1e-12)


def test_terminal_keeps_the_first_node() -> None:
    nodes = schedules.flow(2.0, terminal=0.3).nodes(5)
    assert (nodes.sigma[0], nodes.sigma[-2], nodes.sigma[-1]) == (1.0, 0.3, 0.0)


@pytest.mark.parametrize("name", ["scaled_linear", "karras", "flow", "ays", "kl_optimal"])
def test_at_keeps_nodes_and_times(name: str) -> None:
    schedule = schedules.ays("sd15") if name == "ays" else getattr(schedules, name)()
    nodes = schedule.nodes(7)
    with np.errstate(divide="ignore"):
        again = schedule.at(nodes.sigma / nodes.alpha).nodes()
    for ours, own in zip(again, nodes, strict=True):
        assert ours == pytest.approx(own, rel=1e-9, abs=1e-9)
    for other in (schedules.vp_sde(), schedules.mean_reverting()):
        with pytest.raises(ValueError, match=f"'at' must not be asked of {other.name}"):
            other.at([1.0, 0.0])


def test_shifts() -> None:
    assert schedules.dynamic_shift(256, kind="linear") == pytest.approx(0.5)
    assert schedules.dynamic_shift(4096) == pytest.approx(np.exp(1.15))
    sigma = np.linspace(1, 0, 6)[1:-1]
    mu = 0.8
    theirs = np.exp(mu) / (np.exp(mu) + 1 / sigma - 1)
    ours = schedules.flow(float(np.exp(mu))).nodes(5).sigma[1:-1]
    assert ours == pytest.approx(theirs, rel=1e-13)


SPACINGS = (
    "linspace, leading, trailing, simple, ddim_uniform, beta, normal, sgm_uniform, karras, "
    "exponential, log_snr, polyexponential, kl_optimal, beta_sigma, log_linear, sigmas"
)
ERRORS = [
    (lambda: schedules.vp_linear(spacing="even"), f"'spacing' must be one of {SPACINGS}, got "),
    (lambda: schedules.scaled_linear(spacing="karras", zero_terminal_snr=True),
     "'spacing' must be of training steps with zero_terminal_snr, got \"karras\""),
    (lambda: schedules.vp_linear(spacing="simple", train_steps=3),
     "'steps' must place at most train_steps=3 nodes, got 4"),
    (lambda: schedules.vp_linear(spacing="beta", beta_a=0.0),
     "'beta_a' must be finite and above 0, got 0"),
    (lambda: schedules.beta(b=nan), "'beta_b' must be finite and above 0, got nan"),
    (lambda: schedules.polyexponential(rho=0.0), "'rho' must be finite and above 0, got 0"),
    (lambda: schedules.vp_sde(t_min=0.0), "'t_min' must be between 0 and 1, got 0"),
    (lambda: schedules.vp_sde(5.0, 1.0),
     "'beta_end' must be finite and at least beta_start, got 1"),
    (lambda: schedules.flow(terminal=1.0), "'terminal' must be between 0 and 1, got 1"),
    (lambda: schedules.flow(spacing="even"),
     "'spacing' must be one of linspace, beta, linear_quadratic, karras, exponential, beta_sigma, "
     'got "even"'),
    (lambda: schedules.flow(spacing="karras", final_zero=False),
     "'sigma_min' must be above 0 with this spacing, got 0"),
    (lambda: schedules.linear_quadratic(0.0), "'threshold' must be between 0 and 1, got 0"),
    (lambda: schedules.linear_quadratic(0.1, 4),
     "'linear_steps' must be 0 to steps - 1 = 3, got 4"),
    (lambda: schedules.log_linear([1.0]), "'n_sigmas' must be at least 2, got 1"),
    (lambda: schedules.log_linear([1.0, 0.0]), "'sigmas[1]' must be above 0, got 0"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[m[1][:40] for m in ERRORS])
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make().nodes(4)
    assert str(error.value).startswith("fewstep_schedule_create: " + message)


def test_python_errors() -> None:
    with pytest.raises(ValueError, match="'model' must be one of sd15, sdxl, svd, got 'sd3'"):
        schedules.ays("sd3")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'kind' must be exponential or linear, got 'cubic'"):
        schedules.dynamic_shift(256, kind="cubic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'tokens' must give a positive shift, got -4000"):
        schedules.dynamic_shift(-4000, kind="linear")

# SPDX-License-Identifier: Apache-2.0
"""Schedules: nodes against the papers' formulas and diffusers, invariants, errors."""

from __future__ import annotations

import json
from math import nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fewstep import schedules

GOLDEN = json.loads((Path(__file__).parent / "golden" / "diffusers.json").read_text())

EVERY = {
    "vp_linear": schedules.vp_linear(),
    "scaled_linear": schedules.scaled_linear(spacing="trailing"),
    "scaled_linear leading": schedules.scaled_linear(spacing="leading", steps_offset=1),
    "scaled_linear karras": schedules.scaled_linear(spacing="karras"),
    "scaled_linear log_snr": schedules.scaled_linear(spacing="log_snr", final_zero=False),
    "cosine": schedules.cosine(),
    "karras": schedules.karras(),
    "karras vp": schedules.karras(process="vp"),
    "karras flow": schedules.karras(process="flow"),
    "exponential": schedules.exponential(0.01, 10.0),
    "exponential open": schedules.exponential(0.01, 10.0, final_zero=False),
    "log_snr": schedules.log_snr(0.01, 10.0),
    "log_snr flow": schedules.log_snr(0.01, 0.99, process="flow"),
    "scaled_linear simple": schedules.scaled_linear(spacing="simple"),
    "scaled_linear sgm": schedules.scaled_linear(spacing="sgm_uniform", final_zero=False),
    "scaled_linear beta": schedules.scaled_linear(spacing="beta"),
    "zero snr": schedules.scaled_linear(spacing="trailing", zero_terminal_snr=True),
    "vp_sde": schedules.vp_sde(),
    "polyexponential": schedules.polyexponential(rho=2.0),
    "kl_optimal": schedules.kl_optimal(process="vp"),
    "beta flow": schedules.beta(process="flow"),
    "ays": schedules.ays("sdxl"),
    "linear_quadratic": schedules.linear_quadratic(),
    "flow terminal": schedules.flow(3.0, sigma_max=0.99, terminal=0.001),
    "flow": schedules.flow(),
    "flow shift": schedules.flow(3.0, sigma_min=0.01),
    "flow open": schedules.flow(2.0, final_zero=False),
}


@pytest.mark.parametrize("steps", [1, 2, 3, 10, 50])
@pytest.mark.parametrize("name", EVERY)
def test_nodes_obey_their_process(name: str, steps: int) -> None:
    schedule = EVERY[name]
    nodes = schedule.nodes(steps)
    assert all(a.shape == (steps + 1,) and a.dtype == np.float64 for a in nodes)
    total = {
        "vp": nodes.alpha**2 + nodes.sigma**2,
        "ve": nodes.alpha,
        "flow": nodes.alpha + nodes.sigma,
    }[schedule.process]
    assert total == pytest.approx(np.ones(steps + 1), abs=1e-15)
    with np.errstate(divide="ignore"):
        lam = np.log(nodes.alpha) - np.log(nodes.sigma)
    assert nodes.lam == pytest.approx(lam, rel=1e-12, abs=1e-12)
    assert (np.diff(nodes.lam) > 0).all()
    assert (np.diff(nodes.t) < 0).all()
    if dict(schedule.params).get("final_zero"):
        assert (nodes.sigma[-1], nodes.alpha[-1]) == (0.0, 1.0)


@pytest.mark.parametrize("case", GOLDEN["spacings"], ids=lambda c: f"{c['spacing']}-{c['steps']}")
def test_spacings_equal_diffusers(case: dict[str, Any]) -> None:
    schedule = schedules.scaled_linear(spacing=case["spacing"], steps_offset=1)
    nodes = schedule.nodes(case["steps"])
    at_steps = case["spacing"] in ("linspace", "leading", "trailing")
    if at_steps:
        assert nodes.t[:-1].tolist() == case["t"]
    else:  # their logarithms and times are float32
        assert nodes.t[:-1] == pytest.approx(np.array(case["t"]), abs=2e-2)
    ratio = nodes.sigma[:-1] / nodes.alpha[:-1]
    assert ratio == pytest.approx(np.array(case["ratio"]), rel=2e-5)


def test_discrete_nodes_are_the_cumulative_product() -> None:
    for schedule, betas in (
        (schedules.vp_linear(), np.linspace(1e-4, 0.02, 1000)),
        (schedules.scaled_linear(), np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2),
    ):
        nodes = schedule.nodes(1000)
        bar = np.cumprod(1 - betas)[::-1]
        assert nodes.t.tolist() == [*range(999, -1, -1), -1]
        assert nodes.alpha[:-1] == pytest.approx(np.sqrt(bar), rel=1e-13)
        assert nodes.sigma[:-1] == pytest.approx(np.sqrt(1 - bar), rel=1e-11)
    u = np.arange(1001) / 1000
    bar = np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2
    betas = np.minimum(1 - bar[1:] / bar[:-1], 0.999)
    nodes = schedules.cosine().nodes(1000)
    assert nodes.alpha[:-1] == pytest.approx(np.sqrt(np.cumprod(1 - betas))[::-1], rel=1e-12)


def test_formulas() -> None:
    ramp = np.arange(10) / 9
    karras = (80 ** (1 / 7) + ramp * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    nodes = schedules.karras(0.002, 80.0).nodes(10)
    assert nodes.sigma == pytest.approx(np.append(karras, 0.0), rel=1e-13)
    assert nodes.t.tolist() == nodes.sigma.tolist()
    assert (nodes.sigma[0], nodes.sigma[-2]) == (80.0, 0.002)

    nodes = schedules.exponential(0.01, 10.0, final_zero=False).nodes(3)
    assert nodes.sigma == pytest.approx([10.0, 1.0, 0.1, 0.01], rel=1e-14)

    nodes = schedules.log_snr(0.01, 0.99, process="flow").nodes(7)
    assert np.diff(nodes.lam[:-1]) == pytest.approx(np.full(6, np.log(99) / 3), rel=1e-12)

    sigma = np.linspace(1, 0, 6)
    nodes = schedules.flow(3.0).nodes(5)
    assert nodes.sigma == pytest.approx(3 * sigma / (1 + 2 * sigma), rel=1e-14)
    assert (nodes.lam[0], nodes.lam[-1]) == (-np.inf, np.inf)


def test_sigma_is_accurate_where_alpha_rounds_to_one() -> None:
    """The sigma of the first training steps comes from expm1, not from 1 - product."""
    nodes = schedules.vp_linear(beta_start=1e-14, beta_end=1e-13, train_steps=10).nodes(10)
    assert nodes.sigma[-2] == pytest.approx(1e-7, rel=1e-12)


def test_fractional_time_is_linear_in_log_sigma() -> None:
    grid = schedules.scaled_linear().nodes(1000)
    ratio = (grid.sigma / grid.alpha)[:-1][::-1]  # by training step
    middle = float(np.sqrt(ratio[300] * ratio[301]))
    nodes = schedules.scaled_linear(sigmas=[ratio[999], middle, ratio[7], 0.0]).nodes()
    assert nodes.t == pytest.approx([999, 300.5, 7, -1], abs=1e-9)
    beyond = schedules.scaled_linear(sigmas=[1e4, 1e-6]).nodes()
    assert beyond.t.tolist() == [999, 0]


def test_one_node_of_linspace_is_the_noisiest() -> None:
    assert schedules.scaled_linear().nodes(1).t.tolist() == [999, -1]


@given(
    values=st.lists(st.floats(1e-6, 1e6), min_size=2, max_size=30, unique=True),
    process=st.sampled_from(["vp", "ve"]),
    zero=st.booleans(),
)
@settings(max_examples=100)
def test_any_decreasing_array(values: list[float], process: Any, zero: bool) -> None:
    array = sorted(values, reverse=True) + ([0.0] if zero else [])
    with np.errstate(divide="ignore"):
        lam = -np.log(array)
    schedule = schedules.sigmas(array, process=process)
    if not (np.diff(lam) > 0).all():  # neighbours whose logarithms round together
        with pytest.raises(ValueError, match="give a larger log"):
            schedule.nodes()
        return
    nodes = schedule.nodes()
    assert nodes.sigma == pytest.approx(nodes.alpha * np.array(array), rel=1e-14)
    assert nodes.t.tolist() == array


def test_schedules_are_values() -> None:
    assert schedules.karras(0.1, 10.0) == schedules.karras(0.1, 10.0)
    assert schedules.karras() == schedules.karras()
    assert hash(schedules.flow(3.0)) == hash(schedules.flow(3.0))
    assert schedules.flow(3.0) != schedules.flow(2.0)
    with pytest.raises(AttributeError):
        schedules.flow().name = "x"  # type: ignore[misc]


ERRORS = [
    (lambda: schedules.karras().nodes(0), "'steps' must be 1 to 100000, got 0"),
    (lambda: schedules.karras(-1.0, 80.0).nodes(4),
     "'sigma_min' must be finite and above 0, got -1"),
    (lambda: schedules.karras(0.1, np.inf).nodes(4),
     "'sigma_max' must be finite and above 0, got inf"),
    (lambda: schedules.karras(2.0, 1.0).nodes(4), "'sigma_min' must be below sigma_max=1, got 2"),
    (lambda: schedules.karras(rho=0.0).nodes(4), "'rho' must be finite and above 0, got 0"),
    (lambda: schedules.karras(rho=nan).nodes(4), "'rho' must be finite and above 0, got nan"),
    (lambda: schedules.karras(0.1, 1.5, process="flow").nodes(4),
     "'sigma_max' must be at most 1, got 1.5"),
    (lambda: schedules.log_snr(process="flow").nodes(4), "'sigma_max' must be below 1, got 1"),
    (lambda: schedules.flow(0.0).nodes(4), "'shift' must be finite and above 0, got 0"),
    (lambda: schedules.flow(sigma_min=0.0).nodes(4),
     "'sigma_min' must be above 0 with final_zero, got 0"),
    (lambda: schedules.vp_linear(beta_start=0.0).nodes(4),
     "'beta_start' must be between 0 and 1, got 0"),
    (lambda: schedules.vp_linear(train_steps=0).nodes(4),
     "'train_steps' must be at least 1, got 0"),
    (lambda: schedules.vp_linear(train_steps=8).nodes(9),
     "'steps' must place at most train_steps=8 nodes, got 9"),
    (lambda: schedules.vp_linear(spacing="leading", steps_offset=-1).nodes(4),
     "'steps_offset' must be at least 0, got -1"),
    (lambda: schedules.vp_linear(spacing="leading", train_steps=10, steps_offset=9).nodes(4),
     "'steps (node 1)' must give a larger log(alpha / sigma) than node 0, got "),
    (lambda: schedules.sigmas([3.0, 1.0, 1.0, 0.0]).nodes(),
     "'sigmas[2]' must be below sigmas[1]=1, got 1"),
    (lambda: schedules.sigmas([1.0, 2.0]).nodes(), "'sigmas[1]' must be below sigmas[0]=1, got 2"),
    (lambda: schedules.sigmas([1.0, nan]).nodes(), "'sigmas[1]' must be finite, got nan"),
    (lambda: schedules.sigmas([1.0, -1.0]).nodes(), "'sigmas[1]' must be at least 0, got -1"),
    (lambda: schedules.sigmas([1.5, 0.0], process="flow").nodes(),
     "'sigmas[0]' must be at most 1, got 1.5"),
    (lambda: schedules.sigmas([2.0, 1.0]).nodes(3), "'n_sigmas' must be steps + 1 = 4, got 2"),
]  # fmt: skip


@pytest.mark.parametrize(("make", "message"), ERRORS, ids=[m[1][:40] for m in ERRORS])
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make()
    assert str(error.value).startswith("fewstep_schedule_create: " + message)


def test_python_errors() -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        schedules.karras(process="vpe")  # type: ignore[arg-type]
    assert str(error.value) == (
        "fewstep.schedules.karras: 'process' must be one of vp, ve, flow, got 'vpe'"
    )
    with pytest.raises(ValueError) as error:  # noqa: PT011
        schedules.karras().nodes()
    assert str(error.value) == "fewstep.schedules: 'steps' must be given, got None"

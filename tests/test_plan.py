# SPDX-License-Identifier: Apache-2.0
"""Plans: coefficients against other libraries, moment conditions, structure."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cases.plan import EMBEDDED, FLOW_ONLY, SILENT_ROWS, every_plan
from fewstep import schedules
from fewstep.solver import SOLVERS, Plan, plan
from reference import solver as reference

K_DIFFUSION = json.loads((Path(__file__).parent / "golden" / "k_diffusion.json").read_text())
GOLDEN = json.loads((Path(__file__).parent / "golden" / "diffusers.json").read_text())

KARRAS = schedules.karras(0.02, 80.0)
STEP, START, KNOWN = 0, 1, 2  # streams
LAMBDA, TIME = 0, 3
STATE, HISTORY, ANCHOR, INPUT = 0, 1, 2, 3


# ---- coefficients -------------------------------------------------------------------------------


def golden_id(case: dict[str, Any]) -> str:
    parts = [case["solver"], case["process"], case["prediction"], str(case["calls"])]
    return "-".join([*parts, *map(str, case["options"].values())])


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=golden_id)
def test_plan_equals_diffusers(case: dict[str, Any]) -> None:
    """The composed coefficients are those diffusers applies, to its float32."""
    clock = ("lcm", "pndm", "tcd")  # these read the model time
    if case["solver"] in clock and case["process"] == "vp" and case["prediction"] != "v":
        schedule = schedules.scaled_linear(sigmas=case["nodes"])
    else:
        schedule = schedules.sigmas(case["nodes"], process=case["process"])
    made = plan(case["solver"], schedule=schedule, prediction=case["prediction"], **case["options"])
    ours = reference.compose(made, case["calls"])
    assert len(ours) == case["calls"]
    for i, theirs in zip(case["rows"], case["states"], strict=True):
        full = np.pad(theirs, (0, len(ours[i]) - len(theirs)))
        error = np.abs(ours[i] - full).max() / max(1.0, np.abs(full).max())
        assert error < case.get("tolerance", 2e-6), f"row {i}: {error}"


@pytest.mark.parametrize(
    "case", K_DIFFUSION["cases"], ids=lambda c: f"{c['solver']}-{c['calls']}-{c['options']}"
)
def test_plan_equals_k_diffusion(case: dict[str, Any]) -> None:
    """The composed coefficients are those of k-diffusion's samplers in float64."""
    schedule = schedules.sigmas(case["nodes"])
    made = plan(case["solver"], schedule=schedule, prediction="x0", **case["options"])
    ours = reference.compose(made, case["calls"])
    assert len(ours) == case["calls"]
    theirs = np.pad(case["state"], (0, len(ours[-1]) - len(case["state"])))
    assert np.abs(ours[-1] - theirs).max() <= 1e-12 * max(1.0, np.abs(theirs).max())


def test_golden_covers_all_but_a_nan_of_the_rival() -> None:
    """Only UniPC bh1's last step, where diffusers returns NaN, is not compared."""
    short = {golden_id(c): c["nan_rows"] for c in GOLDEN["cases"]}
    assert {k: v for k, v in short.items() if v} == {
        f"unipc-vp-epsilon-10-{order}-bh1": 1 for order in (1, 2, 3, 4, 5)
    }


# ---- moment conditions --------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "schedule", "prediction", "options"), every_plan())
@pytest.mark.parametrize("steps", [1, 2, 9, 20])
def test_plan_validates(
    name: str, schedule: schedules.Schedule, prediction: str, options: dict[str, Any], steps: int
) -> None:
    if steps < 3 and "intervals" in options:
        pytest.skip("needs a node with noise after the first")
    made = plan(name, steps=steps, schedule=schedule, prediction=prediction, **options)
    assert made.validate() < 1e-10
    assert plan(
        name, steps=steps, schedule=schedule, prediction=prediction, clip=1.0, **options
    ).validate() < 1e-10  # fmt: skip


@pytest.mark.parametrize("prediction", ["epsilon", "x0", "v", "flow", "edm"])
@pytest.mark.parametrize("name", [n for n in SOLVERS if n not in FLOW_ONLY])
def test_every_prediction_validates(name: str, prediction: str) -> None:
    for schedule in (KARRAS, schedules.cosine(), schedules.karras(0.01, 0.9, process="flow")):
        made = plan(name, steps=8, schedule=schedule, prediction=prediction)
        assert made.validate() < 1e-9


def lagrange(nodes: list[float], j: int, v: np.ndarray) -> np.ndarray:
    out = np.ones_like(v)
    for k, node in enumerate(nodes):
        if k != j:
            out = out * (v - node) / (nodes[j] - node)
    return out


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("h", [1e-6, 1e-3, 0.1, 1.0, 5.0])
def test_weights_against_adaptive_quadrature(order: int, h: float) -> None:
    """Row weights are the integral of the README's formula, by scipy's adaptive rule."""
    from scipy.integrate import quad

    lam = -1.0 + h * np.arange(order + 1) * np.linspace(1.0, 1.3, order + 1)
    made = plan("deis", schedule=schedules.sigmas(np.exp(-lam)), order=max(order, 1),
                lower_order_final=False)  # fmt: skip
    row = made.rows[order - 1]
    ls, lt = lam[order - 1], lam[order]
    nodes = [lam[order - 1 - j] for j in range(order)]
    weights = dict(zip(row.input, row.a[0], strict=True))
    history = [weights[16]] + [weights[1 + (order - 1 - j) % max(order - 1, 1)]
                               for j in range(1, order)]  # fmt: skip
    for j, ours in enumerate(history):
        # In the noise frame on VE: b_j = -sigma_t * int e^{lt - u} l_j(u) du.
        exact, _ = quad(
            lambda u, j=j: -np.exp(-u) * float(lagrange(nodes, j, np.array(u))),
            ls, lt, epsabs=0, epsrel=1e-13, limit=200,
        )  # fmt: skip
        assert ours == pytest.approx(exact, rel=5e-10 if h < 1e-3 else 1e-12)


def test_dpmpp_3m_keeps_third_order_and_its_parity_rows_do_not_claim_it() -> None:
    schedule = schedules.log_snr(0.05, 20.0, final_zero=False)
    exact = plan("dpmpp_3m", steps=20, schedule=schedule)
    halved = plan("dpmpp_3m", steps=20, schedule=schedule, parity="k-diffusion")
    assert {row.order for row in exact.rows[2:]} == {3}
    assert {row.order for row in halved.rows[2:]} == {2}
    claimed = Plan.from_rows([r.replace(order=3) if i > 1 else r for i, r in enumerate(halved)])
    with pytest.raises(ValueError, match=r"rows\[2\].*polynomials of degree 2") as error:
        claimed.validate()
    assert str(error.value).startswith("fewstep_plan_validate: 'rows[2].a[0]' must integrate")


def validate_with(made: Plan, i: int, **changes: Any) -> float:
    rows = list(made.rows)
    rows[i] = rows[i].replace(**changes)
    return Plan.from_rows(rows).validate()


CAUGHT = [
    ("dpmpp_2m", {"variant": "heun"}),
    ("dpmpp_2m_sde", {"variant": "heun"}),
    ("dpmpp_3m", {}),
    ("unipc", {"order": 3}),
    ("deis", {"order": 3}),
    ("heun", {}),
    ("euler_ancestral", {}),
    ("ddim", {"eta": 0.5}),
]


@pytest.mark.parametrize(("name", "options"), CAUGHT)
def test_validate_catches_each_perturbed_coefficient(name: str, options: dict[str, Any]) -> None:
    """A relative change of 1e-6 in any coefficient, or its sign, is refused."""
    made = plan(name, steps=16, schedule=schedules.log_snr(0.05, 20.0), **options)
    i = 6
    row = made.rows[i]
    where = rf"rows\[({i}|{i + 1})\]"  # a stage's partial sum shows in the row that completes it
    for r, k in itertools.product(range(row.n_outputs), range(row.n_inputs)):
        if row.a[r][k] == 0.0:
            continue
        for factor in (1 + 1e-6, -1.0):
            a = [list(line) for line in row.a]
            a[r][k] *= factor
            with pytest.raises(ValueError, match=where):
                validate_with(made, i, a=a)
    for r, z in itertools.product(range(row.n_outputs), range(row.n_noises)):
        for field in ("noise", "known_noise"):
            values = [list(line) for line in getattr(row, field)]
            if values[r][z] == 0.0:
                continue
            values[r][z] *= 1 + 1e-6
            with pytest.raises(ValueError, match=where):
                validate_with(made, i, **{field: values})


def test_validate_catches_swapped_and_stale_slots() -> None:
    made = plan("dpmpp_3m", steps=16, schedule=schedules.log_snr(0.05, 20.0))
    row = made.rows[6]
    assert set(row.input) == {0, 1, 2, 16}
    swapped = tuple({1: 2, 2: 1}.get(code, code) for code in row.input)
    with pytest.raises(ValueError, match=r"rows\[6\]"):
        validate_with(made, 6, input=swapped)
    stale = tuple({2: 9}.get(code, code) for code in row.input)
    with pytest.raises(ValueError, match="that an earlier row of the trajectory wrote, got 9"):
        validate_with(made, 6, input=stale)
    # Rows of a second trajectory may not read what the first one left behind.
    with pytest.raises(ValueError, match="that an earlier row of the trajectory wrote"):
        Plan.from_rows([*made.rows, *made.rows[5:]]).validate()


def test_sde_rows_keep_the_variance_of_a_gaussian_exactly() -> None:
    """With x0 = c constant the sample stays Gaussian: its mean and variance are the marginal's."""
    for name, options in (("ddpm", {}), ("euler_ancestral", {"eta": 0.4}), ("lcm", {}),
                          ("dpmpp_2m_sde", {"variant": "heun", "eta": 0.7}),
                          ("ddim", {"eta": 1.0})):  # fmt: skip
        schedule = schedules.vp_linear(spacing="trailing")
        made = plan(name, steps=12, schedule=schedule, prediction="x0", **options)
        nodes = schedule.nodes(12)
        c = 0.7
        # Coefficients of {start noise, one per draw}; the constant part is kept apart.
        constant, noise = nodes.alpha[0] * c, np.zeros(1 + len(made))
        noise[0] = nodes.sigma[0]
        mean = [constant] + [0.0] * (made.slots - 1)
        spread = [noise] + [np.zeros_like(noise)] * (made.slots - 1)
        for i, row in enumerate(made.rows):
            draws = [
                np.eye(1 + len(made))[1 + s] if stream == STEP else np.zeros_like(noise)
                for stream, s in zip(row.noise_stream, row.noise_step, strict=True)
            ]
            mean, _ = reference.step(row, mean, [np.array(c)], [np.array(0.0)] * row.n_noises)
            spread, _ = reference.step(row, spread, [np.zeros_like(noise)], draws)
            assert float(mean[0]) == pytest.approx(nodes.alpha[i + 1] * c, abs=1e-14)
            assert np.sum(spread[0] ** 2) == pytest.approx(nodes.sigma[i + 1] ** 2, abs=1e-14)


# ---- structure ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "schedule", "prediction", "options"), every_plan())
def test_rows_fit_together(
    name: str, schedule: schedules.Schedule, prediction: str, options: dict[str, Any]
) -> None:
    """Times, scales, model inputs and slots of neighbouring rows agree; nothing dead is written."""
    steps = 9
    made = plan(name, steps=steps, schedule=schedule, prediction=prediction, **options)
    nodes = schedule.nodes(steps)
    assert made.calls == sum(row.evaluates for row in made.rows)
    assert made.calls == len(made) or name in SILENT_ROWS
    assert (made.alphas[0], made.sigmas[0]) == (nodes.alpha[0], nodes.sigma[0])
    last = made.rows[-1]
    assert (last.next_alpha, last.next_sigma) == (nodes.alpha[-1], nodes.sigma[-1])
    assert 23 not in last.output
    for row, after in itertools.pairwise(made.rows):
        assert (row.next_t, row.next_alpha, row.next_sigma, row.next_scale) == (
            after.t, after.alpha, after.sigma, after.scale)  # fmt: skip
        assert row.output[-1] == 23
        assert row.role[-1] == INPUT
        assert row.a[-1] == pytest.approx([row.next_scale * v for v in row.a[0]], rel=1e-15)
    read: set[int] = set()
    for row in reversed(made.rows):
        written = {code for code in row.output if 0 < code < 16}
        if name not in EMBEDDED:  # these leave a second solution
            assert written <= read, "a slot that nobody reads is written"
        read = (read - written) | {code for code in row.input if 0 < code < 16}
    assert not read


def test_slots_are_few() -> None:
    """History needs order - 1 slots: the oldest value makes room for the newest."""
    kinds = {"dpmpp_2m": 2, "dpmpp_3m": 3, "ddim": 1, "heun": 2}
    for name, slots in kinds.items():
        assert plan(name, steps=20, schedule=KARRAS).slots == slots
    for order in (1, 2, 3, 4):
        assert plan("deis", order=order, steps=20, schedule=KARRAS).slots == max(order, 1)
        assert plan("unipc", order=order, steps=20, schedule=KARRAS).slots == order + 2


def test_lower_order_final() -> None:
    schedule = schedules.log_snr(0.05, 20.0, final_zero=False)

    def orders(steps: int, **options: Any) -> list[int]:
        made = plan("deis", order=3, steps=steps, schedule=schedule, **options)
        return [row.order for row in made.rows]

    assert orders(5) == [1, 2, 3, 2, 1]
    assert orders(5, lower_order_final=False) == [1, 2, 3, 3, 3]
    assert orders(16)[-2:] == [3, 3]
    assert orders(16, lower_order_final=True)[-2:] == [2, 1]


def test_start_option_begins_later_with_the_same_draws() -> None:
    whole = plan("ddpm", steps=10, schedule=KARRAS)
    later = plan("ddpm", steps=10, schedule=KARRAS, start=4)
    assert later.rows == whole.rows[4:]
    multistep = plan("dpmpp_3m", steps=20, schedule=KARRAS, start=4)
    assert multistep.rows[0].order == 1
    assert multistep.times[0] == whole.times[4] or multistep.validate() < 1e-10


def test_start_row() -> None:
    made = plan("unipc", steps=8, schedule=KARRAS, prediction="edm")
    begin = made.start()
    (row,) = begin.rows
    assert begin.calls == 0
    assert row.output == (0, 23)
    assert row.noise_stream == (START,)
    assert row.noise[0] == (80.0,)
    assert row.noise[1] == pytest.approx((80.0 / np.hypot(80.0, 0.5),))
    known = plan("ddim", steps=8, schedule=KARRAS, start=3).start(known=True)
    assert known.rows[0].input == (22,)
    assert known.rows[0].a[0] == (1.0,)
    assert known.validate() == 0.0
    vp = plan("ddim", steps=8, schedule=schedules.vp_linear())
    assert vp.start().rows[0].noise[0] == (1.0,)
    assert Plan.concat([made.start(), made]).validate() < 1e-9
    with pytest.raises(ValueError, match="read no slot but 0") as error:
        made.start(3)
    assert str(error.value) == (
        "fewstep_plan_start: 'row' must read no slot but 0 (row 3 reads slot 1; to begin later in "
        "a schedule, make the plan with 'start'), got 3"
    )


def test_known_image_noise_is_one_draw_without_and_fresh_with_step_noise() -> None:
    def draws(name: str) -> list[int]:
        made = plan(name, steps=5, schedule=KARRAS)
        return [
            step
            for row in made.rows
            for stream, step in zip(row.noise_stream, row.noise_step, strict=True)
            if stream == KNOWN
        ]

    assert draws("unipc") == [0, 0, 0, 0]
    assert draws("ddpm") == [0, 1, 2, 3]


@pytest.mark.parametrize("name", ["unipc", "heun", "dpmpp_2m", "ddpm"])
def test_masked_samples_follow_the_known_image(name: str) -> None:
    """Where the mask is 0, slot 0 and every kept sample stand on the known image at their node."""
    known, mask = np.array([0.3, -0.8]), np.array([0.0, 1.0])
    made = plan(name, steps=5, schedule=KARRAS, prediction="x0")
    random = np.random.default_rng(0)
    draws: dict[tuple[int, int], np.ndarray] = {}
    slots = [random.normal(size=2) * 80.0] + [np.zeros(2) for _ in range(made.slots - 1)]
    arrived = None  # the known image as the row before left it in slot 0
    for row in made.rows:
        pairs = list(zip(row.noise_stream, row.noise_step, strict=True))
        xi = [draws.setdefault(pair, random.normal(size=2)) for pair in pairs]
        slots, _ = reference.step(row, slots, [np.array([0.1, 0.2])], xi, mask, known)
        where = {role: code for code, role in zip(row.output, row.role, strict=True) if code < 16}
        noise = sum(f * x[0] for f, x in zip(row.known_noise[0], xi, strict=True))
        assert slots[0][0] == pytest.approx(row.next_alpha * known[0] + noise)
        if ANCHOR in where and arrived is not None:
            assert slots[where[ANCHOR]][0] == pytest.approx(arrived)
        arrived = slots[0][0]


def test_guidance_weights() -> None:
    made = plan("dpmpp_2m", steps=4, schedule=KARRAS)
    one = made.with_guidance([3.0, -2.0])
    assert [row.gamma for row in one.rows] == [(3.0, -2.0)] * 4
    each = made.with_guidance(np.array([[1.0, 0.0], [3.0, -2.0], [2.0, -1.0], [1.0, 0.0]]))
    assert each.rows[1].gamma == (3.0, -2.0)
    assert each != one
    assert made.rows[0].gamma == (1.0,)
    assert each.validate() < 1e-10


@pytest.mark.parametrize("frame", ["x0", "epsilon"])
def test_tableau(frame: str) -> None:
    """Classical Runge-Kutta claims order 4 and its quadrature conditions hold."""
    a = [[0, 0, 0, 0], [0.5, 0, 0, 0], [0, 0.5, 0, 0], [0, 0, 1, 0]]
    b = [1 / 6, 1 / 3, 1 / 3, 1 / 6]
    made = Plan.from_tableau(a, b, order=4, steps=5, schedule=KARRAS, frame=frame)
    assert made.calls == 4 * 4 + 1
    assert made.validate() < 1e-10
    wrong = Plan.from_tableau(a, b, order=5, steps=5, schedule=KARRAS, frame=frame)
    with pytest.raises(ValueError, match="polynomials of degree 4"):
        wrong.validate()
    heun = Plan.from_tableau([[0, 0], [1, 0]], [0.5, 0.5], order=2, steps=5, schedule=KARRAS)
    assert heun == plan("heun", steps=5, schedule=KARRAS)

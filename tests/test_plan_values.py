# SPDX-License-Identifier: Apache-2.0
"""Plans as values: JSON, equality, immutability, errors."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import numpy as np
import pytest

import fewstep
from cases.plan import FLOW_ONLY, every_plan
from fewstep import schedules
from fewstep.solver import SOLVERS, Plan, Row, plan

KARRAS = schedules.karras(0.02, 80.0)


@pytest.mark.parametrize(("name", "schedule", "prediction", "options"), every_plan())
def test_json_round_trip_is_exact(
    name: str, schedule: schedules.Schedule, prediction: str, options: dict[str, Any]
) -> None:
    made = plan(name, steps=6, schedule=schedule, prediction=prediction, **options)
    text = made.to_json()
    back = Plan.from_json(text)
    assert back == made
    assert hash(back) == hash(made)
    assert back.to_json() == text
    assert back.name == made.name == name
    assert back.rows == made.rows
    # Python's own reader gives the same numbers.
    for row, fields in zip(made.rows, json.loads(text)["rows"], strict=True):
        assert fields["a"] == [list(line) for line in row.a]
        assert fields["clip"] is None


def test_plans_are_values() -> None:
    first, second = (plan("deis", steps=6, schedule=KARRAS) for _ in range(2))
    assert first == second
    assert len({first, second, plan("deis", steps=7, schedule=KARRAS)}) == 2
    assert first != "deis"
    assert Plan.from_rows(first.rows, name="other") == first
    assert pickle.loads(pickle.dumps(first)) == first
    assert first[-1] == first.rows[-1]
    assert repr(first) == "<fewstep.solver.Plan 'deis': 6 rows, 6 model calls, 3 slots>"
    with pytest.raises(IndexError):
        first[6]


def test_zeros_are_equal_whatever_their_sign() -> None:
    rows = [Row(input=(0,), output=(0,), a=((zero,),), t=zero) for zero in (0.0, -0.0)]
    first, second = (Plan.from_rows([row]) for row in rows)
    assert first == second
    assert hash(first) == hash(second)
    assert first.to_json() == second.to_json()


def test_plans_are_immutable() -> None:
    made = plan("deis", steps=6, schedule=KARRAS)
    before = made.to_json()
    made.times[:] = 0.0
    with pytest.raises(AttributeError):
        made.name = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        made.rows[0].t = 0.0  # type: ignore[misc]
    assert made.to_json() == before


def test_concat() -> None:
    parts = [plan("ddim", steps=3, schedule=KARRAS), plan("unipc", steps=5, schedule=KARRAS)]
    joined = Plan.concat(parts)
    assert joined.rows == parts[0].rows + parts[1].rows
    assert (joined.slots, joined.calls, joined.name) == (4, 8, "ddim + unipc")
    assert joined.validate() < 1e-10


def test_rows_are_values() -> None:
    row = plan("unipc", steps=6, schedule=KARRAS).rows[2]
    assert Row(**row.to_dict()) == row
    assert hash(Row(**row.to_dict())) == hash(row)
    assert row.replace(tau=1.0) != row
    assert (row.n_inputs, row.n_outputs) == (len(row.input), len(row.output))
    assert copy.copy(row.a) == row.a


# ---- errors -------------------------------------------------------------------------------------

ERRORS = [
    (("unipcc", {}), "fewstep.solver.plan: 'name' must be one of " + ", ".join(SOLVERS)
     + ", got 'unipcc' (near: unipc)"),
    (("ddim", {"prediction": "eps"}), "fewstep.solver.plan: 'prediction' must be one of epsilon, "
     "x0, v, flow, edm, got 'eps'"),
    (("ddim", {"eta": 1.5}), "fewstep_plan_create: 'eta' must be 0 to 1, got 1.5"),
    (("heun", {"eta": 0.0}), "fewstep_plan_create: 'eta' must be left out for heun, got 0"),
    (("euler", {"s_noise": 1.0}), "fewstep_plan_create: 's_noise' must be left out for euler, "
     "got 1"),
    (("dpmpp_2m", {"order": 3}), "fewstep_plan_create: 'order' must be 2 for dpmpp_2m, got 3"),
    (("unipc", {"order": 6}), "fewstep_plan_create: 'order' must be 1 to 5 for unipc, got 6"),
    (("lms", {"order": 5}), "fewstep_plan_create: 'order' must be 1 to 4 for lms, got 5"),
    (("ddim", {"gamma": 2.0}), "fewstep_plan_create: 'gamma' must be left out for ddim, got 2"),
    (("hb", {"beta": 0.0}), "fewstep_plan_create: 'beta' must be 0.01 to 1 for hb, got 0"),
    (("dpm_3s", {"r2": 0.3}), "fewstep_plan_create: 'r2' must be above r1 = 0.333333, got 0.3"),
    (("unipc", {"variant": "bh3"}), "fewstep_plan_create: 'variant' must be one of bh2, bh1 for "
     'unipc, got "bh3"'),
    (("ddim", {"variant": "x"}), "fewstep_plan_create: 'variant' must be left out for ddim, got "
     '"x"'),
    (("dpmpp_3m", {"parity": "torch"}), "fewstep_plan_create: 'parity' must be one of diffusers, "
     'k-diffusion for dpmpp_3m, got "torch"'),
    (("ddim", {"clip": -1.0}), "fewstep_plan_create: 'clip' must be above 0, got -1"),
    (("ddim", {"sigma_data": 0.5}), "fewstep_plan_create: 'sigma_data' must be left out unless "
     "prediction is edm, got 0.5"),
    (("ddim", {"start": 8}), "fewstep_plan_create: 'start' must be 0 to 7, below the schedule's "
     "steps, got 8"),
    (("flow_euler", {}), "fewstep_plan_create: 'schedule' must be a flow (alpha = 1 - sigma) for "
     "flow_euler, got VE"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), ERRORS)
def test_plan_errors(arguments: tuple[str, dict[str, Any]], message: str) -> None:
    name, options = arguments
    with pytest.raises(ValueError) as error:  # noqa: PT011
        plan(name, steps=8, schedule=KARRAS, **options)
    assert str(error.value) == message


def test_plan_refuses_unknown_options() -> None:
    with pytest.raises(TypeError) as error:
        plan("ddim", steps=8, schedule=KARRAS, etta=0.0)
    message = str(error.value)
    assert message.startswith("fewstep.solver.plan: options are beta, clip, corrector_order, ")
    assert ", tau_tmax, tau_tmin, variant, got 'etta' (near: eta, beta" in message


def test_no_signal_errors() -> None:
    flow = schedules.flow()
    with pytest.raises(ValueError) as error:  # noqa: PT011
        plan("dpmpp_2m", steps=8, schedule=flow)
    assert str(error.value) == (
        "fewstep_plan_create: 'prediction' must tell x0 where the schedule has no signal "
        "(alpha = 0 at its first node), got epsilon"
    )
    # In the noise frame such a node is left by the step that needs only x0.
    assert plan("heun", steps=8, schedule=flow, prediction="flow").rows[0].frame == 0


ROW_ERRORS = [
    ({"input": (0,), "output": (23,), "a": ((float("nan"),),)},
     "fewstep_plan_from_rows: 'rows[0].a[0][0]' must be finite, got nan"),
    ({"input": (0, 0), "output": (0,), "a": ((1, 1),)},
     "fewstep_plan_from_rows: 'rows[0].input[1]' must not repeat an input, got 0"),
    ({"input": (16,), "output": (0,), "a": ((1,),)},
     "fewstep_plan_from_rows: 'rows[0].input[0]' must not be a model output in a row that "
     "evaluates none, got 16"),
    ({"input": (18,), "output": (0,), "a": ((1,),), "evaluates": 1, "gamma": (1,)},
     "fewstep_plan_from_rows: 'rows[0].input[0]' must name one of the row's 1 model outputs, "
     "got 18"),
    ({"output": (16,)},
     "fewstep_plan_from_rows: 'rows[0].output[0]' must be a slot 0 to 15 or 23, got 16"),
    ({"output": (0,), "clip": 0.0}, "fewstep_plan_from_rows: 'rows[0].clip' must be above 0, "
     "got 0"),
    ({}, "fewstep_plan_from_rows: 'rows[0].n_outputs' must be 1 to 4, got 0"),
    ({"output": (0,), "evaluates": 1},
     "fewstep_plan_from_rows: 'rows[0].n_guidance' must be 1 to 4, got 0"),
    ({"output": (0,), "noise_stream": (0, 0), "noise_step": (3, 3), "noise": ((1, 1),)},
     "fewstep_plan_from_rows: 'rows[0].noise_step[1]' must not repeat a noise of the row, got 3"),
]  # fmt: skip


@pytest.mark.parametrize(("fields", "message"), ROW_ERRORS)
def test_row_errors(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Plan.from_rows([Row(**fields)])
    assert str(error.value) == message


def test_other_errors() -> None:
    made = plan("ddim", steps=4, schedule=KARRAS)
    with pytest.raises(ValueError, match="'n_guidance' must be 1 to 4, got 5"):
        made.with_guidance([1.0] * 5)
    with pytest.raises(ValueError, match="'n_weight_rows' must be 1 or 4, got 3"):
        made.with_guidance(np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"'weights\[1\]' must be finite, got inf"):
        made.with_guidance([1.0, np.inf])
    with pytest.raises(ValueError, match="'rows' must have 1 to 16777216 rows, got 0"):
        Plan.from_rows([])
    with pytest.raises(ValueError, match="'n_plans' must be at least 1, got 0"):
        Plan.concat([])
    with pytest.raises(ValueError, match="'row' must be 0 to 3, got 4"):
        made.start(4)
    with pytest.raises(TypeError, match="Row has no field 'gama'"):
        Row(gama=(1.0,))
    with pytest.raises(ValueError, match="'a' must be a sequence of 1 entries"):
        Row(input=(0,), output=(0,), a=((1.0, 2.0),))
    for a, b, message in (
        ([[0, 1], [1, 0]], [0.5, 0.5], r"'a' must be strictly lower triangular: a\[0\]\[1\] = 0"),
        ([[0, 0], [1, 0]], [0.5, 0.4], "'b' must sum to 1, got 0.9"),
        ([[0, 0], [2, 0]], [0.5, 0.5], "'a' must have rows that sum to 0 to 1: row 1, got 2"),
        ([[0]], [0.5, 0.5], r"'a' must have shape \[stages=2, stages\], got \(1, 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            Plan.from_tableau(a, b, order=2, steps=4, schedule=KARRAS)
    with pytest.raises(ValueError, match="'frame' must be x0 or epsilon unless"):
        Plan.from_tableau([[0]], [1], order=1, steps=4, schedule=KARRAS, frame="velocity")


def json_with(change: Any) -> str:
    document = json.loads(plan("ddim", steps=2, schedule=KARRAS).to_json())
    change(document)
    return json.dumps(document)


JSON_ERRORS = [
    ("", "fewstep_plan_from_json: 'text' must have a value at byte 0"),
    ("{", "fewstep_plan_from_json: 'text' must have a key at byte 1"),
    ('{"format":"fewstep.plan",}', "fewstep_plan_from_json: 'text' must have a key at byte 25"),
    ('{"a":1,"a":2}', "fewstep_plan_from_json: 'text' must have no second \"a\" at byte 7"),
    ("[1,2] 3", "fewstep_plan_from_json: 'text' must have nothing more at byte 6"),
    ("[01]", "fewstep_plan_from_json: 'text' must have ']' at byte 2"),
    ("[1.]", "fewstep_plan_from_json: 'text' must have a digit at byte 3"),
    ("[NaN]", "fewstep_plan_from_json: 'text' must have a value at byte 1"),
    ("[1]", "fewstep_plan_from_json: 'text' must have an object at byte 0"),
    ('{"format":"x"}', "fewstep_plan_from_json: 'text' must have \"fewstep.plan\" at byte 10"),
    ("[" * 40, "fewstep_plan_from_json: 'text' must have at most 16 nested values at byte 17"),
    ('"\\ud800"', "fewstep_plan_from_json: 'text' must have a pair of surrogates at byte 3"),
]


@pytest.mark.parametrize(("text", "message"), JSON_ERRORS)
def test_json_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Plan.from_json(text)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(extra=1), 'must have no key "extra"'),
        (lambda d: d.update(version=2), "must have version 1"),
        (lambda d: d["rows"][1].update(extra=1), 'must have no key "extra"'),
        (lambda d: d["rows"][1].pop("tau"), 'must have a key "tau" in the object'),
        (lambda d: d["rows"][0].update(t="1"), "must have a finite number"),
        (lambda d: d["rows"][0].update(step=1.5), "must have a 32-bit integer"),
        (lambda d: d["rows"][0].update(role=[0]), "must have an array of 2 entries"),
        (lambda d: d["rows"][0].update(gamma=[1] * 5), "must have an array of at most 4 entries"),
        (lambda d: d["rows"][0].update(input=[0, 99]), "'rows[0].input[1]' must be 0 to 22"),
        (lambda d: d.update(rows=[]), "'rows' must have 1 to 16777216 rows, got 0"),
    ],
)
def test_json_refuses(change: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        Plan.from_json(json_with(change))
    assert message in str(error.value)


def test_json_reads_numbers_exactly_and_names_as_they_are() -> None:
    name = 'a "quoted" \\ name\n\u00e4'
    made = Plan.from_rows(plan("ddim", steps=2, schedule=KARRAS).rows, name=name)
    assert Plan.from_json(made.to_json()).name == name
    assert json.loads(made.to_json())["name"] == name
    escaped = json.dumps(json.loads(made.to_json()), indent=1)  # \u escapes and white space
    assert Plan.from_json(escaped) == made
    huge = json_with(lambda d: d["rows"][0].update(t=1)).replace('"t": 1,', '"t": 1e999,')
    with pytest.raises(ValueError, match="must have a finite number"):
        Plan.from_json(huge)


def test_package_lists_its_solvers() -> None:
    assert fewstep.solver.SOLVERS == SOLVERS
    for name in SOLVERS:
        schedule = schedules.flow() if name in FLOW_ONLY else KARRAS
        assert plan(name, steps=4, schedule=schedule, prediction="flow").name == name

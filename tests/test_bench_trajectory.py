# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a whole trajectory, on a device that is played by the CPU."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from fake_cuda import SMALL, pretended, recorded  # noqa: E402
from fewstep.bench import (  # noqa: E402
    solver,
    target,
    trajectory,
)
from fewstep.bench.cases import STEPS  # noqa: E402
from fewstep.bench.report import table  # noqa: E402
from fewstep.bench.rows import Options, WrongResult  # noqa: E402
from fewstep.bench.syncs import syncs  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> target.Target:
    """A CUDA target on the CPU, and sizes that suit it."""
    return pretended(monkeypatch)


def options(*only: str, quick: bool = False) -> Options:
    return Options(threads=(1,), only=only, quick=quick)


def test_trajectory(device: target.Target, monkeypatch: pytest.MonkeyPatch) -> None:
    """All sides, compiled ones uncompiled: what is compiled does not depend on the device."""
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    rows = list(trajectory.trajectory(options(), device, SMALL))
    expected = [
        "fewstep",
        "fewstep, rows on the device, graph",
        "torch.compile",
        "torch.compile, graph",
        "diffusers",
        "diffusers, graph",
    ]
    assert [(row["dtype"], row["rival"]) for row in rows] == [
        (dtype, rival) for dtype in ("float16", "bfloat16") for rival in expected
    ]
    bars = {row["rival"]: row["bar"] for row in rows if "bar" in row}
    assert bars == {"diffusers": 15.0, "torch.compile, graph": 1.0}
    for row in rows:
        assert row["steps"] == STEPS
        assert row["n"] == 2 * 4 * 8 * 8
        assert row["float32_difference"] < 2e-5
        assert ("waits" in row) == (row["rival"] == "diffusers")
    assert json.loads(json.dumps(rows)) == rows


def test_what_cannot_be_captured_is_said(device: target.Target) -> None:
    def refuses(function: Callable[[], object]) -> Callable[[], object]:
        if "_captured_rival" in getattr(function, "__qualname__", ""):
            try:
                raise RuntimeError("operation not permitted when stream is capturing\nmore")
            except RuntimeError:
                # As the end of a capture complains once more.
                raise RuntimeError("operation failed due to a previous error") from None
        return recorded(function)

    device = replace(device, capture=refuses)
    rows = list(trajectory.trajectory(options(quick=True), device, SMALL))
    refused = [row for row in rows if "reason" in row]
    assert [row["rival"] for row in refused] == ["diffusers, graph"]
    assert (
        refused[0]["reason"] == "not capturable: operation not permitted when stream is capturing"
    )
    assert refused[0]["ratio"] is None


def test_without_diffusers_the_rest_is_measured(
    device: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (trajectory, solver):
        monkeypatch.setattr(module, "is_installed", lambda: False)
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    rows = list(trajectory.trajectory(options(), device, SMALL))
    missing = "diffusers is not installed"
    assert [row["rival"] for row in rows if row.get("reason") == missing] == [
        "diffusers",
        "diffusers, graph",
    ] * 2
    assert [row["met"] for row in rows if row["rival"] == "torch.compile, graph"]
    ((_, part),) = solver.steps(options(), device)
    steps = list(part())
    assert [row["reason"] for row in steps] == [missing]
    assert len(table([*rows, *steps]).rows) == len(rows) + 1


def test_what_does_not_compile_is_said(
    device: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(function: object, **_: object) -> object:
        raise OSError("no compiler here")

    monkeypatch.setattr(torch, "compile", broken)
    rows = list(trajectory.trajectory(options(), device, SMALL))
    refused = {row["rival"]: row["reason"] for row in rows if "reason" in row}
    reason = "does not compile: no compiler here"
    assert refused == {"torch.compile": reason, "torch.compile, graph": reason}


def test_a_graph_that_left_work_out_is_found(device: target.Target) -> None:
    def forgets(function: Callable[[], object]) -> Callable[[], object]:
        function()
        return lambda: None

    device = replace(device, capture=forgets)
    with pytest.raises(WrongResult, match="dpmpp_2m_cfg_trajectory, fewstep, graph: differs by"):
        list(trajectory.trajectory(options(quick=True), device, SMALL))


def test_rows_in_an_array_must_agree(device: target.Target) -> None:
    sides = trajectory.Sides(torch.float32, device, SMALL)
    assert sides.checked(2e-5) < 2e-5
    sides.rows[3] = sides.rows[4]
    with pytest.raises(WrongResult, match="rows in an array give other bits"):
        sides.checked(2e-5)


def test_waits_are_counted_where_they_are() -> None:
    x = torch.arange(4.0)
    found = syncs(lambda: [float(x[0]), x.nonzero(), x + 1], torch.device("cpu"))
    assert found == {"_local_scalar_dense at the caller": 1, "nonzero at the caller": 1}
    meta = syncs(lambda: x.to("meta"), torch.device("cpu"))
    assert meta == {"_to_copy at the caller": 1}


def test_diffusers_waits_for_the_first_index_only_when_it_is_not_known(
    device: target.Target,
) -> None:
    rival = trajectory.Sides(torch.float32, device, SMALL).rival
    assert rival
    found = syncs(rival.trajectory, device.device)
    assert any("index_for_timestep" in place for place in found), found
    known = syncs(lambda: rival.trajectory(known_index=True), device.device)
    assert not any("index_for_timestep" in place for place in known), known

# SPDX-License-Identifier: Apache-2.0
"""Every row of docs/methods.md runs."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewstep

ROOT = Path(__file__).parents[1]
TABLE = (ROOT / "docs" / "methods.md").read_text()
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in TABLE.splitlines()
    if line.startswith("| ") and not line.startswith("| method |")
]


def test_the_table_is_well_formed() -> None:
    assert len(ROWS) > 20
    for row in ROWS:
        assert len(row) == 4, row
        assert row[1].startswith("`"), row
        assert row[1].endswith("`"), row
        assert row[2], row
        assert (ROOT / row[3]).exists(), row
    assert len({row[0] for row in ROWS}) == len(ROWS), "two rows have one name"


def smooth(x: Any, t: Any, **_: Any) -> Any:
    """Stand in for a network."""
    return np.tanh(0.3 * np.asarray(x)) * np.float32(0.5)


def scope() -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    importlib.import_module("fewstep.torch")
    names = {m: getattr(fewstep, m) for m in fewstep.__all__ if not m.startswith("_")}
    return {
        **names,
        "fewstep": fewstep,
        "np": np,
        "torch": torch,
        "vp": fewstep.schedules.scaled_linear(),
        "ve": fewstep.schedules.karras(0.01, 20.0),
        "flow": fewstep.schedules.flow(3.0),
        "ou": fewstep.schedules.ornstein_uhlenbeck(),
        "bridge": fewstep.schedules.bridge(),
        "reverting": fewstep.schedules.mean_reverting(),
        "model": smooth,
        "problem": fewstep.search.Problem(
            smooth,
            (4, 6),
            schedule=fewstep.schedules.karras(0.01, 20.0),
            prediction="x0",
            teacher_steps=16,
        ),
        "x": fewstep.noise.normal(range(4), (6,), stream=1),
    }


def check(result: Any) -> None:
    """Run what a call of the table gives."""
    if isinstance(result, fewstep.schedules.Schedule):
        nodes = result.nodes(result.default_steps or 6)
        assert (np.diff(nodes.lam) > 0).all()
    elif isinstance(result, fewstep.solver.Plan):
        given = {"prior": np.ones((3, 5), np.float32)} if result.process == 3 else {}
        images = fewstep.Sampler(result)(smooth, (3, 5), seeds=[4, 5, 6], **given)
        assert np.isfinite(images).all()
    elif isinstance(result, (tuple, list)):
        for item in result:
            check(item)
    else:
        assert result is not None
        assert np.isfinite(np.asarray(result, np.float64)).all()


@pytest.mark.parametrize("row", ROWS, ids=lambda row: re.sub(r"\W+", "-", row[0]))
def test_every_method_runs(row: list[str]) -> None:
    check(eval(row[1].strip("`"), scope()))

# SPDX-License-Identifier: Apache-2.0
"""Plans for the tests: every solver with its orders and variants on every process."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fewstep import schedules
from fewstep.solver import SOLVERS


def every_plan() -> list[Any]:
    """One plan per solver, order, variant and process, for tests of all rows."""
    grids = {
        "ve": schedules.karras(0.02, 80.0),
        "vp": schedules.scaled_linear(spacing="trailing"),
        "flow": schedules.flow(3.0),
        "flow-open": schedules.log_snr(0.02, 0.98, process="flow", final_zero=False),
    }
    options: dict[str, list[dict[str, Any]]] = {
        "ddim": [{"eta": 0.0}, {"eta": 0.5}, {"eta": 1.0}],
        "euler_ancestral": [{}, {"eta": 0.3}],
        "dpmpp_2m": [{"variant": "heun"}, {"variant": "midpoint"}],
        "dpmpp_2m_sde": [{"variant": "heun", "eta": 0.5}, {"variant": "midpoint"}],
        "dpmpp_3m": [{}, {"parity": "diffusers"}, {"parity": "k-diffusion"}],
        "unipc": [{"order": p, "variant": b} for p in (1, 2, 3, 4) for b in ("bh1", "bh2")],
        "deis": [{"order": p, "variant": v} for p in (2, 3, 4) for v in ("lambda", "rho", "time")],
    }
    params = []
    for name in SOLVERS:
        for extra, (grid, schedule) in itertools.product(options.get(name, [{}]), grids.items()):
            if name.startswith("flow") and not grid.startswith("flow"):
                continue
            if name == "heun" and grid == "flow":
                continue  # begins without signal
            prediction = "flow" if grid.startswith("flow") else "epsilon"
            label = "-".join([name, grid, *map(str, extra.values())])
            arguments = (name, schedule, prediction, extra)
            params.append(pytest.param(*arguments, id=label))
    return params

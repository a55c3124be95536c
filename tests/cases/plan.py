# SPDX-License-Identifier: Apache-2.0
"""Plans for the tests: every solver with its orders and variants on every process."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from fewstep import schedules
from fewstep.solver import SOLVERS

#: Solvers of alpha = 1 - sigma alone.
FLOW_ONLY = (
    "flow_euler",
    "flow_heun",
    "flow_midpoint",
    "rectified_flow",
    "flowturbo",
    "euler_ancestral_rf",
    "sit_sde",
)

#: Pairs of solutions: the last slot holds the lower-order one.
EMBEDDED = ("dpm_12", "dpm_23", "dpmpp_12", "dpmpp_23")

#: Solvers with rows that follow no model call.
SILENT_ROWS = ("edm_stochastic", "restart", "accelerated_ddpm")

_SINGLE = [{"variant": v} for v in ("midpoint", "heun", "grid_midpoint", "grid_heun")]
_ORDERS = [{"order": p} for p in (1, 2, 3, 4)]
_ODE_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dpm_2s": [*_SINGLE, {"r1": 0.4}],
    "dpmpp_2s": [*_SINGLE, {"variant": "heun", "r1": 1.0}],
    "dpm_3s": [*_SINGLE, {"variant": "grid_midpoint", "parity": "diffusers"}],
    "dpmpp_3s": [*_SINGLE, {"variant": "heun", "r1": 0.25, "r2": 1.0}],
    "dpm_2m": [{"variant": "heun"}, {"variant": "midpoint"}],
    "dpm_3m": [{}, {"parity": "diffusers"}, {"parity": "k-diffusion"}],
    "deis_rk": [*_ORDERS, {"variant": "midpoint"}],
    "lms": _ORDERS,
    "ipndm": [*_ORDERS, {"parity": "diffusers"}],
    "ipndm_v": _ORDERS,
    "pndm": [{"variant": "prk"}, {"variant": "plms"}],
    "res_3s": [{}, {"r1": 0.3, "r2": 0.8}],
    "gradient_estimation": [{}, {"gamma": 1.5}],
    "hb": [{"order": p} for p in (1, 2, 3, 4, 5)] + [{"variant": "nesterov", "beta": 0.5}],
    "ghvb": [{"order": p} for p in (1, 2, 3, 4, 5)] + [{"order": 3, "beta": 1.0}],
    "accelerated_ddim": [{"variant": "evaluate"}, {"variant": "reuse"}],
    "rectified_flow": [{"variant": "euler"}, {"variant": "keep_noise"}],
}
_SDE_OPTIONS: dict[str, list[dict[str, Any]]] = {
    "dpm2_ancestral": [{}, {"eta": 0.4}],
    "dpmpp_2s_ancestral": [{}, {"eta": 0.4}],
    "dpmpp_sde": [{}, {"eta": 0.6, "r1": 0.7}],
    "dpmpp_3m_sde": [{"eta": 0.5}, {"parity": "diffusers"}, {"parity": "k-diffusion"}],
    "dpm_2m_sde": [{"variant": v} for v in ("midpoint", "heun")],
    "seeds": [{"order": 2}, {"order": 2, "r1": 0.3, "eta": 0.5}, {"order": 3}],
    "sa": [
        *({"order": p, "corrector_order": c} for p in (1, 2, 3, 4) for c in (0, 1, 2, 3, 4)),
        {"tau": 0.6, "tau_tmin": 0.05, "tau_tmax": 1.0},
        {"tau": 0.0},
        {"order": 2, "corrector_order": 2, "parity": "diffusers"},
    ],
    "er_sde": [
        *({"order": p} for p in (1, 2, 3)),
        *({"variant": v} for v in ("ode", "sde", "sde_1", "sde_2", "sde_3", "sde_4")),
    ],
    "edm_stochastic": [{}, {"variant": "euler", "s_tmin": 0.05, "s_tmax": 50.0}],
    "restart": [{"intervals": [(3, 2, 0.1, 60.0), (2, 1, 0.6, 70.0)]}],
    "sit_sde": [{}, {"variant": "constant", "diffusion_norm": 0.5}],
    "predictor_corrector": [{}, {"snr": 0.1, "corrector_steps": 2}],
    "tcd": [{"gamma": 0.0}, {}, {"gamma": 1.0}],
    "ctm": [{}, {"gamma": 0.5, "sigma_min": 0.02}, {"gamma": 1.0}],
    "consistency": [{}, {"sigma_min": 0.0}],
}


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
        "unipc": [{"order": p, "variant": b} for p in (1, 2, 3, 4, 5) for b in ("bh1", "bh2")],
        "deis": [{"order": p, "variant": v} for p in (2, 3, 4) for v in ("lambda", "rho", "time")],
        **_ODE_OPTIONS,
        **_SDE_OPTIONS,
    }
    params = []
    for name in SOLVERS:
        for extra, (grid, schedule) in itertools.product(options.get(name, [{}]), grids.items()):
            if name in FLOW_ONLY and not grid.startswith("flow"):
                continue
            prediction = "flow" if grid.startswith("flow") else "epsilon"
            label = "-".join([name, grid, *map(str, extra.values())])
            arguments = (name, schedule, prediction, extra)
            params.append(pytest.param(*arguments, id=label))
    return params

# SPDX-License-Identifier: Apache-2.0
"""The cases that the benchmark times and the tests check.

A case is one step in the middle of a trajectory of `STEPS` steps: a solver of fewstep, and the
scheduler of diffusers that does the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

STEPS = 20
ROW = 10  # the step that is timed
SCALE = 5.0  # of classifier-free guidance

# elements: shape of the samples, batch first
SHAPES: dict[int, tuple[int, ...]] = {
    256: (1, 4, 8, 8),
    65_536: (1, 16, 64, 64),
    262_144: (1, 16, 128, 128),
    524_288: (8, 16, 64, 64),
    4_838_400: (1, 16, 21, 90, 160),
    16_777_216: (1, 16, 1024, 1024),
}
COMPARED = (256, 65_536, 262_144, 524_288, 4_838_400)
LARGE = 16_777_216  # 64 MiB of float32 per tensor


@dataclass(frozen=True)
class Case:
    """One solver.

    Attributes
    ----------
    name : str
    solver : str
        Of `fewstep.solver.plan`, with `options`.
    scheduler : str
        Class of diffusers, with `config`.
    process : str
        Of the scheduler's sigmas: ``vp``, ``ve`` or ``flow``.
    stochastic : bool
    """

    name: str
    solver: str
    scheduler: str
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    process: Literal["vp", "ve", "flow"] = "vp"
    prediction: str = "epsilon"
    stochastic: bool = False


_SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
_DPM = "DPMSolverMultistepScheduler"
_SDE = {**_SD, "solver_order": 2, "algorithm_type": "sde-dpmsolver++"}

CASES: dict[str, Case] = {
    case.name: case
    for case in (
        Case("ddim", "ddim", "DDIMScheduler", config={**_SD, "clip_sample": False}),
        Case(
            "euler_ancestral",
            "euler_ancestral",
            "EulerAncestralDiscreteScheduler",
            config=_SD,
            process="ve",
            stochastic=True,
        ),
        Case(
            "dpmpp_2m", "dpmpp_2m", _DPM, {"variant": "midpoint"}, config={**_SD, "solver_order": 2}
        ),
        Case(
            "dpmpp_2m_sde",
            "dpmpp_2m_sde",
            _DPM,
            {"variant": "midpoint"},
            config=_SDE,
            stochastic=True,
        ),
        Case(
            "unipc_2",
            "unipc",
            "UniPCMultistepScheduler",
            {"order": 2},
            config={**_SD, "solver_order": 2},
        ),
        Case(
            "unipc_3",
            "unipc",
            "UniPCMultistepScheduler",
            {"order": 3},
            config={**_SD, "solver_order": 3},
        ),
        Case(
            "deis_3",
            "deis",
            "DEISMultistepScheduler",
            {"order": 3},
            config={**_SD, "solver_order": 3},
        ),
        Case(
            "flow_euler",
            "flow_euler",
            "FlowMatchEulerDiscreteScheduler",
            config={"shift": 3.0},
            process="flow",
            prediction="flow",
        ),
    )
}


@dataclass(frozen=True)
class Bar:
    """What a measured row must reach: `least` times the rival's speed, or share of a limit."""

    case: str
    n: int
    dtype: str
    rival: str
    least: float


BARS: tuple[Bar, ...] = (
    Bar("dpmpp_2m", 4_838_400, "float32", "diffusers", 4.5),
    Bar("dpmpp_2m", 65_536, "float32", "diffusers", 7.0),
    Bar("dpmpp_2m", 256, "float32", "diffusers", 25.0),
    Bar("unipc_3", 4_838_400, "float32", "diffusers", 5.0),
    Bar("unipc_3", 65_536, "float32", "diffusers", 10.0),
    Bar("unipc_3", 256, "float32", "diffusers", 60.0),
    Bar("dpmpp_2m_sde", 4_838_400, "float32", "diffusers", 6.0),
    Bar("dpmpp_2m_sde", 65_536, "float32", "diffusers", 7.0),
    Bar("dpmpp_2m_sde", 256, "float32", "diffusers", 25.0),
    Bar("dpmpp_2m_cfg", 4_838_400, "bfloat16", "diffusers", 6.0),
    Bar("dpmpp_2m", 4_838_400, "float32", "torch.compile", 1.1),
    Bar("dpmpp_2m", 256, "float32", "torch.compile", 10.0),
)
NORMAL_BAR = 4.0  # times torch.randn, one thread
BANDWIDTH_BAR = 0.85  # of a STREAM-style loop
HOST_BAR_US = 1.0

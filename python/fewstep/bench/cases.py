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
    67_108_864: (4, 16, 1024, 1024),
}
COMPARED = (256, 65_536, 262_144, 524_288, 4_838_400)
LARGE = 16_777_216  # 64 MiB of float32 per tensor

# On a GPU: one size that is all launches, and one that comes from memory.
CUDA_COMPARED = (65_536, 4_838_400)
CUDA_LARGE = (16_777_216, 67_108_864)  # 64 and 256 MiB of float32 per tensor
SDXL = (4, 4, 128, 128)  # latents of four images of 1024 x 1024
CUDA_NORMALS = (4_838_400, 1 << 30)
BROWNIAN = (65_536, 262_144)  # elements; the first has a bar on the CPU
COPIED = (16 << 20, 64 << 20, 256 << 20, 1 << 30)  # bytes of one tensor
MATMUL = 8192  # rows and columns

SIZES = ("M", "I", "O", "T", "L", "V", "B", "K", "Q", "GQA")  # keys of a row of other ops


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


def nodes(case: Case) -> list[float]:
    """Return sigmas for a trajectory of a case where no scheduler gives them."""
    if case.process == "flow":
        return [1.0 - i / STEPS for i in range(STEPS + 1)]
    first, last = 15.0, 0.03
    return [first * (last / first) ** (i / STEPS) for i in range(STEPS + 1)]


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
BROWNIAN_BAR = 10.0  # times torchsde's tree
BANDWIDTH_BAR = 0.85  # of a STREAM-style loop
HOST_BAR_US = 1.0

COPY_BAR = 0.90  # of the measured copy bandwidth, solver.step at 64 MiB and more per tensor
TRAJECTORY_BARS = {"diffusers": 15.0, "torch.compile, graph": 1.0}
CUDA_NORMAL_BAR = 1.5  # times torch.randn, 1 G float32 elements
ATTENTION_BARS = {"best": 1.2, "copy": 0.85, "gemm": 0.5}  # times the rivals, shares of limits
VERIFY_BARS = {"torch batched": 5.0, "flashinfer chain, a token": 1.5}  # trees of siblings
SAMPLE_BAR = 1.2  # times FlashInfer's forms, filtered
COMMIT_BAR = 0.8  # of the speed of a copy
CYCLE_BAR = 0.95  # of the time of a cycle of a Generator in the forward pass

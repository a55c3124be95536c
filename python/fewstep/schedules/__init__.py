# SPDX-License-Identifier: Apache-2.0
"""Where a trajectory's nodes lie: noise schedules as data, evaluated in float64.

A sample is ``x = alpha * x0 + sigma * noise``; ``lam = log(alpha / sigma)``. The process tells
how alpha and sigma belong together: VP ``alpha**2 + sigma**2 = 1``, VE ``alpha = 1``, flow
``alpha + sigma = 1``. Most functions here return a `Schedule`: a name and its parameters, from
which `fewstep.solver.plan` places as many nodes as it has steps, from noise to data.

With ``final_zero`` (the default) the last node is ``sigma = 0`` and comes after ``steps`` nodes of
the schedule; without it, the schedule places ``steps + 1`` nodes.
"""

from ._discrete import cosine as cosine
from ._discrete import scaled_linear as scaled_linear
from ._discrete import vp_linear as vp_linear
from ._flow import dynamic_shift as dynamic_shift
from ._flow import flow as flow
from ._flow import linear_quadratic as linear_quadratic
from ._flow import resolution_shift as resolution_shift
from ._prior import bridge as bridge
from ._prior import mean_reverting as mean_reverting
from ._prior import ornstein_uhlenbeck as ornstein_uhlenbeck
from ._ranged import beta as beta
from ._ranged import exponential as exponential
from ._ranged import karras as karras
from ._ranged import kl_optimal as kl_optimal
from ._ranged import log_linear as log_linear
from ._ranged import log_snr as log_snr
from ._ranged import polyexponential as polyexponential
from ._ranged import polynomial as polynomial
from ._ranged import sigmas as sigmas
from ._ranged import vp_sde as vp_sde
from ._schedule import PROCESSES as PROCESSES
from ._schedule import Nodes as Nodes
from ._schedule import Process as Process
from ._schedule import Schedule as Schedule
from ._schedule import Spacing as Spacing
from ._tables import ays as ays
from ._tables import gits as gits

__all__ = [
    "Nodes",
    "Schedule",
    "ays",
    "beta",
    "bridge",
    "cosine",
    "dynamic_shift",
    "exponential",
    "flow",
    "gits",
    "karras",
    "kl_optimal",
    "linear_quadratic",
    "log_linear",
    "log_snr",
    "mean_reverting",
    "ornstein_uhlenbeck",
    "polyexponential",
    "polynomial",
    "resolution_shift",
    "scaled_linear",
    "sigmas",
    "vp_linear",
    "vp_sde",
]

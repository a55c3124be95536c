# SPDX-License-Identifier: Apache-2.0
"""Makers of plans and schedules that learn or search: a problem and a start in, a better one out.

Each is a pure function: the same problem, start and seed give the same result, which
`Plan.to_json` saves. `Problem` holds what they are judged by.
"""

from __future__ import annotations

from ._compensate import dc_solver as dc_solver
from ._evolve import CHOICES as CHOICES
from ._evolve import autodiffusion as autodiffusion
from ._evolve import s3 as s3
from ._nodes import ays as ays
from ._nodes import best_path as best_path
from ._nodes import boss as boss
from ._nodes import gits as gits
from ._problem import Problem as Problem
from ._problem import Trajectory as Trajectory
from ._refine import refine as refine
from ._solvers import amed as amed
from ._solvers import amed_plan as amed_plan
from ._solvers import bespoke as bespoke
from ._solvers import bespoke_plan as bespoke_plan
from ._transport import Transport as Transport
from ._transport import dpm_ot as dpm_ot
from ._transport import transport as transport
from ._weights import iia as iia

__all__ = [
    "CHOICES",
    "Problem",
    "Trajectory",
    "Transport",
    "amed",
    "amed_plan",
    "autodiffusion",
    "ays",
    "bespoke",
    "bespoke_plan",
    "best_path",
    "boss",
    "dc_solver",
    "dpm_ot",
    "gits",
    "iia",
    "refine",
    "s3",
    "transport",
]

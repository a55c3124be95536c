# SPDX-License-Identifier: Apache-2.0
"""Guidance: how several model outputs become one, and corrections of what a model says.

A guidance says how many outputs a step combines and gives each row of a plan its weights. The step
itself applies them (``g = sum_j gamma_j M_j``), so guidance costs no pass over memory of its own;
guidance whose weights follow from the outputs adds one pass that reads them.
"""

from __future__ import annotations

from ._corrections import TimeShift as TimeShift
from ._corrections import epsilon_scaled as epsilon_scaled
from ._corrections import prediction_plan as prediction_plan
from ._corrections import shifted_times as shifted_times
from ._corrections import threshold as threshold
from ._gram_guidance import apg as apg
from ._gram_guidance import cfg_rescale as cfg_rescale
from ._gram_guidance import cfg_zero_star as cfg_zero_star
from ._gram_guidance import mambo_g as mambo_g
from ._gram_guidance import tcfg as tcfg
from ._gram_weights import apg_weights as apg_weights
from ._gram_weights import magnitude_weights as magnitude_weights
from ._gram_weights import rescale_weights as rescale_weights
from ._gram_weights import tangential_weights as tangential_weights
from ._gram_weights import zero_star_weights as zero_star_weights
from ._guidance import Guidance as Guidance
from ._guide import Guide as Guide
from ._guide import Thresholding as Thresholding
from ._static_guidance import cfg as cfg
from ._static_guidance import cfg_pp as cfg_pp
from ._static_guidance import classifier as classifier
from ._static_guidance import compose as compose
from ._static_guidance import instruct as instruct

__all__ = [
    "Guidance",
    "Guide",
    "Thresholding",
    "TimeShift",
    "apg",
    "apg_weights",
    "cfg",
    "cfg_pp",
    "cfg_rescale",
    "cfg_zero_star",
    "classifier",
    "compose",
    "epsilon_scaled",
    "instruct",
    "magnitude_weights",
    "mambo_g",
    "prediction_plan",
    "rescale_weights",
    "shifted_times",
    "tangential_weights",
    "tcfg",
    "threshold",
    "zero_star_weights",
]

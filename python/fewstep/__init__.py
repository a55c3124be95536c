# SPDX-License-Identifier: Apache-2.0
"""What a generator does between two model calls: solver steps and noise, draft trees and tokens."""

from fewstep import adaptive as adaptive
from fewstep import decoder as decoder
from fewstep import dpm_v3 as dpm_v3
from fewstep import draft as draft
from fewstep import drafters as drafters
from fewstep import guidance as guidance
from fewstep import kv as kv
from fewstep import language_model as language_model
from fewstep import linear as linear
from fewstep import logits as logits
from fewstep import noise as noise
from fewstep import plans as plans
from fewstep import psld as psld
from fewstep import schedules as schedules
from fewstep import search as search
from fewstep import solver as solver
from fewstep import tree as tree
from fewstep._core import __version__ as __version__
from fewstep._runtime import get_num_threads as get_num_threads
from fewstep._runtime import info as info
from fewstep._runtime import set_num_threads as set_num_threads
from fewstep._stream import use_stream as use_stream
from fewstep.adaptive import AdaptiveSampler as AdaptiveSampler
from fewstep.generator import Generator as Generator
from fewstep.generator import Sampling as Sampling
from fewstep.sampler import Sampler as Sampler

__all__ = [
    "AdaptiveSampler",
    "Generator",
    "Sampler",
    "Sampling",
    "__version__",
    "adaptive",
    "decoder",
    "dpm_v3",
    "draft",
    "drafters",
    "get_num_threads",
    "guidance",
    "info",
    "kv",
    "language_model",
    "linear",
    "logits",
    "noise",
    "plans",
    "psld",
    "schedules",
    "search",
    "set_num_threads",
    "solver",
    "tree",
    "use_stream",
]

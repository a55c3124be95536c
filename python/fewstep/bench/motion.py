# SPDX-License-Identifier: Apache-2.0
"""Brownian increments against torchsde's tree, over the steps of one trajectory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import torch

import fewstep

from . import cases
from .rows import Options, Row, add_bar, check, set_threads, timed_row, unmeasured_row
from .target import Target
from .timing import Timed, interleaved

NAME = "brownian"
SEED = 7
ENDS = 0.029, 14.62  # of sigma, as Stable Diffusion's
TOLERANCE = 1e-4


def motion(options: Options, target: Target) -> Iterator[Row]:
    """Measure the increments of a trajectory's steps; torchsde's tree lies on the same device."""
    if not options.wants(NAME):
        return
    times = fewstep.schedules.karras(*ENDS).nodes(cases.STEPS).t[: cases.STEPS].tolist()
    for threads in options.threads[:1] if target.is_cuda else options.threads:
        for n in cases.BROWNIAN[:1] if options.quick else cases.BROWNIAN:
            set_threads(threads)
            head: Row = {"op": "noise.brownian", "case": NAME, "n": n, "batch": 1}
            head |= {"dtype": "float32"} | (target.labels or {"threads": threads})
            increment = _ours(n, target)
            ours = _trajectory(times, increment)
            error = check("noise.brownian", _additivity(times, increment), TOLERANCE)
            if find_spec("torchsde") is None:
                yield unmeasured_row(head, "torchsde", "torchsde is not installed")
                continue
            rival = _trajectory(times, _tree(n, target))
            timed = {"ours": Timed(ours), "rival": Timed(rival)}
            found = interleaved(timed, 2.0, target.clock)
            row = timed_row(head, "torchsde", found["ours"], found["rival"])
            row["difference"] = float(f"{error:.1e}")
            if n == cases.BROWNIAN[0] and not target.is_cuda:
                add_bar(row, cases.BROWNIAN_BAR)
            yield row


def _trajectory(times: list[float], increment: Callable[[float, float], Any]) -> Callable[[], None]:
    def run() -> None:
        for later, earlier in pairwise(times):  # sigma falls
            increment(earlier, later)

    return run


def _ours(n: int, target: Target) -> Callable[[float, float], Any]:
    seeds = torch.tensor([SEED], device=target.device)
    out = torch.empty((1, n), device=target.device)

    def increment(t0: float, t1: float) -> Any:
        return fewstep.noise.brownian(seeds, t0, t1, t_min=ENDS[0], t_max=ENDS[1], out=out)

    return increment


def _tree(n: int, target: Target) -> Callable[[float, float], Any]:
    """Return the tree that k-diffusion samples from, asked as it asks."""
    import torchsde

    first = torch.zeros((1, n), device=target.device)
    tree = torchsde.BrownianTree(ENDS[0], first, ENDS[1], entropy=SEED)
    return lambda t0, t1: tree(t0, t1)


def _additivity(times: list[float], increment: Callable[[float, float], Any]) -> float:
    """Return how far the parts' sum is from the whole, relative to its deviation."""
    total = sum(increment(earlier, later).double() for later, earlier in pairwise(times))
    whole = increment(times[-1], times[0]).double()
    return float((total - whole).abs().max() / (times[0] - times[-1]) ** 0.5)

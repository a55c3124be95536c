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
    """Measure the increments of a trajectory's steps; on the CPU, where torchsde's tree lives."""
    if not options.wants(NAME) or target.is_cuda:
        return
    times = fewstep.schedules.karras(*ENDS).nodes(cases.STEPS).t[: cases.STEPS].tolist()
    for threads in options.threads:
        for n in (65_536,) if options.quick else (65_536, 262_144):
            set_threads(threads)
            head: Row = {"op": "noise.brownian", "case": NAME, "n": n, "batch": 1}
            head |= {"dtype": "float32", "threads": threads}
            out = torch.empty((1, n))
            ours = _trajectory(times, _ours(torch.tensor([SEED]), out))
            error = check("noise.brownian", _additivity(times, n), TOLERANCE)
            if find_spec("torchsde") is None:
                yield unmeasured_row(head, "torchsde", "torchsde is not installed")
                continue
            rival = _trajectory(times, _tree(n))
            found = interleaved({"ours": Timed(ours), "rival": Timed(rival)}, budget_s=2.0)
            row = timed_row(head, "torchsde", found["ours"], found["rival"])
            row["difference"] = float(f"{error:.1e}")
            if n == 65_536:
                add_bar(row, cases.BROWNIAN_BAR)
            yield row


def _trajectory(times: list[float], increment: Callable[[float, float], Any]) -> Callable[[], None]:
    def run() -> None:
        for later, earlier in pairwise(times):  # sigma falls
            increment(earlier, later)

    return run


def _ours(seeds: torch.Tensor, out: torch.Tensor) -> Callable[[float, float], Any]:
    def increment(t0: float, t1: float) -> Any:
        return fewstep.noise.brownian(seeds, t0, t1, t_min=ENDS[0], t_max=ENDS[1], out=out)

    return increment


def _tree(n: int) -> Callable[[float, float], Any]:
    """Return the tree that k-diffusion samples from, asked as it asks."""
    import torchsde

    tree = torchsde.BrownianTree(ENDS[0], torch.zeros(1, n), ENDS[1], entropy=SEED)
    return lambda t0, t1: tree(t0, t1)


def _additivity(times: list[float], n: int) -> float:
    """Return how far the parts' sum is from the whole, relative to its deviation."""
    seeds, out = torch.tensor([SEED]), torch.empty((1, n))
    increment = _ours(seeds, out)
    total = torch.zeros((1, n), dtype=torch.float64)
    for later, earlier in pairwise(times):
        total += increment(earlier, later)
    whole = increment(times[-1], times[0]).double()
    return float((total - whole).abs().max() / (times[0] - times[-1]) ** 0.5)

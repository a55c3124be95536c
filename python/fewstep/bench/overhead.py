# SPDX-License-Identifier: Apache-2.0
"""What a call costs the host besides the work: 16 elements, everything preallocated."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

import torch

import fewstep

from . import cases
from .cases import CASES, ROW
from .engine import Engine
from .rows import Options, Row, set_threads, timed_row
from .steps import formula_error
from .target import Target
from .timing import Timed, interleaved


def host_overhead(options: Options, target: Target) -> Iterator[Row]:
    """Measure a call of the step against torch's cheapest operation with ``out=``."""
    if not options.wants("host_overhead"):
        return
    set_threads(1)
    x = torch.randn(1, 16).to(target.device)
    y, out = torch.randn(1, 16).to(target.device), torch.empty_like(x)
    outputs = [torch.randn(1, 16).to(target.device)]
    engine = Engine(CASES["dpmpp_2m"], cases.nodes(CASES["dpmpp_2m"]), x, outputs, guided=False)
    error = formula_error(engine)
    as_list = [slot.clone() for slot in engine.slots]
    step, plan, state, output = fewstep.solver.step, engine.plan, engine.state, engine.outputs[0]
    states: dict[str, Sequence[torch.Tensor] | torch.Tensor] = {"tensor": state, "list": as_list}
    for kind, value in states.items():
        times = interleaved(
            {
                "ours": Timed(partial(step, plan, ROW, value, output), state.zero_),
                "rival": Timed(partial(torch.add, x, y, out=out)),
            },
            1.0,
            target.launches,
        )
        head: Row = {
            "op": "solver.step",
            "case": "host_overhead",
            "n": 16,
            "batch": 1,
            "dtype": "float32",
        }
        head |= target.labels or {"threads": 1}
        head["state"] = kind
        row = timed_row(head, "torch.add(out=)", times["ours"], times["rival"])
        row["difference"] = float(f"{error:.1e}")
        if kind == "tensor" and not target.is_cuda:
            row["bar"] = cases.HOST_BAR_US
            row["met"] = row["ours_us"] <= cases.HOST_BAR_US
        yield row

# SPDX-License-Identifier: Apache-2.0
"""On a GPU: a trajectory from one captured step, and tensors beyond 32-bit counts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewstep
from gpu import NEEDS_GPU

torch = pytest.importorskip("torch")

pytestmark = NEEDS_GPU

DEVICE = "cuda"
STEPS = 6
SHAPE = (3, 4, 33)


def plan_of(name: str = "dpmpp_2m", **options: Any) -> fewstep.solver.Plan:
    schedule = fewstep.schedules.karras(0.02, 20.0)
    return fewstep.solver.plan(name, steps=STEPS, schedule=schedule, prediction="x0", **options)


def doubling() -> fewstep.solver.Plan:
    """One row, x becomes 2 x."""
    return fewstep.solver.Plan.from_rows([fewstep.solver.Row(input=(0,), output=(0,), a=((2.0,),))])


@pytest.fixture
def outputs() -> np.ndarray:
    return np.random.default_rng(4).normal(size=(STEPS, *SHAPE)).astype(np.float32)


def test_one_captured_step_replays_a_trajectory(outputs: np.ndarray) -> None:
    """The row is read on the device and counted up there, for each sample from its own start."""
    plan = plan_of("dpmpp_2m_sde")
    starts = np.array([0, -1, 1], np.int32)  # the second sample waits a step
    state = fewstep.solver.empty_state(plan, torch.empty(SHAPE, device=DEVICE))
    seeds = torch.tensor([11, 12, 13], device=DEVICE)
    rows = torch.tensor(starts, device=DEVICE)
    output = torch.empty(SHAPE, device=DEVICE)
    plan.prepare(DEVICE)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fewstep.solver.step(plan, rows, state, output, seeds=seeds)
        rows += 1
    rows.copy_(torch.from_numpy(starts))
    state.zero_()
    fewstep.noise.normal(seeds, out=state[0], scale=20.0)
    for values in outputs:
        output.copy_(torch.from_numpy(values))
        graph.replay()
    wanted = fewstep.solver.empty_state(plan, SHAPE)
    fewstep.noise.normal([11, 12, 13], out=wanted[0], scale=20.0)
    for i, values in enumerate(outputs):
        for b, start in enumerate(starts):
            # A row past the table leaves its sample as it is.
            if 0 <= start + i < STEPS:
                part = [slot[b : b + 1] for slot in wanted]
                at = int(start + i)
                fewstep.solver.step(plan, at, part, values[b : b + 1], seeds=np.array([11 + b]))
    assert np.array_equal(state.cpu().numpy(), wanted)


def test_tensors_on_different_devices_are_refused() -> None:
    with pytest.raises(ValueError, match="fewstep_solver_step: 'models"):
        fewstep.solver.step(
            plan_of(), 0, torch.zeros((3, 2, 8), device=DEVICE), torch.zeros((2, 8))
        )


@pytest.fixture
def room() -> Iterator[None]:
    """Skip where memory is short, on either side."""
    free, _ = torch.cuda.mem_get_info()
    lines = Path("/proc/meminfo").read_text().splitlines()
    host = int(next(x for x in lines if x.startswith("MemAvailable:")).split()[1]) * 1024
    if free < 12 << 30 or host < 14 << 30:
        pytest.skip("needs 12 GB on the device and 14 GB on the host")
    yield
    torch.cuda.empty_cache()


@pytest.mark.large
@pytest.mark.usefixtures("room")
def test_more_than_2_31_normals() -> None:
    count = 2**31 + 13
    drawn = fewstep.noise.normal(torch.tensor([7], device=DEVICE), (count,), dtype=torch.float16)
    wanted = fewstep.noise.normal(torch.tensor([7]), (count,), dtype=torch.float16)
    assert torch.equal(drawn.cpu().view(torch.int16), wanted.view(torch.int16))


@pytest.mark.large
@pytest.mark.usefixtures("room")
@pytest.mark.parametrize("shape", [(1, 2**31 + 13), (2**16 + 1, 2**15 + 3)])
def test_a_step_over_more_than_2_31_elements(shape: tuple[int, int]) -> None:
    x = torch.full((1, *shape), 1.5, device=DEVICE)
    x[0, -1, -1] = 7.0
    fewstep.solver.step(doubling(), 0, x, None)
    assert float(x[0, -1, -1]) == 14.0
    x[0, -1, -1] = 3.0
    assert bool((x == 3.0).all())

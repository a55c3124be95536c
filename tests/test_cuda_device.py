# SPDX-License-Identifier: Apache-2.0
"""What only a GPU shows: streams, captured graphs, several devices, 64-bit counts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fewstep

torch = pytest.importorskip("torch")

CUDA = fewstep.info()["cuda"]
pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not CUDA["built"], reason="this build has no CUDA kernels"),
    pytest.mark.skipif(CUDA["devices"] == 0, reason="no CUDA device"),
]

DEVICE = "cuda"
STEPS = 6
SHAPE = (3, 4, 33)
LONG = 100_000_000  # clock cycles: some 50 ms, in which everything else could be done


def plan_of(name: str = "dpmpp_2m", **options: Any) -> fewstep.solver.Plan:
    schedule = fewstep.schedules.karras(0.02, 20.0)
    return fewstep.solver.plan(name, steps=STEPS, schedule=schedule, prediction="x0", **options)


def doubling() -> fewstep.solver.Plan:
    """One row, x becomes 2 x."""
    return fewstep.solver.Plan.from_rows([fewstep.solver.Row(input=(0,), output=(0,), a=((2.0,),))])


def model(x: Any, t: Any) -> Any:
    return x * (0.25 / (0.25 + t.reshape(-1, *[1] * (x.ndim - 1)) ** 2))


def test_an_op_runs_on_the_current_stream() -> None:
    """Elsewhere it would see the zeros that are there until the stream comes to fill them."""
    x = torch.zeros((1, 2, 1000), device=DEVICE)
    plan = doubling()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG)
        x.fill_(3.0)
        fewstep.solver.step(plan, 0, x, None)
        drawn = fewstep.noise.normal(torch.tensor([5, 6], device=DEVICE), (1000,))
        x += drawn
    side.synchronize()
    wanted = 6.0 + fewstep.noise.normal([5, 6], (1000,))
    assert np.array_equal(x[0].cpu().numpy(), wanted.astype(np.float32))


def test_an_op_runs_on_the_stream_it_is_told() -> None:
    x = torch.zeros((1, 2, 1000), device=DEVICE)
    plan = doubling()
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LONG)
        x.fill_(3.0)
    with fewstep.use_stream(side):
        fewstep.solver.step(plan, 0, x, None)
    side.synchronize()
    assert bool((x == 6.0).all())


@contextmanager
def without_waiting() -> Iterator[None]:
    """Make torch refuse whatever waits for the device."""
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_ops_do_not_wait_for_the_device() -> None:
    plan = plan_of("dpmpp_2m_sde")
    state = fewstep.solver.empty_state(plan, torch.empty(SHAPE, device=DEVICE))
    seeds = torch.arange(SHAPE[0], device=DEVICE)
    rows = torch.full((SHAPE[0],), 2, dtype=torch.int32, device=DEVICE)
    output = torch.ones(SHAPE, device=DEVICE)

    def work() -> None:
        fewstep.noise.normal(seeds, out=state[0], scale=20.0)
        for row in range(STEPS):
            fewstep.solver.step(plan, row, state, output, seeds=seeds)
            fewstep.solver.step(plan, rows, state, output, seeds=seeds)

    work()  # what is loaded and prepared once
    long_ago = torch.cuda.Event()
    with without_waiting():
        torch.cuda._sleep(LONG)
        long_ago.record()
        work()
        came_back_early = not long_ago.query()
    assert came_back_early, "an op waited for the work before it"


def test_a_sampler_does_not_wait_for_the_device() -> None:
    sampler = fewstep.Sampler(plan_of("dpmpp_2m_sde"))
    seeds = torch.arange(SHAPE[0], device=DEVICE)
    first = sampler(model, SHAPE, seeds=seeds, device=DEVICE)
    with without_waiting():
        second = sampler(model, SHAPE, seeds=seeds, device=DEVICE)
    assert torch.equal(first, second)


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


def test_an_unprepared_plan_cannot_be_captured() -> None:
    plan = plan_of()
    state = fewstep.solver.empty_state(plan, torch.empty(SHAPE, device=DEVICE))
    rows = torch.zeros(SHAPE[0], dtype=torch.int32, device=DEVICE)
    output = torch.zeros(SHAPE, device=DEVICE)
    marker = torch.zeros(1, device=DEVICE)
    with torch.cuda.graph(torch.cuda.CUDAGraph()):
        marker += 1
        with pytest.raises(ValueError, match=r"'plan' must be prepared for cuda:0"):
            fewstep.solver.step(plan, rows, state, output)
    fewstep.solver.step(plan, rows, state, output)  # outside a capture it prepares itself
    torch.cuda.synchronize()


@pytest.mark.parametrize("name", ["dpmpp_2m", "unipc", "euler_ancestral"])
def test_a_sampler_draws_the_cpus_samples(name: str) -> None:
    sampler = fewstep.Sampler(plan_of(name))
    given: dict[str, Any] = {"shape": SHAPE, "seeds": [3, 4, 5]}
    ours = sampler(model, **given, device=DEVICE)
    captured = sampler(model, **given, device=DEVICE, graph=True)
    again = sampler(model, **given, device=DEVICE, graph=True)
    assert ours.device.type == DEVICE
    assert torch.equal(ours, captured)
    assert torch.equal(ours, again)
    other = sampler(model, SHAPE, seeds=[3, 9, 5], device=DEVICE, graph=True)
    assert torch.equal(other[0], ours[0])
    assert not torch.equal(other[1], ours[1])
    on_cpu = sampler(model, **given, device="cpu")
    # The model's own division may round otherwise there.
    torch.testing.assert_close(ours.cpu(), on_cpu, rtol=1e-4, atol=1e-5)


def test_threads_have_streams_of_their_own() -> None:
    results: list[Any] = [None] * 4

    def work(index: int) -> None:
        with torch.cuda.stream(torch.cuda.Stream()):
            x = torch.full((1, 2, 10_000), float(index), device=DEVICE)
            for _ in range(20):
                fewstep.solver.step(plan, 0, x, None)
            torch.cuda.current_stream().synchronize()
            results[index] = x.cpu()

    plan = doubling()
    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, result in enumerate(results):
        assert bool((result == index * 2.0**20).all())


@pytest.mark.skipif(CUDA["devices"] < 2, reason="needs two CUDA devices")
def test_two_devices_in_one_process() -> None:
    plan = plan_of("dpmpp_2m_sde")
    results = []
    for device in ("cuda:1", "cuda:0"):
        state = fewstep.solver.empty_state(plan, torch.empty(SHAPE, device=device))
        seeds = torch.arange(SHAPE[0], device=device)
        rows = torch.zeros(SHAPE[0], dtype=torch.int32, device=device)
        fewstep.noise.normal(seeds, out=state[0])
        fewstep.solver.step(plan, rows, state, torch.ones(SHAPE, device=device), seeds=seeds)
        results.append(state.cpu())
    assert torch.equal(*results)


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

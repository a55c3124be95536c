# SPDX-License-Identifier: Apache-2.0
"""Streams, devices and graphs of the op on a GPU.

A stream that sleeps shows what waits: work that did not follow it would read memory too early, and
a call that waited for it would come back late.
"""

from __future__ import annotations

import threading

import numpy as np
import pytest

import fewstep
from dlpack_fakes import CUDA
from gpu import NEEDS_GPU

torch = pytest.importorskip("torch")

pytestmark = [
    *NEEDS_GPU,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch sees no CUDA device"),
]

PLAN = fewstep.solver.plan(
    "dpmpp_2m_sde", steps=4, schedule=fewstep.schedules.karras(0.02, 10.0), prediction="x0"
)
LONG = 400_000_000  # cycles: about 0.2 s


def host_arrays(batch=3, length=1000):
    rng = np.random.default_rng(0)
    state = rng.standard_normal((PLAN.slots, batch, length), np.float32)
    return state, rng.standard_normal((batch, length), np.float32), np.arange(batch)


def device_arrays(device="cuda"):
    return tuple(torch.from_numpy(a).to(device) for a in host_arrays())


def expected(row=1):
    state, model, seeds = host_arrays()
    fewstep.solver.step(PLAN, row, state, model, seeds=seeds)
    return state


def same(tensor, array):
    np.testing.assert_array_equal(tensor.cpu().numpy(), array)


def late_model(model, stream):
    """Return a tensor that gets the model's values on `stream`, after a sleep."""
    late = torch.full_like(model, float("nan"))
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        torch.cuda._sleep(LONG)
        late.copy_(model)
    return late


def test_a_step_runs_on_torchs_current_stream_and_does_not_wait_for_it():
    state, model, seeds = device_arrays()
    fewstep.solver.step(PLAN, 1, state.clone(), model, seeds=seeds)  # loads the kernel
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    late = late_model(model, side)
    with torch.cuda.stream(side):
        fewstep.solver.step(PLAN, 1, state, late, seeds=seeds)
    assert not side.query()
    side.synchronize()
    same(state, expected())


def test_a_step_runs_on_the_stream_in_use():
    state, model, seeds = device_arrays()
    side = torch.cuda.Stream()
    late = late_model(model, side)
    with fewstep.use_stream(side):
        fewstep.solver.step(PLAN, 1, state, late, seeds=seeds)
    side.synchronize()
    same(state, expected())


def test_normals_run_on_the_current_stream():
    seeds = torch.arange(4, device="cuda")
    side, out = torch.cuda.Stream(), torch.zeros(4, 1001, device="cuda")
    late = late_model(seeds.float(), side)
    with torch.cuda.stream(side):
        fewstep.noise.normal(late.long(), out=out)
    side.synchronize()
    same(out, fewstep.noise.normal(range(4), (1001,)))


def test_seeds_in_host_memory_reach_an_output_on_the_device():
    out = torch.empty(3, 10, device="cuda")
    assert fewstep.noise.normal([1, 2, 2**63 + 5], out=out) is out
    same(out, fewstep.noise.normal(np.array([1, 2, 2**63 + 5], np.uint64), (10,)))


class Wrapper:
    """Has ``__dlpack__`` alone; torch makes the stream it is asked with wait for its own."""

    def __init__(self, tensor):
        self.tensor, self.streams = tensor, []

    def __dlpack_device__(self):
        return (CUDA, self.tensor.device.index)

    def __dlpack__(self, *, stream=None, max_version=None):
        self.streams.append(stream)
        return self.tensor.__dlpack__(stream=stream, max_version=max_version)


def test_arrays_with_dlpack_alone_are_waited_for():
    state, model, seeds = device_arrays()
    side = torch.cuda.Stream()
    late = late_model(model, side)
    with torch.cuda.stream(side):
        wrapped = [Wrapper(t) for t in (state, late, seeds)]
        fewstep.solver.step(PLAN, 1, wrapped[0], wrapped[1], seeds=wrapped[2])
    assert [w.streams for w in wrapped] == [[1]] * 3
    torch.cuda.synchronize()
    same(state, expected())


def test_one_tensor_of_torchs_decides_for_all():
    state, model, seeds = device_arrays()
    side = torch.cuda.Stream()
    late = late_model(model, side)
    wrapped = Wrapper(state)
    with torch.cuda.stream(side):
        fewstep.solver.step(PLAN, 1, wrapped, late, seeds=seeds)
    assert wrapped.streams == [side.cuda_stream]
    side.synchronize()
    same(state, expected())


def test_threads_use_streams_of_their_own():
    results = {}

    def work(number):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for _ in range(50):
                state, model, seeds = device_arrays()
                fewstep.solver.step(PLAN, 1, state, model, seeds=seeds)
                results.setdefault(number, []).append(state)
        stream.synchronize()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(results) == [0, 1, 2, 3]
    wanted = expected()
    for states in results.values():
        for state in states:
            same(state, wanted)


def test_tensors_on_another_device_than_the_current():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    for device in ("cuda:1", "cuda:0"):
        state, model, seeds = device_arrays(device)
        rows = torch.ones(3, dtype=torch.int32, device=device)
        fewstep.solver.step(PLAN, rows, state, model, seeds=seeds)
        assert torch.cuda.current_device() == 0
        same(state, expected())
    state, model, seeds = device_arrays("cuda:0")
    with pytest.raises(ValueError, match=r"'models\[0\]' must be on cuda:0, got cuda:1"):
        fewstep.solver.step(PLAN, 1, state, model.to("cuda:1"), seeds=seeds)


@pytest.mark.parametrize("per_sample", [False, True])
def test_a_captured_step_replays(per_sample):
    state, model, seeds = device_arrays()
    first = state.clone()
    rows = torch.ones(3, dtype=torch.int32, device="cuda") if per_sample else 1
    fewstep.solver.step(PLAN, rows, state.clone(), model, seeds=seeds)  # loads the kernel
    PLAN.prepare(state.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fewstep.solver.step(PLAN, rows, state, model, seeds=seeds)
    same(state, first.cpu().numpy())
    graph.replay()
    same(state, expected())
    if per_sample:
        state.copy_(first)
        rows.copy_(torch.tensor([2, -1, 1]))
        graph.replay()
        wanted = expected()
        wanted[:, 0] = expected(2)[:, 0]
        wanted[:, 1] = first[:, 1].cpu()
        same(state, wanted)


def test_a_plan_that_is_not_on_the_device_cannot_be_captured():
    plan = fewstep.solver.Plan.from_json(PLAN.to_json())
    state, model, seeds = device_arrays()
    rows = torch.ones(3, dtype=torch.int32, device="cuda")
    message = r"'plan' must be prepared for cuda:0 before a stream is captured"
    with pytest.raises(ValueError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        fewstep.solver.step(plan, rows, state, model, seeds=seeds)
    with pytest.raises(ValueError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        plan.prepare("cuda")
    fewstep.solver.step(plan, rows, state, model, seeds=seeds)  # prepares by itself
    same(state, expected())

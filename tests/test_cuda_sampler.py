# SPDX-License-Identifier: Apache-2.0
"""The sampler on a GPU: it waits for nothing, and its graphs give the loop's bits."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from fewstep import Sampler, schedules, solver
from fewstep.guidance import Thresholding, apg, cfg, tcfg
from gpu import NEEDS_GPU

torch = pytest.importorskip("torch")

pytestmark = [
    *NEEDS_GPU,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this torch sees no CUDA device"),
]

SHAPE = (3, 2, 500)
LONG = 2_000_000_000  # cycles: about a second


def make(name, steps=6):
    return solver.plan(name, steps=steps, schedule=schedules.karras(0.02, 40.0), prediction="x0")


def model(x, t, mean=0.3):
    if isinstance(mean, torch.Tensor):
        mean = mean.reshape(-1, 1, 1)
    return mean + (x - mean) / (1 + t.reshape(-1, 1, 1) ** 2)


def tensor(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32)).cuda()


def conditions(seed):
    return {"cond": {"mean": tensor(seed, 3)}, "uncond": {"mean": tensor(seed + 50, 1)}}


MIXED = [make("heun", 3), make("unipc", 5), make("dpmpp_2m_sde", 5)]
CASES = {
    "unipc": (make("unipc"), None, [{"seeds": [k, 1, 2]} for k in range(3)]),
    "noise": (make("dpmpp_2m_sde"), None, [{"seeds": [k, 1, 2]} for k in range(3)]),
    "trajectory": (
        make("heun"), None, [{"seeds": [k, 1, 2], "trajectory": True} for k in range(3)]
    ),
    "bfloat16": (make("dpmpp_2m"), None, [{"dtype": "bfloat16", "seeds": [k] * 3} for k in (4, 5)]),
    "plans": (MIXED, None, [{"plan_index": i} for i in ([0, 1, 2], [2, 1, 1], [1, 0, 2])]),
}  # fmt: skip


def check(sampler, calls, captured=1):
    for call in calls:
        call = {"shape": SHAPE, "device": "cuda", **call}
        ours, theirs = sampler(model, **call, graph=True), sampler(model, **call)
        if not call.get("trajectory"):
            ours, theirs = (ours,), (theirs,)
        for a, b in zip(ours, theirs, strict=True):
            assert a.is_cuda
            assert torch.equal(a, b)
    assert len(sampler._graphs) == captured


@pytest.mark.parametrize("name", CASES)
def test_a_graph_gives_the_loops_bits(name):
    plan, guidance, calls = CASES[name]
    check(Sampler(plan, guidance), calls)


def test_a_graph_with_guidance_gives_the_loops_bits():
    sampler = Sampler(make("unipc", 8), cfg(3.0, interval=(0.1, 5.0)))
    check(sampler, [conditions(k) for k in range(3)])


LOOKING = {
    "apg": (apg(4.0, norm_threshold=0.5, interval=(0.1, 5.0)), None),
    "momentum": (apg(4.0, momentum=-0.5), None),
    "tcfg": (tcfg(3.0), None),
    "threshold": (cfg(3.0), Thresholding(0.9, maximum=2.0)),
}


def looking(name):
    plan = solver.plan("unipc", steps=8, schedule=schedules.karras(0.02, 40.0), prediction="x0",
                       clip=1.0)  # fmt: skip
    return Sampler(plan, *LOOKING[name])


@pytest.mark.parametrize("name", LOOKING)
def test_a_graph_that_looks_at_outputs_gives_the_loops_bits(name):
    check(looking(name), [conditions(k) for k in range(3)])


@pytest.mark.parametrize("name", LOOKING)
def test_looking_at_outputs_gives_the_cpus_samples(name):
    sampler, given = looking(name), conditions(5)
    ours = sampler(model, SHAPE, device="cuda", **given).cpu()
    here = {k: {"mean": v["mean"].cpu()} for k, v in given.items()}
    theirs = sampler(model, SHAPE, device="cpu", **here)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("name", LOOKING)
def test_looking_at_outputs_waits_for_nothing(name, graph):
    sampler = looking(name)
    call = {"shape": SHAPE, "device": "cuda", "graph": graph, "seeds": [4, 5, 6], **conditions(1)}
    for _ in range(2):
        expected = sampler(model, **call)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(LONG)
        x = sampler(model, **call)
        busy = not torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert busy
    assert torch.equal(x, expected)


def test_a_graph_with_images_gives_the_loops_bits():
    sampler = Sampler(make("dpmpp_2m"))
    check(sampler, [{"x0": tensor(k, *SHAPE), "strength": 0.5} for k in range(3)])
    masks = [(tensor(k, 1, *SHAPE[1:]) > 0).float() for k in range(3)]
    check(sampler, [{"known": tensor(k, *SHAPE), "mask": m} for k, m in enumerate(masks)], 2)
    sampler.clear_graphs()
    check(sampler, [{"seeds": [1, 2, 3]}])


@pytest.mark.parametrize("name", ["unipc", "dpmpp_2m_sde", "euler_ancestral"])
def test_the_samples_are_those_of_the_cpu(name):
    sampler = Sampler(make(name))
    ours = sampler(model, SHAPE, device="cuda").cpu()
    torch.testing.assert_close(ours, sampler(model, SHAPE, device="cpu"), rtol=1e-4, atol=1e-4)


def network():
    torch.manual_seed(0)
    layers = torch.nn.Sequential(
        torch.nn.Conv1d(2, 16, 3, padding=1), torch.nn.SiLU(), torch.nn.Conv1d(16, 2, 3, padding=1)
    ).cuda()
    return layers, lambda x, t: layers(x / (1 + t.reshape(-1, 1, 1)))


def test_a_graph_of_a_network_under_autocast():
    layers, call = network()
    sampler = Sampler(make("unipc"))
    plain = sampler(call, SHAPE, device="cuda", graph=True)
    torch.testing.assert_close(plain, sampler(call, SHAPE, device="cuda"), rtol=1e-3, atol=1e-3)
    with torch.autocast("cuda", torch.bfloat16):
        loop = sampler(call, SHAPE, device="cuda")
        for _ in range(2):
            ours = sampler(call, SHAPE, device="cuda", graph=True)
            torch.testing.assert_close(ours, loop, rtol=0.05, atol=0.05)
    assert not torch.equal(ours, plain)
    with torch.no_grad():
        layers[0].weight.mul_(0.5)  # in place: the graph reads it there
    changed = sampler(call, SHAPE, device="cuda", graph=True)
    torch.testing.assert_close(changed, sampler(call, SHAPE, device="cuda"), rtol=1e-3, atol=1e-3)
    assert not torch.equal(changed, plain)
    assert len(sampler._graphs) == 2


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("plans", [make("unipc"), MIXED], ids=["one plan", "plans"])
def test_a_call_waits_for_nothing(plans, graph):
    """Of torch's waits it tells itself; a stream that sleeps shows what our own code does."""
    sampler = Sampler(plans)
    call = {"shape": SHAPE, "device": "cuda", "graph": graph}
    for seeds in ([1, 2, 3], [4, 5, 6]):  # loads kernels, copies tables, pins memory
        expected = sampler(model, **call, seeds=seeds)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(LONG)
        x = sampler(model, **call, seeds=[4, 5, 6])
        busy = not torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert busy
    assert torch.equal(x, expected)


def test_streams_take_turns_with_a_graph():
    sampler = Sampler(make("dpmpp_2m_sde"))
    seeds = [torch.tensor([k, k + 1, k + 2], device="cuda") for k in range(12)]
    expected = [sampler(model, SHAPE, seeds=s) for s in seeds]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    sampler(model, SHAPE, seeds=seeds[0], graph=True)
    torch.cuda.synchronize()
    results = []
    for k, s in enumerate(seeds):
        with torch.cuda.stream(streams[k % 2]):
            results.append(sampler(model, SHAPE, seeds=s, graph=True))
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("graph", [False, True])
def test_threads_share_a_sampler(graph):
    sampler = Sampler(MIXED)
    seeds = [[k, k + 1, k + 2] for k in range(16)]
    expected = [sampler(model, SHAPE, seeds=s, device="cuda") for s in seeds]
    torch.cuda.synchronize()
    results = {}

    def work(first):
        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            for k in range(first, len(seeds), 4):
                results[k] = sampler(model, SHAPE, seeds=seeds[k], device="cuda", graph=graph)
        stream.synchronize()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == len(seeds)
    assert all(torch.equal(results[k], expected[k]) for k in range(len(seeds)))


@pytest.mark.parametrize("plans", [make("unipc"), MIXED], ids=["one plan", "plans"])
def test_a_call_may_be_part_of_the_callers_own_graph(plans):
    sampler = Sampler(plans)
    seeds = torch.tensor([1, 2, 3], device="cuda")
    sampler(model, SHAPE, seeds=seeds)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        x = sampler(model, SHAPE, seeds=seeds)
    for value in ([1, 2, 3], [7, 8, 9]):
        seeds.copy_(torch.tensor(value))
        graph.replay()
        assert torch.equal(x, sampler(model, SHAPE, seeds=seeds))


def test_what_a_capture_cannot_hold_is_refused():
    sampler = Sampler(make("euler"))
    sampler(model, SHAPE, device="cuda")
    message = "'seeds' must be on cuda:0 while a CUDA graph is captured, got an array in host"
    with pytest.raises(ValueError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        sampler(model, SHAPE, device="cuda", seeds=[1, 2, 3])
    message = "'graph' must be False while a CUDA graph is captured, got True"
    with pytest.raises(ValueError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        sampler(model, SHAPE, device="cuda", graph=True)


FAILING = """
import os, torch, fewstep
plan = fewstep.solver.plan("euler", steps=3, schedule=fewstep.schedules.karras(0.02, 40.0))
sampler = fewstep.Sampler(plan)
try:
    sampler(lambda x, t: x * x.sum().item(), (2, 3), device="cuda", graph=True)
except RuntimeError as error:
    assert str(error).startswith("Sampler: 'model' must be capturable with graph=True"), error
else:
    raise AssertionError("no error")
assert torch.cuda.current_stream() == torch.cuda.default_stream()
os._exit(0)
"""


def test_a_model_that_cannot_be_captured_is_named():
    """In a process of its own: what a failed capture leaves behind is torch's affair."""
    subprocess.run([sys.executable, "-c", FAILING], check=True, timeout=300)


def test_a_device_that_is_not_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    sampler = Sampler(MIXED)
    expected = sampler(model, SHAPE, device="cuda:0").cpu()
    for graph in (False, True):
        x = sampler(model, SHAPE, device="cuda:1", graph=graph)
        assert x.device == torch.device("cuda:1")
        assert torch.equal(x.cpu(), expected)
    assert torch.cuda.current_device() == 0

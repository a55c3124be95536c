# SPDX-License-Identifier: Apache-2.0
"""``graph=True``: what is captured, refilled and kept, with a recording that works on the CPU."""

from __future__ import annotations

import gc
import pickle
import threading
import time

import numpy as np
import pytest

from fewstep import Sampler, schedules, solver
from fewstep.guidance import Thresholding, TimeShift, apg, cfg, cfg_rescale, tcfg

torch = pytest.importorskip("torch")

from fewstep._graph import Graphs  # noqa: E402
from recorded import Recorded  # noqa: E402

SHAPE = (3, 2, 5)


def make(name, steps=5, **options):
    schedule = schedules.karras(0.02, 40.0)
    return solver.plan(name, steps=steps, schedule=schedule, prediction="x0", **options)


def model(x, t, mean=0.3):
    if isinstance(mean, torch.Tensor):
        mean = mean.reshape(-1, *[1] * (x.ndim - 1))
    return mean + (x - mean) / (1 + t.reshape(-1, *[1] * (x.ndim - 1)) ** 2)


@pytest.fixture(autouse=True)
def _count():
    Recorded.made = 0


def sampler_of(*arguments):
    sampler = Sampler(*arguments)
    sampler._graphs = Graphs(Recorded)
    return sampler


def check(sampler, arguments, made=1):
    """Call with each set of arguments: equal to the loop bit for bit, with so many recordings."""
    before = Recorded.made
    for one in arguments:
        one = {"model": model, "device": "cpu", **one}
        if "x0" not in one and "known" not in one:
            one.setdefault("shape", SHAPE)
        ours, theirs = sampler(**one, graph=True), sampler(**one)
        if not one.get("trajectory"):
            ours, theirs = (ours,), (theirs,)
        for a, b in zip(ours, theirs, strict=True):
            assert torch.equal(a, b)
            assert not a.is_inference()
    assert Recorded.made - before == made


def tensor(seed, *shape):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape, np.float32))


@pytest.mark.parametrize("name", ["euler", "heun", "unipc", "dpmpp_2m", "dpmpp_2m_sde", "lcm"])
def test_replays_equal_the_loop(name):
    sampler = sampler_of(make(name))
    seeds = [[1, 2, 3], [7, 8, 2**64 - 1], torch.tensor([5, 6, 7]), None]
    check(sampler, [{"seeds": s} for s in seeds])
    assert len(sampler._graphs) == 1


def test_every_array_is_refilled():
    guided = sampler_of(make("unipc", 8), cfg(3.0, interval=(0.1, 5.0)))
    check(
        guided,
        [
            {"cond": {"mean": tensor(k, 3)}, "uncond": {"mean": tensor(9 + k, 1)}, "seeds": [k] * 3}
            for k in range(3)
        ],
    )
    plain = sampler_of(make("dpmpp_2m"))
    check(plain, [{"x0": tensor(k, *SHAPE), "strength": 0.5} for k in range(3)])
    masks = [(tensor(k, 1, *SHAPE[1:]) > 0).float() for k in range(3)]
    check(plain, [{"known": tensor(k, *SHAPE), "mask": m} for k, m in enumerate(masks)])
    check(plain, [{"seeds": [k, 1, 2], "trajectory": True} for k in range(3)])
    check(plain, [{"seeds": [k, 1, 2], "dtype": "bfloat16"} for k in range(3)])


@pytest.mark.parametrize(
    "guidance",
    [apg(4.0, norm_threshold=0.5), apg(4.0, momentum=-0.5), tcfg(3.0), cfg_rescale(5.0, 0.7)],
    ids=["apg", "momentum", "tcfg", "rescale"],
)
def test_weights_are_computed_in_the_graph(guidance, monkeypatch):
    """With torch's operations, as on a device: what the host computed would stay as it was."""
    monkeypatch.setattr("fewstep._gram_weights._in_host_memory", lambda tensor: False)
    sampler = sampler_of(make("unipc", 6), guidance, None)
    check(
        sampler,
        [
            {"cond": {"mean": tensor(k, 3)}, "uncond": {"mean": tensor(9 + k, 1)}, "seeds": [k] * 3}
            for k in range(3)
        ],
    )


def test_limits_are_computed_in_the_graph():
    sampler = sampler_of(make("dpmpp_2m", 6, clip=1.0), None, Thresholding(0.6, maximum=2.0))
    check(sampler, [{"seeds": [k, 1, 2], "x0": 3 * tensor(k, *SHAPE)} for k in range(3)])


def test_times_follow_the_samples_in_the_graph():
    nodes = schedules.vp_linear().nodes(100)
    shift = TimeShift(nodes.t, nodes.sigma**2, window=100)
    plan = solver.plan("ddim", steps=6, schedule=schedules.vp_linear())
    check(sampler_of(plan, cfg(3.0), None, shift), [
        {"seeds": [k, 1, 2], "cond": {"mean": tensor(k, 3)}, "uncond": {"mean": tensor(9, 1)}}
        for k in range(3)
    ])  # fmt: skip


def test_one_graph_serves_every_choice_among_plans():
    sampler = sampler_of([make("heun", 3), make("unipc", 5), make("euler_ancestral", 5)])
    check(
        sampler, [{"plan_index": index} for index in ([0, 1, 2], [2, 2, 1], [1, 1, 1], [2, 0, 0])]
    )


@pytest.mark.parametrize("made", [apg(4.0, momentum=-0.5), None])
def test_one_graph_guides_every_choice_among_plans(made, monkeypatch):
    monkeypatch.setattr("fewstep._gram_weights._in_host_memory", lambda tensor: False)
    plans = [make("heun", 3, clip=1.0), make("unipc", 5, clip=1.0)]
    sampler = sampler_of(plans, made, Thresholding(0.6, maximum=2.0))
    given = {"cond": {"mean": tensor(1, 3)}, "uncond": {"mean": tensor(2, 1)}} if made else {}
    check(sampler, [{"plan_index": index, **given} for index in ([0, 1, 0], [1, 1, 0], [1, 1, 1])])


def test_starts_of_each_sample_are_data_too():
    sampler = sampler_of(make("euler", 6))
    x0 = tensor(0, *SHAPE)
    check(sampler, [{"x0": x0, "start": start} for start in ([0, 2, 0], [2, 0, 0], [0, 0, 2])])


def test_a_slot_that_no_row_has_written_is_zero_in_every_replay():
    guided, called = 16, {"evaluates": 1, "gamma": (1.0,)}
    rows = [
        solver.Row(input=(0, guided), output=(0,), a=((2.0, 0.5),), **called),
        solver.Row(input=(0, 1), output=(0,), a=((0.5, 1.0),), **called),
        solver.Row(input=(0, guided), output=(0, 1), a=((0.5, 1.0), (3.0, 1.0)), **called),
    ]
    check(sampler_of(solver.Plan.from_rows(rows)), [{"seeds": [k, 1, 2]} for k in range(3)])


def test_a_model_may_write_to_what_it_is_given():
    def careless(x, t):
        x *= 0.5
        t += 1
        return x / t.reshape(-1, 1, 1)

    check(sampler_of(make("euler")), [{"model": careless, "seeds": [k, 1, 2]} for k in range(3)])


def test_results_are_the_callers_own():
    sampler = sampler_of(make("euler"))
    first = sampler(model, SHAPE, device="cpu", graph=True, seeds=[1, 2, 3])
    kept = first.clone()
    sampler(model, SHAPE, device="cpu", graph=True, seeds=[4, 5, 6])
    assert torch.equal(first, kept)


CHANGES = {
    "shape": ({}, {"shape": (3, 2, 6)}),
    "batch": ({}, {"shape": (4, 2, 5)}),
    "dtype": ({}, {"dtype": "float16"}),
    "trajectory": ({}, {"trajectory": True}),
    "model": ({}, {"model": lambda x, t: x * 0.5}),
    "constant": ({"cond": {"mean": 0.25}}, {"cond": {"mean": 0.5}}),
    "constant's type": ({"cond": {"mean": 1}}, {"cond": {"mean": 1.0}}),
    "scalar array": ({"cond": {"mean": torch.tensor(1.0)}}, {"cond": {"mean": torch.tensor(2.0)}}),
    "kind of condition": ({"cond": {"mean": 0.25}}, {"cond": {"mean": torch.zeros(3)}}),
    "condition's dtype": (
        {"cond": {"mean": torch.zeros(3)}},
        {"cond": {"mean": torch.zeros(3, dtype=torch.float16)}},
    ),
    "layout": (
        {"known": tensor(0, *SHAPE), "mask": torch.ones(SHAPE)},
        {"known": tensor(0, 3, 5, 2).transpose(1, 2), "mask": torch.ones(SHAPE)},
    ),
    "mask's rows": (
        {"known": tensor(0, *SHAPE), "mask": torch.ones(SHAPE)},
        {"known": tensor(0, *SHAPE), "mask": torch.ones(1, *SHAPE[1:])},
    ),
    "table": (
        {"x0": tensor(0, *SHAPE), "start": [0, 2, 0]},
        {"x0": tensor(0, *SHAPE), "start": [0, 3, 0]},
    ),
    "start": ({"x0": tensor(0, *SHAPE)}, {"x0": tensor(0, *SHAPE), "start": 1}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_shapes_a_graph_is_in_its_key(change):
    first, second = CHANGES[change]
    sampler = sampler_of(make("euler"))
    if change == "layout":  # the op itself wants samples in order
        first, second = ({**one, "known": one["known"].contiguous()} for one in (first, second))
        second["known"] = torch.stack([second["known"], second["known"]], 1)[:, 0]
    check(sampler, [first, second, first, second], made=2)


class Network(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Linear(5, 5)

    def forward(self, x, t):
        return self.inner(x) * (0.5 if self.training else 0.25)

    def other(self, x, t):
        return 0.5 * self(x, t)


def test_a_modules_numbers_and_mode_are_in_the_key():
    sampler, network = sampler_of(make("euler")), Network()
    check(sampler, [{"model": network}] * 2)
    with torch.no_grad():
        network.inner.weight.mul_(0.5)  # in place: the graph reads the same memory
    check(sampler, [{"model": network}], made=0)
    network.inner.weight.data = network.inner.weight.data.clone()
    check(sampler, [{"model": network}], made=1)
    network.eval()
    check(sampler, [{"model": network}], made=1)
    check(sampler, [{"model": network.other}] * 2, made=1)
    check(sampler, [{"model": network.forward}] * 2, made=1)
    network.inner.weight.data = network.inner.weight.data.clone()
    check(sampler, [{"model": network.other}] * 2, made=1)


@pytest.mark.parametrize("call", ["module", "method"])
def test_a_models_graphs_go_with_it(call):
    sampler, network = sampler_of(make("euler")), Network()
    check(sampler, [{"model": network if call == "module" else network.other}])
    check(sampler, [{}])
    assert len(sampler._graphs) == 2
    del network
    gc.collect()
    assert len(sampler._graphs) == 1
    check(sampler, [{}], made=0)


def test_a_model_without_weak_references_is_kept():
    class Slotted:
        __slots__ = ()

        def __call__(self, x, t):
            return x * 0.5

    sampler = sampler_of(make("euler"))
    check(sampler, [{"model": Slotted()}])
    gc.collect()
    assert len(sampler._graphs) == 1


def test_the_graphs_used_last_are_kept():
    sampler = sampler_of(make("euler", 2))
    sizes = [{"shape": (3, 2, n)} for n in range(1, 10)]
    check(sampler, sizes[:8], made=8)
    check(sampler, [sizes[0], sizes[8]], made=1)
    assert len(sampler._graphs) == Graphs.CAPACITY == 8
    check(sampler, [sizes[0], sizes[8], sizes[2]], made=0)
    check(sampler, [sizes[1]], made=1)
    sampler.clear_graphs()
    assert len(sampler._graphs) == 0
    check(sampler, [sizes[0]], made=1)


def test_threads_share_a_graph():
    sampler = sampler_of(make("dpmpp_2m_sde"))
    seeds = [[k, k + 1, k + 2] for k in range(0, 40, 3)]
    expected = [sampler(model, SHAPE, device="cpu", seeds=s) for s in seeds]
    results = {}

    def work(numbers):
        for k in numbers:
            results[k] = sampler(model, SHAPE, device="cpu", seeds=seeds[k], graph=True)

    # Recordings replace a function of the module while they are made: one thread makes it.
    work([0])
    threads = [threading.Thread(target=work, args=(range(k, len(seeds), 4),)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Recorded.made == 1
    assert all(torch.equal(results[k], expected[k]) for k in range(len(seeds)))


def test_replays_do_not_overlap():
    class Slow(Recorded):
        inside = 0

        def replay(self, memory, fill, drain):
            assert Slow.inside == 0
            Slow.inside += 1
            time.sleep(0.002)
            super().replay(memory, fill, drain)
            Slow.inside -= 1

    sampler, done = sampler_of(make("euler", 2)), []
    sampler._graphs = Graphs(Slow)

    def work():
        for _ in range(3):
            sampler(model, SHAPE, device="cpu", graph=True)
            done.append(1)

    sampler(model, SHAPE, device="cpu", graph=True)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 9


def test_an_empty_batch_captures_nothing():
    sampler = sampler_of(make("euler"))
    assert sampler(model, (0, 3), device="cpu", graph=True).shape == (0, 3)
    assert Recorded.made == 0


def test_samplers_can_be_pickled():
    sampler = sampler_of(make("euler"), cfg(2.0))
    check(sampler, [{"cond": {"mean": 0.5}, "uncond": {"mean": 0.5}}])
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.plans == sampler.plans
    assert copy.guidance == sampler.guidance
    assert len(copy._graphs) == 0
    assert copy(model, (1, 2), cond={"mean": 0.5}, uncond={"mean": 0.5}).shape == (1, 2)


REFUSED = [
    ({"callback": print}, "'callback' must not be given with graph=True, got <built-in"),
    ({"progress": True}, "'progress' must not be given with graph=True, got True"),
    ({}, "'graph' must be False without torch tensors on a CUDA device, got True with numpy"),
    ({"device": "cpu"}, "CUDA device, got True with tensors on cpu"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=r"^Sampler: ") as caught:
        Sampler(make("euler"))(model, SHAPE, graph=True, **arguments)
    assert message in str(caught.value)


def test_conditions_that_could_change_unseen_are_refused():
    message = r"'cond\['mean'\]' must be an array or hashable with graph=True, got list"
    with pytest.raises(ValueError, match=message):
        sampler_of(make("euler"))(model, SHAPE, device="cpu", cond={"mean": [0.5]}, graph=True)


def test_no_graph_hides_a_models_error():
    sampler = sampler_of(make("euler"))
    with pytest.raises(ValueError, match=r"'model' must return shape \[3, 2, 5\], got \[3, 2, 1\]"):
        sampler(lambda x, t: x[..., :1], SHAPE, device="cpu", graph=True)
    assert len(sampler._graphs) == 0

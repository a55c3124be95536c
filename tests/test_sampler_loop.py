# SPDX-License-Identifier: Apache-2.0
"""What the sampler's loop asks of torch besides the model: nothing that could wait for a device."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fewstep import Sampler, schedules, solver
from fewstep.guidance import cfg

torch = pytest.importorskip("torch")

from fewstep._arrays import Arrays  # noqa: E402
from fewstep._course import TableCache  # noqa: E402
from recorded import Operations  # noqa: E402

SHAPE = (3, 2, 5)


def make(name, steps=6):
    return solver.plan(name, steps=steps, schedule=schedules.karras(0.02, 40.0), prediction="x0")


class Model:
    """Lists what is dispatched between its first and its last call, but not within."""

    def __init__(self, operations):
        self.operations, self.marks = operations, []

    def __call__(self, x, t, mean=None):
        operations = self.operations
        self.marks.append(len(operations.calls))
        operations.pauses += 1
        y = x / (1 + t.reshape(-1, 1, 1) ** 2)
        operations.pauses -= 1
        return y

    def in_loop(self):
        return [str(func) for func, *_ in self.operations.calls[self.marks[0] :]]


X0, ONES = torch.zeros(SHAPE), torch.ones(SHAPE)
CALLS = [
    ([make("unipc")], None, {}),
    ([make("heun", 3), make("dpmpp_2m_sde", 5)], None, {"plan_index": [0, 1, 0]}),
    ([make("dpmpp_2m")], None, {"x0": X0, "start": [0, 2, 0], "known": X0, "mask": ONES}),
    (
        [make("unipc", 8)],
        cfg(3.0, interval=(0.1, 5.0)),
        {"cond": {"mean": torch.ones(3)}, "uncond": {"mean": torch.zeros(1)}},
    ),
    ([make("euler")], None, {"dtype": "bfloat16"}),
]


def count(plans, guidance, arguments):
    with Operations() as operations:
        model = Model(operations)
        arguments = {"seeds": torch.arange(3), **arguments}
        Sampler(plans, guidance)(model, SHAPE, **arguments)
    assert len(model.marks) > 4
    return model, list(operations)


@pytest.mark.parametrize(("plans", "guidance", "arguments"), CALLS)
def test_the_loop_dispatches_nothing_itself(plans, guidance, arguments):
    model, everything = count(plans, guidance, arguments)
    assert model.in_loop() == []
    # Before it, what is on the device stays there.
    assert "aten._local_scalar_dense.default" not in everything


def test_a_trajectory_is_one_copy_per_row():
    model, _ = count([make("unipc")], None, {"trajectory": True})
    assert set(model.in_loop()) == {"aten.copy_.default", "aten.select.int"}
    assert model.in_loop().count("aten.copy_.default") == 6


@pytest.mark.parametrize("device", [None, "cpu"])
def test_a_model_that_writes_to_its_times_spoils_no_later_call(device):
    def careless(x, t):
        t += 1
        return x / t.reshape(-1, 1, 1)

    sampler = Sampler(make("euler"))
    first, second = (sampler(careless, SHAPE, device=device) for _ in range(2))
    np.testing.assert_array_equal(first, second)


class OnCuda(Arrays):
    """Tensors that claim to be on a device; `capturing` is the caller's."""

    on_cuda = True
    capturing = False
    copies = 0

    def convert(self, value, dtype=None, name=""):
        type(self).copies += 1
        assert not self.capturing
        return Uploaded(value)


class Uploaded:
    def __init__(self, value):
        self.value, self.users = value, []

    def record_stream(self, stream):
        self.users.append(stream)

    def clone(self):
        return self.value.copy()


class Stream:
    def __init__(self):
        self.waits = 0

    def wait_event(self, event):
        assert event.recorded
        self.waits += 1


class Event:
    recorded = None

    def record(self, stream):
        self.recorded = stream


@pytest.fixture
def device():
    stream = Stream()
    cuda = SimpleNamespace(Event=Event, current_stream=lambda device: stream)
    OnCuda.copies, OnCuda.capturing = 0, False
    return OnCuda(SimpleNamespace(cuda=cuda), "cuda:0"), stream


def table(cache, arrays, steps):
    return cache.get(arrays, (make("euler", steps),), ((0, 0),) * 3, False, False)


def test_a_table_is_copied_to_a_device_once(device):
    arrays, stream = device
    cache = TableCache()
    course, packed = table(cache, arrays, 4)
    np.testing.assert_array_equal(packed, course.packed)
    packed[:] = 0  # a model may write to its times
    again, packed = table(cache, arrays, 4)
    assert again is course
    np.testing.assert_array_equal(packed, course.packed)
    assert OnCuda.copies == 1
    assert stream.waits == 2


def test_tables_used_last_are_kept_and_captured_ones_stay(device):
    arrays, stream = device
    cache = TableCache()
    captured, _ = table(cache, arrays, 2)
    OnCuda.capturing = True
    waits = stream.waits
    assert table(cache, arrays, 2)[0] is captured
    assert stream.waits == waits  # waiting for work outside would break the capture
    OnCuda.capturing = False
    for steps in range(3, 12):
        table(cache, arrays, steps)
    assert OnCuda.copies == 10
    for steps in (2, *range(4, 12)):
        table(cache, arrays, steps)
    assert OnCuda.copies == 10
    table(cache, arrays, 3)
    assert OnCuda.copies == 11


def test_a_first_call_is_no_part_of_a_capture(device):
    arrays, _ = device
    OnCuda.capturing = True
    message = "^Sampler: 'plan' must be on cuda:0 before a CUDA graph is captured, got no call like"
    with pytest.raises(ValueError, match=message):
        table(TableCache(), arrays, 2)


def test_plans_that_mix_are_put_on_the_device_before_the_loop(device, monkeypatch):
    arrays, _ = device
    prepared = []
    monkeypatch.setattr(solver.Plan, "prepare", lambda plan, on: prepared.append((plan, on)))
    plans, cache = (make("euler", 2), make("heun", 3)), TableCache()
    first, _ = cache.get(arrays, plans, ((0, 0), (1, 0)), False, False)
    assert prepared == [(first.plan, "cuda:0"), (first.start, "cuda:0")]
    second, _ = cache.get(arrays, plans, ((1, 0), (0, 0)), False, False)
    assert second.plan is first.plan
    assert second is not first


def test_an_array_in_host_memory_is_refused_during_a_capture(monkeypatch):
    monkeypatch.setattr(Arrays, "on_cuda", True)
    monkeypatch.setattr(Arrays, "capturing", True)
    arrays = Arrays(torch, torch.device("cpu"))
    message = r"^Sampler: 'seeds' must be on cpu while a CUDA graph is captured, got an array in"
    with pytest.raises(ValueError, match=message):
        arrays.convert(np.arange(3), name="seeds")


def test_copies_to_a_device_are_the_callers_memory_no_longer(monkeypatch):
    """Even of pinned memory: the copy may not have begun when the call returns."""

    class Torch:
        def __getattr__(self, name):
            return getattr(torch, name)

        def empty_like(self, tensor, *, pin_memory):
            assert pin_memory
            return torch.empty_like(tensor)

    monkeypatch.setattr(Arrays, "on_cuda", True)
    monkeypatch.setattr(Arrays, "capturing", False)
    given = torch.ones(3)
    copied = Arrays(Torch(), torch.device("cpu")).convert(given)
    given.zero_()
    assert torch.equal(copied, torch.ones(3))


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (torch.zeros(3), "'seeds' must be integers, got torch.float32"),
        (torch.zeros(2, dtype=torch.int64), "'seeds' must have B=3 integers, got [2]"),
    ],
)
def test_tensors_of_seeds_are_checked(seeds, message):
    with pytest.raises(ValueError, match=r"^Sampler: ") as caught:
        Sampler(make("euler"))(lambda x, t: x, SHAPE, seeds=seeds)
    assert message in str(caught.value)


@pytest.mark.parametrize("dtype", ["int64", "int32", "uint8", "uint64"])
def test_seeds_of_any_integer_type_mean_the_same(dtype):
    sampler = Sampler(make("euler"))
    seeds = torch.tensor([1, 2, 200]).to(getattr(torch, dtype))
    ours = sampler(lambda x, t: x / 2, SHAPE, seeds=seeds)
    assert torch.equal(ours, sampler(lambda x, t: x / 2, SHAPE, seeds=[1, 2, 200], device="cpu"))

# SPDX-License-Identifier: Apache-2.0
"""How arrays cross into the library: kinds, read-only and tracked arrays, layouts, messages."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import fewstep

torch = pytest.importorskip("torch")


def plan():
    schedule = fewstep.schedules.karras(0.02, 10.0)
    return fewstep.solver.plan("dpmpp_2m", steps=4, schedule=schedule, prediction="x0")


def arrays(kind, batch=2, per_sample=(3, 5)):
    rng = np.random.default_rng(0)
    state = rng.standard_normal((plan().slots, batch, *per_sample)).astype(np.float32)
    model = rng.standard_normal((batch, *per_sample)).astype(np.float32)
    return (state, model) if kind == "numpy" else (torch.from_numpy(state), torch.from_numpy(model))


def test_numpy_and_torch_give_the_same_bits_and_their_own_kind():
    state_np, model_np = arrays("numpy")
    state_pt, model_pt = arrays("torch")
    assert fewstep.solver.step(plan(), 1, state_np, model_np) is state_np
    assert fewstep.solver.step(plan(), 1, state_pt, model_pt) is state_pt
    np.testing.assert_array_equal(state_np, state_pt.numpy())
    assert isinstance(fewstep.noise.normal([1, 2], (4,)), np.ndarray)
    out = torch.empty(2, 4)
    assert fewstep.noise.normal(torch.tensor([1, 2]), out=out) is out
    np.testing.assert_array_equal(out.numpy(), fewstep.noise.normal([1, 2], (4,)))


def test_a_state_may_be_a_list_of_slots():
    state, model = arrays("numpy")
    slots = [slot.copy() for slot in state]
    fewstep.solver.step(plan(), 1, slots, model)
    fewstep.solver.step(plan(), 1, state, model)
    for slot, expected in zip(slots, state, strict=True):
        np.testing.assert_array_equal(slot, expected)


def test_any_producer_of_dlpack_is_read():
    class Wrapper:
        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **options):
            return self.array.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    class Legacy(Wrapper):
        def __dlpack__(self):
            return self.array.__dlpack__()

    expected, model = arrays("numpy")
    fewstep.solver.step(plan(), 1, expected, model)
    for wrapper in (Wrapper, Legacy):
        state, _ = arrays("numpy")
        fewstep.solver.step(plan(), 1, state, wrapper(model))
        np.testing.assert_array_equal(state, expected)
    with pytest.raises(ValueError, match="'state' must be writable, got an array whose DLPack"):
        fewstep.solver.step(plan(), 1, Legacy(arrays("numpy")[0]), model)


def test_read_only_arrays_are_inputs_only():
    state, model = arrays("numpy")
    model.flags.writeable = False
    fewstep.solver.step(plan(), 1, state, model)
    state.flags.writeable = False
    before = state.copy()
    with pytest.raises(ValueError, match="'state' must be writable, got a read-only array"):
        fewstep.solver.step(plan(), 1, state, model)
    np.testing.assert_array_equal(state, before)


def test_tensors_that_autograd_tracks_are_refused():
    state, model = arrays("torch")
    message = (
        "'model_output' must not require grad: call the model under torch.inference_mode\\(\\) or "
        "torch.no_grad\\(\\), or pass .detach\\(\\)"
    )
    with pytest.raises(ValueError, match=message):
        fewstep.solver.step(plan(), 1, state, model.requires_grad_())
    fewstep.solver.step(plan(), 1, state, model.detach())


def test_tensors_without_storage_are_refused():
    from torch._subclasses.fake_tensor import FakeTensorMode

    state, model = arrays("torch")
    with FakeTensorMode() as mode:
        fake = mode.from_tensor(model)
    with pytest.raises(ValueError, match="'models\\[0\\]' must have data"):
        fewstep.solver.step(plan(), 1, state, fake)


def test_complex_and_integer_model_outputs_are_refused():
    state, model = arrays("torch")
    with pytest.raises(
        ValueError,
        match=("'models\\[0\\]' must have dtype float32 or float16 or bfloat16, got complex64"),
    ):
        fewstep.solver.step(plan(), 1, state, model.to(torch.complex64))
    with pytest.raises(ValueError, match="got int64"):
        fewstep.solver.step(plan(), 1, state, model.to(torch.int64))


def test_what_is_not_an_array_is_a_type_error():
    state, _ = arrays("numpy")
    with pytest.raises(TypeError, match="'model_output' must be an array with __dlpack__, got str"):
        fewstep.solver.step(plan(), 1, state, "abc")


def test_strided_batches_work_and_strided_samples_are_refused():
    state, model = arrays("numpy")
    expected = state.copy()
    fewstep.solver.step(plan(), 1, expected, model)
    wide = np.zeros((4, 3, 5), np.float32)
    wide[::2] = model
    strided = state.copy()
    fewstep.solver.step(plan(), 1, strided, wide[::2])
    np.testing.assert_array_equal(strided, expected)
    with pytest.raises(ValueError, match="must be contiguous after its first dimension"):
        fewstep.solver.step(plan(), 1, state, np.zeros((2, 5, 3), np.float32).transpose(0, 2, 1))


def test_threads_count_is_settable_and_checked():
    try:
        fewstep.set_num_threads(3)
        assert fewstep.get_num_threads() == 3
        with pytest.raises(ValueError, match="'threads' must be 0 or more, got -1"):
            fewstep.set_num_threads(-1)
        assert fewstep.get_num_threads() == 3
    finally:
        fewstep.set_num_threads(0)
    assert fewstep.get_num_threads() >= 1


def test_a_plan_serves_many_threads_at_once():
    shared = plan()
    expected, model = arrays("numpy", batch=1, per_sample=(200_000,))
    fewstep.solver.step(shared, 1, expected, model)
    failures = []

    def work():
        for _ in range(10):
            state, model = arrays("numpy", batch=1, per_sample=(200_000,))
            fewstep.solver.step(shared, 1, state, model)
            if not np.array_equal(state, expected):
                failures.append("another thread changed the result")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda: fewstep.noise.normal([1], (2,), step=-1),
            ValueError,
            "fewstep.noise.normal: 'step' must be in [0, 2**32), got -1",
        ),
        (
            lambda: fewstep.noise.normal([1], (2,), stream=2**32),
            ValueError,
            "fewstep.noise.normal: 'stream' must be in [0, 2**32), got 4294967296",
        ),
        (
            lambda: fewstep.solver.plan("euler", steps=2, schedule=3),
            TypeError,
            "fewstep.solver.plan: 'schedule' must be a Schedule from fewstep.schedules, got int",
        ),
    ],
)
def test_values_that_c_could_not_hold_are_named(call, kind, message):
    with pytest.raises(kind) as caught:
        call()
    assert str(caught.value) == message

# SPDX-License-Identifier: Apache-2.0
"""Which CUDA stream a call asks producers for, told by producers that only claim to be on CUDA.

Every call here is refused before it could start a kernel: the model output has a dtype that the op
does not take.
"""

from __future__ import annotations

import threading
from contextlib import ExitStack
from types import SimpleNamespace

import numpy as np
import pytest

import fewstep
from dlpack_fakes import CUDA_MANAGED, CapsuleArray, ExchangeArray, OldCapsuleArray

PLAN = fewstep.solver.plan(
    "dpmpp_2m", steps=4, schedule=fewstep.schedules.karras(0.02, 10.0), prediction="x0"
)
LEGACY_DEFAULT = 1


@pytest.fixture(autouse=True)
def _no_queries():
    ExchangeArray.queries.clear()
    ExchangeArray.current = 0


def zeros(*shape):
    return np.zeros(shape, np.float32)


def refused_step(state, model, **arguments):
    """Call the op with a model output of int16; it stops at that, or at the missing device."""
    with pytest.raises((ValueError, NotImplementedError)) as caught:
        fewstep.solver.step(PLAN, 1, state, model, **arguments)
    text = str(caught.value)
    assert "'models[0]' must have dtype" in text or "must be on a usable CUDA device" in text, text


def capsules(device=(2, 0)):
    state = CapsuleArray(zeros(2, 2, 3), device)
    return state, CapsuleArray(np.zeros((2, 3), np.int16), device)


def test_the_default_is_the_legacy_stream():
    state, model = capsules()
    refused_step(state, model)
    assert state.asked == [{"max_version": (1, 3), "stream": LEGACY_DEFAULT}]
    assert model.streams == [LEGACY_DEFAULT]


def test_managed_memory_is_on_cuda():
    state, model = capsules((CUDA_MANAGED, 0))
    refused_step(state, model)
    assert state.streams == model.streams == [LEGACY_DEFAULT]


def test_arrays_in_host_memory_are_asked_without_a_stream():
    asked = []

    class Wrapper:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

        def __dlpack__(self, **options):
            asked.append(set(options))
            return self.array.__dlpack__(**options)

    with fewstep.use_stream(77):
        fewstep.solver.step(PLAN, 1, Wrapper(zeros(2, 2, 3)), Wrapper(zeros(2, 3)))
    assert asked == [{"max_version"}] * 2


def test_producers_older_than_dlpack_1_get_the_stream_too():
    state, _ = capsules()
    model = OldCapsuleArray(np.zeros((2, 3), np.int16))
    with fewstep.use_stream(41):
        refused_step(state, model)
    assert model.asked == [{"stream": 41}]


@pytest.mark.parametrize(
    ("stream", "handle"),
    [
        (0, LEGACY_DEFAULT),
        (1, 1),
        (2, 2),
        (np.int64(50), 50),
        (2**64 - 8, 2**64 - 8),
        (SimpleNamespace(__cuda_stream__=lambda: (0, 51)), 51),
        (SimpleNamespace(__cuda_stream__=(0, 52)), 52),
        (SimpleNamespace(cuda_stream=53), 53),
        (SimpleNamespace(ptr=54), 54),
        (SimpleNamespace(__cuda_stream__=lambda: (0, 55), cuda_stream=1, ptr=2), 55),
    ],
)
def test_use_stream_takes_handles_and_streams(stream, handle):
    state, model = capsules()
    with fewstep.use_stream(stream):
        refused_step(state, model)
    assert state.streams == model.streams == [handle]


def test_use_stream_nests_and_ends_with_an_error():
    def asked():
        state, model = capsules()
        refused_step(state, model)
        return state.streams[0]

    with ExitStack() as stack:
        stack.enter_context(fewstep.use_stream(7))
        with fewstep.use_stream(8):
            assert asked() == 8
        with pytest.raises(KeyError), fewstep.use_stream(6):
            raise KeyError
        assert asked() == 7
    assert asked() == LEGACY_DEFAULT


def test_use_stream_holds_for_its_thread_alone():
    seen = []

    def work():
        state, model = capsules()
        refused_step(state, model)
        seen.extend(state.streams)

    with fewstep.use_stream(9):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        work()
    assert seen == [LEGACY_DEFAULT, 9]


def test_noise_runs_on_the_stream_too():
    seeds, out = CapsuleArray(np.zeros(2, np.int64)), CapsuleArray(np.zeros((2, 3), np.int16))
    with fewstep.use_stream(61), pytest.raises((ValueError, NotImplementedError)):
        fewstep._core.noise_normal(seeds, out, 0, 0, 1.0)
    assert seeds.streams == out.streams == [61]


def test_a_tensor_with_the_exchange_api_decides_for_all():
    """Wherever it stands among the arguments: here the arrays asked before it follow it."""
    ExchangeArray.current = 1234
    state, model = capsules()
    seeds = ExchangeArray(np.zeros(2, np.int64))
    refused_step(state, model, seeds=seeds)
    assert state.streams == model.streams == [1234]
    assert (2, 0) in ExchangeArray.queries


def test_the_exchange_api_is_found_in_lists_and_on_the_right_device():
    ExchangeArray.current = 99
    state, model = capsules()
    for device in [(2, 1), (1, 0)]:
        refused_step(state, model, known=ExchangeArray(zeros(2, 3), device))
    assert model.streams == [LEGACY_DEFAULT] * 2
    assert not ExchangeArray.queries
    refused_step([CapsuleArray(zeros(2, 3)), ExchangeArray(zeros(2, 3))], model)
    assert model.streams == [LEGACY_DEFAULT] * 2 + [99]


def test_use_stream_comes_before_the_current_stream():
    ExchangeArray.current = 1234
    state, model = capsules()
    with fewstep.use_stream(5):
        refused_step(state, model, seeds=ExchangeArray(np.zeros(2, np.int64)))
    assert state.streams == [5]
    assert not ExchangeArray.queries


def test_host_tensors_ask_for_no_stream():
    state = ExchangeArray(zeros(2, 2, 3), (1, 0))
    fewstep.solver.step(PLAN, 1, state, ExchangeArray(zeros(2, 3), (1, 0)))
    assert not ExchangeArray.queries


@pytest.mark.parametrize(
    ("stream", "kind", "message"),
    [
        ("abc", TypeError, "must be an int or a CUDA stream, got str"),
        (None, TypeError, "must be an int or a CUDA stream, got NoneType"),
        (True, TypeError, "must be an int or a CUDA stream, got bool"),
        (-1, ValueError, "must be a handle in [0, 2**64), got -1"),
    ],
)
def test_use_stream_refuses(stream, kind, message):
    with pytest.raises(kind) as caught, fewstep.use_stream(stream):
        pass
    assert str(caught.value) == f"fewstep.use_stream: 'stream' {message}"


def test_a_producer_that_fails_is_named():
    class Broken(CapsuleArray):
        def __dlpack_device__(self):
            raise RuntimeError("lost its device")

    class Wrong(CapsuleArray):
        def __dlpack_device__(self):
            return "cuda"

    for broken, text in [(Broken, "lost its device"), (Wrong, "__dlpack_device__")]:
        with pytest.raises(ValueError, match=f"'model_output' must be exportable.*{text}"):
            fewstep.solver.step(PLAN, 1, zeros(2, 2, 3), broken(zeros(2, 3)))


@pytest.mark.skipif(fewstep.info()["cuda"]["built"], reason="says what a build without CUDA lacks")
def test_a_build_without_cuda_says_so():
    message = r"^fewstep_solver_step: this build has no kernel for device type 2"
    for kind in (CapsuleArray, ExchangeArray):
        with pytest.raises(NotImplementedError, match=message):
            fewstep.solver.step(PLAN, 1, kind(zeros(2, 2, 3)), kind(zeros(2, 3)))
    out = ExchangeArray(zeros(2, 3))
    with pytest.raises(NotImplementedError, match=r"^fewstep_noise_normal: this build has no"):
        fewstep._core.noise_normal(ExchangeArray(np.zeros(2, np.int64)), out, 0, 0, 1.0)


@pytest.mark.parametrize("device", ["xyz", "cuda:", "cuda:-1", "cuda:1x", -1, 2**40, True, None])
def test_prepare_refuses_what_names_no_device(device):
    with pytest.raises(ValueError, match="'device' must be an index") as caught:
        PLAN.prepare(device)
    assert str(caught.value).startswith("fewstep.solver.Plan.prepare: ")
    assert str(caught.value).endswith(f", got {device!r}")


def test_prepare_has_nothing_to_do_on_the_cpu():
    torch = pytest.importorskip("torch")
    assert PLAN.prepare("cpu") is None
    assert PLAN.prepare(torch.device("cpu")) is None


@pytest.mark.skipif(fewstep.info()["cuda"]["devices"] > 0, reason="says that there is no device")
@pytest.mark.parametrize("device", ["cuda", "cuda:1", 0])
def test_prepare_says_when_there_is_no_device(device):
    built = fewstep.info()["cuda"]["built"]
    message = (
        "'device' must be on a usable CUDA device, of which this machine has 0, got cuda:"
        if built
        else "in a build without CUDA kernels"
    )
    with pytest.raises(NotImplementedError, match=message):
        PLAN.prepare(device)

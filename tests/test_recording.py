# SPDX-License-Identifier: Apache-2.0
"""The order in which `CudaRecording` calls torch.cuda, told by one that only writes it down."""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import pytest

import fewstep
from fewstep._graph import CudaRecording


class Journal:
    """Stands for torch: what is called, in order, and on which stream."""

    def __init__(self):
        self.log, self.current, self.capture_fails = [], "caller", False
        self.autocast_on = False
        journal = self

        class Stream:
            def __init__(self, name="side", handle=77):
                self.name, self.cuda_stream = name, handle

            def wait_stream(self, other):
                journal.log.append(f"{self.name} waits for {other.name}")

            def wait_event(self, event):
                journal.log.append(f"{self.name} waits for event on {event.on}")

        class Event:
            def record(self, stream):
                self.on = stream.name

        class CUDAGraph:
            def replay(self):
                journal.log.append(f"replay on {journal.current}")

        @contextmanager
        def stream(value):
            before, journal.current = journal.current, value.name
            try:
                yield
            finally:
                journal.current = before

        @contextmanager
        def graph(recorded, *, stream, capture_error_mode):
            assert isinstance(recorded, CUDAGraph)
            assert capture_error_mode == "thread_local"
            journal.log.append("capture begins")
            journal.current = stream.name
            yield
            if journal.capture_fails:
                raise RuntimeError("operation not permitted when stream is capturing")
            journal.log.append("capture ends")

        @contextmanager
        def device(value):
            assert value == "cuda:1"
            yield

        self.caller = Stream("caller", 0)
        self.streams = {"caller": self.caller}
        self.cuda = SimpleNamespace(
            Stream=Stream, Event=Event, CUDAGraph=CUDAGraph, stream=stream, graph=graph,
            device=device, current_stream=lambda device=None: self.streams[self.current],
        )  # fmt: skip

    def is_autocast_enabled(self, device):
        return self.autocast_on

    def get_autocast_dtype(self, device):
        return "bfloat16"

    @contextmanager
    def autocast(self, device, dtype, *, cache_enabled):
        self.log.append(f"autocast {dtype}, cache {cache_enabled}")
        yield


def record(journal):
    def work():
        explicit = fewstep._core.set_stream(None)
        fewstep._core.set_stream(explicit)
        journal.log.append(f"work on {journal.current}, steps on {explicit}")

    return CudaRecording(SimpleNamespace(torch=journal, device="cuda:1"), work)


class Memory:
    def __init__(self):
        self.streams = []

    def record_stream(self, stream):
        self.streams.append(stream.name)


def test_work_runs_once_before_it_is_captured_beside_the_callers_stream():
    journal = Journal()
    with fewstep.use_stream(5):  # which the recording must not follow
        record(journal)
    assert journal.log == [
        "side waits for caller",
        "work on side, steps on 77",
        "capture begins",
        "work on side, steps on 77",
        "capture ends",
        "caller waits for side",
    ]
    assert journal.current == "caller"


def test_autocast_keeps_no_cache_in_a_recording():
    journal = Journal()
    journal.autocast_on = True
    record(journal)
    assert journal.log[1:3] == ["autocast bfloat16, cache False", "work on side, steps on 77"]


def test_a_capture_that_fails_leaves_the_callers_stream_in_order():
    journal = Journal()
    journal.capture_fails = True
    message = "'model' must be capturable with graph=True .*, got operation not permitted"
    with pytest.raises(RuntimeError, match=message):
        record(journal)
    assert journal.current == "caller"
    assert journal.log[-1] == "caller waits for side"
    record_again = Journal()
    record(record_again)  # the lock is free


def test_replays_follow_one_another_on_any_stream():
    journal, memory = Journal(), Memory()
    recording = record(journal)
    other = journal.cuda.Stream("other", 9)
    journal.streams["other"] = other
    del journal.log[:]

    def replay():
        recording.replay(
            [memory], lambda: journal.log.append("fill"), lambda: journal.log.append("drain")
        )

    replay()
    with journal.cuda.stream(other):
        replay()
    replay()
    assert journal.log == [
        "fill", "replay on caller", "drain",
        "other waits for event on caller", "fill", "replay on other", "drain",
        "caller waits for event on other", "fill", "replay on caller", "drain",
    ]  # fmt: skip
    assert memory.streams == ["caller", "other"]


def test_what_surrounds_a_capture_is_checked():
    journal = Journal()
    arrays = SimpleNamespace(on_cuda=True, capturing=False, torch=journal)
    assert CudaRecording.ambient(arrays) is None
    journal.autocast_on = True
    assert CudaRecording.ambient(arrays) == "bfloat16"
    arrays.capturing = True
    message = "^Sampler: 'graph' must be False while a CUDA graph is captured, got True$"
    with pytest.raises(ValueError, match=message):
        CudaRecording.ambient(arrays)

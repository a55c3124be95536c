# SPDX-License-Identifier: Apache-2.0
"""What the benchmark uses of a CUDA device, played by the CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from fewstep.bench import bandwidth, cases, draws, target, timing
from fewstep.bench.timing import EventClock, LaunchClock

SMALL = (2, 4, 8, 8)


class FakeEvent:
    """An event that the host's clock times."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing
        self.at: float | None = None

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        assert self.at is not None, "an event is waited for that nobody recorded"

    def elapsed_time(self, end: FakeEvent) -> float:
        assert self.at is not None
        assert end.at is not None
        return 1e3 * (end.at - self.at)


class FakeCuda:
    """What the benchmark uses of `torch.cuda`; work is done when it is asked for."""

    Event = FakeEvent

    def __init__(self) -> None:
        self.log: list[str] = []
        self.graphs: list[SimpleNamespace] = []

    def get_device_capability(self) -> tuple[int, int]:
        return 9, 0

    def current_device(self) -> int:
        return 0

    def get_device_properties(self, index: int) -> SimpleNamespace:
        assert index == 0
        return SimpleNamespace(L2_cache_size=4096)

    def synchronize(self) -> None:
        self.log.append("synchronize")

    def Stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.log.append("side waits"))

    def current_stream(self) -> Any:
        return SimpleNamespace(wait_stream=lambda other: self.log.append("main waits"))

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        self.log.append("on side")
        yield

    def CUDAGraph(self) -> SimpleNamespace:
        graph = SimpleNamespace(replay=lambda: self.log.append("replay"))
        self.graphs.append(graph)
        return graph

    @contextmanager
    def graph(self, graph: SimpleNamespace) -> Iterator[None]:
        assert graph is self.graphs[-1]
        self.log.append("capture")
        yield


def recorded(function: Callable[[], object]) -> Callable[[], object]:
    """Capture as a device does: a warm-up, then a replay of the same work on the same tensors."""
    function()
    return function


def pretended(monkeypatch: pytest.MonkeyPatch) -> target.Target:
    """Return a CUDA target on the CPU; sizes and times that suit it while the test runs."""
    monkeypatch.setattr(EventClock, "sample_s", 1e-4)
    monkeypatch.setattr(timing, "MAX_ROUNDS", 7)
    monkeypatch.setattr(LaunchClock, "sample_s", 1e-5)
    monkeypatch.setattr(cases, "CUDA_COMPARED", (256,))
    monkeypatch.setattr(cases, "CUDA_LARGE", (256,))
    monkeypatch.setattr(cases, "CUDA_NORMALS", (1001, 4099))
    monkeypatch.setattr(cases, "BROWNIAN", (256, 512))
    monkeypatch.setattr(cases, "COPIED", (1 << 10, 1 << 12))
    monkeypatch.setattr(cases, "MATMUL", 16)
    monkeypatch.setattr(bandwidth, "COPIES", (1 << 10, 1 << 12))
    monkeypatch.setattr(draws, "CHUNK", 1000)
    made = target.cuda(FakeCuda(), torch.device("cpu"))
    return replace(made, capture=recorded)

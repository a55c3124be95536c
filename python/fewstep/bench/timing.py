# SPDX-License-Identifier: Apache-2.0
"""Medians of interleaved runs, on a clock that fits the device."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Protocol

MIN_ROUNDS = 7
MAX_ROUNDS = 300
MAX_CALLS = 4096  # in one sample
RESET_ABOVE = 16  # calls per sample above which a state that grows with every call is reset


@dataclass(frozen=True)
class Timed:
    """A function to time; `reset`, if any, runs outside the timed region."""

    call: Callable[[], object]
    reset: Callable[[], object] | None = None


@dataclass(frozen=True)
class Timing:
    """Microseconds of one call: the median over the samples and the deciles around it."""

    median_us: float
    p10_us: float
    p90_us: float


def each_of(timing: Timing, count: float) -> Timing:
    """Return what one of `count` took."""
    return Timing(timing.median_us / count, timing.p10_us / count, timing.p90_us / count)


class Clock(Protocol):
    """Measures a number of calls in a row.

    Attributes
    ----------
    sample_s : float
        One sample of a short function is as many calls as fill this.
    """

    sample_s: float

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Return how long `calls` calls take."""


class HostClock:
    """The host's clock, for work that is done when the call returns."""

    sample_s = 2e-3

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Return how long `calls` calls take."""
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        return time.perf_counter() - begin


class LaunchClock(HostClock):
    """The host's share of work on a device: until the calls have returned, not until it is done.

    Short samples: a queue that fills up makes the host wait for the device.
    """

    sample_s = 5e-4

    def __init__(self, synchronize: Callable[[], object]) -> None:
        self._synchronize = synchronize

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Return how long the host is busy with `calls` calls."""
        self._synchronize()
        elapsed = super().seconds(call, calls)
        self._synchronize()
        return elapsed


class EventClock:
    """The device's clock, between events on the current stream.

    Parameters
    ----------
    cuda : module
        `torch.cuda`, or what stands for it.
    """

    sample_s = 5e-3  # what the first launch takes to arrive is then a thousandth

    def __init__(self, cuda: Any) -> None:
        self._cuda = cuda

    def seconds(self, call: Callable[[], object], calls: int) -> float:
        """Return how long the device takes for `calls` calls, gaps between them included."""
        begin, end = (self._cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) * 1e-3


def rotated(calls: Sequence[Callable[[], object]]) -> Callable[[], object]:
    """Return a function that makes the calls in turn, one each time: each has tensors of its own.

    Together they are to hold several times the cache, so that each finds its tensors in memory.
    """
    if len(calls) == 1:
        return calls[0]
    turns = cycle(calls)

    def call() -> object:
        return next(turns)()

    return call


def interleaved(
    functions: Mapping[str, Timed], budget_s: float = 1.0, clock: Clock | None = None
) -> dict[str, Timing]:
    """Time functions turn by turn in one process.

    Parameters
    ----------
    functions : mapping of name to Timed
    budget_s : float
        Roughly how long to measure in all; at least seven turns are taken.
    clock : Clock, optional
        The host's by default.

    Returns
    -------
    dict
        For each name its Timing, over the samples during which the process was not interrupted,
        when these are enough.
    """
    clock = clock or HostClock()
    counts: dict[str, int] = {}
    per_turn = 0.0
    for name, timed in functions.items():
        counts[name], seconds = _calls_per_sample(timed.call, clock)
        per_turn += seconds * counts[name]
    rounds = int(min(MAX_ROUNDS, max(MIN_ROUNDS, budget_s / max(per_turn, 1e-9))))
    samples: dict[str, list[tuple[float, bool]]] = {name: [] for name in functions}
    names = list(functions)
    with _without_collections():
        for turn in range(rounds):
            for name in names if turn % 2 == 0 else names[::-1]:
                samples[name].append(_sample(functions[name], counts[name], clock))
    return {name: _timing(values) for name, values in samples.items()}


@contextmanager
def _without_collections() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _calls_per_sample(call: Callable[[], object], clock: Clock) -> tuple[int, float]:
    """Return how many calls fill one sample, and the seconds one call takes."""
    call()
    calls = 1
    while True:
        elapsed = clock.seconds(call, calls)
        if elapsed >= clock.sample_s or calls >= MAX_CALLS:
            return calls, elapsed / calls
        wanted = int(1.1 * calls * clock.sample_s / max(elapsed, 1e-9))
        calls = min(MAX_CALLS, max(2 * calls, wanted))


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _sample(timed: Timed, calls: int, clock: Clock) -> tuple[float, bool]:
    if timed.reset and calls > RESET_ABOVE:
        timed.reset()
    switches = _switches()
    elapsed = clock.seconds(timed.call, calls)
    return elapsed / calls, _switches() != switches


def _timing(values: list[tuple[float, bool]]) -> Timing:
    clean = [seconds for seconds, interrupted in values if not interrupted]
    enough = len(clean) >= max(5, len(values) // 4)
    used = clean if enough else [seconds for seconds, _ in values]
    deciles = statistics.quantiles(used, n=10, method="inclusive")
    return Timing(1e6 * statistics.median(used), 1e6 * deciles[0], 1e6 * deciles[-1])

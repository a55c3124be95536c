# SPDX-License-Identifier: Apache-2.0
"""Medians of interleaved runs."""

from __future__ import annotations

import gc
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

ROUND_S = 2e-3  # one sample of a short function times as many calls as fill this
MIN_ROUNDS = 7
MAX_ROUNDS = 300
RESET_ABOVE = 16  # calls per sample above which a state that grows with every call is reset


@dataclass(frozen=True)
class Timed:
    """A function to time; `reset`, if any, runs outside the timed region."""

    call: Callable[[], object]
    reset: Callable[[], object] | None = None


def _switches() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _calls_per_sample(call: Callable[[], object]) -> tuple[int, float]:
    """Return how many calls fill one sample, and the seconds one call takes."""
    call()
    calls = 1
    while True:
        begin = time.perf_counter()
        for _ in range(calls):
            call()
        elapsed = time.perf_counter() - begin
        if elapsed >= ROUND_S or calls >= 4096:
            return calls, elapsed / calls
        calls = min(4096, max(2 * calls, int(1.1 * calls * ROUND_S / max(elapsed, 1e-9))))


def interleaved(functions: Mapping[str, Timed], budget_s: float = 1.0) -> dict[str, float]:
    """Time functions turn by turn in one process.

    Parameters
    ----------
    functions : mapping of name to Timed
    budget_s : float
        Roughly how long to measure in all; at least seven turns are taken.

    Returns
    -------
    dict
        The median in microseconds for each name, over the samples during which the process was
        not interrupted, when these are enough.
    """
    counts: dict[str, int] = {}
    per_turn = 0.0
    for name, timed in functions.items():
        counts[name], seconds = _calls_per_sample(timed.call)
        per_turn += seconds * counts[name]
    rounds = int(min(MAX_ROUNDS, max(MIN_ROUNDS, budget_s / max(per_turn, 1e-9))))
    samples: dict[str, list[tuple[float, bool]]] = {name: [] for name in functions}
    names = list(functions)
    gc.collect()
    gc.disable()
    try:
        for turn in range(rounds):
            for name in names if turn % 2 == 0 else names[::-1]:
                samples[name].append(_sample(functions[name], counts[name]))
    finally:
        gc.enable()
    return {name: _median_us(values) for name, values in samples.items()}


def _sample(timed: Timed, calls: int) -> tuple[float, bool]:
    if timed.reset and calls > RESET_ABOVE:
        timed.reset()
    call = timed.call
    switches = _switches()
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    elapsed = time.perf_counter() - begin
    return elapsed / calls, _switches() != switches


def _median_us(values: list[tuple[float, bool]]) -> float:
    clean = [seconds for seconds, interrupted in values if not interrupted]
    enough = len(clean) >= max(5, len(values) // 4)
    return 1e6 * statistics.median(clean if enough else [seconds for seconds, _ in values])

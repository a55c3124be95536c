# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: one worker process per instruction set."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import fewstep
from harness import Worker

ISAS = [*fewstep.info()["cpu"]["available"], "cuda_on_host"]


@pytest.fixture(scope="session")
def workers() -> Iterator[dict[str, Worker]]:
    """Workers by instruction set, each started on first use."""

    class Started(dict[str, Worker]):
        def __missing__(self, isa: str) -> Worker:
            self[isa] = Worker(isa)
            return self[isa]

    started = Started()
    yield started
    for worker in started.values():
        worker.close()


@pytest.fixture(params=ISAS)
def worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    """The test runs once per instruction set that this machine has."""
    return workers[request.param]


@pytest.fixture
def all_workers(workers: dict[str, Worker]) -> list[Worker]:
    """One worker per instruction set, for tests that compare them."""
    return [workers[isa] for isa in ISAS]


@pytest.fixture(autouse=True)
def _examples(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace["fewstep"] = fewstep

# SPDX-License-Identifier: Apache-2.0
"""Fixtures shared by all tests: one worker process per backend."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest

import fewstep
from gpu import FACTS, HAS_CUDA
from harness import CUDA, Worker

# A machine that others use stops a test for longer than an example takes.
hypothesis.settings.register_profile("fewstep", deadline=None)
hypothesis.settings.load_profile("fewstep")

# The CUDA kernels' code on the CPU, thread by thread, wherever the tests run; on a GPU where the
# build has its kernels and one is there.
#
# CPU_ISAS is for ops without a CUDA kernel. Of these, those that have a kernel of their own for
# avx512_bf16 or avx512_vnni are tested on it too, where others would run their avx512 kernel again.
AVAILABLE = fewstep.info()["cpu"]["available"]
CPU_ISAS = [i for i in AVAILABLE if i not in ("avx512_vnni", "avx512_bf16")]
ISAS = [*CPU_ISAS, "cuda_on_host"]
BACKENDS = [*ISAS, *([CUDA] if HAS_CUDA else [])]


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With an instruction set forced, run what does not run on every one of them anyway."""
    if not os.environ.get("FEWSTEP_CPU_ISA"):
        return
    own = [item for item in items if "workers" in getattr(item, "fixturenames", ())]
    config.hook.pytest_deselected(items=own)
    kept = set(items) - set(own)
    items[:] = [item for item in items if item in kept]


@pytest.fixture(scope="session")
def workers() -> Iterator[dict[str, Worker]]:
    """Workers by backend, each started on first use."""

    class Started(dict[str, Worker]):
        def __missing__(self, isa: str) -> Worker:
            self[isa] = Worker(isa)
            return self[isa]

    started = Started()
    yield started
    for worker in started.values():
        worker.close()


def marked(backend: str) -> Any:
    """Return a backend as a parameter; CUDA's tests can be chosen with ``-m cuda``."""
    return pytest.param(backend, marks=pytest.mark.cuda if backend == CUDA else ())


@pytest.fixture(params=map(marked, BACKENDS))
def worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    """The test runs once per backend that this machine and this build have."""
    return workers[request.param]


@pytest.fixture(params=CPU_ISAS)
def cpu_worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    """The test runs once per instruction set; for ops that have no CUDA kernel yet."""
    return workers[request.param]


@pytest.fixture(params=[*AVAILABLE, *map(marked, BACKENDS[len(CPU_ISAS) :])])
def dot_worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    """The same for ops with kernels of their own for avx512_vnni and avx512_bf16, and for CUDA."""
    return workers[request.param]


@pytest.fixture(params=[i for i in AVAILABLE if i != "avx512_vnni"])
def bf16_worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    """The same for ops that have a kernel of their own for avx512_bf16."""
    return workers[request.param]


BF16_BACKENDS = [*(i for i in AVAILABLE if i == "avx512_bf16"), *BACKENDS]


@pytest.fixture(params=map(marked, BF16_BACKENDS))
def kernel_worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    """The same for ops that have one and CUDA kernels too."""
    return workers[request.param]


@pytest.fixture(params=[pytest.param(False, id="cpu"), *([marked(CUDA)] if HAS_CUDA else [])])
def all_workers(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> list[Worker]:
    """One worker per backend, for tests that compare them; without and with CUDA."""
    return [workers[isa] for isa in (BACKENDS if request.param else ISAS)]


@pytest.fixture(params=map(marked, ["cuda_on_host", CUDA]))
def cuda_worker(request: pytest.FixtureRequest, workers: dict[str, Worker]) -> Worker:
    """The CUDA kernels: their code on the CPU, and where it can be on a GPU."""
    if request.param == CUDA and not HAS_CUDA:
        pytest.skip("no CUDA device" if FACTS["built"] else "this build has no CUDA kernels")
    return workers[request.param]


@pytest.fixture(autouse=True)
def _examples(doctest_namespace: dict[str, object]) -> None:
    doctest_namespace["fewstep"] = fewstep

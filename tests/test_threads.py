# SPDX-License-Identifier: Apache-2.0
"""Where threads come from, how many, and that a fork does not hang."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest

import fewstep

# Ops on [2, 300000] normals, compared over thread counts; prints the counts asked for.
WORK = """
import numpy as np
import fewstep
def work(threads):
    fewstep.set_num_threads(threads)
    return fewstep.noise.normal([1, 2], (300_000,))
one = work(1)
assert all(np.array_equal(one, work(t)) for t in (2, 3, 16))
fewstep.set_num_threads(0)
print(fewstep.get_num_threads())
"""
TORCH = "import torch\n"


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if "NUM_THREADS" not in k}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def output(code: str, **environment: str) -> str:
    done = run(code, **environment)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize("source", ["own", "borrow", ""])
def test_every_source_of_threads_gives_the_same(source: str) -> None:
    assert int(output(TORCH + WORK, FEWSTEP_THREADS=source)) >= 1
    if source != "borrow":
        assert int(output(WORK, FEWSTEP_THREADS=source)) >= 1


def test_borrowing_needs_a_lender() -> None:
    done = run(WORK, FEWSTEP_THREADS="borrow")
    assert "NotImplementedError: fewstep: 'FEWSTEP_THREADS' must be 'own' or unset" in done.stderr


def test_settings_are_checked() -> None:
    done = run(WORK, FEWSTEP_THREADS="openmp")
    assert "'FEWSTEP_THREADS' must be 'own' or 'borrow', got 'openmp'" in done.stderr
    for value in ("0", "-1", "two", "3x"):
        done = run(WORK, FEWSTEP_NUM_THREADS=value)
        assert f"'FEWSTEP_NUM_THREADS' must be a positive integer, got '{value}'" in done.stderr
    with pytest.raises(ValueError, match="'threads' must be 0 or more, got -1"):
        fewstep.set_num_threads(-1)


def test_default_count() -> None:
    assert output(WORK, FEWSTEP_NUM_THREADS="3", OMP_NUM_THREADS="2") == "3"
    assert output(WORK, OMP_NUM_THREADS="2") == "2"
    assert output(WORK, OMP_NUM_THREADS="5,2") == "5"
    assert output(WORK) == str(len(os.sched_getaffinity(0)))


def test_borrowed_team_keeps_torch_size() -> None:
    code = TORCH + "torch.set_num_threads(1)\nimport fewstep; print(fewstep.get_num_threads())"
    assert output(code) == "1"
    assert output(code, FEWSTEP_NUM_THREADS="4") == "4"


@pytest.mark.parametrize("prepare", ["", TORCH + "torch.randn(10**6).exp()\n"])
def test_fork_after_use(prepare: str) -> None:
    """The child's threads are gone; it must neither wait for them nor give other numbers."""
    code = (
        prepare
        + WORK
        + """
import os, signal
before = work(2)
child = os.fork()
if child == 0:
    signal.alarm(20)
    same = np.array_equal(before, work(2)) and np.array_equal(before, work(2))
    os._exit(0 if same else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(before, work(2))
"""
    )
    output(code)


def test_threads_of_python_share_the_pool() -> None:
    """Calls from several threads at once: one gets the pool, the others work alone."""
    code = (
        WORK
        + """
from concurrent.futures import ThreadPoolExecutor
fewstep.set_num_threads(2)
with ThreadPoolExecutor(4) as executor:
    results = list(executor.map(lambda _: fewstep.noise.normal([1, 2], (300_000,)), range(40)))
assert all(np.array_equal(one, r) for r in results)
"""
    )
    output(code, FEWSTEP_THREADS="own")
    output(TORCH + code)


# A decoder large enough for a team of threads: `work(threads)` has a pass' logits and a chain.
DECODER = """
import numpy as np
import fewstep
from fewstep.decoder import Decoder, Layer
E, D, I, V = 128, 64, 512, 1024
draws = np.random.default_rng(7)
def weight(outputs, inputs):
    return fewstep.linear.pack(draws.normal(0, inputs**-0.5, (outputs, inputs)).astype("f4"))
one = np.ones(E, "f4")
layers = [
    Layer(q=weight(4 * D, E), o=weight(E, 2 * D), gate=weight(I, E), up=weight(I, E),
          down=weight(E, I), norm=one, mlp_norm=one,
          k_cache=np.zeros((1, 64, 1, D), "f4"), v_cache=np.zeros((1, 64, 1, D), "f4"))
    for _ in range(2)
]
table = draws.normal(size=(V, E)).astype("f4")
decoder = Decoder(layers, heads=2, head=weight(V, E), norm=one, embedding=table)
angle = np.arange(64)[:, None] / 100 ** (np.arange(32) / 32)
turn = np.cos(angle).astype("f4"), np.sin(angle).astype("f4")
def work(threads):
    fewstep.set_num_threads(threads)
    given = np.array([0, 30], "i4"), np.array([0], "i4"), *turn
    tokens = np.arange(30)
    logits = fewstep.decoder.run(decoder, np.zeros((30, E), "f4"), *given, tokens=tokens)
    made = fewstep.decoder.chain(decoder, tokens, *given, levels=np.array([6], "i4"))
    return np.concatenate([logits.ravel(), made.ids.ravel(), made.logp.ravel()])
one = work(1)
assert np.isfinite(one).all()
assert all(np.array_equal(one, work(t)) for t in (2, 3, 16, 2))
print(fewstep.get_num_threads())
"""


@pytest.mark.parametrize("source", ["own", "borrow", ""])
def test_a_decoder_has_the_same_bits_with_every_team(source: str) -> None:
    """After a fork too."""
    code = (
        DECODER
        + """
import os, signal
child = os.fork()
if child == 0:
    signal.alarm(20)
    os._exit(0 if np.array_equal(one, work(2)) else 1)
assert os.waitpid(child, 0)[1] == 0
assert np.array_equal(one, work(2))
"""
    )
    output(TORCH + code, FEWSTEP_THREADS=source)


def test_set_num_threads() -> None:
    fewstep.set_num_threads(3)
    assert fewstep.get_num_threads() == 3
    fewstep.set_num_threads(0)
    assert fewstep.get_num_threads() >= 1
    assert np.isfinite(fewstep.noise.normal([1], (4,))).all()

# SPDX-License-Identifier: Apache-2.0
"""FEWSTEP_CPU_ISA forces the kernels, really, or is an error."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

import fewstep

AVAILABLE = fewstep.info()["cpu"]["available"]

SPEED = """
import json, time, numpy as np, fewstep
out = np.empty((1, 1 << 18), np.float32)
times = []
for _ in range(15):
    begin = time.thread_time()
    fewstep.noise.normal(np.array([3]), out=out)
    times.append(time.thread_time() - begin)
print(json.dumps([fewstep.info()["cpu"]["isa"], min(times), out[0, :64].tolist()]))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a process of its own, on one thread."""
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "FEWSTEP_NUM_THREADS": "1", **environment},
    )


def test_the_widest_is_the_default() -> None:
    environment = {k: v for k, v in os.environ.items() if k != "FEWSTEP_CPU_ISA"}
    code = "import fewstep; print(fewstep.info()['cpu']['isa'])"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.strip() == AVAILABLE[-1]


@pytest.mark.parametrize("isa", AVAILABLE)
def test_a_forced_isa_is_named_and_gives_the_same_bits(isa: str) -> None:
    forced = run(SPEED, FEWSTEP_CPU_ISA=isa)
    assert forced.returncode == 0, forced.stderr
    name, _, values = json.loads(forced.stdout)
    assert name == isa
    assert values == json.loads(run(SPEED, FEWSTEP_CPU_ISA="scalar").stdout)[2]


@pytest.mark.skipif("avx2" not in AVAILABLE, reason="this machine has scalar kernels only")
def test_a_forced_isa_is_really_active() -> None:
    """Equal bits cannot tell kernels apart; a third of the time can."""
    seconds = {isa: json.loads(run(SPEED, FEWSTEP_CPU_ISA=isa).stdout)[1] for isa in AVAILABLE}
    assert seconds["scalar"] > 2.0 * seconds["avx2"], seconds


@pytest.mark.parametrize("name", ["sse9", "AVX2", "avx512 "])
def test_an_unknown_isa_is_an_error(name: str) -> None:
    message = f"FEWSTEP_CPU_ISA must be one of {', '.join(AVAILABLE)} on this machine, got '{name}'"
    for call in ("fewstep.info()", "fewstep.noise.normal(np.array([1]), (4,))"):
        result = run(f"import fewstep, numpy as np; {call}", FEWSTEP_CPU_ISA=name)
        assert result.returncode != 0
        assert result.stderr.strip().splitlines()[-1] == f"NotImplementedError: {message}"

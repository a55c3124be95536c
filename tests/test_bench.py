# SPDX-License-Identifier: Apache-2.0
"""What the benchmark times is right, and its output has the agreed form."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fewstep

torch = pytest.importorskip("torch")

from fewstep.bench import machine  # noqa: E402
from fewstep.bench.cases import BARS, CASES, ROW, SHAPES, STEPS  # noqa: E402
from fewstep.bench.engine import Engine, coefficients_of, formula  # noqa: E402
from fewstep.bench.normals import normals  # noqa: E402
from fewstep.bench.rivals.stream import Stream  # noqa: E402
from fewstep.bench.timing import Timed, interleaved  # noqa: E402

SIGMAS = {
    "vp": np.geomspace(15.0, 0.03, STEPS + 1).tolist(),
    "ve": np.geomspace(15.0, 0.03, STEPS + 1).tolist(),
    "flow": np.linspace(1.0, 0.0, STEPS + 1).tolist(),
}
SHAPE = (2, 3, 5)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")


def engine(name: str, guided: bool, dtype: Any) -> Engine:
    """Return a small trajectory of a case."""
    generator = torch.Generator().manual_seed(4)
    batch = SHAPE[0] * (2 if guided else 1)
    x = torch.randn(SHAPE, generator=generator)
    outputs = [torch.randn((batch, *SHAPE[1:]), generator=generator).to(dtype) for _ in range(3)]
    return Engine(CASES[name], SIGMAS[CASES[name].process], x, outputs, guided)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("guided", [False, True], ids=["plain", "cfg"])
@pytest.mark.parametrize("name", CASES)
def test_trajectory_equals_the_float64_formula(name: str, guided: bool, dtype: str) -> None:
    """Every step up to the timed one, noise included."""
    ours = engine(name, guided, getattr(torch, dtype))
    got = ours.run(ROW + 1).double()
    slots = [torch.zeros(SHAPE, dtype=torch.float64) for _ in range(ours.plan.slots)]
    slots[0].copy_(ours.first)
    count = 2 if guided else 1
    for row in range(ROW + 1):
        output = ours.outputs[row % len(ours.outputs)].double()
        numbers = coefficients_of(ours.plan, row, torch.float64)
        formula(ours.plan, row)(numbers, slots, list(output.chunk(count)), None)
        fields = ours.plan.rows[row]
        for operand, weights in zip(fields.output, fields.noise, strict=True):
            if operand < len(slots) and any(weights):
                slots[operand].add_(weights[0] * ours.noise(row).double())
    assert float((got - slots[0]).abs().max()) <= 2e-5 * float(slots[0].abs().max())
    if ours.model_input is not None:
        scale = ours.plan.rows[ROW].next_scale
        wanted = torch.cat([scale * slots[0]] * count)
        difference = (ours.model_input.double() - wanted).abs().max()
        assert float(difference) <= 5e-3 * float(wanted.abs().max())


@pytest.mark.parametrize("name", CASES)
def test_case_equals_diffusers(name: str) -> None:
    pytest.importorskip("diffusers")
    from fewstep.bench.steps import Setting, Sides

    sides = Sides(Setting(CASES[name], 256, "float32", False, 1))
    assert sides.checked() < 2e-5


def test_a_wrong_result_is_not_timed() -> None:
    pytest.importorskip("diffusers")
    from fewstep.bench.rows import WrongResult
    from fewstep.bench.steps import Setting, Sides

    sides = Sides(Setting(CASES["dpmpp_2m"], 256, "float32", False, 1))
    sides.ours.outputs = [1.001 * output for output in sides.ours.outputs]
    with pytest.raises(WrongResult, match=r"dpmpp_2m, n = 256, float32, diffusers: differs by"):
        sides.checked()


@pytest.mark.parametrize("seed", [0, 7, 2**63 + 5])
def test_reference_normals(seed: int) -> None:
    seeds = np.array([seed], np.uint64)
    got = fewstep.noise.normal(seeds, (1001,), step=3, stream=17)[0]
    np.testing.assert_allclose(got, normals(seed, 1001, step=3, stream=17), atol=2e-6)


@pytest.mark.parametrize("bypassing", [False, True])
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("count", [1, 5000, 100_003])
def test_stream_does_all_of_its_work(count: int, threads: int, bypassing: bool) -> None:
    """A limit that skipped elements would flatter the share."""
    x, y, out = torch.rand(count), torch.rand(count), torch.zeros(count)
    loop = Stream([x, y], [out, x], threads)
    loop.timed_bypassing() if bypassing else loop.timed()
    wanted = 0.5 * x + 0.5 * y
    torch.testing.assert_close(loop.kept[out.data_ptr()], wanted)
    torch.testing.assert_close(loop.kept[x.data_ptr()], wanted)


def test_medians_tell_slow_from_fast() -> None:
    small, large = np.ones(10), np.ones(300_000)
    times = interleaved({"slow": Timed(large.sum), "fast": Timed(small.sum)}, budget_s=0.1)
    assert times["slow"].median_us > 3 * times["fast"].median_us > 0
    for timing in times.values():
        assert timing.p10_us <= timing.median_us <= timing.p90_us


def test_bars_speak_of_cases_that_are_measured() -> None:
    names = {*CASES, *(f"{name}_cfg" for name in CASES)}
    for bar in BARS:
        assert bar.case in names
        assert bar.n in SHAPES


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "fewstep", "bench", "solver", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_json() -> None:
    pytest.importorskip("diffusers")
    result = run("--quick", "--json", "--threads", "1", "--case", "ddim", "--case", "normal")
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert set(found) == {"machine", "commit", "rows"}
    assert {"cpu", "cores", "isa", "versions"} <= set(found["machine"])
    assert {row["op"] for row in found["rows"]} == {"solver.step", "noise.normal"}
    for row in found["rows"]:
        keys = {"op", "case", "n", "dtype", "threads", "rival", "ours_us", "rival_us", "ratio"}
        assert keys <= set(row)
        assert row["ratio"] == pytest.approx(row["rival_us"] / row["ours_us"], rel=0.02)
        assert row["ours_us"] > 0


def test_an_unknown_case_is_refused() -> None:
    pytest.importorskip("diffusers")
    result = run("--case", "ddmi")
    assert result.returncode == 2
    assert "'ddmi' is none of ddim," in result.stderr.replace("\n", " ")


def compare(old: Any, new: Any, tmp_path: Any) -> subprocess.CompletedProcess[str]:
    """Run bench/compare.py on two runs of one row each."""
    script = Path(__file__).parents[1] / "bench" / "compare.py"
    names = []
    for name, microseconds in (("old", old), ("new", new)):
        ratio = 100.0 / microseconds
        row = {"op": "o", "case": "c", "V": 1, "dtype": "d", "threads": 1, "rival": "r"}
        row |= {"ours_us": microseconds, "rival_us": 100.0, "ratio": ratio}
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"machine": {}, "commit": None, "rows": [row]}))
        names.append(str(path))
    command = [sys.executable, str(script), *names]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_compare_finds_a_regression(tmp_path: Path) -> None:
    slower = compare(10.0, 15.0, tmp_path)
    assert slower.returncode == 1
    assert "SLOWER  o c V=1 d threads=1 r: 10.0 -> 15.0 us (1.50x)" in slower.stdout
    assert compare(10.0, 11.0, tmp_path).returncode == 0
    assert compare(10.0, 5.0, tmp_path).returncode == 0


SMI = "#!/bin/sh\necho '580.1, 345 MHz, 1980 MHz, 2619 MHz, 3201 MHz, 9.0'\n"


def test_the_gpu_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(SMI)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    properties = SimpleNamespace(
        name="A GPU", major=9, minor=0, multi_processor_count=132, total_memory=1 << 37
    )
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    found = machine.gpu()
    assert found["sm"] == "9.0"
    assert found["l2_bytes"] is None
    assert (found["driver"], found["sm_clock"], found["sm_clock_max"]) == (
        "580.1",
        "345 MHz",
        "1980 MHz",
    )
    tool.write_text("#!/bin/sh\nexit 9\n")
    assert machine.smi() == {}
    tool.unlink()
    assert machine.smi() == {}

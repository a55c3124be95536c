# SPDX-License-Identifier: Apache-2.0
"""The benchmark's CUDA part, every line of it, on a device that is played by the CPU."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import fewstep

torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")
pytest.importorskip("typer")

from typer.testing import CliRunner  # noqa: E402

from fake_cuda import SMALL, FakeCuda, pretended  # noqa: E402
from fewstep.bench import (  # noqa: E402
    bandwidth,
    cases,
    cli,
    draws,
    machine,
    motion,
    solver,
    target,
    trajectory,
)
from fewstep.bench.cases import CASES  # noqa: E402
from fewstep.bench.measure import benchmark  # noqa: E402
from fewstep.bench.report import table  # noqa: E402
from fewstep.bench.rows import Options, WrongResult  # noqa: E402
from fewstep.bench.solver import run  # noqa: E402
from fewstep.bench.steps import Setting, Sides, compare  # noqa: E402
from fewstep.bench.timing import EventClock, LaunchClock, Timed, interleaved, rotated  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> target.Target:
    """A CUDA target on the CPU, and sizes that suit it."""
    return pretended(monkeypatch)


def options(*only: str, quick: bool = False) -> Options:
    return Options(threads=(1,), only=only, quick=quick)


def test_a_target_knows_its_device() -> None:
    made = target.cuda(FakeCuda(), torch.device("cpu"))
    assert made.is_cuda
    assert made.labels == {"device": "cuda", "sm": "9.0"}
    assert made.cache_bytes == 4096
    # Four times the cache, and never the same tensors twice in a row.
    assert [made.sets(n) for n in (1, 1000, 4096, 10**9)] == [16384, 17, 4, 2]
    assert target.cpu().sets(1000) == 1


def test_capture_warms_up_on_a_stream_of_its_own() -> None:
    fake = FakeCuda()
    calls = []
    replay = target.captured(lambda: calls.append(1), fake)
    assert fake.log == ["side waits", "on side", "main waits", "synchronize", "capture"]
    assert len(calls) == 2
    replay()
    assert fake.log[-1] == "replay"
    assert len(calls) == 2, "a replay does not call the function"


def test_events_time_the_calls_between_them() -> None:
    clock = EventClock(FakeCuda())
    wait = partial(time.sleep, 2e-3)
    assert 8e-3 <= clock.seconds(wait, 4) < 1.0
    assert interleaved({"wait": Timed(wait)}, 0.01, clock)["wait"].median_us >= 2000


def test_launches_wait_outside_the_timed_region() -> None:
    log: list[str] = []
    LaunchClock(lambda: log.append("wait")).seconds(lambda: log.append("call"), 2)
    assert log == ["wait", "call", "call", "wait"]


def test_rotation_takes_turns() -> None:
    log: list[int] = []
    call = rotated([lambda i=i: log.append(i) for i in range(3)])  # type: ignore[misc]
    for _ in range(7):
        call()
    assert log == [0, 1, 2, 0, 1, 2, 0]


def test_steps_are_compared(device: target.Target) -> None:
    rows = compare(Setting(CASES["dpmpp_2m"], 256, "bfloat16", True, 1), options(), device)
    assert [row["rival"] for row in rows] == ["diffusers"]
    assert rows[0]["device"] == "cuda"
    assert rows[0]["sm"] == "9.0"
    assert "threads" not in rows[0]
    assert rows[0]["cold"] is False


def test_large_steps_take_their_tensors_in_turn(
    device: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fewstep.bench import steps

    made = []
    monkeypatch.setattr(steps, "STREAM_FROM", 1)
    monkeypatch.setattr(steps, "Sides", lambda *a: made.append(Sides(*a)) or made[-1])
    rows = steps.compare(Setting(CASES["ddim"], 256, "float32", False, 1), options(), device)
    assert rows[0]["cold"] is True
    assert len(made) == device.sets(made[0].ours.bytes_moved(cases.ROW)) > 2


def test_bandwidth_is_a_share_of_the_better_copy(device: target.Target) -> None:
    rows = list(bandwidth.bandwidth(options("dpmpp_2m", "dpmpp_2m_cfg"), device))
    assert [(row["case"], row["dtype"], row["cold"]) for row in rows] == [
        ("dpmpp_2m", "float32", True),
        ("dpmpp_2m", "float32", False),
        ("dpmpp_2m_cfg", "bfloat16", True),
        ("dpmpp_2m_cfg", "bfloat16", False),
    ]
    for row in rows:
        assert row["limit"] == row["rival"] == "copy"
        assert row["share"] == pytest.approx(row["rival_us"] / row["ours_us"], rel=0.02, abs=1e-3)
        # Only cold numbers meet a bar.
        assert ("bar" in row) == row["cold"]
    moved = 4 * 256 * 5  # two slots and a model output read, two slots written
    assert rows[0]["gb_per_s"] == pytest.approx(moved / rows[0]["ours_us"] / 1e3, abs=0.01)


def test_normals_are_compared_bit_by_bit(device: target.Target) -> None:
    rows = list(draws.draws(options("normal"), device))
    assert [(row["n"], row["dtype"], row["equal_bits"]) for row in rows] == [
        (n, dtype, n) for n in (1001, 4099) for dtype in ("float32", "float16", "bfloat16")
    ]
    assert [row["n"] for row in rows if "bar" in row] == [4099]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("at", [0, 999, 1000, 4098])
def test_one_wrong_bit_is_found(device: target.Target, dtype: str, at: int) -> None:
    kind = getattr(torch, dtype)
    drawn = torch.empty((1, 4099), dtype=kind)
    fewstep.noise.normal(torch.tensor([draws.SEED]), out=drawn)
    assert draws.equal_bits(drawn) == 4099
    drawn.view(torch.int32 if dtype == "float32" else torch.int16)[0, at] ^= 1
    with pytest.raises(WrongResult, match=rf"element {at} is .* 1 differ in its part"):
        draws.equal_bits(drawn)


def test_brownian_increments_are_those_of_the_device(device: target.Target) -> None:
    pytest.importorskip("torchsde")
    rows = list(motion.motion(options(), device))
    assert [row["n"] for row in rows] == list(cases.BROWNIAN)
    for row in rows:
        assert (row["device"], row["rival"]) == ("cuda", "torchsde")
        assert row["difference"] < motion.TOLERANCE
        assert "bar" not in row


def test_one_failure_does_not_stop_the_rest(device: target.Target) -> None:
    def broken(*_: object) -> Iterator[dict[str, Any]]:
        yield {"op": "before"}
        raise WrongResult("differs by 1")

    good = {"op": "after"}
    run = benchmark(lambda *_: iter([("bad", partial(broken)), ("good", lambda: [good])]))
    rows = run(options(), lambda _: None, device)
    assert [row["op"] for row in rows] == ["before", "failed", "after"]
    assert rows[1]["reason"] == "WrongResult: differs by 1"
    assert rows[1]["failed"] is True
    with pytest.raises(WrongResult):
        run(options(), lambda _: None, target.cpu())


def test_run_measures_every_part_and_keeps_rows_as_it_goes(
    device: target.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, **_: function)
    monkeypatch.setattr("fewstep.bench.solver.trajectory", lambda o, t: _short(o, t))
    kept: list[int] = []
    said: list[str] = []
    rows = run(options(quick=True), said.append, device, lambda rows: kept.append(len(rows)))
    assert kept == list(range(1, len(rows) + 1))
    ops = {"torch", "solver.step", "noise.normal", "noise.brownian"}
    assert {row["op"] for row in rows} == ops
    assert {"matmul", "copy", "normal", "host_overhead", trajectory.NAME} <= {
        row["case"] for row in rows
    }
    assert said[:3] == ["ceilings", "bandwidth", "trajectory"]
    assert len(table(rows).rows) == len(rows)
    matmul = next(row for row in rows if row["case"] == "matmul")
    assert matmul["tflops"] == pytest.approx(2 * 16**3 / matmul["rival_us"] / 1e6, abs=0.1)


def _short(given: Options, device: target.Target) -> Iterator[dict[str, Any]]:
    return trajectory.trajectory(given, device, SMALL)


def test_scripts_read_rows_of_a_device(device: target.Target, tmp_path: Path) -> None:
    rows = list(bandwidth.bandwidth(options("ddim"), device))
    rows += list(draws.draws(options(quick=True), device))
    machine = {
        "gpu": {"name": "A GPU", "sm": "9.0"},
        "cpu": "A CPU",
        "cores": 1,
        "isa": "scalar",
        "versions": {"torch": "2"},
    }
    path = tmp_path / "run.json"
    path.write_text(json.dumps({"machine": machine, "commit": None, "rows": rows}))
    scripts = Path(__file__).parents[1] / "bench"
    for script, arguments in (("summary.py", [path]), ("compare.py", [path, path])):
        result = subprocess.run(
            [sys.executable, str(scripts / script), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, result.stderr
        if script == "summary.py":
            assert result.stdout.startswith("A GPU (sm_90), torch 2, diffusers None:")
            assert result.stdout.count("| `ddim` | 256 | float32 | cuda | copy |") == 1
        else:
            assert f"{len(rows)} rows compared, 0 slower, 0 missing" in result.stdout


def test_the_command_measures_a_device(
    device: target.Target, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(cli, "_target", lambda *_: device)
    monkeypatch.setattr(machine, "gpu", lambda: {"name": "A GPU", "sm": "9.0"})
    out = tmp_path / "bench.json"
    arguments = ["solver", "--device", "cuda", "--case", "normal", "--out", str(out)]
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text())
    assert found["machine"]["gpu"] == {"name": "A GPU", "sm": "9.0"}
    assert {row["case"] for row in found["rows"]} == {"normal"}

    def wrong(*_: object) -> list[dict[str, Any]]:
        raise WrongResult("differs by 1")

    monkeypatch.setattr(solver, "draws", wrong)
    result = CliRunner().invoke(cli.app, arguments)
    assert result.exit_code == 1
    assert "bench solver: normals: WrongResult: differs by 1" in result.output
    assert [row["failed"] for row in json.loads(out.read_text())["rows"]] == [True]


@pytest.mark.skipif("torch.cuda.is_available()", reason="this machine has a GPU")
def test_a_device_that_is_not_there_is_refused() -> None:
    for name, message in (("cuda", "bench solver: "), ("tpu", "'tpu' is none of cpu, cuda")):
        result = subprocess.run(
            [sys.executable, "-m", "fewstep", "bench", "solver", "--device", name],
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 2
        assert message in result.stderr.replace("\n", " ")

# SPDX-License-Identifier: Apache-2.0
"""``fewstep gpu-check``: what it builds, its report, and the command without a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import fewstep
from fewstep.gpu_check import build, check, cli, facts
from fewstep.gpu_check.report import Report, bar_of, bars_table, measured_table
from fewstep.gpu_check.section import Check, Outcome, Section

ROOT = Path(__file__).resolve().parents[1]


# The build


def test_the_checkout_is_found() -> None:
    assert build.find_source(Path(__file__)) == ROOT
    assert build.find_source(Path("/"), ROOT / "csrc" / "core") == ROOT
    assert build.find_source(Path("/")) is None


@pytest.mark.parametrize(
    ("capability", "name"),
    [("9.0", "90a-real"), ("8.0", "80-real"), ("10.0", "100-real"), ("12.0", "120-real")],
)
def test_machine_code_is_for_the_gpu(capability: str, name: str) -> None:
    assert build.architecture(capability) == name


def test_a_tool_is_found_in_cudas_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = tmp_path / "bin" / "a-tool-of-cuda"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    assert build.find_tool(tool.name) is None
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build.find_tool(tool.name) == str(tool)
    monkeypatch.delenv("CUDA_HOME")
    monkeypatch.setenv("CUDACXX", str(tool))
    assert build.find_tool("nvcc", "CUDACXX") == str(tool)


def test_a_missing_compiler_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    have = {"cmake": "/bin/cmake"}
    monkeypatch.setattr(build, "find_tool", lambda name, *_: have.get(name))
    with pytest.raises(build.BuildError, match="nvcc is not in PATH, CUDACXX or CUDA_HOME/bin"):
        build.configuration(ROOT, tmp_path, "9.0")
    have.clear()
    with pytest.raises(build.BuildError, match="cmake is missing"):
        build.configuration(ROOT, tmp_path, "9.0")


def test_what_is_built_is_what_a_child_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where an editable install would come first."""
    monkeypatch.setattr(build, "configuration", lambda *_: ["cmake", "-S", "x"])
    commands: list[list[str]] = []

    def install(command: list[str]) -> int:
        commands.append(command)
        return 0

    site = build.build(ROOT, tmp_path / "b", "9.0", install)
    assert [command[1] for command in commands] == ["-S", "--build", "--install"]
    core = next(Path(fewstep.info()["include_dir"]).parent.glob("_core*.so"))
    for path in (core, core.parent / "lib"):
        (site / "fewstep" / path.name).symlink_to(path)
    result = subprocess.run(
        [sys.executable, "-c", "import fewstep; print(fewstep.__file__)"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **build.child_environment(site)},
    )
    assert result.stdout.strip() == str(site / "fewstep" / "__init__.py")
    with pytest.raises(build.BuildError, match=r"'cmake -S x ...' failed"):
        build.build(ROOT, tmp_path / "b", "9.0", lambda command: 1)


# The report


def row(**changes: Any) -> dict[str, Any]:
    """A row of the benchmark that decides the first bar."""
    head = {"op": "solver.step", "case": "ddim", "n": 1 << 24, "dtype": "float32", "rival": "copy"}
    times = {"ours_us": 50.0, "rival_us": 46.0, "ratio": 0.92, "gb_per_s": 4000.0}
    return {**head, **times, "limit": "copy", "share": 0.92, "bar": 0.9, "met": True, **changes}


def test_the_worst_row_decides_a_bar() -> None:
    from fewstep.bench.claims import CLAIMS

    rows = [row(), row(case="unipc_3", share=0.85, met=False), row(share=0.5, cold=False)]
    del rows[2]["bar"]  # a warm number: it stands beside, and decides nothing
    bar = bar_of(CLAIMS[0], rows)
    assert (bar["state"], bar["measured"], bar["row"]["case"]) == ("missed", 0.85, "unipc_3")
    assert bar_of(CLAIMS[0], rows[:1])["state"] == "met"
    assert bar_of(CLAIMS[1], rows)["state"] == "not measured"
    text = "\n".join(bars_table(rows))
    assert "| 90 % | 85 % | 50 us | 46 us | missed |" in text
    assert text.count("not measured") == len(CLAIMS) - 1
    assert "92 % of copy" in measured_table(rows)[2]


def test_rows_of_decoding_have_sizes_by_their_letters() -> None:
    head = {"op": "tree.attention", "case": "tree", "T": 64, "L": 4096, "dtype": "bfloat16"}
    times = {"rival": "copy", "ours_us": 50.0, "rival_us": 46.0, "ratio": 0.92, "share": 0.92}
    line = measured_table([head | times])[2]
    assert line.startswith("| tree.attention | `tree` | T=64 L=4096 | bfloat16 | copy |")
    assert "92 % of copy" in line


def test_every_bar_of_the_benchmark_is_in_the_report() -> None:
    from fewstep.bench import cases
    from fewstep.bench.claims import CLAIMS

    least = [claim.least for claim in CLAIMS]
    bars = [cases.COPY_BAR, *cases.TRAJECTORY_BARS.values(), cases.CUDA_NORMAL_BAR]
    bars += [cases.CYCLE_BAR, *cases.ATTENTION_BARS.values(), *cases.VERIFY_BARS.values()]
    assert least == [*bars, cases.SAMPLE_BAR, cases.SAMPLE_BAR, cases.COMMIT_BAR]


def test_the_report_is_written_after_each_section(tmp_path: Path) -> None:
    seen: list[str] = []

    def second(given: Check, limit_s: float) -> Outcome:
        seen.append((tmp_path / "report.md").read_text())
        found = json.loads((tmp_path / "report.json").read_text())
        states = [section["state"] for section in found["sections"]]
        assert states == ["failed", "skipped", "skipped"]
        return Outcome("passed", "", {"rows": [row()]})

    failed = Outcome("failed", "1 of 2 tests", {"failed": [("test_x::test_y", "1 | 2")]})
    sections = (
        Section("a", "the tests", 50, lambda *_: failed),
        Section("b", "the benchmark", 50, second),
        Section("c", "the last", 50, lambda *_: Outcome("skipped", "not here")),
    )
    report = Report(tmp_path, check.head(ROOT, "as installed"), sections, {})
    check.carry_out(report, Check(tmp_path, None, False, time.monotonic() + 100), lambda line: None)
    assert "| the benchmark | skipped | 0 | not reached |" in seen[0]
    text = (tmp_path / "report.md").read_text()
    assert "| the tests | failed | 0 | 1 of 2 tests |" in text
    assert "- `test_x::test_y`" in text
    assert "92 % | 50 us | 46 us | met" in text
    assert not report.is_fine
    assert not list(tmp_path.glob("*.part"))
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["bars"][0]["state"] == "met"
    assert {"date", "commit", "build"} <= set(found)


# The command


def command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fewstep", "gpu-check", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


HAS_GPU = build.compute_capability() is not None


@pytest.mark.skipif(HAS_GPU, reason="says what happens without a GPU")
def test_without_a_gpu_one_line_says_so(tmp_path: Path) -> None:
    result = command("--out", str(tmp_path))
    assert result.returncode == 2
    assert result.stderr.startswith("fewstep gpu-check: no GPU: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


def test_a_dry_run_reports_that_nothing_was_measured(tmp_path: Path) -> None:
    result = command("--dry-run", "--out", str(tmp_path))
    assert result.returncode == 0, result.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert {section["state"] for section in found["sections"]} == {"not measured"}
    assert {bar["state"] for bar in found["bars"]} == {"not measured"}
    reason = "dry run" if HAS_GPU else "no CUDA device"
    assert {section["reason"] for section in found["sections"]} == {reason}
    assert (tmp_path / "report.md").read_text().startswith("# fewstep on a GPU\n")


class Left(Exception):
    """In place of becoming another program."""


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A GPU, and a build without kernels for it; what was run is returned."""
    seen: dict[str, Any] = {}

    def become(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        seen.update(arguments=arguments, environment=environment)
        raise Left

    info = fewstep.info()
    lacking = {**info, "cuda": {"built": False, "devices": 1}}
    monkeypatch.setattr(build, "compute_capability", lambda: "9.0")
    monkeypatch.setattr(fewstep, "info", lambda: lacking)
    monkeypatch.setattr(os, "execve", become)
    return seen


def invoke(*arguments: str) -> Any:
    app = typer.Typer()
    app.command()(cli.gpu_check)
    return CliRunner().invoke(app, list(arguments))


def test_missing_kernels_are_built_and_the_build_takes_over(
    pretended: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def building(source: Path, folder: Path, capability: str, perform: Any) -> Path:
        assert (source, folder) == (ROOT, ROOT / "build" / "gpu-check-90a-real")
        assert perform([sys.executable, "-c", "print('compiled')"]) == 0
        return tmp_path / "site"

    monkeypatch.setattr(build, "build", building)
    monkeypatch.setenv("PYTHONPATH", "before")
    result = invoke("--out", str(tmp_path), "--quick", "--budget", "100", "--commit", "abc")
    assert isinstance(result.exception, Left), result.output
    assert "compiled" in (tmp_path / "build.log").read_text()
    arguments = pretended["arguments"]
    assert arguments[1:4] == ["-m", "fewstep", "gpu-check"]
    given = dict(zip(arguments[4:-3:2], arguments[5:-3:2], strict=True))
    assert given["--out"] == str(tmp_path)
    assert given["--built"].startswith("90a-real, built in ")
    assert 60 < float(given["--ends-at"]) - time.time() < 100
    assert arguments[-3:] == ["--quick", "--commit", "abc"]
    assert pretended["environment"]["PYTHONPATH"] == f"{tmp_path / 'site'}{os.pathsep}before"


def test_a_build_that_fails_is_refused(
    pretended: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "configuration", lambda *_: ["false"])
    result = invoke("--out", str(tmp_path))
    assert result.exit_code == 2
    assert "fewstep gpu-check: 'false ...' failed" in result.output
    assert not pretended


def test_the_exit_status_says_whether_all_that_ran_passed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    built = {**fewstep.info(), "cuda": {"built": True, "devices": 1}}
    monkeypatch.setattr(build, "compute_capability", lambda: "9.0")
    monkeypatch.setattr(fewstep, "info", lambda: built)
    for states, code in (
        (("passed", "skipped"), 0),
        (("passed", "failed", "passed"), 1),
        (("passed", "cut"), 1),
    ):
        sections = tuple(
            Section(f"s{i}", f"S{i}", 50, lambda *_, state=state: Outcome(state))
            for i, state in enumerate(states)
        )
        monkeypatch.setattr(cli, "SECTIONS", sections)
        result = invoke("--out", str(tmp_path))
        assert result.exit_code == code, result.output
        found = json.loads((tmp_path / "report.json").read_text())
        assert [section["state"] for section in found["sections"]] == list(states)


def test_the_machine_is_described(tmp_path: Path) -> None:
    outcome = facts.facts(Check(tmp_path, ROOT, False, time.monotonic() + 100), 60)
    assert outcome.data["machine"]["cores"] >= 1, outcome
    assert set(outcome.data["tools"]) == {"nvcc", "compute-sanitizer"}
    if not HAS_GPU:
        assert (outcome.state, outcome.reason) == ("failed", "torch sees no CUDA device")
    assert facts.judged(0, False, 'noise\nfacts: {"gpu": 1}\n').state == "passed"
    assert facts.judged(-11, False, "").state == "failed"
    assert facts.judged(-9, True, "").state == "cut"
    assert facts.judged(0, False, 'facts: {"problem": "x"}').reason == "x"


@pytest.mark.skipif(HAS_GPU, reason="a GPU is pretended")
@pytest.mark.skipif(fewstep.info()["cuda"]["built"], reason="needs a build without CUDA kernels")
def test_a_build_that_cannot_start_is_refused(tmp_path: Path) -> None:
    smi = tmp_path / "nvidia-smi"
    smi.write_text("#!/bin/sh\necho 9.0\n")
    smi.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    result = command("--out", str(tmp_path), "--built", "somewhere", PATH=path)
    assert result.returncode == 2
    assert "the build in somewhere is not what Python imports" in result.stderr

# SPDX-License-Identifier: Apache-2.0
"""The command line."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

pytest.importorskip("typer")
pytest.importorskip("rich")

from typer.testing import CliRunner

import fewstep
from fewstep.bench.decode._table import table as decode_table
from fewstep.cli import _show
from fewstep.cli.app import app


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments))


def test_info():
    result = run("info")
    assert result.exit_code == 0
    assert fewstep.__version__ in result.stdout
    assert fewstep.info()["cpu"]["isa"] in result.stdout
    assert json.loads(run("info", "--json").stdout) == fewstep.info()


def test_plan_table():
    result = run("plan", "unipc", "--steps", "5", "--order", "3")
    assert result.exit_code == 0, result.output
    assert "5 model calls" in result.stdout
    assert result.stdout.count("xi") == 1  # the legend alone
    stochastic = run("plan", "ddpm", "--steps", "5", "--schedule", "vp_linear")
    assert stochastic.stdout.count("xi") > 1


def test_tables_are_whole_where_nobody_sees_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    row = {"op": "o" * 50, "case": "c" * 50, "rival": "r" * 50, "ours_us": 1.0, "rival_us": 2.0}
    shown = decode_table([row | {"ratio": 2.0, "V": 10**9}])
    _show.out().print(shown)
    piped = capsys.readouterr().out
    assert all(word in piped for word in ("o" * 50, "c" * 50, "r" * 50, "V=1000000000"))
    monkeypatch.setenv("COLUMNS", "90")
    _show.out().print(shown)
    folded = capsys.readouterr().out
    assert max(map(len, folded.splitlines())) <= 90
    assert "\u2026" not in folded  # nothing is cut off


def test_plan_json_is_the_plan():
    result = run(
        "plan", "dpmpp_2m_sde", "--steps", "4", "--json", "--prediction", "v",
        "--schedule", "karras:sigma_min=0.1,sigma_max=20,process=vp", "--option", "eta=0.5",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    schedule = fewstep.schedules.karras(0.1, 20.0, process="vp")
    plan = fewstep.solver.plan("dpmpp_2m_sde", steps=4, schedule=schedule, prediction="v", eta=0.5)
    assert fewstep.solver.Plan.from_json(result.stdout) == plan


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("plan", "unipcc"), "got unipcc; near: unipc"),
        (("plan", "dpmp_2m"), "dpmpp_2m"),
        (("plan", "unipc", "--schedule", "karas"), "got karas; near: karras"),
        (("plan", "unipc", "--schedule", "karras:sigma=3"), "sigma"),
        (("plan", "unipc", "--schedule", "karras:sigma_max"), "must be KEY=VALUE, got sigma_max"),
        (("plan", "unipc", "--option", "etaa=3"), "etaa"),
        (("plan", "unipc", "--steps", "0"), "steps"),
        (("plan", "unipc", "--prediction", "eps"), "near: epsilon"),
        (("demo", "image", "--solver", "dpmpp2m"), "near: dpmpp_2m"),
        (("demo", "image", "--samples", "7"), "'samples' must be a multiple of 10"),
    ],
)
def test_wrong_names_are_refused(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_demo_image_in_a_process(tmp_path):
    """Stdout holds one JSON object and nothing else."""
    pytest.importorskip("sklearn")
    result = subprocess.run(
        [sys.executable, "-m", "fewstep", "demo", "image", "--json", "--steps", "4",
         "--samples", "100", "--out", str(tmp_path)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(result.stdout)
    assert figures["settings"]["steps"] == 4
    assert {line["solver"] for line in figures["solvers"]} >= {"unipc", "euler", "dpmpp_2m"}
    assert (tmp_path / "digits.png").is_file()


def test_demo_image_table(tmp_path):
    pytest.importorskip("sklearn")
    result = run("demo", "image", "--steps", "3", "--samples", "100", "--out", str(tmp_path))
    assert result.exit_code == 0, result.output
    for word in ("unipc", "flow_heun", "RMS", "Frechet", "real against real"):
        assert word in result.stdout


def test_hint_without_the_extra(tmp_path):
    """Without typer the command says what to install."""
    (tmp_path / "typer.py").write_text("raise ImportError('no typer', name='typer')")
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from fewstep.cli import main; main()"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 2
    assert result.stderr == "fewstep: the command line needs typer: pip install fewstep[demo]\n"

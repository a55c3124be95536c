# SPDX-License-Identifier: Apache-2.0
"""``fewstep gpu-check`` without a GPU: its deadlines and its judgements."""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from fewstep.gpu_check import sanitizer, suite
from fewstep.gpu_check.process import Finished, run
from fewstep.gpu_check.section import Check, Outcome, Section, perform

ROOT = Path(__file__).resolve().parents[1]


def made(tmp_path: Path, seconds: float = 100.0, source: Path | None = None) -> Check:
    return Check(tmp_path, source, False, time.monotonic() + seconds)


# Children and deadlines


def test_a_child_ends_by_itself(tmp_path: Path) -> None:
    code = "import os, sys; print(os.environ['GIVEN']); sys.exit(3)"
    log = tmp_path / "log"
    child = run([sys.executable, "-c", code], 60, log, environment={"GIVEN": "here"})
    assert (child.code, child.cut, child.output) == (3, False, "here\n")
    assert log.read_text() == "here\n"


@pytest.mark.parametrize("background", [False, True])
def test_a_child_is_interrupted_at_its_deadline_and_keeps_what_it_wrote(
    tmp_path: Path, background: bool
) -> None:
    """Also where this process ignores interrupts, as one does that a shell runs with ``&``."""
    code = """
import time
print('begun', flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print('written at the end', flush=True)
"""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN) if background else None
    try:
        child = run([sys.executable, "-c", code], 6, tmp_path / "log")
    finally:
        if background:
            signal.signal(signal.SIGINT, before)
    assert child.cut
    assert child.seconds < 30
    assert child.output == "begun\nwritten at the end\n"


def test_a_child_that_does_not_listen_is_killed_with_its_own_children(tmp_path: Path) -> None:
    code = """
import signal, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
print(other.pid, flush=True)
time.sleep(600)
"""
    child = run([sys.executable, "-c", code], 6, tmp_path / "log")
    assert child.cut
    assert child.code < 0
    for _ in range(100):
        state = Path(f"/proc/{child.output.strip()}/stat")
        if not state.exists() or state.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    pytest.fail("a child's child is still there")


def test_a_section_gets_no_more_than_what_is_left(tmp_path: Path) -> None:
    limits: list[float] = []

    def work(given: Check, limit_s: float) -> Outcome:
        limits.append(limit_s)
        return Outcome("passed")

    assert perform(Section("a", "a", 50, work), made(tmp_path)).state == "passed"
    assert perform(Section("a", "a", 50, work), made(tmp_path, 20)).state == "passed"
    assert limits[0] == 50
    assert 15 < limits[1] <= 20
    late = perform(Section("a", "a", 50, work), made(tmp_path, 5))
    assert (late.state, late.reason, len(limits)) == ("skipped", "no time was left", 2)


def test_a_section_that_raises_has_failed(tmp_path: Path) -> None:
    def work(given: Check, limit_s: float) -> Outcome:
        raise ValueError("what went wrong")

    outcome = perform(Section("a", "a", 50, work), made(tmp_path))
    assert (outcome.state, outcome.reason) == ("failed", "ValueError: what went wrong")


# pytest's report

TESTS = """
import pytest
def test_passes(): pass
def test_fails(): assert 1 == 2, "one is not two"
@pytest.mark.skip(reason="why")
def test_skipped(): pass
@pytest.fixture
def broken(): raise OSError("no such thing")
def test_errs(broken): pass
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A checkout with a few tests, one of them for CUDA."""
    folder = tmp_path / "project"
    (folder / "tests").mkdir(parents=True)
    (folder / "pyproject.toml").write_text("[tool.pytest.ini_options]\nmarkers = ['cuda']\n")
    return folder


def test_tests_are_counted(project: Path, tmp_path: Path) -> None:
    (project / "tests" / "test_some.py").write_text(TESTS)
    outcome = suite.other_tests(made(tmp_path, source=project), 60)
    assert (outcome.state, outcome.reason) == ("failed", "2 of 4 tests")
    numbers = [outcome.data[k] for k in ("tests", "passed", "failures", "errors", "skipped")]
    assert numbers == [4, 1, 1, 1, 1]
    names = [name.rpartition("::")[2] for name, _ in outcome.data["failed"]]
    assert names == ["test_fails", "test_errs"]
    assert "one is not two" in outcome.data["failed"][0][1]


def test_tests_of_cuda_must_have_run(project: Path, tmp_path: Path) -> None:
    test = project / "tests" / "test_some.py"
    test.write_text("def test_passes(): pass\n")
    none = suite.cuda_tests(made(tmp_path, source=project), 60)
    assert none.state == "failed", none
    test.write_text("import pytest\n@pytest.mark.cuda\ndef test_it(): pytest.skip('no GPU')\n")
    skipped = suite.cuda_tests(made(tmp_path, source=project), 60)
    assert (skipped.state, skipped.reason) == ("failed", "no test ran")
    test.write_text("import pytest\n@pytest.mark.cuda\ndef test_it(): pass\n")
    assert suite.cuda_tests(made(tmp_path, source=project), 60).state == "passed"


def test_tests_that_take_too_long_are_cut_and_counted(project: Path, tmp_path: Path) -> None:
    text = "import time\ndef test_a(): pass\ndef test_b(): time.sleep(600)\n"
    (project / "tests" / "test_some.py").write_text(text)
    outcome = suite.other_tests(made(tmp_path, source=project), 16)
    assert outcome.state == "cut", outcome
    assert not outcome.is_fine


@pytest.mark.parametrize(
    ("code", "cut", "found", "state"),
    [
        (0, False, {"tests": 2, "passed": 2}, "passed"),
        (1, False, {"tests": 2, "passed": 1, "failures": 1}, "failed"),
        (-9, True, {"tests": 2, "passed": 1, "failures": 1}, "failed"),
        (-9, True, {}, "cut"),
        (2, True, {"tests": 1, "passed": 1}, "cut"),
        (2, False, {}, "failed"),
        (0, False, {"tests": 3, "passed": 0, "skipped": 3}, "failed"),
    ],
)
def test_how_tests_are_judged(code: int, cut: bool, found: dict[str, Any], state: str) -> None:
    assert suite.judged(code, cut, found, "").state == state


# compute-sanitizer

CLEAN = {
    "memcheck": "checked 9 calls\n========= ERROR SUMMARY: 0 errors\n",
    "racecheck": "checked 9 calls\n"
    "========= RACECHECK SUMMARY: 0 hazards displayed (0 errors, 0 warnings)\n",
}
FOUND = {
    "memcheck": "========= Invalid __global__ read of size 16 bytes\n" * 2
    + "checked 9 calls\n========= ERROR SUMMARY: 2 errors\n",
    "racecheck": "========= Error: Race reported between Read access and Write access\n"
    "checked 9 calls\n"
    "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n",
}


@pytest.mark.parametrize("tool", ["memcheck", "racecheck"])
def test_what_a_sanitizer_says(tool: str) -> None:
    def judged(output: str, code: int = 0, cut: bool = False) -> Outcome:
        return sanitizer.judged(tool, Finished(code, cut, 1.0, output))

    clean = judged(CLEAN[tool])
    assert clean.state == "passed"
    assert clean.data["calls"] == 9
    found = judged(FOUND[tool], code=sanitizer.EXIT_CODE)
    assert found.state == "failed"
    assert ("Invalid __global__ read" in found.reason) or ("Race reported" in found.reason)
    # Findings count however the run ended; silence is not cleanliness.
    assert judged(FOUND[tool], code=-9, cut=True).state == "failed"
    assert judged("", code=-9, cut=True).state == "cut"
    assert judged("").state == "failed"
    assert judged(CLEAN[tool].replace("checked 9 calls\n", "")).state == "failed"
    assert judged(CLEAN[tool], code=1).state == "failed"
    assert judged("========= Error: Device not supported.\n", code=1).state == "skipped"


def test_a_sanitizer_gets_the_options_that_it_knows() -> None:
    new = "  --kernel-regex arg\n  --error-exitcode arg\n  --report-api-errors arg"
    assert sanitizer.options(new) == [
        *("--error-exitcode", "86", "--report-api-errors", "no", "--kernel-regex", "kns=fewstep")
    ]
    assert sanitizer.options("--print-limit --filter") == [
        *("--print-limit", "20", "--filter", "kns=fewstep")
    ]
    assert sanitizer.options("usage") == []


SANITIZER = """#!{python}
import os, subprocess, sys
if '--help' in sys.argv:
    print('--error-exitcode --kernel-regex')
    sys.exit(0)
assert sys.argv[1:3] == ['--tool', 'memcheck'], sys.argv
if sys.argv[-2].endswith('planted'):
    assert sys.argv[-3:-1] == ['kns=fewstep', sys.argv[-2]]
    print('========= ERROR SUMMARY: {found} errors')
    sys.exit(86)
assert os.environ['PYTORCH_NO_CUDA_MEMORY_CACHING'] == '1'
program = sys.argv[sys.argv.index('kns=fewstep') + 1:]
assert program[-1] == 'cuda'
program[-1] = 'cpu'
status = subprocess.call([*program, '--few'])
print('========= ERROR SUMMARY: 0 errors')
sys.exit(status)
"""


@pytest.mark.parametrize("found", [0, 64])
def test_the_small_cases_run_under_a_sanitizer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, found: int
) -> None:
    """A stand-in for the tool, which runs the program it is given, on the CPU."""
    pytest.importorskip("torch")
    tools = {
        "compute-sanitizer": SANITIZER.format(python=sys.executable, found=found),
        "nvcc": "#!/bin/sh\ntouch $3\n",
    }
    for name, text in tools.items():
        tool = tmp_path / "bin" / name
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(text)
        tool.chmod(0o755)
    monkeypatch.setattr(sanitizer, "find_tool", lambda name, *_: str(tmp_path / "bin" / name))
    monkeypatch.setenv("FEWSTEP_CPU_ISA", "cuda_on_host")
    outcome = sanitizer.memcheck(made(tmp_path, source=ROOT), 100)
    if found == 0:
        assert outcome.state == "failed"
        assert "memcheck does not find a planted error" in outcome.reason
        return
    assert outcome.state == "passed", outcome
    assert outcome.data["calls"] > 50
    assert outcome.data["planted"] == "a planted error was found (64)"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bin", "memcheck.log"]


def test_a_planted_error_must_be_found() -> None:
    def told(output: str, cut: bool = False) -> str:
        return sanitizer.found_planted("racecheck", Finished(86, cut, 1.0, output)).state

    assert told("========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)") == "passed"
    assert told(CLEAN["racecheck"]) == "failed"
    assert told("") == "failed"
    assert told("", cut=True) == "cut"
    assert told("========= Error: Device not supported.") == "skipped"


def test_without_a_sanitizer_it_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sanitizer, "find_tool", lambda name: None)
    outcome = sanitizer.racecheck(made(tmp_path, source=ROOT), 100)
    assert (outcome.state, outcome.reason) == ("skipped", "compute-sanitizer: not found")

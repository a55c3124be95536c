# SPDX-License-Identifier: Apache-2.0
"""The project's tests, counted from pytest's own report."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from .section import Check, Outcome

SHOWN = 40  # failures whose text is kept
TEXT = 600  # characters of each


def cuda_tests(check: Check, limit_s: float) -> Outcome:
    """Run every test that has the cuda backend."""
    return _tests(check, limit_s, "tests-cuda", ["-m", "cuda"], 4)


def other_tests(check: Check, limit_s: float) -> Outcome:
    """Run the others, which the build with CUDA kernels must pass too."""
    if check.quick:
        return Outcome("skipped", "--quick")
    return _tests(check, limit_s, "tests-cpu", ["-m", "not cuda", "--ignore=tests/meta"], 8)


def _tests(
    check: Check, limit_s: float, name: str, selection: list[str], processes: int
) -> Outcome:
    if check.source is None or not (check.source / "tests").is_dir():
        return Outcome("skipped", "no checkout with tests here or above")
    if find_spec("pytest") is None:
        return Outcome("skipped", "pytest is not installed")
    report = check.out / f"{name}.xml"
    report.unlink(missing_ok=True)
    parallel = []
    if find_spec("xdist") and check.processes(processes) > 1:
        # A file's tests stay together: each process that needs a worker starts its own.
        parallel = ["-n", str(check.processes(processes)), "--dist", "loadfile"]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel]
    command += [f"--junitxml={report}", *selection, "tests"]
    child = check.child(name, command, limit_s)
    found = counts(report)
    report.unlink(missing_ok=True)  # what is wanted of it is in the counts
    return judged(child.code, child.cut, found, child.last_lines())


def judged(code: int, cut: bool, found: dict[str, Any], last: str) -> Outcome:
    """Say how a run of pytest ended, from its exit status and its counts."""
    bad = found.get("failures", 0) + found.get("errors", 0)
    if bad:
        return Outcome("failed", f"{bad} of {found['tests']} tests", found)
    if cut:
        done = f"{found['passed']} tests had passed" if found else "no report was written"
        return Outcome("cut", f"time was up; {done}", found)
    if not found or code != 0:
        return Outcome("failed", f"pytest ended with {code}: {last}", found)
    if found["passed"] == 0:
        return Outcome("failed", "no test ran", found)
    return Outcome("passed", "", found)


def counts(path: Path) -> dict[str, Any]:
    """Count a JUnit report's tests; keep the text of what failed.

    Parameters
    ----------
    path : Path

    Returns
    -------
    dict
        ``tests``, ``passed``, ``failures``, ``errors``, ``skipped``, ``failed``: (name, text)
        pairs. Empty when there is no whole report.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except (OSError, ElementTree.ParseError):
        return {}
    found = {"tests": 0, "passed": 0, "failures": 0, "errors": 0, "skipped": 0}
    failed: list[tuple[str, str]] = []
    for case in root.iter("testcase"):
        found["tests"] += 1
        state = "passed"
        for tag, key in (("skipped", "skipped"), ("error", "errors"), ("failure", "failures")):
            note = case.find(tag)
            if note is None:
                continue
            state = key
            if key != "skipped":
                name = f"{case.get('classname', '')}::{case.get('name', '')}"
                failed.append((name, (note.get("message") or note.text or "")[:TEXT]))
        found[state] += 1
    return {**found, "failed": failed[:SHOWN]}

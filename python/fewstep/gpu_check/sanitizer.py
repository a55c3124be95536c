# SPDX-License-Identifier: Apache-2.0
"""compute-sanitizer on small cases: bad memory accesses, and races in shared memory."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import replace
from importlib.resources import files

from .build import find_tool
from .process import Finished
from .section import Check, Outcome

EXIT_CODE = 86
DONE = re.compile(r"^checked (\d+) calls$", re.M)
# Each tool's last word; the first group counts what it found.
SUMMARY = {
    "memcheck": re.compile(r"ERROR SUMMARY: (\d+) error"),
    "racecheck": re.compile(r"RACECHECK SUMMARY: (\d+) hazards? displayed"),
}
UNSUPPORTED = "Device not supported"
# Our kernels alone are watched: a program that loads torch starts hundreds of others. The option
# has had several names, so the tool's own help says which one it knows.
FILTERS = ("--kernel-regex", "--kernel-name", "--filter")


def memcheck(check: Check, limit_s: float) -> Outcome:
    """Look for accesses outside of allocations, and for misaligned ones."""
    return _run(check, limit_s, "memcheck")


def racecheck(check: Check, limit_s: float) -> Outcome:
    """Look for races in shared memory."""
    return _run(check, limit_s, "racecheck")


def _run(check: Check, limit_s: float, tool: str) -> Outcome:
    sanitizer = find_tool("compute-sanitizer")
    if sanitizer is None:
        return Outcome("skipped", "compute-sanitizer: not found")
    if check.source is None:
        return Outcome("skipped", "no checkout with tests here or above")
    program = [sys.executable, str(check.source / "tests" / "small_cases.py"), "cuda"]
    if check.quick:
        program.append("--few")
    command = [sanitizer, "--tool", tool, *options(_help(sanitizer))]
    begin = time.monotonic()
    planted = _planted(check, command, tool, 0.5 * limit_s)
    if planted.state != "passed":
        return planted
    limit_s -= time.monotonic() - begin
    # Every tensor its own allocation, so that the tool knows where each one ends.
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    child = check.child(tool, [*command, *program], limit_s, environment)
    outcome = judged(tool, child)
    return replace(outcome, data={**outcome.data, "planted": planted.reason})


def _planted(check: Check, command: list[str], tool: str, limit_s: float) -> Outcome:
    """Let the tool find a planted error, with the options that our kernels get."""
    nvcc = find_tool("nvcc", "CUDACXX")
    if nvcc is None:
        return Outcome("passed", "not tried on a planted error: nvcc not found")
    program = check.out / "planted"
    source = files("fewstep.gpu_check").joinpath("planted.cu").read_text()
    (check.out / "planted.cu").write_text(source)
    compiling = [nvcc, "-arch=native", "-o", str(program), str(check.out / "planted.cu")]
    built = check.child("planted", compiling, limit_s)
    if built.code != 0:
        return Outcome("failed", f"the planted error does not compile: {built.last_lines()}")
    child = check.child("planted", [*command, str(program), tool], limit_s)
    for name in ("planted", "planted.cu", "planted.log"):
        (check.out / name).unlink(missing_ok=True)
    return found_planted(tool, child)


def found_planted(tool: str, child: Finished) -> Outcome:
    """Say whether a tool that looked at a planted error found it."""
    found = SUMMARY[tool].search(child.output)
    if found and int(found[1]) > 0:
        return Outcome("passed", f"a planted error was found ({found[1]})")
    if UNSUPPORTED in child.output:
        return Outcome("skipped", f"{tool}: this machine's GPU is not open to it")
    if child.cut:
        return Outcome("cut", "time was up at a planted error")
    return Outcome("failed", f"{tool} does not find a planted error: {child.last_lines()}")


def _help(sanitizer: str) -> str:
    command = [sanitizer, "--help"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    return result.stdout + result.stderr


def options(known: str) -> list[str]:
    """Return the options to use, of those that the tool's help names."""
    wanted = [
        ("--error-exitcode", str(EXIT_CODE)),
        ("--report-api-errors", "no"),  # torch asks for what a device may lack
        ("--print-limit", "20"),
    ]
    chosen = [part for name, value in wanted if name in known for part in (name, value)]
    for name in FILTERS:
        if name in known:
            return [*chosen, name, "kns=fewstep"]
    return chosen


def judged(tool: str, child: Finished) -> Outcome:
    """Say what a run found: clean is what both the tool and the program say themselves."""
    calls, found = DONE.search(child.output), SUMMARY[tool].search(child.output)
    data = {
        "calls": int(calls[1]) if calls else None,
        "found": int(found[1]) if found else None,
        "text": _findings(child.output),
    }
    if found and int(found[1]) > 0:
        return Outcome("failed", f"{tool} found {found[1]}: {data['text']}", data)
    if child.cut:
        return Outcome("cut", "time was up", data)
    if UNSUPPORTED in child.output:
        return Outcome("skipped", f"{tool}: this machine's GPU is not open to it", data)
    if child.code != 0 or not calls or not found:
        return Outcome("failed", f"{tool} ended with {child.code}: {child.last_lines()}", data)
    return Outcome("passed", "", data)


def _findings(output: str) -> str:
    """Return the first findings' lines."""
    lines = [line.lstrip("= ") for line in output.splitlines() if line.startswith("=========")]
    marks = ("Invalid", "Misaligned", "hazard", "Race reported", "Error:")
    return "\n".join([line for line in lines if any(mark in line for mark in marks)][:10])

# SPDX-License-Identifier: Apache-2.0
"""The benchmark section of ``fewstep gpu-check``: which commands it runs and what it keeps."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fewstep.gpu_check.benches import BENCHMARKS, benches


@dataclass
class FakeCheck:
    """Runs no child; writes the rows that a benchmark would."""

    out: Path
    codes: dict[str, int] = field(default_factory=dict)
    cut: str = ""
    quick: bool = False
    commands: list[list[str]] = field(default_factory=list)

    def child(self, name: str, command: list[str], limit_s: float) -> Any:
        assert 0 < limit_s <= min(60, BENCHMARKS[name.removeprefix("bench-")])
        self.commands.append(command)
        bench = command[command.index("bench") + 1]
        assert name == f"bench-{bench}"
        path = Path(command[command.index("--out") + 1])
        assert not path.exists(), "rows of an earlier run"
        path.write_text(json.dumps({"rows": [{"op": bench}]}))
        code = self.codes.get(bench, 0)
        return SimpleNamespace(cut=bench == self.cut, code=code, last_lines=lambda: "last words")


def test_every_benchmark_with_cuda_kernels_runs_and_rows_add_up(tmp_path: Path) -> None:
    check: Any = FakeCheck(tmp_path, quick=True)
    outcome = benches(check, 60.0)
    assert outcome.state == "passed"
    assert [row["op"] for row in outcome.data["rows"]] == list(BENCHMARKS)
    assert {"solver", "guidance", "decode", "generate", "linear"} <= set(BENCHMARKS)
    for command in check.commands:
        assert command[-1] == "--quick"
        assert command[command.index("--device") + 1] == "cuda"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", BENCHMARKS)
def test_one_that_fails_is_told_and_the_others_run(bad: str, tmp_path: Path) -> None:
    check: Any = FakeCheck(tmp_path, codes={bad: 1})
    outcome = benches(check, 60.0)
    assert (outcome.state, outcome.reason) == ("failed", f"bench {bad} ended with 1: last words")
    assert len(outcome.data["rows"]) == len(BENCHMARKS)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_one_whose_time_is_up_leaves_theirs_to_the_others(name: str, tmp_path: Path) -> None:
    check: Any = FakeCheck(tmp_path, cut=name)
    outcome = benches(check, 60.0)
    assert outcome.state == "cut"
    number = list(BENCHMARKS).index(name) + 1
    assert outcome.reason == f"time was up in bench {name} after {number} rows"
    assert len(check.commands) == len(BENCHMARKS)


def test_time_that_is_up_ends_it(tmp_path: Path) -> None:
    check: Any = FakeCheck(tmp_path)
    outcome = benches(check, 5.0)
    assert outcome.state == "cut"
    assert outcome.reason == "time was up before bench solver, after 0 rows"
    assert check.commands == []

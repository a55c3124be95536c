# SPDX-License-Identifier: Apache-2.0
"""The report: one JSON for programs, one Markdown for people, written anew after each section."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewstep.bench.cases import SIZES
from fewstep.bench.claims import CLAIMS, Claim

from .section import Outcome, Section

JSON_NAME, MARKDOWN_NAME = "report.json", "report.md"
Rows = Sequence[Mapping[str, Any]]


@dataclass
class Report:
    """What is known so far.

    Attributes
    ----------
    out : Path
        The folder.
    head : mapping
        ``date``, ``commit``, ``command``, ``build``.
    sections : sequence of Section
    outcomes : dict
        By a section's name; one that is missing was not reached.
    """

    out: Path
    head: Mapping[str, Any]
    sections: Sequence[Section]
    outcomes: dict[str, Outcome]

    def add(self, section: Section, outcome: Outcome) -> None:
        """Take in an outcome and write everything."""
        self.outcomes[section.name] = outcome
        self.write()

    def outcome(self, section: Section) -> Outcome:
        """Return a section's outcome."""
        return self.outcomes.get(section.name, Outcome("skipped", "not reached"))

    @property
    def is_fine(self) -> bool:
        """Whether everything that ran passed."""
        return all(outcome.is_fine for outcome in self.outcomes.values())

    def rows(self) -> Rows:
        """Return the benchmark's rows."""
        found: Rows = []
        for outcome in self.outcomes.values():
            found = outcome.data.get("rows", found)
        return found

    def write(self) -> None:
        """Write both files, each in one go."""
        for name, text in ((JSON_NAME, self.as_json()), (MARKDOWN_NAME, self.as_markdown())):
            part = self.out / (name + ".part")
            part.write_text(text)
            part.replace(self.out / name)

    def as_json(self) -> str:
        """Return the report for programs."""
        value = {
            **self.head,
            "sections": [
                {
                    "name": section.name,
                    "title": section.title,
                    "state": outcome.state,
                    "reason": outcome.reason,
                    "seconds": outcome.seconds,
                    **({"data": outcome.data} if outcome.data else {}),
                }
                for section in self.sections
                for outcome in (self.outcome(section),)
            ],
            "bars": [bar_of(claim, self.rows()) for claim in CLAIMS],
        }
        return json.dumps(value, indent=1) + "\n"

    def as_markdown(self) -> str:
        """Return the report for people."""
        head = self.head
        lines = [
            "# fewstep on a GPU",
            "",
            f"{head['date']}, commit `{head['commit']}`, {machine_line(self._facts())}.",
            "",
            "| section | state | seconds | why |",
            "|---|---|---:|---|",
        ]
        for section in self.sections:
            outcome = self.outcome(section)
            why = cell(outcome.reason)
            lines.append(f"| {section.title} | {outcome.state} | {outcome.seconds:g} | {why} |")
        lines += ["", *bars_table(self.rows()), "", *measured_table(self.rows())]
        lines += failures(self.sections, self.outcomes)
        return "\n".join(lines).rstrip() + "\n"

    def _facts(self) -> Mapping[str, Any]:
        for outcome in self.outcomes.values():
            if "machine" in outcome.data:
                return outcome.data
        return {}


def cell(text: str, most: int = 200) -> str:
    """Return text that fits a table's cell."""
    line = " ".join(text.split()).replace("|", "\\|")
    return line if len(line) <= most else line[: most - 3] + "..."


def machine_line(facts: Mapping[str, Any]) -> str:
    """Return the machine in a line."""
    if "gpu" not in facts:
        return "no GPU"
    gpu, machine = facts["gpu"], facts["machine"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    return (
        f"{gpu['name']} (sm_{gpu['sm'].replace('.', '')}, driver {gpu.get('driver')}, "
        f"CUDA {gpu['cuda']}, SM clock {gpu.get('sm_clock')} of {gpu.get('sm_clock_max')}), "
        f"{machine['cpu']} with {machine['cores']} cores, {versions}"
    )


def bar_of(claim: Claim, rows: Rows) -> dict[str, Any]:
    """Return a bar with the measured value that decides it."""
    row = claim.worst(rows)
    bar: dict[str, Any] = {"text": claim.text, "key": claim.key, "bar": claim.least}
    if row is None:
        return {**bar, "state": "not measured"}
    return {
        **bar,
        "state": "met" if row[claim.key] >= claim.least else "missed",
        "measured": row[claim.key],
        "row": dict(row),
    }


def bars_table(rows: Rows) -> list[str]:
    """Return the bars as a table; the row farthest below a bar decides it."""
    lines = [
        "| bar | required | measured | fewstep | rival | |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for claim in CLAIMS:
        bar = bar_of(claim, rows)
        cells = [claim.text, claim.shown(claim.least)]
        if "row" in bar:
            row = bar["row"]
            cells += [claim.shown(bar["measured"]), duration(row["ours_us"])]
            cells += [duration(row["rival_us"]), bar["state"]]
        else:
            cells += ["", "", "", bar["state"]]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def measured_table(rows: Rows) -> list[str]:
    """Return everything that was measured as a table."""
    if not rows:
        return []
    lines = [
        "| op | case | sizes | dtype | rival | fewstep | rival | ratio | | |",
        "|---|---|---|---|---|---:|---:|---:|---|---|",
    ]
    for row in rows:
        rate = [f"{row['gb_per_s']:g} GB/s"] if "gb_per_s" in row else []
        rate += [f"{row['tflops']:g} TFLOP/s"] if "tflops" in row else []
        rate += [f"{100 * row['share']:.0f} % of {row['rival']}"] if "share" in row else []
        notes = ["cold" if row["cold"] else "warm"] if "cold" in row else []
        notes += [f"{row['equal_bits']:,} equal bits"] if "equal_bits" in row else []
        notes += [f"SM clock {row['sm_clock']}"] if row.get("sm_clock") else []
        notes += [str(row["reason"])] if "reason" in row else []
        notes += [f"waits: {sum(row['waits'].values())}"] if row.get("waits") else []
        cells = [
            row["op"],
            f"`{row['case']}`",
            sizes_of(row),
            row["dtype"],
            row["rival"],
            duration(row["ours_us"]),
            duration(row["rival_us"]),
            "-" if row["ratio"] is None else f"{row['ratio']:.3g}x",
            ", ".join(rate),
            cell(", ".join(notes)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def sizes_of(row: Mapping[str, Any]) -> str:
    """Return the elements of a row, or its sizes by their letters."""
    if "n" in row:
        return f"{row['n']:,}"
    return " ".join(f"{key}={row[key]}" for key in SIZES if key in row)


def duration(microseconds: float | None) -> str:
    """Return a time with the unit that suits it."""
    if microseconds is None:
        return "-"
    return f"{microseconds:.3g} us" if microseconds < 1000 else f"{microseconds / 1000:.4g} ms"


def failures(sections: Sequence[Section], outcomes: Mapping[str, Outcome]) -> list[str]:
    """Return what went wrong, with its text."""
    lines: list[str] = []
    for section in sections:
        outcome = outcomes.get(section.name)
        if outcome is None or outcome.is_fine:
            continue
        lines += ["", f"## {section.title}: {outcome.state}", "", "```", outcome.reason, "```"]
        for name, text in outcome.data.get("failed", ()):
            lines += ["", f"- `{name}`", "", "```", text, "```"]
    return lines

# SPDX-License-Identifier: Apache-2.0
"""The rows of the output, and the checks that come before every measurement."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

import fewstep

from .timing import Timing

Row = dict[str, Any]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# A step of a public scheduler has float32 coefficients; in 16 bits it rounds its sample as well.
TOLERANCE = {"float32": 2e-5, "float16": 1e-2, "bfloat16": 6e-2}
FORMULA_TOLERANCE = {"float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}


class WrongResult(RuntimeError):
    """A result differs from what it is checked against: there is nothing to time."""


@dataclass(frozen=True)
class Options:
    """What to measure: thread counts, cases by name (all when empty), and how thoroughly."""

    threads: tuple[int, ...]
    only: tuple[str, ...] = ()
    quick: bool = False

    def wants(self, name: str) -> bool:
        """Whether a case was asked for."""
        return not self.only or name in self.only


def set_threads(threads: int) -> None:
    """Give fewstep and torch the same number of threads."""
    fewstep.set_num_threads(threads)
    torch.set_num_threads(threads)


def difference(ours: torch.Tensor, other: torch.Tensor) -> float:
    """Return the largest difference relative to the largest value."""
    wanted = other.double()
    return float((ours.double() - wanted).abs().max() / wanted.abs().max())


def check(what: str, error: float, tolerance: float) -> float:
    """Return `error`, or refuse to time a wrong result."""
    if not error <= tolerance:
        raise WrongResult(f"{what}: differs by {error:.2e}, allowed is {tolerance:.0e}")
    return error


def timed_row(head: Row, rival: str, ours: Timing, other: Timing, *, spread: bool = False) -> Row:
    """Return a row: what was measured, the rival, both times and their ratio.

    `spread` adds the deciles of both.
    """
    row: Row = {
        **head,
        "rival": rival,
        "ours_us": round(ours.median_us, 3),
        "rival_us": round(other.median_us, 3),
        "ratio": round(other.median_us / ours.median_us, 3),
    }
    if spread:
        row["ours_p10_p90_us"] = [round(ours.p10_us, 3), round(ours.p90_us, 3)]
        row["rival_p10_p90_us"] = [round(other.p10_us, 3), round(other.p90_us, 3)]
    return row


def limit_row(head: Row, limit: str, ours: Timing, other: Timing) -> Row:
    """Return the row of a limit: its time as a rival's, and what share of its speed we have."""
    row = timed_row(head, limit, ours, other) | {"limit": limit}
    return row | {"share": row["ratio"]}


def unmeasured_row(head: Row, rival: str, reason: str, ours: Timing | None = None) -> Row:
    """Return the row of a rival that could not be measured, and why."""
    return {
        **head,
        "rival": rival,
        "ours_us": None if ours is None else round(ours.median_us, 3),
        "rival_us": None,
        "ratio": None,
        "reason": reason,
    }


def reason_of(refusal: Exception) -> str:
    """Return the first line of what an import, a compiler or a kernel said."""
    return f"{type(refusal).__name__}: {refusal}".strip().splitlines()[0]


def add_bar(row: Row, least: float, key: str = "ratio") -> None:
    """Say what `key` of a row is to reach and whether it does."""
    row["bar"] = least
    row["met"] = row[key] >= least

# SPDX-License-Identifier: Apache-2.0
"""Child processes that end by their deadline and leave what they wrote."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

GRACE_S = 8.0  # between asking a child to end and ending it with all that it started


@dataclass(frozen=True)
class Finished:
    """A child that has ended.

    Attributes
    ----------
    code : int
        Its exit status; negative for a signal.
    cut : bool
        Whether it was ended at its deadline.
    seconds : float
    output : str
        What it printed, both streams together.
    """

    code: int
    cut: bool
    seconds: float
    output: str

    def last_lines(self, count: int = 5) -> str:
        """Return the last lines that are not empty."""
        lines = [line.rstrip() for line in self.output.splitlines() if line.strip()]
        return "\n".join(lines[-count:])


def run(
    command: Sequence[str | Path],
    limit_s: float,
    log: Path,
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Finished:
    """Run a program until it ends or its time is up.

    Parameters
    ----------
    command : sequence of str or Path
    limit_s : float
        A child that is still there is interrupted, as by Ctrl-C, so that it can write what it has;
        after a short grace it and everything that it started is killed.
    log : Path
        Gets what the child prints, while it prints it.
    environment : mapping, optional
        Added to this process's own.
    folder : Path, optional
        Where it runs.

    Returns
    -------
    Finished
    """
    begin = time.monotonic()
    with log.open("wb") as stream:
        child = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
            cwd=folder,
            start_new_session=True,
            preexec_fn=_listen,
        )
        cut = False
        try:
            child.wait(max(limit_s - GRACE_S, 0.5 * limit_s))
        except subprocess.TimeoutExpired:
            cut = True
            child.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                child.wait(min(GRACE_S, 0.5 * limit_s))
        finally:
            _end_group(child)
    seconds = time.monotonic() - begin
    return Finished(child.returncode, cut, seconds, log.read_text(errors="replace"))


def _listen() -> None:
    """Be interruptible: what a shell runs in the background ignores Ctrl-C, and so do children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _end_group(child: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a child's session: its own children may outlive it."""
    with suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()

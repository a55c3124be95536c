# SPDX-License-Identifier: Apache-2.0
"""The text of the demo's language models: CPython's standard library, as installed.

`files` lists its sources and documents without the test suites and the generated tables of codecs.
`is_held_out` says by a hash of a file's name which of them no model was trained on, so that real
text that the models have never seen is found on any installation; a sample of it ships with the
weights (`sample`) for installations without sources.
"""

from __future__ import annotations

import hashlib
import sysconfig
from importlib import resources
from pathlib import Path

END = "<|endoftext|>\n"
"""Between the pieces of `sample`."""
SUFFIXES = (".py", ".rst", ".txt", ".html")
SKIPPED = frozenset({"encodings", "idle_test", "lib-dynload", "site-packages", "test", "tests"})
"""Folders at any depth: charmap tables, test suites, what others installed."""
HELD_OUT_SHARE = 16
"""One file in so many is held out."""


def is_held_out(name: str) -> bool:
    """Say whether no model was trained on a file of the standard library.

    Parameters
    ----------
    name : str
        The path below the standard library's folder, with forward slashes.

    Returns
    -------
    bool
        Whether the first byte of the name's SHA-256 is a multiple of `HELD_OUT_SHARE`.

    Examples
    --------
    >>> from fewstep.demo.corpus import is_held_out
    >>> [name for name in ("enum.py", "json/decoder.py", "queue.py") if is_held_out(name)]
    ['enum.py']
    """
    return hashlib.sha256(name.encode()).digest()[0] % HELD_OUT_SHARE == 0


def files(held_out: bool, root: str | Path | None = None) -> list[Path]:
    """List the standard library's text files, in the order of their names.

    Parameters
    ----------
    held_out : bool
        The files that `is_held_out` names, or all others.
    root : path, optional
        The standard library's folder; that of the running Python by default.

    Returns
    -------
    list of Path
        Empty where the installation has no sources.

    Examples
    --------
    >>> from fewstep.demo.corpus import files
    >>> set(files(held_out=True)) & set(files(held_out=False))
    set()
    """
    root = Path(root or sysconfig.get_paths()["stdlib"])
    names = {
        path.relative_to(root).as_posix(): path
        for path in root.rglob("*")
        if path.suffix in SUFFIXES
        and SKIPPED.isdisjoint(path.relative_to(root).parts)
        and path.is_file()
    }
    return [names[name] for name in sorted(names) if is_held_out(name) is held_out]


def read(path: Path) -> str:
    """Read a file as UTF-8; bytes that are none become the replacement character."""
    return path.read_text(encoding="utf-8", errors="replace")


def sample() -> str:
    """Return the held-out text that ships with the weights: parts of CPython 3.11's own files."""
    return (resources.files(__package__) / "weights/text/held_out.txt").read_text("utf-8")


def sample_parts() -> list[str]:
    """Return the pieces of `sample`, each of another file."""
    return sample().split(END)

# SPDX-License-Identifier: Apache-2.0
"""The ``fewstep`` command; each command is a module of its own."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line, or say what to install when its packages are missing."""
    try:
        import rich  # noqa: F401
        import typer  # noqa: F401
    except ImportError as error:
        print(
            f"fewstep: the command line needs {error.name}: pip install fewstep[demo]",
            file=sys.stderr,
        )
        raise SystemExit(2) from None
    from .app import app

    app()

# SPDX-License-Identifier: Apache-2.0
"""``python -m fewstep`` is the ``fewstep`` command."""

from .cli import main

main()

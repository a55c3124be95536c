# SPDX-License-Identifier: Apache-2.0
"""Where a function of torch makes the host wait for the device."""

from __future__ import annotations

import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# A number or a shape that the host needs, and what copies to another device.
READS = ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero")
COPIES = ("_to_copy", "copy_")


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, device: torch.device, package: str) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device = device
        self.package = package
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.__name__.partition(".")[0]
        given = [t for t in args if isinstance(t, torch.Tensor)]
        on_device = any(t.device.type == self.device.type for t in given)
        leaves = isinstance(result, torch.Tensor) and (
            any(t.device.type == self.device.type for t in given)
            and any(t.device != result.device for t in given)
        )
        if (name in READS and on_device) or (name in COPIES and leaves):
            self.found[f"{name} at {self._place()}"] += 1
        return result

    def _place(self) -> str:
        """Name the innermost line of the watched package."""
        for frame in reversed(traceback.extract_stack()):
            if f"/{self.package}/" in frame.filename:
                return f"{Path(frame.filename).name}:{frame.lineno} ({frame.name})"
        return "the caller"


def syncs(
    function: Callable[[], object], device: torch.device, package: str = "diffusers"
) -> dict[str, int]:
    """Count the operations of one call that wait for the device.

    Parameters
    ----------
    function : callable
    device : torch.device
        The device that is waited for.
    package : str
        Whose lines are named.

    Returns
    -------
    dict
        ``operation at file:line (function)`` to how often.

    Examples
    --------
    >>> sum(syncs(lambda: torch.ones(3).sum().item(), torch.device("cpu")).values())
    1
    """
    with _Watch(device, package) as watch:
        function()
    return dict(watch.found)

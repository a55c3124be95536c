# SPDX-License-Identifier: Apache-2.0
"""The device that is measured: where tensors go, what times them, how work is captured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from .timing import Clock, EventClock, HostClock, LaunchClock

Call = Callable[[], object]
COLD = 4  # times the last-level cache that rotated tensors hold together, at least


@dataclass(frozen=True)
class Target:
    """A device.

    Attributes
    ----------
    name : str
        ``cpu`` or ``cuda``.
    device : torch.device
    clock : Clock
        For work on the device.
    launches : Clock
        For what a call costs the host.
    capture : callable
        Takes a function, runs it once, and returns what replays its work on the same tensors.
    synchronize : callable
    cache_bytes : int
        The cache that must not serve what is to be read from memory; 0 for none.
    labels : dict
        What every row says of the device.
    """

    name: str
    device: torch.device
    clock: Clock
    launches: Clock
    capture: Callable[[Call], Call]
    synchronize: Call
    cache_bytes: int = 0
    labels: dict[str, Any] = field(default_factory=dict)

    @property
    def is_cuda(self) -> bool:
        """Whether work is asynchronous and has CUDA's rivals."""
        return self.name == "cuda"

    def sets(self, moved: int) -> int:
        """Return how many sets of tensors to take in turn so that none is found in the cache.

        At least two: what a call touched last would be there for the next one.

        Parameters
        ----------
        moved : int
            Bytes that a call touches.
        """
        if self.cache_bytes == 0 or moved <= 0:
            return 1
        return max(2, -(-COLD * self.cache_bytes // moved))


def cpu() -> Target:
    """Return the CPU. Nothing is captured there: what would be replayed is called."""
    clock = HostClock()

    def replay(function: Call) -> Call:
        function()
        return function

    return Target("cpu", torch.device("cpu"), clock, clock, replay, lambda: None)


def cuda(api: Any = None, device: torch.device | None = None) -> Target:
    """Return the current CUDA device.

    Parameters
    ----------
    api : module, optional
        `torch.cuda`, or what stands for it in a test.
    device : torch.device, optional
        Where tensors go.
    """
    api = api or torch.cuda
    major, minor = api.get_device_capability()
    properties = api.get_device_properties(api.current_device())
    return Target(
        name="cuda",
        device=device or torch.device("cuda", api.current_device()),
        clock=EventClock(api),
        launches=LaunchClock(api.synchronize),
        capture=lambda function: captured(function, api),
        synchronize=api.synchronize,
        cache_bytes=int(getattr(properties, "L2_cache_size", 0)) or 64 << 20,
        labels={"device": "cuda", "sm": f"{major}.{minor}"},
    )


def captured(function: Call, api: Any) -> Call:
    """Capture what `function` does on the device and return what replays it.

    It runs once before, on a stream of its own as capturing asks, so that nothing is compiled,
    loaded or allocated for the first time while it is captured.
    """
    side = api.Stream()
    side.wait_stream(api.current_stream())
    with api.stream(side):
        function()
    api.current_stream().wait_stream(side)
    api.synchronize()
    graph = api.CUDAGraph()
    with api.graph(graph):
        function()

    # The function keeps alive the tensors that the graph's kernels know by address.
    def replay(_kept: Call = function) -> object:
        return graph.replay()

    return replay

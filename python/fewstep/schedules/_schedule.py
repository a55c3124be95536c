# SPDX-License-Identifier: Apache-2.0
"""A noise schedule as a value: its name, its parameters, and the nodes it places."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fewstep import _core

Process = Literal["vp", "ve", "flow", "prior"]
Spacing = Literal[
    "linspace", "leading", "trailing", "simple", "ddim_uniform", "beta", "normal", "sgm_uniform",
    "karras", "exponential", "log_snr", "polyexponential", "kl_optimal", "beta_sigma",
    "log_linear", "sigmas",
]  # fmt: skip

PROCESSES: tuple[Process, ...] = ("vp", "ve", "flow", "prior")


class Nodes(NamedTuple):
    """The nodes of a schedule, noise first: float64 arrays [steps + 1].

    Attributes
    ----------
    t
        What the model is told: the training step of a discrete-time model (-1 at sigma = 0), else
        sigma / alpha (VP, VE) or sigma (flow).
    alpha, sigma
        Signal and noise scale.
    lam
        ``log(alpha / sigma)``; infinite where either is 0.
    prior
        Weight of the tensor y of a process ``alpha * x0 + prior * y + sigma * noise``; else 0.
    """

    t: NDArray[np.float64]
    alpha: NDArray[np.float64]
    sigma: NDArray[np.float64]
    lam: NDArray[np.float64]
    prior: NDArray[np.float64]


@dataclass(frozen=True)
class Schedule:
    """A noise schedule: its name and parameters. Made by the functions of this module.

    Attributes
    ----------
    name : str
        The function that made it.
    params : tuple of (str, value)
        Its parameters, as ``fewstep_schedule_params`` names them.
    default_steps : int or None
        Number of steps, where the schedule itself fixes it (an array of sigmas).

    Examples
    --------
    >>> fewstep.schedules.karras(0.1, 10.0).nodes(3).sigma.round(3).tolist()
    [10.0, 1.451, 0.1, 0.0]
    """

    name: str
    params: tuple[tuple[str, Any], ...]
    default_steps: int | None = None

    @property
    def process(self) -> Process:
        """``"vp"``, ``"ve"``, ``"flow"`` or ``"prior"``."""
        if self.name in ("vp_linear", "scaled_linear", "cosine", "vp_sde"):
            return "vp"
        if self.name == "flow":
            return "flow"
        if self.name in ("ornstein_uhlenbeck", "mean_reverting", "bridge"):
            return "prior"
        index: int = dict(self.params)["process"]
        return PROCESSES[index]

    def nodes(self, steps: int | None = None) -> Nodes:
        """Place the nodes of a trajectory.

        Parameters
        ----------
        steps : int
            Number of intervals. May be left out for an array of sigmas.

        Returns
        -------
        Nodes

        Raises
        ------
        ValueError
            A parameter is out of range, or two nodes coincide; the message names the field.
        """
        return Nodes(*self._create(steps).nodes())

    def at(self, levels: ArrayLike) -> Schedule:
        """Return the schedule of the same process and times with its nodes at given noise levels.

        Parameters
        ----------
        levels : array, shape (steps + 1)
            ``sigma / alpha`` (also for flow), strictly decreasing; the last may be 0, the first of
            flow infinite.

        Returns
        -------
        Schedule
            On a training grid the time is interpolated as for its parameter ``sigmas``.

        Raises
        ------
        ValueError
            The schedule is `vp_sde` or one with a prior, whose time does not follow from a table.

        Examples
        --------
        >>> nodes = fewstep.schedules.flow().at([np.inf, 3.0, 1.0, 0.0]).nodes()
        >>> nodes.sigma.tolist()
        [1.0, 0.75, 0.5, 0.0]
        """
        values = np.asarray(levels, np.float64)
        if self.name == "vp_sde" or self.process == "prior":
            raise ValueError(
                f"fewstep.schedules: 'at' must not be asked of {self.name}, got its levels"
            )
        if self.name in ("vp_linear", "scaled_linear", "cosine"):
            params = dict(self.params) | {"spacing": "sigmas", "sigmas": as_floats(values)}
            return make(self.name, len(values) - 1, **params)
        if self.process == "flow":
            finite = np.where(np.isinf(values), 0.0, values)
            values = np.where(np.isinf(values), 1.0, finite / (1 + finite))
        index = PROCESSES.index(self.process)
        return make("sigmas", len(values) - 1, sigmas=as_floats(values), process=index)

    def _create(self, steps: int | None) -> _core.Schedule:
        if steps is None:
            steps = self.default_steps
        if steps is None:
            raise ValueError("fewstep.schedules: 'steps' must be given, got None")
        return _core.Schedule(self.name, steps, **dict(self.params))


def make(name: str, default_steps: int | None = None, /, **params: Any) -> Schedule:
    """Return the schedule of a name and its parameters."""
    return Schedule(name, tuple(sorted(params.items())), default_steps)


def process_index(function: str, process: str) -> int:
    """Return the number of a process; `function` names the caller in the error."""
    if process not in PROCESSES[:3]:
        raise ValueError(
            f"fewstep.schedules.{function}: 'process' must be one of vp, ve, flow, got {process!r}"
        )
    return PROCESSES.index(process)


def as_floats(values: ArrayLike | None) -> tuple[float, ...] | None:
    """Return the values as a tuple, which can be hashed."""
    return None if values is None else tuple(np.asarray(values, np.float64).ravel().tolist())

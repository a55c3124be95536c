# SPDX-License-Identifier: Apache-2.0
"""Phase-space Langevin diffusion: a state of two tensors, and its integrators.

The sample x has a momentum m, and noise reaches x mostly through it. With ``z = (x, m)``,
``b = int beta dt`` and ``D = diag(Gamma, nu M)``::

    dz = (K / 2) z db + D^(1/2) dW_b,   K = [[-Gamma, 1 / M], [-1, -nu]],   M = 4 / (Gamma - nu)^2

A network tells the noise ``eps = (eps_x, eps_m)`` of ``z_t = Phi_t z_0 + L_t eps``, L the Cholesky
factor of the covariance; the probability flow is ``dz / db = (K z + D L^-T eps) / 2``. A plan's
rows read x in slot 0, m in slot 1 and the two raw model outputs: a step is one pass over memory.

References: Pandey, Mandt 2023, "A complete recipe for diffusion generative models" (PSLD),
arXiv 2303.01748; Pandey et al. 2023, "Efficient integrators for diffusion generative models",
arXiv 2310.07894 (conjugate and splitting integrators).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ._batch import Batch
from ._run import checked_output
from .solver import Plan, Row, step

__all__ = ["INTEGRATORS", "Process", "plan", "sample"]

Matrix = NDArray[np.float64]

#: Names that `plan` knows.
INTEGRATORS = ("euler", "conjugate", "nse", "rse", "nvv", "rvv", "em", "sscs")

_X, _M, _EPS_X, _EPS_M = 0, 1, 17, 18
_START_STREAM = 1


@dataclass(frozen=True)
class Process:
    """The forward process, critically damped.

    Attributes
    ----------
    gamma, nu : float
        Friction on x and on m (Gamma, nu); not equal.
    beta_min, beta_max : float
        beta at time 0 and 1, linear between.
    kappa : float
        Variance of the momentum at time 0 is ``kappa * M``.
    eps : float
        Added to both variances, as the published networks were trained.

    Examples
    --------
    >>> process = fewstep.psld.Process()
    >>> process.mass, process.covariance(1.0).round(4).tolist()
    (0.25, [[1.0, 0.0], [0.0, 0.25]])
    """

    gamma: float = 0.01
    nu: float = 4.01
    beta_min: float = 8.0
    beta_max: float = 8.0
    kappa: float = 0.04
    eps: float = 1e-9

    def __post_init__(self) -> None:
        for name in ("gamma", "nu", "beta_min", "beta_max", "kappa", "eps"):
            value = getattr(self, name)
            if not (value >= 0 and math.isfinite(value)):
                raise ValueError(
                    f"fewstep.psld.Process: '{name}' must be finite and at least 0, got {value}"
                )
        if self.gamma == self.nu:
            raise ValueError(
                f"fewstep.psld.Process: 'nu' must differ from gamma, got {self.nu} for both"
            )

    @property
    def mass(self) -> float:
        """M, the variance of the momentum in the end."""
        return 4.0 / (self.gamma - self.nu) ** 2

    @property
    def drift(self) -> Matrix:
        """K."""
        return np.array([[-self.gamma, 1.0 / self.mass], [-1.0, -self.nu]])

    @property
    def diffusion(self) -> Matrix:
        """D."""
        return np.diag([self.gamma, self.nu * self.mass])

    def clock(self, t: float) -> float:
        """Return b, the integral of beta from 0 to t."""
        return self.beta_min * t + 0.5 * t * t * (self.beta_max - self.beta_min)

    def mean(self, t: float) -> Matrix:
        """Return Phi_t."""
        return _expm(0.5 * self.clock(t) * self.drift)

    def covariance(self, t: float) -> Matrix:
        """Return the covariance of z_t given x_0."""
        end = np.diag([1.0, self.mass])
        start = np.diag([0.0, self.kappa * self.mass])
        phi = self.mean(t)
        total: Matrix = end + phi @ (start - end) @ phi.T + self.eps * np.eye(2)
        return total

    def score_factor(self, t: float) -> Matrix:
        """Return ``D L^-T / 2``, which multiplies eps in the probability flow."""
        inverse: Matrix = np.linalg.inv(np.linalg.cholesky(self.covariance(t)))
        return np.asarray(0.5 * self.diffusion @ inverse.T, np.float64)


def _expm(a: Matrix) -> Matrix:
    """Return the exponential of a 2 x 2 matrix."""
    half = 0.5 * np.trace(a)
    rest = a - half * np.eye(2)
    square = float(-np.linalg.det(rest))  # rest @ rest = square * I
    q = np.sqrt(complex(square))
    ratio = 1 + square / 6 + square**2 / 120 if abs(q) < 1e-3 else (np.sinh(q) / q).real
    result: Matrix = math.exp(half) * (np.cosh(q).real * np.eye(2) + ratio * rest)
    return result


def plan(
    name: str,
    *,
    process: Process | None = None,
    steps: int | None = None,
    times: ArrayLike | None = None,
    drift: ArrayLike = 0.0,
    denoise: bool = True,
) -> Plan:
    """Make the plan of an integrator.

    Parameters
    ----------
    name : str
        One of `INTEGRATORS`. ``"euler"``; ``"conjugate"``: Euler in ``A_b z`` with
        ``A_b = exp(b (B - K / 2))``, exact in K, and in eps as far as eps is constant over the step
        (B = 0 is DDIM for this process); splittings that move x and m in turn: ``"nse"`` symplectic
        Euler (2 calls a step), ``"nvv"`` velocity Verlet (3), and with the score of one call used
        for two moves ``"rse"`` (1) and ``"rvv"`` (2). Stochastic: ``"em"`` Euler-Maruyama;
        ``"sscs"`` symmetric splitting, half an exact Ornstein-Uhlenbeck step on either side of an
        Euler step of what the score differs from that of the end.
    process : Process, optional
        Default ``Process()``.
    steps : int, optional
        Steps uniform in time from 1 to 1e-3; or give `times`.
    times : array, shape (steps + 1,), optional
        Decreasing, within [1e-5, 1].
    drift : float or array, shape (2, 2), default 0
        B of ``conjugate``, per unit of b; a number stands for that multiple of the identity
        (lambda-DDIM of the paper).
    denoise : bool, default True
        A last call turns z at the last time into the expected x_0.

    Returns
    -------
    Plan
        Row 0 draws the start; the others follow one model call each, but for those of ``sscs``
        that only add noise. For `sample`.

    Raises
    ------
    ValueError
        An unknown name, or an option out of range.

    Examples
    --------
    >>> fewstep.psld.plan("conjugate", steps=5)
    <fewstep.solver.Plan 'psld conjugate': 7 rows, 6 model calls, 2 slots>
    """
    process = process or Process()
    if name not in INTEGRATORS:
        known = ", ".join(INTEGRATORS)
        raise ValueError(f"fewstep.psld.plan: 'name' must be one of {known}, got {name!r}")
    if (steps is None) == (times is None):
        raise ValueError("fewstep.psld.plan: 'steps' must be given without 'times', got both or "
                         "neither")  # fmt: skip
    if times is None:
        if steps is None or steps < 1:
            raise ValueError(f"fewstep.psld.plan: 'steps' must be at least 1, got {steps}")
        times = np.linspace(1.0, 1e-3, steps + 1)
    grid = np.asarray(times, np.float64)
    inside = grid.ndim == 1 and len(grid) > 1 and grid[0] <= 1 and grid[-1] >= 1e-5
    if not (inside and (np.diff(grid) < 0).all()):
        raise ValueError("fewstep.psld.plan: 'times' must decrease from at most 1 to at least "
                         f"1e-5, got {grid.tolist()}")  # fmt: skip
    b = np.asarray(drift, np.float64)
    b = b * np.eye(2) if b.ndim == 0 else b
    if b.shape != (2, 2) or not np.isfinite(b).all():
        raise ValueError("fewstep.psld.plan: 'drift' must be a number or a 2 x 2 matrix, got shape "
                         f"{list(b.shape)}")  # fmt: skip
    if name != "conjugate" and b.any():
        raise ValueError(f"fewstep.psld.plan: 'drift' must be left out for {name}, got {drift!r}")
    maker = _Maker(process, b)
    maker.start(float(grid[0]))
    for i, (t, after) in enumerate(zip(grid[:-1].tolist(), grid[1:].tolist(), strict=True)):
        maker.step(name, i, t, after)
    if denoise:
        maker.denoise(len(grid) - 1, float(grid[-1]))
    return Plan.from_rows(maker.rows, f"psld {name}")


class _Maker:
    """Rows as 2 x 2 matrices on (x, m) and on (eps_x, eps_m)."""

    def __init__(self, process: Process, drift: Matrix) -> None:
        self.process, self.drift = process, drift
        self.rows: list[Row] = []

    def where(self, t: float) -> dict[str, float]:
        return {"alpha": float(self.process.mean(t)[0, 0]),
                "sigma": math.sqrt(self.process.covariance(t)[0, 0])}  # fmt: skip

    def start(self, t: float) -> None:
        spread = ((1.0, 0.0), (0.0, math.sqrt(self.process.mass)))
        self.rows.append(Row(
            output=(_X, _M), role=(0, 4), noise_stream=(_START_STREAM, _START_STREAM),
            noise_step=(0, 1), noise=spread, a=((), ()), next_t=t, next_scale=1.0,
            **{f"next_{k}": v for k, v in self.where(t).items()},
        ))  # fmt: skip

    def add(
        self, i: int, at: float, after: float, state: Matrix, eps: Matrix | None,
        noise: Matrix | None = None,
    ) -> None:  # fmt: skip
        """A call at time `at`; then ``z = state z + eps (eps_x, eps_m) + noise xi`` at `after`.

        Without `eps` there is no call.
        """
        here, there = self.where(at), self.where(after)
        calls = eps is not None
        eps = np.zeros((2, 2)) if eps is None else eps
        moves = [eps[r].any() or not np.array_equal(state[r], np.eye(2)[r]) for r in (0, 1)]
        keep = [r for r in (0, 1) if moves[r] or noise is not None]
        draws: dict[str, Any] = {}
        if noise is not None:
            first = 2 * len(self.rows)  # every row draws numbers of its own
            draws = {"noise_stream": (0, 0), "noise_step": (first, first + 1),
                     "noise": tuple(tuple(noise[r].tolist()) for r in keep)}  # fmt: skip
        self.rows.append(Row(
            input=(_X, _M, _EPS_X, _EPS_M) if calls else (_X, _M), output=tuple(keep),
            role=tuple((0, 4)[r] for r in keep), evaluates=int(calls),
            a=tuple((*state[r].tolist(), *(eps[r].tolist() if calls else ())) for r in keep),
            gamma=(1.0, 0.0) if calls else (), **draws, step=i, t=at, scale=1.0, next_t=after,
            next_scale=1.0,
            from_alpha=here["alpha"], from_sigma=here["sigma"], **here,
            **{f"next_{k}": v for k, v in there.items()},
        ))  # fmt: skip

    def step(self, name: str, i: int, t: float, after: float) -> None:
        h = self.process.clock(after) - self.process.clock(t)
        if name == "conjugate":
            self.add(i, t, after, *self._conjugate(t, after, h))
        elif name == "euler":
            state, eps = self._move(t, h, (0, 1))
            self.add(i, t, after, state, eps)
        elif name == "em":
            state, eps = self._reverse(t, -h)
            self.add(i, t, after, state, eps, math.sqrt(-h) * np.sqrt(self.process.diffusion))
        elif name == "sscs":
            self._symmetric(i, t, after, -h)
        elif name in ("nse", "rse"):
            self._symplectic_euler(name == "rse", i, t, after, h)
        else:
            self._velocity_verlet(name == "rvv", i, t, after, h)

    def _move(self, t: float, h: float, rows: Sequence[int]) -> tuple[Matrix, Matrix]:
        """Euler of the components `rows` with the score factor at t."""
        mask = np.diag([float(r in rows) for r in (0, 1)])
        return (np.eye(2) + 0.5 * h * mask @ self.process.drift,
                h * mask @ self.process.score_factor(t))  # fmt: skip

    def _conjugate(self, t: float, after: float, h: float) -> tuple[Matrix, Matrix]:
        exponent = self.drift - 0.5 * self.process.drift
        state = _expm(-h * exponent) @ (np.eye(2) + h * self.drift)
        # The score factor grows without bound towards time 0: panels that shrink with it.
        nodes, weights = np.polynomial.legendre.leggauss(16)
        edges = np.geomspace(t, after, 1 + max(1, math.ceil(2 * math.log2(t / after))))
        eps = np.zeros((2, 2))
        for low, high in pairwise(edges):
            for node, weight in zip(nodes, weights, strict=True):
                u = 0.5 * (low + high) + 0.5 * (high - low) * node
                rate = self.process.beta_min + u * (self.process.beta_max - self.process.beta_min)
                left = self.process.clock(after) - self.process.clock(u)
                factor = _expm(-left * exponent) @ self.process.score_factor(u)
                eps += 0.5 * (high - low) * weight * rate * factor
        return state, eps

    def _reverse(self, t: float, s: float) -> tuple[Matrix, Matrix]:
        """Euler of the reverse SDE's drift, ``-K z / 2 - 2 (D L^-T / 2) eps``, over s."""
        return (np.eye(2) - 0.5 * s * self.process.drift, -2 * s * self.process.score_factor(t))

    def _symmetric(self, i: int, t: float, after: float, s: float) -> None:
        end, diffusion = np.diag([1.0, self.process.mass]), self.process.diffusion
        pull = diffusion @ np.linalg.inv(end)  # what the score of the end adds to the drift
        half = _expm(0.5 * s * (-0.5 * self.process.drift - pull))
        spread: Matrix = np.asarray(np.linalg.cholesky(end - half @ end @ half.T), np.float64)
        self.add(i, t, t, half, None, spread)
        self.add(i, t, after, np.eye(2) + s * pull, -2 * s * self.process.score_factor(t))
        self.add(i, after, after, half, None, spread)

    def _symplectic_euler(self, reuse: bool, i: int, t: float, after: float, h: float) -> None:
        (a_x, e_x), (a_m, e_m) = self._move(t, h, (0,)), self._move(t, h, (1,))
        if reuse:
            self.add(i, t, after, a_m @ a_x, a_m @ e_x + e_m)
        else:
            self.add(i, t, t, a_x, e_x)
            self.add(i, t, after, a_m, e_m)

    def _velocity_verlet(self, reuse: bool, i: int, t: float, after: float, h: float) -> None:
        a_m, e_m = self._move(t, 0.5 * h, (1,))
        a_x, e_x = self._move(t, h, (0,))
        if reuse:
            self.add(i, t, after, a_x @ a_m, a_x @ e_m + e_x)
        else:
            self.add(i, t, t, a_m, e_m)
            self.add(i, t, after, a_x, e_x)
        self.add(i, after, after, *self._move(after, 0.5 * h, (1,)))

    def denoise(self, i: int, t: float) -> None:
        back = np.linalg.inv(self.process.mean(t))
        eps = -back @ np.linalg.cholesky(self.process.covariance(t))
        keep_m = np.array([[0.0, 0.0], [0.0, 1.0]])
        only_x = np.diag([1.0, 0.0])
        self.add(i, t, t, only_x @ back + keep_m, only_x @ eps)


def sample(
    model: Callable[[Any, Any, Any], tuple[Any, Any]],
    plan: Plan,
    shape: Sequence[int],
    *,
    seeds: Iterable[int] | None = None,
    device: Any = None,
) -> tuple[Any, Any]:
    """Draw a batch of samples.

    Parameters
    ----------
    model : callable
        ``model(x, m, t)`` -> (eps_x, eps_m), arrays of x's shape; x, m [B, N...] float32, t [B]
        float32. x and m are the sampler's own memory.
    plan : Plan
        From `plan`.
    shape : sequence of int
        ``(B, N...)``.
    seeds : B integers of up to 64 bits, default ``range(B)``
        All of a sample's randomness.
    device : str or torch.device, optional
        As of `fewstep.Sampler`.

    Returns
    -------
    tuple of two arrays, shape (B, N...), float32
        The samples and their momenta.

    Examples
    --------
    >>> plan = fewstep.psld.plan("rvv", steps=4)
    >>> x, m = fewstep.psld.sample(lambda x, m, t: (x, m), plan, (2, 3))
    >>> x.shape
    (2, 3)
    """
    batch = Batch.prepare(shape, None, None, None, seeds, (), model, device, "float32")
    x, m = (batch.arrays.zeros(batch.shape, "float32") for _ in range(2))
    step(plan, 0, [x, m], None, seeds=batch.seeds)
    with batch.arrays.without_gradients():
        for number, row in enumerate(plan.rows[1:], 1):
            if not row.evaluates:
                step(plan, number, [x, m], None, seeds=batch.seeds)
                continue
            t = batch.arrays.convert(np.full(batch.shape[0], row.t, np.float32))
            eps = model(x, m, t)
            # Either answer may be x or m itself, which the step is about to overwrite.
            told = tuple(checked_output(checked_output(e, x), m) for e in eps)
            step(plan, number, [x, m], told, seeds=batch.seeds)
    return x, m

# SPDX-License-Identifier: Apache-2.0
"""Samplers as loops in float64, written from the papers' algorithms, without rows or quadrature.

Each takes a model, a start and decreasing nodes s. The model is ``noise(x, s)`` of
``x = x0 + s noise``; for the samplers of flows, ``velocity(x, s)`` of ``x = (1 - s) x0 + s noise``.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from math import exp, expm1, log

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Field = Callable[[Array, float], Array]

# Adams-Bashforth of a uniform grid, newest first (Hairer, Norsett, Wanner, III.1, table 1.1).
AB = {
    1: [1.0],
    2: [3 / 2, -1 / 2],
    3: [23 / 12, -16 / 12, 5 / 12],
    4: [55 / 24, -59 / 24, 37 / 24, -9 / 24],
    5: [1901 / 720, -2774 / 720, 2616 / 720, -1274 / 720, 251 / 720],
}


def mix(weights: list[float], past: list[Array]) -> Array:
    """Combine values of which `past` has the newest last."""
    total = np.zeros_like(past[-1])
    for weight, value in zip(weights, reversed(past), strict=False):
        total = total + weight * value
    return total


def dpm2(noise: Field, x: Array, s: list[float]) -> Array:
    """The midpoint of log sigma, as sample_dpm_2 of k-diffusion without churn."""
    for a, b in pairwise(s):
        d = noise(x, a)
        if b == 0:
            x = x + d * (b - a)
            continue
        middle = exp(0.5 * (log(a) + log(b)))
        x = x + noise(x + d * (middle - a), middle) * (b - a)
    return x


def dpmpp_2s(noise: Field, x: Array, s: list[float]) -> Array:
    """Lu et al. 2022, 2211.01095, algorithm 1 with r = 1 / 2."""
    for a, b in pairwise(s):
        denoised = x - a * noise(x, a)
        if b == 0:
            x = denoised
            continue
        h = log(a) - log(b)
        middle = exp(log(a) - 0.5 * h)
        x2 = middle / a * x - expm1(-0.5 * h) * denoised
        x = b / a * x - expm1(-h) * (x2 - middle * noise(x2, middle))
    return x


def dpm_3s(noise: Field, x: Array, s: list[float]) -> Array:
    """Lu et al. 2022, 2206.00927, algorithm 2 (r1 = 1/3, r2 = 2/3), on VE."""
    for a, b in pairwise(s):
        eps = noise(x, a)
        if b == 0:
            x = x - a * eps
            continue
        h, r1, r2 = log(a) - log(b), 1 / 3, 2 / 3
        s1, s2 = exp(log(a) - r1 * h), exp(log(a) - r2 * h)
        u1 = x - s1 * expm1(r1 * h) * eps
        eps1 = noise(u1, s1)
        u2 = (x - s2 * expm1(r2 * h) * eps
              - s2 * (r2 / r1) * (expm1(r2 * h) / (r2 * h) - 1) * (eps1 - eps))  # fmt: skip
        eps2 = noise(u2, s2)
        x = x - b * expm1(h) * eps - b / r2 * (expm1(h) / h - 1) * (eps2 - eps)
    return x


def res_2m(noise: Field, x: Array, s: list[float]) -> Array:
    """Zhang et al. 2023, multistep of order 2: phi functions of -h."""
    old, lam = None, [-log(v) if v > 0 else np.inf for v in s]
    for i, (a, b) in enumerate(pairwise(s)):
        denoised = x - a * noise(x, a)
        if old is None or b == 0:
            x = b / a * x + (1 - b / a) * denoised
        else:
            h = lam[i + 1] - lam[i]
            c2 = (lam[i - 1] - lam[i]) / h
            phi1 = expm1(-h) / -h
            phi2 = (phi1 - 1) / -h
            x = exp(-h) * x + h * ((phi1 - phi2 / c2) * denoised + phi2 / c2 * old)
        old = denoised
    return x


def lms(noise: Field, x: Array, s: list[float], order: int = 4) -> Array:
    """Adams-Bashforth on the grid, by exact integration of the Lagrange polynomials."""
    past: list[Array] = []
    for i in range(len(s) - 1):
        past = [*past[-(order - 1) :], noise(x, s[i])] if order > 1 else [noise(x, s[i])]
        nodes = [s[i - j] for j in range(len(past))]
        weights = []
        for j, node in enumerate(nodes):
            basis = np.poly1d([1.0])
            for k, other in enumerate(nodes):
                if k != j:
                    basis *= np.poly1d([1.0, -(other - s[i])]) / (node - other)
            primitive = basis.integ()
            weights.append(primitive(s[i + 1] - s[i]) - primitive(0.0))
        x = x + mix(weights, past)
    return x


def ipndm(noise: Field, x: Array, s: list[float], order: int = 4) -> Array:
    """The same steps with the weights of a uniform grid."""
    past: list[Array] = []
    for a, b in pairwise(s):
        past.append(noise(x, a))
        x = x + (b - a) * mix(AB[min(order, len(past))], past)
    return x


def pndm(noise: Field, x: Array, s: list[float]) -> Array:
    """Liu et al. 2022, algorithms 1 and 2, with the clock sigma."""
    past: list[Array] = []
    for i, (a, b) in enumerate(pairwise(s)):
        e1 = noise(x, a)
        past.append(e1)
        if i < 3 and b > 0:
            middle = 0.5 * (a + b)
            e2 = noise(x + (middle - a) * e1, middle)
            e3 = noise(x + (middle - a) * e2, middle)
            e4 = noise(x + (b - a) * e3, b)
            x = x + (b - a) * (e1 + 2 * e2 + 2 * e3 + e4) / 6
        else:
            x = x + (b - a) * mix(AB[min(4, len(past))], past)
    return x


def gradient_estimation(noise: Field, x: Array, s: list[float], gamma: float = 2.0) -> Array:
    """Permenter, Yuan 2024, algorithm 2."""
    old = None
    for a, b in pairwise(s):
        d = noise(x, a)
        x = x + (b - a) * (d if old is None or b == 0 else gamma * d + (1 - gamma) * old)
        old = d
    return x


def heavy_ball(
    noise: Field, x: Array, s: list[float], order: int, beta: float, nesterov: bool = False
) -> Array:
    """Wizadwongsa et al. 2023, section 4.1."""
    past: list[Array] = []
    v = None
    for a, b in pairwise(s):
        past.append(noise(x, a))
        d = mix(AB[min(order, len(past))], past)
        v = (1 - beta) * (past[-1] if v is None else v) + beta * d
        x = x + (b - a) * ((1 - beta) * v + beta * d if nesterov else v)
    return x


def generalised_heavy_ball(
    noise: Field, x: Array, s: list[float], order: int, beta: float
) -> Array:
    """The same, section 4.2, with the weights of its table."""
    b1 = beta
    table = {
        1: [b1],
        2: [(2 + b1) / 2, -(2 - b1) / 2],
        3: [(18 + 5 * b1) / 12, -(24 - 8 * b1) / 12, (6 - b1) / 12],
        4: [(46 + 9 * b1) / 24, -(78 - 19 * b1) / 24, (42 - 5 * b1) / 24, -(10 - b1) / 24],
    }
    past: list[Array] = []
    for a, b in pairwise(s):
        e = noise(x, a)
        past.append((1 - beta) * (past[-1] if past else e) + beta * e)
        x = x + (b - a) * mix([w / beta for w in table[min(order, len(past))]], past)
    return x


def keep_noise(velocity: Field, x: Array, s: list[float]) -> Array:
    """Lee et al. 2024: the first noise is added to every new x0."""
    first = x
    for a, b in pairwise(s):
        x = (1 - b) * (x - a * velocity(x, a)) + b * first
    return x


def flowturbo(velocity: Field, refine: Callable[[Array, float, Array], Array], x: Array,
              s: list[float], blocks: str) -> Array:  # fmt: skip
    """Zhao et al. 2024, section 3.3: H, P and R blocks; a P block continues from the last slope."""
    first, second, previous = (
        None,
        None,
        "",
    )  # slopes of the block before: at its start and at its predictor
    for (a, b), kind in zip(pairwise(s), blocks, strict=True):
        if kind == "R":
            assert first is not None
            known = first if previous != "P" else second
            d = refine(x, a, known) + known
            e = refine(x + (b - a) * d, b, d) + d if b > 0 else d
        else:
            d = second if kind == "P" and second is not None and b > 0 else velocity(x, a)
            e = velocity(x + (b - a) * d, b) if b > 0 else d
        x = x + (b - a) / 2 * (d + e)
        first, second, previous = d, e, kind
    return x


def accelerated_ddim(score: Field, y: Array, bars: list[float], reuse: bool) -> Array:
    """Li et al. 2024, section 3.1: ``score(y, bar)`` of ``y = sqrt(bar) x0 + sqrt(1 - bar) noise``.

    `bars` increase; the correction needs the level before the first, so it begins with the second.
    """
    kept = None
    for i, (bar, after) in enumerate(pairwise(bars)):
        alpha, s = bar / after, score(y, bar)
        step = y + (1 - alpha) / 2 * s
        if i > 0:
            older = bars[i - 1] / bar
            back = np.sqrt(older) * (y - (1 - older) / 2 * s)
            other = kept if reuse else score(back, bars[i - 1])
            step = step + (1 - alpha) ** 2 / (4 * (1 - older)) * (s - np.sqrt(older) * other)
        y, kept = step / np.sqrt(alpha), s
    return y

# SPDX-License-Identifier: Apache-2.0
"""Frechet distance between generated and real digits, in the features of the demo's classifier."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .network import Classifier

Array = NDArray[Any]


@cache
def real_digits() -> tuple[Array, Array]:
    """Return scikit-learn's handwritten digits.

    Returns
    -------
    images : array, shape (1797, 64), float64
        Between -1 (background) and 1 (ink).
    labels : array, shape (1797,), int64

    Examples
    --------
    >>> real_digits()[0].shape
    (1797, 64)
    """
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return np.asarray(images, np.float64) / 8.0 - 1.0, np.asarray(labels, np.int64)


@dataclass(frozen=True)
class Gaussian:
    """Mean [D] and covariance [D, D] of a set of features, float64."""

    mean: Array
    covariance: Array

    @classmethod
    def fit(cls, features: Array) -> Gaussian:
        """Fit to features [n, D], n >= 2."""
        features = np.asarray(features, np.float64)
        if features.ndim != 2 or len(features) < 2:
            raise ValueError(
                f"Gaussian.fit: 'features' must have shape [n >= 2, D], got {list(features.shape)}"
            )
        return cls(features.mean(0), np.cov(features, rowvar=False))


def _root(matrix: Array) -> Array:
    """Symmetric square root; eigenvalues that rounding left negative count as zero."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def distance(a: Gaussian, b: Gaussian) -> float:
    """Return the Frechet (2-Wasserstein, squared) distance of two Gaussians.

    ``|m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a^1/2 C_b C_a^1/2)^1/2)``

    The inner product is symmetric, so both square roots come from symmetric eigenvalue
    decompositions: real and never negative, unlike a general matrix square root of ``C_a C_b``.

    References
    ----------
    .. [1] Dowson, Landau, "The Frechet distance between multivariate normal distributions", 1982.
    .. [2] Heusel et al., "GANs trained by a two time-scale update rule ...", arXiv 1706.08500.

    Examples
    --------
    >>> unit = Gaussian(np.zeros(2), np.eye(2))
    >>> distance(unit, Gaussian(np.array([3.0, 4.0]), 4 * np.eye(2)))
    27.0
    """
    shift = a.mean - b.mean
    root = _root(a.covariance)
    cross = np.linalg.eigvalsh(root @ b.covariance @ root)
    overlap = 2.0 * np.sqrt(np.maximum(cross, 0.0)).sum()
    return float(shift @ shift + np.trace(a.covariance) + np.trace(b.covariance) - overlap)


@cache
def _real_gaussian() -> tuple[Classifier, Gaussian]:
    classifier = Classifier()
    return classifier, Gaussian.fit(classifier.features(real_digits()[0]))


def to_real(images: Array) -> float:
    """Return the Frechet distance of generated images to the real digits.

    Parameters
    ----------
    images : array, shape (n, 64), float
        Generated digits; clipped to [-1, 1], the range of real ones.

    Returns
    -------
    float
        Lower is better; `floor` is what a set of real digits scores.
    """
    classifier, real = _real_gaussian()
    return distance(Gaussian.fit(classifier.features(np.clip(images, -1.0, 1.0))), real)


def floor(seed: int = 0) -> float:
    """Return the distance of one random half of the real digits to the other half.

    No generator can be told from the real data below this: it is what the sample size costs.
    """
    classifier, _ = _real_gaussian()
    order = np.random.default_rng(seed).permutation(len(real_digits()[0]))
    features = classifier.features(real_digits()[0][order])
    half = len(order) // 2
    return distance(Gaussian.fit(features[:half]), Gaussian.fit(features[half:]))

# SPDX-License-Identifier: Apache-2.0
"""The digits networks in NumPy.

Dimensions: ``B`` batch, 64 pixels (8 x 8, row by row, -1 background, 1 ink), 256 hidden units.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import as_file, files
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

PIXELS = 64
CLASSES = 10
NO_CLASS = 10
"""The label that stands for "no condition"."""

Array = NDArray[Any]


@cache
def _read() -> tuple[dict[str, Array], dict[str, Any]]:
    """Read the shipped tensors (float16) and the header's facts once per process."""
    from safetensors import safe_open

    resource = files("fewstep.demo") / "weights" / "digits.safetensors"
    with as_file(resource) as path, safe_open(path, "numpy") as handle:
        tensors = {name: handle.get_tensor(name) for name in handle.keys()}  # noqa: SIM118
        header = {key: json.loads(value) for key, value in handle.metadata().items()}
    return tensors, header


def facts() -> dict[str, Any]:
    """Return what the weights file says about itself: data, seed, settings, losses, accuracy.

    Returns
    -------
    dict
        Keys ``data``, ``format``, ``metrics``, ``seconds``, ``settings``, ``sigma_data`` and
        ``torch`` (the version that trained it).

    Examples
    --------
    >>> facts()["metrics"]["classifier_accuracy"] > 0.97
    True
    """
    return dict(_read()[1])


def _silu(x: Array) -> Array:
    """Apply x * sigmoid(x) in place; by tanh, which cannot overflow."""
    gate = np.tanh(0.5 * x)
    gate += 1
    gate *= 0.5
    x *= gate
    return x


def _normalise(x: Array) -> Array:
    """Layer normalisation without weights over the last axis."""
    centred: Array = x - x.mean(1, keepdims=True)
    variance = np.einsum("bi,bi->b", centred, centred) / x.shape[1]
    centred /= np.sqrt(variance + 1e-5)[:, None]
    return centred


@dataclass(frozen=True)
class Linear:
    """A layer ``x @ weight + bias``; weight [inputs, outputs]."""

    weight: Array
    bias: Array

    def __call__(self, x: Array) -> Array:
        out: Array = x @ self.weight
        out += self.bias
        return out


def _linears(prefix: str, dtype: DTypeLike) -> dict[str, Linear]:
    tensors = _read()[0]
    names = [n[: -len(".bias")] for n in tensors if n.startswith(prefix) and n.endswith(".bias")]
    return {
        name[len(prefix) :]: Linear(
            np.ascontiguousarray(tensors[name + ".weight"].T.astype(dtype)),
            tensors[name + ".bias"].astype(dtype),
        )
        for name in names
    }


class Denoiser:
    """The raw network F of EDM's preconditioning, as fewstep's model protocol.

    ``F(x, sigma, label)`` with ``x = c_in(sigma) * sample``; a plan made with ``prediction="edm"``
    turns it into ``x0 = c_skip * sample + c_out * F``.

    Parameters
    ----------
    dtype : float32 | float64, default float32
        Arithmetic of the network; float64 serves the reference trajectory.

    Attributes
    ----------
    sigma_data : float
        Standard deviation of the training images, a parameter of the preconditioning.

    References
    ----------
    .. [1] Karras, Aittala, Aila, Laine, "Elucidating the design space of diffusion-based generative
       models", arXiv 2206.00364, table 1.

    Examples
    --------
    >>> net = Denoiser()
    >>> net(np.zeros((2, 64), "f4"), np.ones(2, "f4"), label=np.array([3, 7])).shape
    (2, 64)
    """

    def __init__(self, dtype: DTypeLike = np.float32) -> None:
        self.dtype = np.dtype(dtype)
        self._layers = _linears("denoiser.", dtype)
        tensors, header = _read()
        self._frequencies = tensors["denoiser.frequencies"].astype(dtype)
        self._labels = tensors["denoiser.embed_label.weight"].astype(dtype)
        self._blocks = sum(name.startswith("film.") for name in self._layers)
        self.sigma_data = float(header["sigma_data"])

    def __call__(self, x: Array, t: Array, label: Array) -> Array:
        """Evaluate the network.

        Parameters
        ----------
        x : array, shape (B, 64), float32 | float64
            ``c_in(sigma) * sample``.
        t : array, shape (B,)
            Noise level sigma of each sample, positive.
        label : array, shape (B,), integer
            Digit 0 .. 9, or 10 for none.

        Returns
        -------
        array, shape (B, 64), the network's dtype
        """
        layers = self._layers
        noise = np.log(np.asarray(t, self.dtype)) / 4
        angle = noise[:, None] * self._frequencies
        embed = layers["embed_sigma"](np.concatenate([np.cos(angle), np.sin(angle)], 1))
        embed += self._labels[label]
        embed = _silu(layers["embed_out"](_silu(embed)))
        hidden = layers["stem"](np.asarray(x, self.dtype))
        for i in range(self._blocks):
            film = layers[f"film.{i}"](embed)
            scale, shift = film[:, : hidden.shape[1]], film[:, hidden.shape[1] :]
            inner = _normalise(hidden)
            inner *= 1 + scale
            inner += shift
            hidden += layers[f"down.{i}"](_silu(layers[f"up.{i}"](inner)))
        return layers["head"](_normalise(hidden))

    @staticmethod
    @cache
    def shared() -> Denoiser:
        """Return the process's float32 network; it holds no state."""
        return Denoiser()

    def denoise(
        self, sample: Array, sigma: float | Array, label: Array, scale: float = 1.0
    ) -> Array:
        """Return the expected clean image, with classifier-free guidance when `scale` is not 1.

        Parameters
        ----------
        sample : array, shape (B, 64)
            ``clean + sigma * noise``.
        sigma : float, or array, shape (B,)
            Noise level, positive.
        label : array, shape (B,), integer
            Digit 0 .. 9, or 10 for none.
        scale : float, default 1
            Guidance: ``scale * conditional + (1 - scale) * unconditional``.

        Returns
        -------
        array, shape (B, 64), the network's dtype
        """
        t = np.broadcast_to(np.asarray(sigma, self.dtype), len(sample))
        total = (t * t + self.sigma_data**2)[:, None]
        x = sample / np.sqrt(total)
        raw = self(x, t, label)
        if scale != 1.0:
            raw = scale * raw + (1 - scale) * self(x, t, np.full_like(label, NO_CLASS))
        c_out = t[:, None] * self.sigma_data / np.sqrt(total)
        return np.asarray(sample * (self.sigma_data**2 / total) + raw * c_out)


class Classifier:
    """A digit classifier whose 64-wide layer is the feature space of the Frechet distance.

    Examples
    --------
    >>> Classifier().features(np.zeros((2, 64))).shape
    (2, 64)
    """

    def __init__(self) -> None:
        self._layers = _linears("classifier.", np.float64)

    def features(self, images: Array) -> Array:
        """Return the activations of the 64-wide layer; images [B, 64] -> [B, 64], float64."""
        hidden = _silu(self._layers["first"](np.asarray(images, np.float64)))
        return _silu(self._layers["second"](hidden))

    def predict(self, images: Array) -> Array:
        """Return the likeliest digit of each image; images [B, 64] -> [B], integer."""
        return np.asarray(np.argmax(self._layers["third"](self.features(images)), 1))

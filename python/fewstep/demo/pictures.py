# SPDX-License-Identifier: Apache-2.0
"""The demo's two pictures: a sheet of digits and error against model calls."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .network import CLASSES

# Okabe and Ito's colours: told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"


def _figure(width: float, height: float) -> Any:
    """Return a figure that draws to memory: no display, no global state."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110)
    FigureCanvasAgg(figure)
    return figure


def sheet(images: NDArray[Any], path: Path, title: str, rows: int = 8) -> None:
    """Write a sheet of digits, one column per class.

    Parameters
    ----------
    images : array, shape (n, 64)
        Digits 0, 1, ..., 9, 0, ... between -1 and 1; the first ``10 * rows`` are shown.
    path : Path
        PNG file to write.
    title : str
        Printed above.
    rows : int, default 8
        Samples of each class.
    """
    rows = min(rows, len(images) // CLASSES)
    figure = _figure(0.75 * CLASSES, 0.75 * rows + 0.9)
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(rows, CLASSES, squeeze=False)
    for number, axis in enumerate(axes.flat):
        # The digits reach the border: a pixel of background around them.
        tile = np.pad(np.clip(images[number], -1.0, 1.0).reshape(8, 8), 1, constant_values=-1.0)
        axis.imshow(tile, cmap="gray_r", vmin=-1, vmax=1, interpolation="bicubic")
        axis.set_xticks([])
        axis.set_yticks([])
        for side in axis.spines.values():
            side.set_visible(False)
        if number < CLASSES:
            axis.set_title(str(number), fontsize=12, color="#0072B2")
    figure.subplots_adjust(0.02, 0.02, 0.98, 1 - 0.75 / (0.75 * rows + 0.9), 0.08, 0.08)
    figure.savefig(path)


def error_plot(curves: dict[str, list[tuple[int, float]]], path: Path, title: str) -> None:
    """Write error against model calls, both axes logarithmic.

    Parameters
    ----------
    curves : dict of str to list of (int, float)
        Model calls and root mean square error of each solver.
    path : Path
        PNG file to write.
    title : str
        Printed above.
    """
    figure = _figure(7.2, 5.0)
    axis = figure.subplots()
    for number, (solver, points) in enumerate(curves.items()):
        calls, errors = zip(*points, strict=True)
        style = {"color": COLOURS[number % 7], "marker": MARKERS[number % 7]}
        axis.loglog(calls, errors, label=solver, linewidth=1.5, markersize=5, **style)
    ticks = [calls for calls, _ in next(iter(curves.values()))]
    axis.set_xticks(ticks, [str(t) for t in ticks])
    axis.minorticks_off()
    axis.set_xlabel("model calls")
    axis.set_ylabel("RMS pixel distance to the float64 reference")
    axis.set_title(title, fontsize=11)
    axis.grid(True, alpha=0.3)
    axis.legend(fontsize=9)
    figure.tight_layout()
    figure.savefig(path)

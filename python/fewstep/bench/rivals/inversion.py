# SPDX-License-Identifier: Apache-2.0
"""Draws by inversion in torch, whose multinomial needs a random number for each column."""

from __future__ import annotations

import torch


def inverted(weights: torch.Tensor, sums: torch.Tensor | None = None) -> torch.Tensor:
    """Return a column of each row of weights, drawn in proportion; they need not sum to 1.

    Parameters
    ----------
    weights : torch.Tensor, shape (B, V)
    sums : torch.Tensor, shape (B, V), optional
        Memory for the cumulative sums.

    Returns
    -------
    torch.Tensor, shape (B, 1)
    """
    steps = torch.cumsum(weights, -1, out=sums)
    u = torch.rand(len(weights), 1, device=weights.device)
    return torch.searchsorted(steps, u * steps[:, -1:], right=True)

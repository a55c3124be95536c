# SPDX-License-Identifier: Apache-2.0
"""FlexAttention, the form of torch that compiles any mask into its kernel."""

from __future__ import annotations

from collections.abc import Callable

import torch


def flex(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, sees: Callable[..., torch.Tensor]
) -> Callable[[], torch.Tensor]:
    """Return compiled attention under a mask.

    Parameters
    ----------
    q : torch.Tensor, shape (B, H, T, D)
    k, v : torch.Tensor, shape (B, G, L, D)
        H is a multiple of G.
    sees : callable
        Takes a batch, a head, a row and a key, and says whether the row sees the key.

    Returns
    -------
    callable
        Its first call compiles; that raises where there is no compiler.
    """
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    torch.compiler.reset()  # else the eighth size is refused
    mask = create_block_mask(sees, None, None, q.shape[2], k.shape[2], device=q.device.type)
    compiled = torch.compile(flex_attention, dynamic=False)

    def call() -> torch.Tensor:
        out: torch.Tensor = compiled(q, k, v, block_mask=mask, enable_gqa=True)
        return out

    return call

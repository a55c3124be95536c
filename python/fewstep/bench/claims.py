# SPDX-License-Identifier: Apache-2.0
"""What the project says of its speed on a GPU, to be measured or called not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .cases import (
    ATTENTION_BARS,
    COMMIT_BAR,
    COPY_BAR,
    CUDA_NORMAL_BAR,
    CYCLE_BAR,
    SAMPLE_BAR,
    TRAJECTORY_BARS,
    VERIFY_BARS,
)

Rows = Iterable[Mapping[str, Any]]


@dataclass(frozen=True)
class Claim:
    """One bar.

    Attributes
    ----------
    text : str
    op, rival : str
        Of the rows that decide: those of them that carry a bar.
    key : str
        What of a row is compared with `least`.
    least : float
    """

    text: str
    op: str
    rival: str
    key: str
    least: float

    def worst(self, rows: Rows) -> Mapping[str, Any] | None:
        """Return the row that is farthest below the bar or least above; None if none has it."""
        mine = [r for r in rows if "bar" in r and (r["op"], r["rival"]) == (self.op, self.rival)]
        return min(mine, key=lambda row: float(row[self.key])) if mine else None

    def shown(self, value: float) -> str:
        """Return a value or the bar with its unit."""
        return f"{100 * value:.0f} %" if self.key == "share" else f"{value:.3g}x"


_ATTENTION = {
    "best": ("trees of 64 nodes, against the best of torch and FlashInfer", "ratio"),
    "copy": ("one row of 16 requests of 32768 tokens, of measured copy bandwidth", "share"),
    "gemm": ("trees of 64 nodes in 16 requests of 32768 tokens, of a large product", "share"),
}
_STEPS = "20-step DPM++2M + CFG trajectory, SDXL latents batch 4, one captured graph, step part"
CLAIMS = (
    Claim(
        "solver.step, 64 MB and more per tensor, of measured copy bandwidth",
        "solver.step",
        "copy",
        "share",
        COPY_BAR,
    ),
    *(
        Claim(f"{_STEPS}, against {rival}", "solver.step", rival, "ratio", least)
        for rival, least in TRAJECTORY_BARS.items()
    ),
    Claim(
        "normals, 1 G elements, against torch.randn, bitwise equal to the CPU's",
        "noise.normal",
        "torch.randn",
        "ratio",
        CUDA_NORMAL_BAR,
    ),
    Claim(
        "Generator cycle, Llama of 1.2 G parameters in bfloat16, tree of 64 nodes, one text, share "
        "of its forward pass",
        "Generator",
        "its forward pass",
        "share",
        CYCLE_BAR,
    ),
    *(
        Claim(f"tree.attention, {text}", "tree.attention", rival, key, ATTENTION_BARS[rival])
        for rival, (text, key) in _ATTENTION.items()
    ),
    *(
        Claim(f"tree.verify, 64 trees, against {rival}", "tree.verify", rival, "ratio", least)
        for rival, least in VERIFY_BARS.items()
    ),
    *(
        Claim(
            f"logits.sample, top-k and top-p, 64 rows, against {rival}",
            "logits.sample",
            rival,
            "ratio",
            SAMPLE_BAR,
        )
        for rival in ("flashinfer", "flashinfer logits")
    ),
    Claim("kv.commit, of measured copy bandwidth", "kv.commit", "copy", "share", COMMIT_BAR),
)

# SPDX-License-Identifier: Apache-2.0
"""Cycles of a `PagedModel` as graphs, played by the CPU."""

from __future__ import annotations

from typing import Any

import fewstep.transformers._cycle as cycle
import fewstep.transformers._layer as layer
import fewstep.transformers._store as store
from fewstep import _core
from fewstep.transformers import PagedModel
from recorded import Recorded


class Recording(Recorded):
    made = 0
    ops = (
        (store, "append"),
        (store, "attention"),
        (layer, "append"),
        (cycle, "from_template"),
        (cycle, "top_k"),
        (cycle, "recycle"),
        (cycle, "commit"),
        (_core, "tree_verify"),
        (_core, "linear_run"),
    )


def recording(model: PagedModel, record: Any = Recording) -> PagedModel:
    """Let a model on the CPU run as one with ``graph=True`` does on a device."""
    model.runs_ahead, model._cycles = True, cycle.Cycles(model._forward, record)
    return model

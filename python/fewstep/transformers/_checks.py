# SPDX-License-Identifier: Apache-2.0
"""What a paged model asks of a model and of the arguments of its calls."""

from __future__ import annotations

from collections.abc import Sequence
from operator import sub
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from .._torch_weight import has_kernels
from ..kv import Pool
from ._rows import LONGEST
from ._shares import layer_stack
from ._store import FITTING

FUNCTION = "fewstep.transformers.PagedModel"
DEVICES = ("cpu", "cuda")  # on which a build may have kernels
_NONE_BUILT = "as this build has no CUDA kernels (FEWSTEP_CUDA=ON)"


def check_block(block: list[int], counts: list[int], length: list[int]) -> None:
    """Raise ValueError unless draft blocks hold their rows and lie in their sequences."""
    fits = (
        count <= size <= min(LONGEST, before + count)
        for size, count, before in zip(block, counts, length, strict=True)
    )
    if not all(fits):
        raise ValueError(
            f"{FUNCTION}.forward: 'block' must be the rows or more, up to {LONGEST} and the "
            f"tokens of the sequence, got {block}"
        )


def check_paths(
    sequences: Sequence[int], lengths: list[int], path: Any, accepted: Any, block: Any
) -> None:
    """Raise ValueError unless blocks lie in their sequences, and accepted nodes in these."""
    rows, counts, sizes = (np.asarray(a).tolist() for a in (path, accepted, block))
    for each in zip(sequences, lengths, sizes, rows, counts, strict=True):
        check_path(*each)


def check_path(sequence: int, length: int, size: int, row: list[int], n: int) -> None:
    """Raise ValueError unless a block of a sequence and n nodes of a path in it are some."""
    if not 1 <= size <= length:
        raise ValueError(
            f"{FUNCTION}.keep: 'block' must lie in 1 to {length}, the tokens of sequence "
            f"{sequence}, got {size}"
        )
    if not (0 <= n <= len(row)) or (n and row[n - 1] >= size):
        raise ValueError(f"{FUNCTION}.keep: 'path' must hold {n} nodes below {size}, got {row}")


def check_model(model: Any) -> None:
    """Raise TypeError or ValueError unless it is a model that can run."""
    fits = isinstance(model, torch.nn.Module) and hasattr(model, "get_output_embeddings")
    if not fits:
        raise TypeError(
            f"{FUNCTION}: 'model' must be a causal language model of transformers, got "
            f"{type(model).__name__}"
        )
    if model.get_output_embeddings() is None:
        raise TypeError(
            f"{FUNCTION}: 'model' must have a head, got {type(model).__name__} without one"
        )
    if model.device.type not in DEVICES or model.dtype not in FITTING:
        raise ValueError(
            f"{FUNCTION}: 'model' must be on cpu or cuda, of float32, float16 or bfloat16, got "
            f"{str(model.dtype).removeprefix('torch.')} on {model.device}"
        )
    if not has_kernels(model.device):
        raise NotImplementedError(
            f"{FUNCTION}: 'model' must be on cpu, {_NONE_BUILT}, got one on {model.device}"
        )


def check_device(function: str, device: torch.device) -> None:
    """Raise an error unless a cache can be on a device."""
    if device.type not in DEVICES:
        raise ValueError(f"{function}: 'device' must be cpu or cuda, got {device}")
    if not has_kernels(device):
        raise NotImplementedError(f"{function}: 'device' must be cpu, {_NONE_BUILT}, got {device}")


def check_graph(model: Any, graph: bool) -> None:
    """Raise ValueError where there are no graphs."""
    if graph and model.device.type == "cpu":
        raise ValueError(
            f"{FUNCTION}: 'graph' must be False without a CUDA device, got True with a model on cpu"
        )


def stop_tokens(model: Any) -> tuple[int, ...]:
    """Return the tokens that end a text."""
    config = getattr(model, "generation_config", None)
    ends = getattr(config, "eos_token_id", None)
    if ends is None:
        return ()
    return tuple(ends) if isinstance(ends, (list, tuple)) else (int(ends),)


def vocabulary_size(model: Any) -> int:
    """Return the tokens that a model has logits of."""
    size: int = model.get_output_embeddings().weight.shape[0]
    return size


def checked_layers(model: Any, layers: int) -> int:
    """Return a number of layers that the model has."""
    most = len(layer_stack(model)[1])
    if not 1 <= layers <= most:
        raise ValueError(f"{FUNCTION}: 'layers' must lie in 1 to {most}, the model's, got {layers}")
    return layers


def checked_ids(model: Any, vocabulary: ArrayLike) -> NDArray[Any]:
    """Return ids of a subset of the vocabulary, int32."""
    ids, size = np.asarray(vocabulary), vocabulary_size(model)
    fits = ids.ndim == 1 and ids.size > 0 and ids.dtype.kind in "iu"
    if not fits or ids[0] < 0 or ids[-1] >= size or (np.diff(ids.astype(np.int64)) <= 0).any():
        raise ValueError(
            f"{FUNCTION}: 'vocabulary' must hold ascending ids below {size}, got {ids.dtype} of "
            f"shape {list(ids.shape)}"
        )
    return ids.astype(np.int32)


def checked_counts(
    function: str, sequences: Sequence[int], indptr: NDArray[Any], n: int
) -> list[int]:
    """Return the rows of each of some sequences, of which there are n together."""
    ends = indptr.tolist()
    if indptr.shape != (len(sequences) + 1,) or ends[0] != 0 or ends[-1] != n:
        raise ValueError(
            f"{function}: 'indptr' must go from 0 to {n} in {len(sequences)} steps, got {ends}"
        )
    counts = list(map(sub, ends[1:], ends))
    if min(counts, default=1) < 1:
        raise ValueError(f"{function}: 'indptr' must ascend, got {ends}")
    return counts


def check_room(
    function: str, pool: Pool, sequences: Sequence[int], length: list[int], rows: list[int]
) -> None:
    """Check that sequences of such lengths have room for their rows."""
    for sequence, before, count in zip(sequences, length, rows, strict=True):
        room = pool.length(sequence) - before
        if room < count:
            raise ValueError(
                f"{function}: 'sequences' must have room for their rows, got {room} tokens for "
                f"{count} rows of sequence {sequence}; call extend"
            )

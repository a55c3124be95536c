# SPDX-License-Identifier: Apache-2.0
"""From the target's logits to accepted tokens: penalties, grammar masks and verification."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep import logits as logits_ops
from fewstep import tree
from fewstep._generate.pack import Block, laws
from fewstep._generate.request import Request
from fewstep._generate.sampling import FILTERS, Sampling

_STATUS = {1: "hold NaN", 2: "hold +inf", 3: "allow no token"}


class Verdict(NamedTuple):
    """Accepted paths and next tokens of a batch; see `fewstep.tree.verify`.

    `paths` are the accepted nodes as lists. `failed` has the errors of requests whose grammar
    failed or whose logits gave no law. `wrong` is what verification said of drafts that it could
    not use, and did without.
    """

    path: NDArray[np.int32]
    accepted: NDArray[np.int32]
    next_token: NDArray[np.int32]
    paths: list[list[int]]
    failed: dict[int, Exception]
    wrong: ValueError | None


class Judge:
    """Verifies the drafts of a batch by each request's own sampling."""

    def __init__(self) -> None:
        self._known: list[Request] = []
        self._seeds = np.zeros(0, np.int64)
        self._filters: dict[str, Any] = {}

    def __call__(self, block: Block, logits: Any) -> Verdict:
        """Return what is accepted of each request's draft and what follows it."""
        self._read(block.requests)
        logits, mask, failed = adjusted(block, logits)
        batch = len(block.requests)
        path = np.empty((batch, max(block.depth.tolist())), np.int32)
        accepted, following, status = np.empty((3, batch), np.int32)
        positions = np.array([len(request.tokens) for request in block.requests], np.int32)
        wrong = None
        for group in block.groups:
            a, b = group.begin, group.end
            first, last = block.begins[a], block.begins[b]
            token, ends = _part(block.token, first, last), _part(block.indptr, a, b + 1)
            verify = partial(
                tree.verify, _part(block.parent, first, last), ends - first if first else ends,
                logits=_part(logits, first, last), bitmask=_part(mask, first, last),
                seeds=_part(self._seeds, a, b), positions=_part(positions, a, b),
                path=_part(path, a, b), accepted=_part(accepted, a, b),
                next_token=_part(following, a, b), status=_part(status, a, b),
                **{name: _part(values, a, b) for name, values in self._filters.items()},
            )  # fmt: skip
            try:
                drawn = laws(block, group)
                verify(token=token, rule=group.rule, law=group.law, **drawn)
            except ValueError as error:
                if group.law == "deterministic":
                    raise
                # The probabilities fit nothing: no draft, as if its tokens were negative.
                wrong = error
                verify(token=np.full_like(token, -1), rule="match")
        for i, why in enumerate(status.tolist()):
            if why:
                failed.setdefault(i, _reason(block.requests[i], why))
        counts = accepted.tolist()
        paths = [own[:n] for own, n in zip(path.tolist(), counts, strict=True)]
        return Verdict(path, accepted, following, paths, failed, wrong)

    def _read(self, requests: list[Request]) -> None:
        """Collect the parameters of the requests, unless they are those of the last call."""
        if self._known == requests:
            return
        self._known = requests
        each = [request.sampling for request in requests]
        self._seeds = np.array([one.seed for one in each], np.int64)
        self._filters = {
            name: np.array([getattr(one, name) for one in each], dtype)
            for name, dtype in FILTERS.items()
        }
        for name, values in list(self._filters.items()):
            if name != "temperature" and (values == getattr(Sampling, name)).all():
                del self._filters[name]  # nothing to do, at some cost


def _part(values: Any, begin: int, end: int) -> Any:
    """Return some rows; what is all of them as it is, since a view takes its time."""
    return values if values is None or len(values) == end - begin else values[begin:end]


def _reason(request: Request, status: int) -> ValueError:
    """Return the error of a request whose logits give no law."""
    why = _STATUS.get(status, "give no law")
    return ValueError(
        f"fewstep.Generator: the logits at position {len(request.tokens)} or in its draft {why}"
    )


def adjusted(
    block: Block, logits: Any
) -> tuple[Any, NDArray[np.uint32] | None, dict[int, Exception]]:
    """Return logits with the requests' penalties, their grammars' masks, and what those raised."""
    penalised = any(request.sampling.penalises for request in block.requests)
    masked = any(request.sampling.bitmask is not None for request in block.requests)
    if not penalised and not masked:
        return logits, None, {}
    above = [_above(block, b) for b in range(len(block.requests))]
    if penalised:
        logits = _penalised(block, above, logits)
    failed: dict[int, Exception] = {}
    masks = _masks(block, above, logits.shape[1], failed) if masked else None
    return logits, masks, failed


def _above(block: Block, b: int) -> list[list[int]]:
    """Return the drafted tokens on the way to each node of a request, its own included."""
    begin, end = block.begins[b : b + 2]
    ways: list[list[int]] = [[]]
    nodes = zip(block.token[begin:end].tolist(), block.parent[begin:end].tolist(), strict=True)
    ways.extend([*ways[parent], token] for token, parent in list(nodes)[1:])
    return ways


def _penalised(block: Block, above: list[list[list[int]]], logits: Any) -> Any:
    ids: list[int] = []
    counts: list[int] = []
    ends, bias_ends = [0], [0]
    bias_ids: list[int] = []
    bias_values: list[float] = []
    for request, ways in zip(block.requests, above, strict=True):
        known = dict.fromkeys(request.tokens[: request.prompt], 0) | dict(request.counts)
        own = request.sampling.penalises
        bias = request.sampling.bias
        for way in ways:
            if own:
                ids.extend([*known, *way])
                counts.extend([*known.values(), *[1] * len(way)])
                bias_ids.extend(bias)
                bias_values.extend(bias.values())
            ends.append(len(ids))
            bias_ends.append(len(bias_ids))
    rows = block.sizes
    values = {
        name: np.repeat(
            np.array([getattr(r.sampling, name) for r in block.requests], np.float32), rows
        )
        for name in ("repetition", "presence", "frequency")
    }
    return logits_ops.penalise(
        logits, np.array(ids, np.int32), np.array(ends, np.int32),
        counts=np.array(counts, np.int32), bias_ids=np.array(bias_ids, np.int32),
        bias_values=np.array(bias_values, np.float32), bias_indptr=np.array(bias_ends, np.int32),
        **values,
    )  # fmt: skip


def _masks(
    block: Block, above: list[list[list[int]]], n_vocab: int, failed: dict[int, Exception]
) -> NDArray[np.uint32]:
    masks = np.full((len(block.token), (n_vocab + 31) // 32), 0xFFFFFFFF, np.uint32)
    for b, (request, ways) in enumerate(zip(block.requests, above, strict=True)):
        if request.sampling.bitmask is not None:
            begin, end = block.begins[b : b + 2]
            try:
                _ask(request, ways, block.parent[begin:end].tolist(), masks[begin:end])
            except Exception as error:
                failed[b] = error
    return masks


def _ask(
    request: Request, ways: list[list[int]], parents: list[int], masks: NDArray[np.uint32]
) -> None:
    """Fill the masks of a request's nodes from its grammar."""
    assert request.sampling.bitmask is not None
    words = masks.shape[1]
    lawful = [True] * len(ways)
    for i, way in enumerate(ways):
        if i:
            # A grammar is only asked about what it allows: below a token that it does not, nothing
            # is ever accepted.
            allowed = masks[parents[i], way[-1] // 32] >> np.uint32(way[-1] % 32) & np.uint32(1)
            lawful[i] = lawful[parents[i]] and bool(allowed)
        if lawful[i]:
            given = np.asarray(request.sampling.bitmask([*request.generated, *way]))
            if given.shape != (words,) or given.dtype not in (np.int32, np.uint32):
                raise ValueError(
                    f"fewstep.Sampling: 'bitmask' must give {words} int32 or uint32 words, got "
                    f"{given.dtype} of shape {list(given.shape)}"
                )
            masks[i] = given.view(np.uint32)

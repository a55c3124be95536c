# SPDX-License-Identifier: Apache-2.0
"""From the target's logits to accepted tokens: penalties, grammar masks and verification."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep import logits as logits_ops
from fewstep import tree
from fewstep._generate.pack import Block, Group, laws
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
        self._own: dict[str, Any] = {}  # seeds and filters, by their names
        self._adjusts = False  # whether any has penalties or a grammar

    def __call__(self, block: Block, logits: Any) -> Verdict:
        """Return what is accepted of each request's draft and what follows it."""
        self._read(block.requests)
        mask, failed = None, dict[int, Exception]()
        if self._adjusts:
            logits, mask, failed = adjusted(block, logits)
        batch = len(block.requests)
        path = np.empty((batch, max(block.depth.tolist())), np.int32)
        accepted, following, status = np.empty((3, batch), np.int32)
        positions = np.array([len(request.tokens) for request in block.requests], np.int32)
        nodes = {"parent": block.parent, "token": block.token, "logits": logits, "bitmask": mask}
        requests = self._own | {
            "positions": positions, "path": path, "accepted": accepted, "next_token": following,
            "status": status,
        }  # fmt: skip
        wrong = None
        for group in block.groups:
            given, ends = nodes | requests, block.indptr
            if len(block.groups) > 1:
                a, b = group.begin, group.end
                first, last = block.begins[a], block.begins[b]
                given = _part(nodes, first, last) | _part(requests, a, b)
                ends = ends[a : b + 1] - first
            wrong = _verify(block, group, ends, given) or wrong
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
        self._adjusts = any(one.penalises or one.bitmask is not None for one in each)
        self._own = {"seeds": np.array([one.seed for one in each], np.int64)}
        for name, dtype in FILTERS.items():
            values = np.array([getattr(one, name) for one in each], dtype)
            # Where there is nothing to do, it would be at some cost.
            if name == "temperature" or (values != getattr(Sampling, name)).any():
                self._own[name] = values


def _part(values: dict[str, Any], begin: int, end: int) -> dict[str, Any]:
    """Return some of the rows of arrays."""
    return {name: None if one is None else one[begin:end] for name, one in values.items()}


def _verify(
    block: Block, group: Group, ends: NDArray[np.int32], given: dict[str, Any]
) -> ValueError | None:
    """Verify a group's drafts; return what was said of those that could not be used."""
    try:
        tree.verify(indptr=ends, rule=group.rule, law=group.law, **given, **laws(block, group))
    except ValueError as error:
        if group.law == "deterministic":
            raise
        # The probabilities fit nothing: no draft, as if its tokens were negative.
        given["token"] = np.full_like(given["token"], -1)
        tree.verify(indptr=ends, rule="match", **given)
        return error
    return None


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

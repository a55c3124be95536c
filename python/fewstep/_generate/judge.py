# SPDX-License-Identifier: Apache-2.0
"""From the target's logits to accepted tokens: penalties, grammar masks and verification."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fewstep import _core
from fewstep import logits as logits_ops
from fewstep._generate.pack import DETERMINISTIC, NO_DRAWS, Block, Group, draws
from fewstep._generate.request import Request
from fewstep._generate.sampling import FILTERS, Sampling
from fewstep._transfer import Download, on_device, uploaded
from fewstep.tree import RULES, verify

Arrays = tuple[Any, ...]

MATCH = RULES.index("match")
LOGITS = 3  # where they stand among what is given to `_core.tree_verify`
_DEFAULTS = verify.__kwdefaults__ or {}
PARAMS = tuple(_DEFAULTS[name] for name in ("epsilon", "delta", "strength", "share"))
_STATUS = {1: "hold NaN", 2: "hold +inf", 3: "allow no token"}


class Verdict(NamedTuple):
    """Accepted paths and next tokens of a batch; see `fewstep.tree.verify`.

    Arrays are valid until the next call, which writes over them.
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
        self._paths: dict[int, NDArray[np.int32]] = {}  # by the depth of the deepest tree
        self._numbers: Arrays = ()
        self._seeds: Any = None
        self._filters: Arrays = ()  # in the order of `FILTERS`
        self._adjusts = False  # whether any has penalties or a grammar

    def __call__(self, block: Block, logits: Any) -> Verdict:
        """Return what is accepted of each request's draft and what follows it."""
        requests, groups = block.requests, block.layout.groups
        if self._known != requests:
            self._read(requests)
        mask: NDArray[np.uint32] | None = None
        failed: dict[int, Exception] = {}
        if self._adjusts:
            logits, mask, failed = adjusted(block, logits)
        path = self._paths.get(block.layout.deepest)
        if path is None:
            path = np.empty((len(requests), block.layout.deepest), np.int32)
            self._paths[block.layout.deepest] = path
        positions, accepted, following, status = self._numbers
        for i, request in enumerate(requests):
            positions[i] = len(request.tokens)
        # As `_core.tree_verify` takes them.
        nodes = block.layout.parent, block.layout.indptr, block.token, logits
        inputs = (*nodes, self._seeds, positions, None, mask)
        outputs = path, accepted, following, None, status
        wrong = None
        for group in groups:
            given = inputs, outputs, self._filters
            if len(groups) > 1:
                given = _part(block, group, *given)
            wrong = _verify(block, group, *given) or wrong
        for i, why in enumerate(status.tolist()):
            if why:
                failed.setdefault(i, _reason(requests[i], why))
        counts = accepted.tolist()
        paths = [own[:n] for own, n in zip(path.tolist(), counts, strict=True)]
        return Verdict(path, accepted, following, paths, failed, wrong)

    def plain(self, requests: list[Request]) -> tuple[Any, Arrays, Any] | None:
        """Return seeds, filters and parameters of verification where there is no more to it."""
        if self._known != requests:
            self._read(requests)
        return None if self._adjusts else (self._seeds, self._filters, PARAMS)

    def _read(self, requests: list[Request]) -> None:
        """Collect the parameters of the requests, and make room for what is found of them."""
        self._known = requests
        self._paths = {}
        self._numbers = tuple(np.empty((4, len(requests)), np.int32))
        each = [request.sampling for request in requests]
        self._adjusts = any(one.penalises or one.bitmask is not None for one in each)
        self._seeds = np.array([one.seed for one in each], np.int64)
        filters = []
        for name, dtype in FILTERS.items():
            values = [getattr(one, name) for one in each]
            # Where there is nothing to do, it would be at some cost.
            acts = name == "temperature" or any(one != getattr(Sampling, name) for one in values)
            filters.append(np.array(values, dtype) if acts else None)
        self._filters = tuple(filters)


def _part(
    block: Block, group: Group, inputs: Arrays, outputs: Arrays, filters: Arrays
) -> tuple[Arrays, Arrays, Arrays]:
    """Return a group's part of the arguments of `_core.tree_verify`."""
    a, b = group.begin, group.end
    nodes, rows = slice(block.layout.begins[a], block.layout.begins[b]), slice(a, b)
    parent, indptr, token, logits, seeds, positions, _, mask = inputs
    ends = indptr[a : b + 1] - block.layout.begins[a]
    own = parent[nodes], ends, token[nodes], logits[nodes], seeds[rows], positions[rows], None
    outputs, filters = (
        tuple(None if one is None else one[rows] for one in values) for values in (outputs, filters)
    )
    return (*own, None if mask is None else mask[nodes]), outputs, filters


def _verify(
    block: Block, group: Group, inputs: Arrays, outputs: Arrays, filters: Arrays
) -> ValueError | None:
    """Verify a group's drafts; return what was said of those that could not be used."""
    try:
        given = inputs + (NO_DRAWS if group.law == DETERMINISTIC else draws(block, group))
        _run(group.rule, group.law, filters, given, outputs)
    except ValueError as error:
        # No draft, then, as if its tokens were negative; what is wrong with the logits comes again.
        parent, indptr, token, *others = inputs
        given = (parent, indptr, np.full_like(token, -1), *others, *NO_DRAWS)
        _run(MATCH, DETERMINISTIC, filters, given, outputs)
        return error
    return None


def _run(rule: int, law: int, filters: Arrays, inputs: Arrays, outputs: Arrays) -> None:
    """Verify where the logits are; `outputs` are on the host."""
    logits = inputs[LOGITS]
    if not on_device(logits):
        _core.tree_verify(rule, law, PARAMS, filters, inputs, outputs)
        return
    sent = uploaded(logits.device, (*filters, *inputs))
    found = Download(logits.device, outputs)
    filters, inputs = tuple(sent[: len(filters)]), tuple(sent[len(filters) :])
    _core.tree_verify(rule, law, PARAMS, filters, inputs, tuple(found.tensors))
    found.take()


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
    begin, end = block.layout.begins[b : b + 2]
    ways: list[list[int]] = [[]]
    nodes = zip(
        block.token[begin:end].tolist(), block.layout.parent[begin:end].tolist(), strict=True
    )
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
    rows = block.layout.sizes
    values = {
        name: np.repeat(
            np.array([getattr(r.sampling, name) for r in block.requests], np.float32), rows
        )
        for name in ("repetition", "presence", "frequency")
    }
    lists: dict[str, Any] = {
        "tokens": np.array(ids, np.int32), "indptr": np.array(ends, np.int32),
        "counts": np.array(counts, np.int32), "bias_ids": np.array(bias_ids, np.int32),
        "bias_values": np.array(bias_values, np.float32),
        "bias_indptr": np.array(bias_ends, np.int32), **values,
    }  # fmt: skip
    if on_device(logits):
        lists = dict(zip(lists, uploaded(logits.device, list(lists.values())), strict=True))
    return logits_ops.penalise(logits, **lists)


def _masks(
    block: Block, above: list[list[list[int]]], n_vocab: int, failed: dict[int, Exception]
) -> NDArray[np.uint32]:
    masks = np.full((len(block.token), (n_vocab + 31) // 32), 0xFFFFFFFF, np.uint32)
    for b, (request, ways) in enumerate(zip(block.requests, above, strict=True)):
        if request.sampling.bitmask is not None:
            begin, end = block.layout.begins[b : b + 2]
            try:
                _ask(request, ways, block.layout.parent[begin:end].tolist(), masks[begin:end])
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

# SPDX-License-Identifier: Apache-2.0
"""``tree.verify``: chains and trees of drafts against what torch does by hand.

``V`` is the vocabulary, ``B`` the requests, ``K`` the drafts of a chain or the children of a node,
``Q`` the nodes of a tree. Each call draws other random numbers, on both sides. The bars are for
rivals as public libraries write them; those named ``.., inversion`` are the best that torch offers.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import partial
from itertools import cycle, product
from typing import Any, NamedTuple

import torch

from fewstep import tree

from ..rivals import verifiers
from ..rivals.stream import reader
from ..rivals.verifiers import Found
from ..rows import Options, Row, add_bar, check, limit_row, set_threads, timed_row
from ..timing import Timed, interleaved

NAMES = ("chain", "tree_stochastic", "tree_greedy")
VOCABULARIES, QUICK_VOCABULARIES = (32000, 128256), (2000,)
BATCHES = (1, 8)
DRAFTS = 5  # of a chain
NODES, CHILDREN = 64, 3  # each node of the upper levels has as many children
PATH = (0, 2, 8, 26)  # what greedy verification visits: each node is a child of the former
CHECKED = 64  # walks that are compared with a rival's
TOLERANCE = 5e-5  # of log-probabilities: torch sums the weights of a row in float32
SIGMAS = 5.0  # that two means may be apart

Rivals = dict[str, Callable[[], Found]]

# What the ratio to a rival, or the share of a limit, is to reach, and at which V and B.
BAR_SIZE = (128256, 8)
BARS = {
    ("chain", "torch lazy"): 25.0,
    ("chain", "torch full"): 100.0,
    ("tree_stochastic", "torch rows"): 20.0,
    ("tree_greedy", "torch"): 3.0,
    ("tree_greedy", "read bandwidth"): 0.8,
}


def rows(options: Options, progress: Callable[[str], None]) -> Iterator[Row]:
    """Measure what was asked for."""
    vocabularies = QUICK_VOCABULARIES if options.quick else VOCABULARIES
    sizes = list(product(vocabularies, BATCHES[:1] if options.quick else BATCHES))
    measured = {"chain": _drawn, "tree_stochastic": _drawn, "tree_greedy": _greedy}
    for threads in options.threads:
        set_threads(threads)
        for case in NAMES:
            if not options.wants(case):
                continue
            for vocabulary, batch in sizes:
                progress(f"tree.verify, {case}, V={vocabulary} B={batch}, {threads} threads")
                torch.manual_seed(12)
                random.seed(12)
                yield from measured[case](case, vocabulary, batch, threads)


class Problem:
    """Trees of one shape for all requests, with the target's logits [B, Q, V] after each node."""

    def __init__(self, parent: list[int], tokens: torch.Tensor, logits: torch.Tensor) -> None:
        batch, nodes, vocabulary = logits.shape
        self.logits, self.tokens = logits, tokens
        self.children = [[i for i, p in enumerate(parent) if p == node] for node in range(nodes)]
        self.depth = tree.build(torch.tensor(parent, dtype=torch.int32)).depth
        self._outputs = tree.Verified(
            torch.empty(batch, int(self.depth.max()), dtype=torch.int32),
            torch.empty(batch, dtype=torch.int32), torch.empty(batch, dtype=torch.int32),
        )  # fmt: skip
        self._call = partial(
            tree.verify, torch.tensor(parent * batch, dtype=torch.int32),
            torch.arange(batch + 1, dtype=torch.int32) * nodes, tokens.int().flatten(),
            logits.view(-1, vocabulary), torch.arange(batch), **self._outputs._asdict(),
        )  # fmt: skip
        places = [torch.full((batch,), i * nodes, dtype=torch.int32) for i in range(1024)]
        self._positions = cycle(places)

    def ours(self, **options: Any) -> Callable[..., tree.Verified]:
        """Return a call that verifies at other positions each time."""
        call = partial(self._call, **options)
        return lambda **outputs: call(next(self._positions), **outputs)

    def found(self) -> Found:
        """Return what our last call gave, in the rivals' form."""
        path, accepted, next_token = (x.long() for x in self._outputs)
        nodes = torch.nn.functional.pad(path, (1, 0))  # the root is accepted anyway
        return nodes.gather(1, accepted[:, None])[:, 0], next_token.clone()

    def child_with(self) -> list[list[dict[int, int]]]:
        """Return the children of each node by their tokens, for each request."""
        return [
            [{own[child]: child for child in kids} for kids in self.children]
            for own in self.tokens.tolist()
        ]


def _row_of(internal: int, nodes: int, batch: int) -> torch.Tensor:
    """Return which row of the drafts' laws is each node's: only `internal` nodes have one."""
    own = torch.arange(nodes).clamp(max=internal - 1)
    return (torch.arange(batch)[:, None] * internal + own).int().flatten()


def _near(logits: torch.Tensor) -> torch.Tensor:
    """Return a drafter's logits, near the target's."""
    return logits + 0.7 * torch.randn(logits.shape)


def _head(case: str, vocabulary: int, batch: int, threads: int, **sizes: int) -> Row:
    head: Row = {"op": "tree.verify", "case": case, "V": vocabulary, "B": batch, **sizes}
    return head | {"dtype": "float32", "threads": threads}


def _measured(head: Row, ours: Callable[[], Any], rivals: Rivals, *, read: Any = None) -> Any:
    """Time all turn by turn; yield a row for each rival, and for the limit where there is one."""
    calls = {"ours": Timed(ours)} | {name: Timed(call) for name, call in rivals.items()}
    times = interleaved(calls | ({"read": Timed(read)} if read else {}))
    for name in rivals:
        yield _with_bar(timed_row(head, name, times["ours"], times[name], spread=True))
    if read:
        yield _with_bar(limit_row(head, "read bandwidth", times["ours"], times["read"]), "share")


def _with_bar(row: Row, key: str = "ratio") -> Row:
    bar = BARS.get((row["case"], row["rival"]))
    if bar and (row["V"], row["B"]) == BAR_SIZE:
        add_bar(row, bar, key)
    return row


class Sides(NamedTuple):
    """A problem, the laws of its drafts [B, .., V], our call, the rivals', sizes beside V and B."""

    problem: Problem
    q: torch.Tensor
    ours: Callable[..., tree.Verified]
    rivals: Rivals
    sizes: dict[str, int]


def chain(vocabulary: int, batch: int) -> Sides:
    """Make chains of drafts that were drawn from laws near the target's."""
    logits = 2 * torch.randn(batch, DRAFTS + 1, vocabulary)
    draft_logits = _near(logits[:, :DRAFTS])
    q = draft_logits.softmax(-1)
    tokens = torch.multinomial(q.view(-1, vocabulary), 1).view(batch, DRAFTS)
    root = torch.zeros(batch, 1, dtype=torch.long)
    problem = Problem(list(range(-1, DRAFTS)), torch.cat([root, tokens], 1), logits)
    ours = problem.ours(
        rule="chain", law="iid", draft=q.view(-1, vocabulary),
        draft_row=_row_of(DRAFTS, DRAFTS + 1, batch),
    )  # fmt: skip
    rivals: Rivals = {
        "torch lazy": partial(verifiers.chain_lazy, logits, q, tokens),
        "torch full": partial(verifiers.chain_full, logits, q, tokens),
        "torch lazy, inversion": partial(verifiers.chain_lazy_inverted, logits, q, tokens),
        "torch full, inversion": partial(
            verifiers.chain_full_inverted, logits, draft_logits, tokens
        ),
    }
    return Sides(problem, q, ours, rivals, {"K": DRAFTS})


def parents(nodes: int = NODES) -> list[int]:
    """Return those of a tree each node of which has as many children, as far as there are nodes."""
    return [-1] + [(node - 1) // CHILDREN for node in range(1, nodes)]


def tree_stochastic(vocabulary: int, batch: int) -> Sides:
    """Make trees whose children were drawn without replacement."""
    logits = 2 * torch.randn(batch, NODES, vocabulary)
    internal = (NODES - 1) // CHILDREN
    draft_logits = _near(logits[:, :internal])
    drawn = tree.sample_children(
        draft_logits.view(-1, vocabulary), "without_replacement", CHILDREN,
        torch.arange(batch) + 100, torch.arange(batch * internal, dtype=torch.int32),
        indptr=torch.arange(batch + 1, dtype=torch.int32) * internal,
    )  # fmt: skip
    tokens = torch.zeros(batch, NODES, dtype=torch.long)
    tokens[:, 1:] = drawn.draws.view(batch, -1)
    q = draft_logits.softmax(-1)
    q_token = torch.ones(batch, NODES)
    q_token[:, 1:] = q.view(-1, vocabulary).gather(1, drawn.draws.long()).view(batch, -1)
    problem = Problem(parents(), tokens, logits)
    ours = problem.ours(
        rule="rrs", law="without_replacement", draft=q.view(-1, vocabulary),
        draft_row=_row_of(internal, NODES, batch),
    )  # fmt: skip
    rivals: Rivals = {
        "torch rows": partial(
            verifiers.rejection_rows, logits, q, problem.children, tokens.tolist()
        ),
        "torch rows, inversion": partial(
            verifiers.rejection_rows_inverted,
            logits,
            q,
            problem.children,
            tokens.tolist(),
            q_token.tolist(),
        ),
    }
    return Sides(problem, q, ours, rivals, {"Q": NODES, "K": CHILDREN})


def _drawn(case: str, vocabulary: int, batch: int, threads: int) -> Iterator[Row]:
    """Check and measure what draws."""
    sides = SIDES[case](vocabulary, batch)
    check_walks(case, sides)
    head = _head(case, vocabulary, batch, threads, **sides.sizes)
    yield from _measured(head, sides.ours, sides.rivals)


def _greedy(case: str, vocabulary: int, batch: int, threads: int) -> Iterator[Row]:
    """Measure trees of which three nodes are accepted; the limit reads the rows of the path."""
    logits = torch.randn(batch, NODES, vocabulary)
    tokens = torch.randint(vocabulary, (batch, NODES))
    best = logits[:, PATH].argmax(-1)
    tokens[:, PATH[1:]] = best[:, :-1]
    problem = Problem(parents(), tokens, logits)
    ours = problem.ours(rule="greedy")
    child_with = problem.child_with()
    rivals: Rivals = {
        "torch": partial(verifiers.greedy_full, logits, child_with),
        "torch rows": partial(verifiers.greedy_rows, logits, child_with),
        "numpy rows": partial(verifiers.greedy_rows, logits.numpy(), child_with),
    }
    ours()
    for name, call in rivals.items():
        equal = all(map(torch.equal, problem.found(), call()))
        check(f"{case}, {name}", 0.0 if equal else 1.0, 0.0)
    halves = logits[:, PATH].view(2, -1)
    head = _head(case, vocabulary, batch, threads, Q=NODES, K=CHILDREN)
    yield from _measured(head, ours, rivals, read=reader(halves[0], halves[1], threads))


def check_walks(case: str, sides: Sides) -> None:
    """Compare log-probabilities with the target's law, and means over many walks with the rivals'.

    The means are those of how many drafts are accepted and of the next token's log-probability.
    """
    problem, _, ours, rivals, _ = sides
    target = problem.logits.log_softmax(-1)
    every = torch.arange(len(target))

    def of(node: torch.Tensor, token: torch.Tensor) -> torch.Tensor:
        return torch.stack([problem.depth[node].float(), target[every, node, token]], 1)

    walks = []
    for _ in range(max(2, CHECKED // len(target))):
        logprobs = torch.empty(len(target), int(problem.depth.max()) + 1)
        accepted = ours(logprobs=logprobs).accepted.long()
        walks.append(of(*problem.found()))
        error = (logprobs[every, accepted] - walks[-1][:, 1]).abs().max()
        check(f"{case}, log-probabilities", float(error), TOLERANCE)
    for name, call in rivals.items():
        _compare(f"{case}, {name}", torch.cat(walks), torch.cat([of(*call()) for _ in walks]))


SIDES: dict[str, Callable[[int, int], Sides]] = {
    "chain": chain,
    "tree_stochastic": tree_stochastic,
}


def _compare(what: str, ours: torch.Tensor, other: torch.Tensor) -> None:
    """Compare the means of two samples by their standard errors."""
    spread = ((ours.var(0) + other.var(0)) / len(ours)).sqrt().clamp(min=1e-9)
    check(what, float(((ours.mean(0) - other.mean(0)).abs() / spread).max()), SIGMAS)

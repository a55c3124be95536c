# SPDX-License-Identifier: Apache-2.0
"""Requests that run together: admission, drafts, calls of the target, what is accepted."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from time import perf_counter
from typing import Any

import numpy as np

from fewstep._generate.budget import Budget
from fewstep._generate.judge import Judge, Verdict
from fewstep._generate.pack import Block, checked, pack, root_alone
from fewstep._generate.request import Request
from fewstep._generate.stats import Stats
from fewstep.drafters._protocol import Ahead, Draft, Drafter, Known, Seen
from fewstep.language_model import LanguageModel


class Engine:
    """Advances requests, all by a call of the target at a time; see `fewstep.Generator`."""

    def __init__(
        self, model: LanguageModel, drafter: Drafter | None, max_batch: int, adapt: bool
    ) -> None:
        self.model, self.drafter = model, drafter
        self.stats = Stats()
        self.longest: int | None = getattr(model, "max_length", None)
        self._max_batch = max_batch
        self._judge = Judge()
        self._runs_ahead = getattr(model, "runs_ahead", False) and hasattr(drafter, "known")
        self._budget = Budget() if adapt and drafter is not None else None
        self._drafted = False  # whether the drafter was asked before this call
        self._waiting: deque[Request] = deque()
        self._active: list[Request] = []
        self._call_began = 0.0
        self._drafting = 0.0  # seconds of this call that the drafter took
        self._watched: set[int] = set()  # requests that run call by call, whatever is possible
        self._full = False  # a request had to be sent back, and none has ended since

    def submit(self, request: Request) -> None:
        """Let a request wait for its turn."""
        self._waiting.append(request)

    def cancel(self, request: Request) -> None:
        """End a request; one that has ended stays as it is."""
        if request.finish is None:
            request.finish = "cancelled"
            if request in self._waiting:
                self._waiting.remove(request)
            self._leave(request)

    def step(self) -> int:
        """Advance all requests by one call; return how many are running or waiting."""
        began, seconds = perf_counter(), self.stats.seconds
        inside = seconds["model"] + seconds["draft"]
        if self._waiting:
            self._admit()
        if self._active:
            self._call_began = perf_counter()
            if not self._ran_ahead():
                drafts = self._room(self._drafts())
                if self._active:
                    self._call(pack(self._active, drafts))
        others = seconds["model"] + seconds["draft"] - inside
        seconds["fewstep"] += perf_counter() - began - others
        return len(self._active) + len(self._waiting)

    def _admit(self) -> None:
        """Begin waiting requests while there is room, and run their prompts but the last tokens."""
        begun: list[tuple[Request, int]] = []
        while self._waiting and not self._full and len(self._active) < self._max_batch:
            request = self._waiting[0]
            before = request.tokens[:-1]
            request.sequence, cached = self.model.add(before)
            try:
                self.model.extend(request.sequence, len(before) - cached)
            except MemoryError as error:
                self.model.free(request.sequence)
                request.sequence = None
                if self._active:
                    break  # until others have ended
                request.finish, request.error = "error", error
                self._waiting.popleft()
                continue
            self._waiting.popleft()
            self._active.append(request)
            self._safely("start", request)
            if cached < len(before):
                begun.append((request, cached))
        if begun:
            self._prefill(begun)

    def _prefill(self, begun: Sequence[tuple[Request, int]]) -> None:
        rows = [request.tokens[cached:-1] for request, cached in begun]
        indptr = np.cumsum([0, *map(len, rows)]).astype(np.int32)
        tokens = np.array([token for row in rows for token in row], np.int32)
        sequences = [_sequence(request) for request, _ in begun]
        began = perf_counter()
        self.model.forward(sequences, tokens, indptr, rows=np.zeros(0, np.int64))
        self.stats.spent("model", began)
        self.stats.prefills += 1
        for request, _ in begun:
            self.model.publish(_sequence(request), request.tokens[:-1])

    def _drafts(self) -> list[Draft]:
        """Return a draft that can be run for each request."""
        given = self._given()
        self._drafting = perf_counter() - self._call_began
        drafts: list[Draft] = []
        for request, draft in zip(self._active, given, strict=True):
            try:
                if draft is not None:
                    draft = checked(draft, request, self.model.n_vocab)
            except Exception as error:
                self._note(error)
                draft = None
            drafts.append(root_alone(request) if draft is None else draft)
        return drafts if self._budget is None else self._budget.cut(drafts, self._drafting)

    def _given(self) -> list[Draft | None]:
        """Return what the drafter drafts for each request, whatever it is."""
        none: list[Draft | None] = [None] * len(self._active)
        budget = self._budget
        self._drafted = self.drafter is not None and (
            budget is None or budget.worth.drafts(self._active)
        )
        if not self._drafted:
            return none
        # The last token of a request comes from the target, so drafts end one before it.
        limits = [request.remaining - 1 for request in self._active]
        if self.longest is not None:
            for i, request in enumerate(self._active):
                limits[i] = max(0, min(limits[i], self.longest - 1 - len(request.tokens)))
        given = self._safely("draft", self._active, limits)
        if given is None:
            return none
        try:
            each = list(given)
            if len(each) != len(none):
                raise ValueError(f"{len(each)} drafts for {len(none)} requests")
        except Exception as error:
            self._note(error)
            return none
        return each

    def _room(self, drafts: list[Draft]) -> list[Draft]:
        """Make room for the drafts, the oldest request's first; send the youngest back to wait."""
        began = perf_counter()
        kept: list[Draft] = []
        for request, draft in zip(list(self._active), drafts, strict=True):
            while request in self._active:
                try:
                    self.model.extend(_sequence(request), len(draft.token))
                    kept.append(draft)
                    break
                except MemoryError as error:
                    if len(draft.token) > 1:
                        draft = root_alone(request)
                    elif len(self._active) > 1:
                        self._send_back(self._active[-1])
                    else:
                        self._fail(request, error)
        self.stats.spent("cache", began)
        return kept

    def _send_back(self, request: Request) -> None:
        """Let a request wait until another has ended; what it had in the cache will run again."""
        self._leave(request)
        self._waiting.appendleft(request)
        self._full = True

    def _call(self, block: Block) -> None:
        """Run the target, verify, and add what was accepted."""
        wants_hidden = bool(getattr(self.drafter, "needs_hidden", False))
        layout, sequences = block.layout, [_sequence(request) for request in block.requests]
        began = perf_counter()
        ran = self.model.forward(
            sequences, block.token, layout.indptr, bits=layout.bits, depth=layout.depth,
            hidden=wants_hidden,
        )  # fmt: skip
        seconds = perf_counter() - began
        logits, hidden = ran if wants_hidden else (ran, None)
        self.stats.seconds["model"] += seconds
        began = perf_counter()
        verdict = self._judge(block, logits)
        self.stats.spent("verify", began)
        if verdict.wrong is not None:
            self._note(verdict.wrong)
        self._count_call(block, verdict)
        if self.drafter is not None:
            seen = Seen(
                block.requests, block.token, layout.parent, layout.indptr, logits, verdict.path,
                verdict.accepted, verdict.next_token, hidden, seconds,
            )  # fmt: skip
            self._safely("observe", seen)
        if layout.deepest:  # of roots alone there is nothing to forget
            began = perf_counter()
            self.model.keep(sequences, verdict.path, verdict.accepted, layout.sizes)
            self.stats.spent("cache", began)
        self._commit(block, verdict)
        if self._budget is not None:
            self._learn(self._budget, block, verdict)

    def _ran_ahead(self) -> bool:
        """Run several calls that the model's device drafts for, where model and drafter can."""
        if not self._runs_ahead:
            return False
        requests = list(self._active)
        plain = self._judge.plain(requests)
        if plain is None or any(request.number in self._watched for request in requests):
            return False
        known: Known | None = self._safely("known")
        if known is None:
            return False
        began = perf_counter()
        sequences = [_sequence(request) for request in requests]
        last = [request.tokens[-1] for request in requests]
        model: Any = self.model
        found: Ahead | None = model.cycles(sequences, last, plain, known)
        if found is None:
            return False
        self.stats.spent("model", began)
        inner = set(known.parent.tolist())
        for tokens, accepted, ends in zip(*(each.tolist() for each in found), strict=True):
            self.stats.forwards += 1
            for request, row, n, end in zip(requests, tokens, accepted, ends, strict=True):
                if request.finish is not None or request.number in self._watched:
                    continue
                if row[n] < 0:  # no law: the next call says why
                    self._watched.add(request.number)
                    self.model.truncate(_sequence(request), len(request.tokens) - 1)
                    continue
                self.stats.calls += 1
                self.stats.nodes += len(known.parent) - 1
                self.stats.count_path(n, end in inner)
                self._add(request, row[:n], row[n])
        return True

    def _commit(self, block: Block, verdict: Verdict) -> None:
        tokens, following = block.token.tolist(), verdict.next_token.tolist()
        for b, request in enumerate(block.requests):
            if b in verdict.failed:
                request.calls += 1
                self._fail(request, verdict.failed[b])
                continue
            first = block.layout.begins[b]
            drafted = [tokens[first + node] for node in verdict.paths[b]]
            self._add(request, drafted, following[b])

    def _add(self, request: Request, drafted: list[int], following: int) -> None:
        """Add what a call gave a request; one that ends with it leaves."""
        request.calls += 1
        before = len(request.tokens)
        request.commit(drafted, following)
        full = self.longest is not None and len(request.tokens) >= self.longest
        if full and request.finish is None:
            request.finish = "length"
        self.stats.tokens += len(request.tokens) - before
        if request.finish is not None:
            self._leave(request)

    def _count_call(self, block: Block, verdict: Verdict) -> None:
        stats, rows = self.stats, block.layout.begins[-1]
        stats.forwards += 1
        stats.calls += len(block.requests)
        stats.nodes += rows - len(block.requests)
        for first, path in zip(block.layout.begins, verdict.paths, strict=False):
            stats.count_path(len(path), block.layout.inner[first + (path[-1] if path else 0)])

    def _learn(self, budget: Budget, block: Block, verdict: Verdict) -> None:
        """Take note of what a call took, verification and what the drafter learns included."""
        seconds = perf_counter() - self._call_began
        budget.cost.add(block.layout.begins[-1], seconds - self._drafting)
        if self._drafted:
            budget.learn(block.drafts, verdict.paths, seconds)
            for request, draft in zip(block.requests, block.drafts, strict=True):
                if len(draft.token) > 1:
                    request.chosen = draft.law == "deterministic"

    def _leave(self, request: Request) -> None:
        """Free what a request that has ended has."""
        if request.sequence is None:
            return
        sequence, request.sequence = request.sequence, None
        # The last token never ran; tokens behind a stop in the middle of a path are forgotten.
        length = min(self.model.length(sequence), len(request.tokens) - 1)
        self.model.truncate(sequence, length)
        if request.error is None:
            self.model.publish(sequence, request.tokens[:length])
        self.model.free(sequence)
        self._active.remove(request)
        self._full = False
        if self.drafter is not None:
            self._safely("stop", request)

    def _fail(self, request: Request, error: Exception) -> None:
        request.finish, request.error = "error", error
        self._leave(request)

    def _safely(self, method: str, *arguments: Any) -> Any:
        """Call the drafter; what it raises is counted and costs a draft."""
        if self.drafter is None:
            return None
        began = perf_counter()
        try:
            return getattr(self.drafter, method)(*arguments)
        except Exception as error:
            self._note(error)
            return None
        finally:
            self.stats.spent("draft", began)

    def _note(self, error: Exception) -> None:
        self.stats.drafter_errors += 1
        self.stats.last_error = error


def _sequence(request: Request) -> int:
    assert request.sequence is not None
    return request.sequence

# SPDX-License-Identifier: Apache-2.0
"""Whether drafting at all is worth its time, by calls with it and calls without."""

from __future__ import annotations

from collections.abc import Sequence

from fewstep._generate.pack import Block
from fewstep._generate.request import Request

_FIRST = 8  # calls with drafts before one without: drafters learn from texts
_PLAIN = 64  # every so many calls without drafts where they pay,
_DRAFT, _RARELY = 16, 256  # and with drafts where not: after so many calls at first, and at most
_MEMORY = 0.9
_MARGIN = 1.03  # what plain calls have to be better by


class Worth:
    """Seconds of a token with drafts and without, for batches of about one size.

    What a request's text is must not depend on a clock: drafts that were drawn from a law are never
    left out, unless the request is greedy, whose text is the same with any drafts.
    """

    def __init__(self) -> None:
        self._calls: dict[int, int] = {}
        self._known: dict[tuple[int, bool], tuple[float, float]] = {}  # tokens, seconds
        self._next: dict[int, tuple[int, int]] = {}  # the call to try drafts at, and the pause then

    def drafts(self, requests: Sequence[Request]) -> bool:
        """Tell whether to draft for these requests."""
        for request in requests:
            if request.sampling.temperature and not request.chosen:
                return True
        size = len(requests).bit_length()
        call = self._calls[size] = self._calls.get(size, 0) + 1
        drafted, plain = self._seconds(size, True), self._seconds(size, False)
        if drafted is None or plain is None or call <= _FIRST:
            return call != _FIRST
        if drafted <= _MARGIN * plain:
            self._next.pop(size, None)
            return call % _PLAIN > 0
        due, pause = self._next.setdefault(size, (call + _DRAFT, 2 * _DRAFT))
        if call < due:
            return False
        # Each time in vain the pause is twice as long: a draft model has all of the text to read.
        self._next[size] = call + pause, min(2 * pause, _RARELY)
        return True

    def _seconds(self, size: int, drafted: bool) -> float | None:
        known = self._known.get((size, drafted))
        return None if known is None else known[1] / known[0]

    def learn(self, block: Block, drafted: bool, tokens: int, seconds: float) -> None:
        """Take note of a call, with the drafting before it."""
        key = len(block.requests).bit_length(), drafted
        before = self._known.get(key, (0.0, 0.0))
        self._known[key] = _MEMORY * before[0] + tokens, _MEMORY * before[1] + seconds
        if drafted:
            plain = self._seconds(key[0], False)
            if key[0] in self._next and plain is not None and seconds < plain * tokens:
                self._next[key[0]] = self._calls[key[0]] + 1, _DRAFT  # not in vain: at once again
            for request, draft in zip(block.requests, block.drafts, strict=True):
                if len(draft.token) > 1:
                    request.chosen = draft.law == "deterministic"

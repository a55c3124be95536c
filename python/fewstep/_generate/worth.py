# SPDX-License-Identifier: Apache-2.0
"""Whether drafting at all is worth its time, by what calls with it bring and calls without."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fewstep._generate.request import Request

_TRIAL = 5  # calls with drafts before they are judged; the first time
_FIRST = 12  # of them: drafters learn from texts
_PAUSE, _LONGEST = 16, 256  # calls without drafts where they do not pay: at first, and at most
_MEMORY = 0.95  # of sums after one more call


@dataclass
class _Trial:
    """Calls of batches of about one size."""

    calls: int = _TRIAL - _FIRST  # with drafts, since the last pause
    tokens: float = 0.0  # of these calls, of late
    seconds: float = 0.0
    left: int = 0  # calls of the pause that there is
    pause: int = _PAUSE  # the next one


class Worth:
    """Tokens a second with drafts and without, for batches of about one size.

    What a request's text is must not depend on a clock: drafts that were drawn from a law are never
    left out, unless the request is greedy, whose text is the same with any drafts.
    """

    def __init__(self) -> None:
        self._trials: dict[int, _Trial] = {}

    def drafts(self, requests: Sequence[Request]) -> bool:
        """Tell whether to draft for these requests."""
        for request in requests:
            if request.sampling.temperature and not request.chosen:
                return True
        trial = self._of(len(requests))
        trial.left = max(0, trial.left - 1)
        return not trial.left

    def tries(self, batch: int) -> bool:
        """Tell whether drafts are on trial."""
        return self._of(batch).calls < _TRIAL

    def learn(self, batch: int, tokens: float, seconds: float, plain: float | None) -> bool:
        """Take note of a call that was drafted for, and tell whether a pause begins.

        `tokens` and `seconds` are what it brings and takes, drafting included, and `plain` the
        tokens a second without drafts, None where no such call was measured.
        """
        trial = self._of(batch)
        trial.calls += 1
        if trial.calls in (1, 1 + _TRIAL - _FIRST):
            return False  # drafters had to read what came meanwhile
        trial.tokens = _MEMORY * trial.tokens + tokens
        trial.seconds = _MEMORY * trial.seconds + seconds
        if trial.calls < _TRIAL or plain is None:
            return False
        if trial.tokens >= trial.seconds * plain:
            trial.pause = _PAUSE
            return False
        # Each time in vain the pause is twice as long: a draft model has all of the text to read.
        longer = min(2 * trial.pause, _LONGEST)
        self._trials[batch.bit_length()] = _Trial(calls=0, left=trial.pause + 1, pause=longer)
        return True

    def _of(self, batch: int) -> _Trial:
        trial = self._trials.get(batch.bit_length())
        if trial is None:
            trial = self._trials[batch.bit_length()] = _Trial()
        return trial

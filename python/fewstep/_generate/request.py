# SPDX-License-Identifier: Apache-2.0
"""A request in the middle of its generation, and what comes of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from fewstep._generate.sampling import Sampling
from fewstep._generate.text import TextStream


@dataclass(eq=False)
class Request:
    """A prompt and its continuation so far.

    Attributes
    ----------
    number : int
        Counts the requests of a generator.
    tokens : list of int
        The prompt's and those generated since; the last one is the root of the next draft.
    prompt : int
        How many of them are the prompt's.
    sampling : Sampling
        Its own.
    drafted : list of bool
        Of each generated token: whether it was an accepted draft.
    text : TextStream or None
        What has been generated as text, where there is a tokenizer.
    sequence : int or None
        The target's number for it; None before it began and after it ended.
    finish : str or None
        Why it ended: "stop" (a stop token or string), "length" (`max_tokens`, or the model's
        longest sequence), "cancelled", "error"; None before.
    error : Exception or None
        What went wrong.
    calls : int
        Of the target, that gave it tokens.
    chosen : bool
        Whether its drafts were chosen, not drawn from a law: without them its text is the same.
    """

    number: int
    tokens: list[int]
    prompt: int
    sampling: Sampling
    text: TextStream | None
    stop_tokens: frozenset[int]
    drafted: list[bool] = field(default_factory=list)
    sequence: int | None = None
    finish: str | None = None
    error: Exception | None = None
    calls: int = 0
    chosen: bool = False
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def generated(self) -> list[int]:
        """The tokens behind the prompt."""
        return self.tokens[self.prompt :]

    @property
    def remaining(self) -> int:
        """How many tokens may follow."""
        return self.sampling.max_tokens - len(self.drafted)

    def commit(self, drafted: Sequence[int], following: int) -> None:
        """Add accepted drafts and the token that follows them, up to where the request ends."""
        for i, token in enumerate((*drafted, following)):
            self.tokens.append(token)
            self.drafted.append(i < len(drafted))
            if self.sampling.penalises:
                self.counts[token] += 1
            if token in self.stop_tokens or (self.text is not None and self.text.push(token)):
                self.finish = "stop"
            elif len(self.drafted) == self.sampling.max_tokens:
                self.finish = "length"
            if self.finish is not None:
                break


@dataclass(frozen=True)
class Result:
    """What was generated for a prompt.

    Attributes
    ----------
    tokens : list of int
        Generated tokens, a stop token included.
    text : str or None
        They as text, up to a stop string; None without a tokenizer.
    finish : str
        "stop", "length", "cancelled" or "error".
    error : Exception or None
        What went wrong.
    drafted : list of bool
        Of each token: whether it was an accepted draft.
    calls : int
        Of the target.
    """

    tokens: list[int]
    text: str | None
    finish: str
    error: Exception | None
    drafted: list[bool]
    calls: int


@dataclass(frozen=True)
class Piece:
    """What one call of the target added to a stream.

    Attributes
    ----------
    text : str
        Text that is certain by now: neither part of a character nor what may become a stop string.
        Empty without a tokenizer.
    tokens : list of int
        New tokens.
    drafted : list of bool
        Of each: whether it was an accepted draft.
    """

    text: str
    tokens: list[int]
    drafted: list[bool]

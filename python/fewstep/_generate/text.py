# SPDX-License-Identifier: Apache-2.0
"""Tokens to text while they come, and the strings at which it ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

# Bytes of no character come out as U+FFFD. A character has at most 4 bytes, so that many tokens may
# have to be waited for; after a few more the bytes are no character at all.
_REPLACEMENT, _LONGEST = "\ufffd", 8

Decode = Callable[[list[int]], str]
Encode = Callable[[str], list[int]]


def codec(tokenizer: Any) -> tuple[Encode, Decode]:
    """Return the functions that encode and decode with a tokenizer.

    Those of ``tokenizers`` are used themselves, also inside of a tokenizer of transformers, whose
    own decoding of a few tokens takes several times as long.
    """
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(fast, "token_to_id") and hasattr(fast, "encode_batch"):
        return (
            lambda text: list(tokenizer.encode(text)) if fast is not tokenizer
            else list(fast.encode(text).ids),
            lambda ids: str(fast.decode(ids, skip_special_tokens=True)),
        )  # fmt: skip
    for name in ("encode", "decode"):
        if not callable(getattr(tokenizer, name, None)):
            raise TypeError(
                "fewstep.Generator: 'tokenizer' must have the methods encode and decode, got "
                f"{type(tokenizer).__name__}"
            )
    return (
        lambda text: [int(token) for token in tokenizer.encode(text)],
        lambda ids: str(tokenizer.decode(ids)),
    )


class TextStream:
    """The text of tokens that come one by one.

    Parameters
    ----------
    decode : callable
        Tokens to text.
    stop : sequence of str
        Strings that end it.
    """

    def __init__(self, decode: Decode, stop: Sequence[str] = ()) -> None:
        self._decode, self._stop = decode, tuple(stop)
        # A token's text may depend on the one before it (a space that only the first has not), so
        # the last ones are decoded once more in front of the new ones.
        self._before: list[int] = []
        self._before_text = ""
        self._pending: list[int] = []
        self._held = ""  # may become a stop string
        self._released: list[str] = []
        self._taken = 0
        self._ended = False

    def push(self, token: int) -> bool:
        """Add a token; return whether a stop string has ended the text."""
        self._pending.append(token)
        if self._stop:
            self._read()
        return self._ended

    def take(self) -> str:
        """Return the text that has become certain since the last call."""
        self._read()
        piece = "".join(self._released[self._taken :])
        self._taken = len(self._released)
        return piece

    def finish(self) -> None:
        """Let go what was held back: no more tokens come."""
        self._read()
        if not self._ended and self._held:
            self._released.append(self._held)
        self._held, self._ended = "", True

    @property
    def text(self) -> str:
        """All text that is certain."""
        return "".join(self._released)

    def _read(self) -> None:
        if not self._pending or self._ended:
            return
        whole = self._decode(self._before + self._pending)
        if whole.endswith(_REPLACEMENT) and len(self._pending) < _LONGEST:
            return
        self._add(whole[len(self._before_text) :])
        self._before, self._pending = self._pending[-_LONGEST:], []
        self._before_text = self._decode(self._before)

    def _add(self, piece: str) -> None:
        text = self._held + piece
        ends = [at for at in (text.find(one) for one in self._stop) if at >= 0]
        if ends:
            text, self._ended = text[: min(ends)], True
        keep = 0 if self._ended else self._overhang(text)
        self._held = text[len(text) - keep :]
        if len(text) > keep:
            self._released.append(text[: len(text) - keep])

    def _overhang(self, text: str) -> int:
        """Return the length of the longest end of a text that a stop string begins with."""
        return max(
            (n for one in self._stop for n in range(1, len(one)) if text.endswith(one[:n])),
            default=0,
        )

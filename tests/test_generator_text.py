# SPDX-License-Identifier: Apache-2.0
"""Text that comes token by token: characters of several tokens, and strings that end it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fewstep._generate.text import TextStream, codec

tokenizers = pytest.importorskip("tokenizers")


def byte_level() -> Any:
    """Return a byte-level tokenizer that has merged little: most characters are several tokens."""
    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=280, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|end|>"], show_progress=False,
    )  # fmt: skip
    made.train_from_iterator(["the cat and the hat on the mat \u00e9\u00e9 \u20ac"] * 9, trainer)
    return made


TOKENIZER = byte_level()
ENCODE, DECODE = codec(TOKENIZER)
LETTERS = st.text("abt he\u00e9\u20ac\U0001f600\n", max_size=40)


def read(text: str, stop: list[str]) -> tuple[str, list[str], bool]:
    """Push a text's tokens; return the text, the pieces and whether a string ended it."""
    stream, pieces, ended = TextStream(DECODE, stop), [], False
    for token in ENCODE(text):
        ended = stream.push(token)
        pieces.append(stream.take())
        if ended:
            break
    stream.finish()
    pieces.append(stream.take())
    return stream.text, pieces, ended


@given(LETTERS)
def test_pieces_make_the_text(text: str) -> None:
    whole, pieces, ended = read(text, [])
    assert whole == "".join(pieces) == text
    assert not ended
    assert all("\ufffd" not in piece for piece in pieces)


@given(LETTERS, st.lists(st.text("abt he\u00e9\u20ac", min_size=1, max_size=3), max_size=3))
def test_a_stop_string_ends_the_text_before_it(text: str, stop: list[str]) -> None:
    whole, pieces, ended = read(text, stop)
    found = [at for at in map(text.find, stop) if at >= 0]
    assert ended == bool(found)
    assert "".join(pieces) == whole
    if not found:
        assert whole == text
    else:
        # Tokens come whole, so of two strings that end in one token the first one to begin counts.
        assert text.startswith(whole)
        assert any(text.startswith(one, len(whole)) for one in stop)
        assert not any(one in whole for one in stop)


@given(LETTERS, st.text("abt he", min_size=2, max_size=4))
def test_nothing_of_a_stop_string_is_shown(text: str, stop: str) -> None:
    """What has been given out is never taken back."""
    shown = ""
    stream = TextStream(DECODE, [stop])
    for token in ENCODE(text + stop):
        stream.push(token)
        shown += stream.take()
        assert stop not in shown
    assert shown == (text + stop)[: (text + stop).find(stop)]


def test_bytes_of_no_character_do_not_hold_the_text_up() -> None:
    (broken,) = TOKENIZER.encode("\u20ac").ids[:1] if len(TOKENIZER.encode("\u20ac").ids) > 1 else (
        TOKENIZER.token_to_id("\u00e2"),)  # fmt: skip
    stream = TextStream(DECODE)
    for _ in range(9):
        stream.push(broken)
    for token in ENCODE("abc"):
        stream.push(token)
    assert stream.take().endswith("abc")


def test_special_tokens_have_no_text() -> None:
    stream = TextStream(DECODE)
    for token in [*ENCODE("hat"), TOKENIZER.token_to_id("<|end|>")]:
        stream.push(token)
    assert stream.take() == "hat"


def test_tokenizers_of_any_kind() -> None:
    class Words:
        def encode(self, text: str) -> Any:
            return map(len, text.split())

        def decode(self, ids: Any) -> str:
            return " ".join("x" * n for n in ids)

    encode, decode = codec(Words())
    assert encode("a bc def") == [1, 2, 3]
    assert decode([2, 1]) == "xx x"
    stream = TextStream(decode)
    for token in (2, 1):
        stream.push(token)
        stream.take()
    assert stream.text == "xx x"  # the space belongs to the second word
    transformers = pytest.importorskip("transformers")
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=TOKENIZER)
    assert codec(fast)[0]("the hat") == TOKENIZER.encode("the hat").ids
    assert codec(fast)[1](ENCODE("the hat")) == "the hat"
    with pytest.raises(TypeError, match="'tokenizer' must have the methods encode and decode, got"):
        codec(object())

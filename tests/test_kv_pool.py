# SPDX-License-Identifier: Apache-2.0
"""``kv.Pool`` against a plain model: reference counts, and what a cache would hold."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from fewstep import kv
from test_errors import refuses

PAGES, T = 9, 3


class PoolMachine(RuleBasedStateMachine):
    """Sequences as lists of tokens; a row is worth the tokens up to it, as a key or value is."""

    sequences = Bundle("sequences")

    def __init__(self) -> None:
        super().__init__()
        self.pool = kv.Pool(PAGES, T)
        self.tokens: dict[int, tuple[int, ...]] = {}
        self.rows: dict[tuple[int, int], tuple[int, ...]] = {}  # by page and slot
        self.dead: set[int] = set()

    def pages(self, sequence: int) -> list[int]:
        return self.pool.page_table([sequence])[0].tolist()

    @rule(target=sequences, tokens=st.lists(st.integers(0, 1), max_size=3 * T))
    def add(self, tokens: list[int]) -> int:
        sequence, cached = self.pool.add(tokens)
        assert sequence not in self.tokens
        assert sequence not in self.dead
        assert cached % T == 0
        assert cached <= len(tokens)
        self.tokens[sequence] = tuple(tokens[:cached])
        return sequence

    @rule(sequence=sequences, new=st.lists(st.integers(0, 1), max_size=2 * T))
    def extend(self, sequence: int, new: list[int]) -> None:
        before = self.pool.stats()
        length = len(self.tokens[sequence])
        try:
            source, target = self.pool.extend(sequence, len(new))
        except MemoryError:
            assert self.pool.stats() == before
            assert self.pool.length(sequence) == length
            assert before["free"] + before["cached"] < -(-len(new) // T) + 1
            return
        if source >= 0:  # what kv.copy_pages does
            assert new
            assert length % T
            for slot in range(T):
                if (source, slot) in self.rows:
                    self.rows[target, slot] = self.rows[source, slot]
        table = self.pages(sequence)
        for token in new:
            self.tokens[sequence] += (token,)
            slot = len(self.tokens[sequence]) - 1
            self.rows[table[slot // T], slot % T] = self.tokens[sequence]

    @rule(sequence=sequences, share=st.floats(0, 1))
    def truncate(self, sequence: int, share: float) -> None:
        length = int(share * len(self.tokens[sequence]))
        self.pool.truncate(sequence, length)
        self.tokens[sequence] = self.tokens[sequence][:length]

    @rule(target=sequences, sequence=sequences, share=st.floats(0, 1))
    def fork(self, sequence: int, share: float) -> int:
        length = int(share * len(self.tokens[sequence]))
        forked = self.pool.fork(sequence, length)
        self.tokens[forked] = self.tokens[sequence][:length]
        return forked

    @rule(sequence=sequences, share=st.floats(0, 1))
    def publish(self, sequence: int, share: float) -> None:
        tokens = self.tokens[sequence][: int(share * len(self.tokens[sequence]))]
        self.pool.publish(sequence, tokens)
        again, cached = self.pool.add(tokens)
        assert cached == len(tokens) // T * T
        self.pool.free(again)
        self.dead.add(again)

    @rule(sequence=consumes(sequences))
    def free(self, sequence: int) -> None:
        self.pool.free(sequence)
        del self.tokens[sequence]
        self.dead.add(sequence)

    @rule(sequence=st.integers(-1, 40), call=st.sampled_from(["free", "fork", "length", "publish"]))
    def misuse(self, sequence: int, call: str) -> None:
        if sequence in self.tokens:
            return
        before = self.pool.stats()
        with pytest.raises(ValueError, match="must be one of the pool that was not freed"):
            {
                "free": self.pool.free,
                "fork": lambda s: self.pool.fork(s, 0),
                "length": self.pool.length,
                "publish": lambda s: self.pool.publish(s, []),
            }[call](sequence)
        assert self.pool.stats() == before

    @invariant()
    def rows_are_what_was_written(self) -> None:
        for sequence, tokens in self.tokens.items():
            table = self.pages(sequence)
            assert len(table) == -(-len(tokens) // T)
            assert len(set(table)) == len(table)
            for slot in range(len(tokens)):
                assert self.rows[table[slot // T], slot % T] == tokens[: slot + 1]

    @invariant()
    def references_are_those_of_the_sequences(self) -> None:
        count = [0] * PAGES
        for sequence in self.tokens:
            for page in self.pages(sequence):
                count[page] += 1
        assert [self.pool.references(page) for page in range(PAGES)] == count
        stats = self.pool.stats()
        assert stats["used"] == sum(n > 0 for n in count)
        assert stats["shared"] == sum(n > 1 for n in count)
        assert stats["used"] + stats["cached"] + stats["free"] == PAGES
        assert stats["sequences"] == len(self.tokens)


PoolMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=50)
TestPool = PoolMachine.TestCase


def test_a_freed_prefix_is_found_until_its_memory_is_wanted() -> None:
    pool = kv.Pool(4, 2)
    first, cached = pool.add([1, 2, 3, 4, 5])
    assert cached == 0
    pool.extend(first, 5)
    pool.publish(first, [1, 2, 3, 4, 5])
    table = pool.page_table([first])[0]
    pool.free(first)
    assert (pool.stats()["cached"], pool.stats()["free"]) == (2, 2)
    second, cached = pool.add([1, 2, 3, 4, 5])
    assert cached == 4
    assert pool.page_table([second], 2)[0].tolist() == table[:2].tolist()
    assert pool.add([1, 2, 9, 9])[1] == 2
    assert pool.add([2, 1])[1] == 0
    third, _ = pool.add()
    pool.extend(third, 4)
    with pytest.raises(MemoryError):
        pool.extend(third, 1)
    pool.free(second)
    pool.extend(third, 1)  # takes the page with tokens 3, 4: the end of the prefix goes first
    assert pool.add([1, 2, 3, 4])[1] == 2
    assert pool.stats()["evictions"] == 1


def test_the_rows_of_a_published_page_change_only_after_it_is_forgotten() -> None:
    pool = kv.Pool(4, 2)
    first, _ = pool.add()
    pool.extend(first, 2)
    pool.publish(first, [1, 2])
    pool.truncate(first, 1)
    assert pool.extend(first, 1) == (-1, -1)
    assert pool.add([1, 2])[1] == 0


def test_a_shared_page_is_copied_by_the_first_who_writes() -> None:
    pool = kv.Pool(3, 4)
    first, _ = pool.add()
    pool.extend(first, 3)
    second = pool.fork(first)
    assert pool.references(0) == 2
    assert pool.extend(first, 1) == (0, 1)
    assert pool.extend(second, 1) == (-1, -1)
    assert pool.page_table([first, second], 2).tolist() == [[1, -1], [0, -1]]
    assert pool.stats()["copies"] == 1


def test_kv_pool_errors() -> None:
    """Types and whole messages."""
    pool = kv.Pool(2, 2)
    first, _ = pool.add()
    pool.extend(first, 3)
    pool.publish(first, [1, 2, 3])
    cases = [
        (lambda: kv.Pool(0, 2), "create: 'pages' must be 1 or more, got 0"),
        (lambda: kv.Pool(2, 0), "create: 'page_tokens' must be 1 or more, got 0"),
        (lambda: pool.extend(first, -1), "extend: 'n_tokens' must be 0 or more, got -1"),
        (
            lambda: pool.truncate(first, 4),
            "truncate: 'length' must lie in [0, 3], the sequence's, got 4",
        ),
        (lambda: pool.fork(first, -1), "fork: 'length' must lie in [0, 3], the sequence's, got -1"),
        (
            lambda: pool.publish(first, [1, 2, 3, 4]),
            "publish: 'n_tokens' must lie in [0, 3], the sequence's, got 4",
        ),
        (
            lambda: pool.publish(first, [1, 3]),
            "publish: 'tokens' must repeat what was published of page 0, got other tokens",
        ),
        (
            lambda: pool.page_table([first], 1),
            f"page_table: 'columns' must be 2 or more, the pages of sequence {first}, got 1",
        ),
        (
            lambda: pool.page_table([77], 1),
            "page_table: 'sequence' must be one of the pool that was not freed, got 77",
        ),
        (lambda: pool.references(2), "references: 'page' must lie in [0, 2), got 2"),
    ]
    before = pool.stats()
    for call, message in cases:
        refuses(call, ValueError, f"fewstep_kv_pool_{message}")
    refuses(
        lambda: pool.extend(first, 2**62),
        MemoryError,
        "fewstep_kv_pool_extend: 'n_tokens' must fit in the 0 pages that are free or cached, "
        f"got {2**62}",
    )
    refuses(
        lambda: pool.page_table([first], -1),
        ValueError,
        "fewstep.kv.Pool.page_table: 'columns' must be 0 or more, got -1",
    )
    refuses(
        lambda: pool.add(np.zeros(2)),
        ValueError,
        "fewstep.kv.Pool: 'tokens' must be a sequence of integers, got float64 of shape [2]",
    )
    assert pool.stats() == before

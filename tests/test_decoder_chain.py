# SPDX-License-Identifier: Apache-2.0
"""``decoder.chain`` has the bits of passes and of the likeliest token after each."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cases.decoder import CHAINS, Case
from harness import Worker
from reference import decoder as reference

RAGGED, LEVELS = CHAINS[1]


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    """Tell whether two runs have the same chains, and left the same bits in the caches."""
    pairs = zip(a["caches"], b["caches"], strict=True)
    chains = (np.array_equal(a[n], b[n]) for n in ("ids", "logp"))
    return all(chains) and all(np.array_equal(*pair) for pair in pairs)


@pytest.mark.parametrize("mapped", [False, True])
@pytest.mark.parametrize(("case", "levels"), CHAINS, ids=lambda value: getattr(value, "name", None))
def test_bits_are_those_of_single_steps(
    bf16_worker: Worker, case: Case, levels: tuple[int, ...], mapped: bool
) -> None:
    """Those of each request alone: chains that end early leave the others as they are."""
    given = {"case": case, "levels": levels, "mapped": mapped}
    want = bf16_worker.decoder(verb="stepped", **given)
    assert same(bf16_worker.decoder(verb="chain", **given), want)
    assert same(bf16_worker.decoder(verb="chain", threads=2, **given), want)
    for own, count in zip(want["ids"], levels, strict=True):
        assert (own[:count] >= 0).all()
        assert (own[count:] == -1).all()


@pytest.mark.parametrize("number", [0, 1, 5])
def test_chains_are_the_references(cpu_worker: Worker, number: int) -> None:
    case, levels = CHAINS[number]
    got = cpu_worker.decoder(verb="chain", case=case, levels=levels)
    want = reference.chain(**got["plain"], eps=1e-5)
    for b, (ids, logp) in enumerate(want):
        assert got["ids"][b, : len(ids)].tolist() == ids
        assert got["logp"][b, : len(ids)] == pytest.approx(logp, abs=2e-5)


def test_chains_end_where_little_is_to_be_had(bf16_worker: Worker) -> None:
    """Before the level whose chances sum to `least`; those of chains that ended do not count."""
    full = bf16_worker.decoder(verb="chain", case=RAGGED, levels=LEVELS)
    chance = [
        sum(np.exp(float(full["logp"][b, k])) for b, n in enumerate(LEVELS) if k + 1 < n)
        for k in range(max(LEVELS))
    ]
    for k in (0, 1, 3):
        for least, kept in ((chance[k] * (1 + 1e-9), k + 1), (chance[k] * (1 - 1e-9), k + 2)):
            got = bf16_worker.decoder(verb="chain", case=RAGGED, levels=LEVELS, least=least)
            first = next(i for i, one in enumerate(chance) if one <= least)
            assert first == k if kept == k + 1 else first > k
            assert np.array_equal(got["ids"][:, : first + 1], full["ids"][:, : first + 1])
            assert (got["ids"][:, first + 1 :] == -1).all()
            assert np.isneginf(got["logp"][:, first + 1 :]).all()


def test_a_row_without_law_ends_its_chain(bf16_worker: Worker) -> None:
    assert bf16_worker.decoder(verb="broken")["ids"].tolist() == [[-1, -1, -1]]

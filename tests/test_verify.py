# SPDX-License-Identifier: Apache-2.0
"""Verification of draft trees: the kernel decides as the reference, and nothing else matters."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

import fewstep
from cases import verify as cases
from harness import Worker
from reference import logits as laws
from reference import verify as reference

CLOSE = 2e-5  # decisions that rounding may turn


def given(t: cases.Trees, rule: str, law: str, dtype: str = "float32") -> dict[str, Any]:
    """Arguments of the harness for a batch."""
    requests, nodes = len(t.indptr) - 1, len(t.parent)
    inputs: dict[str, Any] = {
        "parent": (t.parent, "int32"),
        "indptr": (t.indptr, "int32"),
        "token": (t.token, "int32"),
        "logits": (t.logits, dtype),
        "seeds": (np.arange(requests) + 11, "int64"),
        "positions": (np.arange(requests) % 5, "int32"),
        "draw_indptr": (t.draw_indptr, "int32"),
        "draw_node": (t.draw_node, "int32"),
    }
    if rule in cases.NEEDS:
        inputs["draft"] = (t.draft, "float32")
    if rule == "canonical":
        inputs["draw_weight"] = (t.draw_weight, "float32")
    assert nodes == len(t.draft)
    outputs = {
        "path": ((requests, 4), "int32"),
        "accepted": ((requests,), "int32"),
        "next_token": ((requests,), "int32"),
        "logprobs": ((requests, 5), "float32"),
        "status": ((requests,), "int32"),
    }
    return {"op": "tree.verify", "inputs": inputs, "outputs": outputs}


def wanted(
    t: cases.Trees, b: int, rule: str, law: str, filters: dict[str, Any]
) -> tuple[list[int], int, float, list[float]]:
    """The reference's path, next token, closest margin and log-probabilities."""
    begin = int(t.indptr[b])
    memory: dict[int, np.ndarray] = {}

    def p_of(node: int) -> np.ndarray:
        if node not in memory:
            memory[node] = laws.law(t.logits[begin + node], filters)
        return memory[node]

    def draws_of(node: int) -> list[reference.Draw]:
        i = begin + node
        nodes = t.draw_node[t.draw_indptr[i] : t.draw_indptr[i + 1]]
        return [(int(n), int(t.token[begin + n])) for n in nodes]

    def weights_of(node: int) -> list[float]:
        i = begin + node
        return t.draw_weight[t.draw_indptr[i] : t.draw_indptr[i + 1]].tolist()

    by = reference.Uniforms(b + 11, b % 5)
    q = t.draft.astype(np.float64)
    path, token = reference.verify(
        rule, law, p_of, lambda n: q[begin + n], draws_of, by, weights_of
    )
    chances = [p_of(a)[t.token[begin + c]] for a, c in zip([0, *path], path, strict=False)]
    chances.append(p_of(path[-1] if path else 0)[token])
    with np.errstate(divide="ignore"):
        return path, token, by.margin, np.log(chances).tolist()


def check(found: dict[str, Any], t: cases.Trees, rule: str, law: str, **filters: Any) -> int:
    """Compare all requests; return how many rounding may have turned."""
    close = 0
    for b in range(len(t.indptr) - 1):
        path, token, margin, logs = wanted(t, b, rule, law, filters)
        got = found["path"][b, : found["accepted"][b]].tolist()
        assert (found["path"][b, found["accepted"][b] :] == -1).all()
        assert found["status"][b] == 0
        if (got, int(found["next_token"][b])) != (path, token):
            assert margin < CLOSE, (b, got, path, int(found["next_token"][b]), token)
            close += 1
            continue
        assert found["logprobs"][b, : len(logs)] == pytest.approx(logs, abs=2e-4)
        assert np.isnan(found["logprobs"][b, len(logs) :]).all()
    return close


def sizes(rule: str) -> tuple[int, int]:
    """Draws at a node and levels of the trees."""
    return (1, 4) if rule in cases.ONE_CHILD else (3, 3)


@pytest.mark.parametrize(("rule", "law"), cases.LEGAL)
@pytest.mark.parametrize("V", [2, 7, 40, 1030])
def test_decisions_are_the_reference(worker: Worker, rule: str, law: str, V: int) -> None:
    requests = 60 if V < 1000 else 6
    t = cases.trees(requests, V, law, *sizes(rule), seed=V)
    found = worker.run(**given(t, rule, law), options={"rule": rule, "law": law})
    assert check(found, t, rule, law) <= 1


@pytest.mark.parametrize(
    "filters", [{"temperature": 0.7, "top_k": 5}, {"top_p": 0.8}, {"min_p": 0.1}]
)
@pytest.mark.parametrize(("rule", "law"), cases.LEGAL)
def test_the_target_is_filtered(
    worker: Worker, rule: str, law: str, filters: dict[str, Any]
) -> None:
    t = cases.trees(40, 30, law, *sizes(rule), seed=1)
    options = {"rule": rule, "law": law, **filters}
    found = worker.run(**given(t, rule, law), options=options, gap=3)
    assert check(found, t, rule, law, **filters) <= 1


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("rule", "law"), [("rrs", "iid"), ("greedy", "deterministic")])
def test_types(worker: Worker, rule: str, law: str, dtype: str) -> None:
    torch = pytest.importorskip("torch")
    t = cases.trees(40, 30, law, 3, 3, seed=2)
    stored = torch.from_numpy(t.logits).to(getattr(torch, dtype)).float().numpy()
    found = worker.run(**given(t, rule, law, dtype), options={"rule": rule, "law": law})
    t.logits = stored
    assert check(found, t, rule, law) <= 1


@pytest.mark.parametrize("V", [20, 1500])
@pytest.mark.parametrize(
    ("rule", "law"), [(rule, law) for rule in cases.NEEDS for law in cases.NEEDS[rule]]
)
def test_a_compact_draft_is_the_whole_one(worker: Worker, rule: str, law: str, V: int) -> None:
    """Columns with ids, in rows of their own or shared, against all columns."""
    t = cases.trees(30 if V < 100 else 4, V, law, *sizes(rule), seed=3)
    ids = np.flatnonzero(np.random.default_rng(0).random(V) < 0.6).astype(np.int32)
    t.draft[:, ~np.isin(np.arange(V), ids)] = 0.0
    whole = given(t, rule, law)
    whole["options"] = {"rule": rule, "law": law}
    wanted = worker.run(**whole)
    rows = np.arange(len(t.parent), dtype=np.int32)[::-1].copy()
    compact = {
        "draft": (np.ascontiguousarray(t.draft[::-1][:, ids]), "float32"),
        "draft_row": (rows, "int32"),
    }
    for shared in (True, False):
        columns = ids[None] if shared else np.tile(ids, (len(rows), 1))
        inputs = whole["inputs"] | compact | {"draft_ids": (columns, "int32")}
        found = worker.run(**whole | {"inputs": inputs})
        for key, values in wanted.items():
            assert np.array_equal(found[key], values, equal_nan=True), key


def check_everywhere(workers: dict[str, Worker], call: dict[str, Any]) -> dict[str, Any]:
    """Every instruction set and CUDA's code give the same bits, which are returned."""
    first: dict[str, Any] = workers["scalar"].run(**call)
    for isa in (*fewstep.info()["cpu"]["available"], "cuda_on_host"):
        for threads in (1, 3):
            found = workers[isa].run(**call, threads=threads)
            for key, values in first.items():
                assert np.array_equal(found[key], values, equal_nan=True), (isa, key)
    return first


@pytest.mark.parametrize(
    "filters", [{"top_k": 9}, {"top_p": 0.7, "temperature": 0.8}, {"min_p": 0.01, "typical": 0.9}]
)
@pytest.mark.parametrize(("rule", "law"), cases.LEGAL)
def test_filtered_and_masked_laws_are_the_same_everywhere(
    workers: dict[str, Worker], rule: str, law: str, filters: dict[str, Any]
) -> None:
    t = cases.trees(6, 1500, law, *sizes(rule), seed=8)
    call = given(t, rule, law)
    rng = np.random.default_rng(9)
    mask = rng.integers(0, 1 << 32, (len(t.parent), 47), np.uint32)
    mask |= rng.integers(0, 1 << 32, mask.shape, np.uint32)
    np.bitwise_or.at(mask, (t.parent.clip(0), t.token // 32), np.uint32(1) << t.token % 32)
    call["inputs"]["bitmask"] = (mask.astype(np.int32), "int32")
    call["options"] = {"rule": rule, "law": law} | filters
    assert (check_everywhere(workers, call)["status"] == 0).all()


@pytest.mark.parametrize("filters", [{}, {"top_k": 900}])
@pytest.mark.parametrize(("rule", "law"), [("rrs", "iid"), ("block", "iid"), ("typical", "iid")])
def test_pieces_of_several_blocks_are_the_same_everywhere(
    workers: dict[str, Worker], rule: str, law: str, filters: dict[str, Any]
) -> None:
    """A vocabulary beyond 2**20, where masses are kept of runs of two blocks."""
    t = cases.trees(2, (1 << 20) + 3001, law, 1, 2, seed=10)
    check_everywhere(
        workers, given(t, rule, law) | {"options": {"rule": rule, "law": law} | filters}
    )


def test_draws_that_are_not_looked_at(worker: Worker) -> None:
    """The first 256 children of a root that has more, some of them without a token."""
    V, nodes = 600, 560
    rng = np.random.default_rng(11)
    token = np.append(0, rng.permutation(V)[: nodes - 1]).astype(np.int32)
    token[1:][rng.random(nodes - 1) < 0.3] = -1
    t = cases.Trees(
        np.append(-1, np.zeros(nodes - 1)).astype(np.int32),
        np.array([0, nodes], np.int32),
        token,
        rng.normal(size=(nodes, V)).astype(np.float32),
        np.zeros((nodes, 0), np.float32),
        *[np.zeros(0, np.int32)] * 3,
    )
    accepted = []
    for child in np.flatnonzero(token >= 0)[[255, 256, 257, 258]]:  # the root's token is the first
        logits = t.logits.copy()
        logits[0, token[child]] = 99.0
        call = given(t, "greedy", "deterministic")
        call["inputs"]["logits"] = (logits, "float32")
        del call["inputs"]["draw_indptr"], call["inputs"]["draw_node"]
        for rule in ("greedy", "target_only"):
            call["options"] = {"rule": rule, "law": "deterministic"}
            accepted.append(int(worker.run(**call)["accepted"][0]))
    assert accepted == [1, 1, 1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize(("rule", "law"), cases.LEGAL)
def test_batch_threads_and_instruction_sets_do_not_matter(
    workers: dict[str, Worker], rule: str, law: str
) -> None:
    t = cases.trees(16, 200, law, *sizes(rule), seed=4)
    options = {"rule": rule, "law": law}
    first = check_everywhere(workers, given(t, rule, law) | {"options": options})
    for b in (0, 7, 15):  # alone
        part = slice(t.indptr[b], t.indptr[b + 1])
        draws = t.draw_node[t.draw_indptr[part.start] : t.draw_indptr[part.stop]]
        weights = t.draw_weight[t.draw_indptr[part.start] : t.draw_indptr[part.stop]]
        begins = t.draw_indptr[part.start : part.stop + 1] - t.draw_indptr[part.start]
        alone = fewstep.tree.verify(
            t.parent[part], np.array([0, part.stop - part.start], np.int32), t.token[part],
            t.logits[part], [b + 11], b % 5, draft=t.draft[part], draw_indptr=begins,
            draw_node=draws, draw_weight=weights, path=np.zeros((1, 4), np.int32), **options,
        )  # fmt: skip
        assert np.array_equal(alone.path[0], first["path"][b])
        assert alone.next_token[0] == first["next_token"][b]


def test_match_is_plain_sampling() -> None:
    """Token by token what `logits.sample` draws with the same seed, whatever was drafted."""
    t = cases.trees(200, 12, "iid", 3, 3, seed=5)
    found = fewstep.tree.verify(
        t.parent, t.indptr, t.token, t.logits, np.arange(200), 3, rule="match", top_k=9
    )
    for b in range(200):
        begin, node = int(t.indptr[b]), 0
        path = found.path[b, : found.accepted[b]].tolist()
        emitted = [*t.token[begin + np.array(path, int)].tolist(), int(found.next_token[b])]
        for depth, token in enumerate(emitted):
            row = t.logits[begin + node : begin + node + 1]
            assert fewstep.logits.sample(row, [b], 3 + depth, top_k=9)[0] == token
            node = path[depth] if depth < len(path) else -1


@pytest.mark.parametrize("rule", ["greedy", "match"])
def test_tokens_of_the_target_in_place_of_its_logits(worker: Worker, rule: str) -> None:
    """What each row's logits would give, found beforehand for all nodes."""
    t = cases.trees(200, 5, "iid", 3, 3, seed=6)
    whole = given(t, rule, "iid")
    logits, _ = whole["inputs"].pop("logits")
    del whole["outputs"]["logprobs"]
    options = {"rule": rule, "law": "iid"}
    wanted = worker.run(
        **whole | {"inputs": whole["inputs"] | {"logits": (logits, "float32")}}, options=options
    )
    request = np.repeat(np.arange(200), np.diff(t.indptr))
    depth = fewstep.tree.build(t.parent, t.indptr).depth
    tokens = fewstep.logits.sample(
        logits, request + 11, (request % 5 + depth).astype(np.int32),
        temperature=0.0 if rule == "greedy" else 1.0,
    )  # fmt: skip
    inputs = whole["inputs"] | {"target_token": (tokens, "int32")}
    options |= {"logits": None}
    found = worker.run(**whole | {"inputs": inputs}, options=options, gap=3)
    assert wanted["accepted"].max() > 1
    for key, values in wanted.items():
        assert np.array_equal(found[key], values)


def test_a_target_without_a_token_ends_the_path() -> None:
    parent, indptr = np.array([-1, 0, 1], np.int32), np.array([0, 3], np.int32)
    token, status = np.array([0, 1, 2], np.int32), np.zeros(1, np.int32)
    found = fewstep.tree.verify(
        parent, indptr, token, None, [1], 0, rule="match", status=status,
        target_token=np.array([1, -1, 5], np.int32),
    )  # fmt: skip
    assert (found.path.tolist(), found.next_token.tolist()) == ([[1, -1]], [-1])
    assert status.tolist() == [3]


def test_a_row_without_a_law_ends_the_path() -> None:
    parent = np.array([-1, 0, 1, -1, -1], np.int32)
    indptr = np.array([0, 3, 4, 4, 5], np.int32)
    token = np.array([0, 1, 1, 0, 0], np.int32)
    logits = np.full((5, 3), -1e4, np.float32)
    logits[0, 1] = 0.0
    logits[1] = np.nan
    logits[3] = -np.inf
    logits[4, 2] = np.inf
    for rule in ("greedy", "match", "target_only", "chain"):
        status = np.full(4, 9, np.int32)
        found = fewstep.tree.verify(
            parent, indptr, token, logits, np.arange(4), 0, rule=rule, status=status
        )
        assert status.tolist() == [1, 3, 0, 2]
        assert found.accepted.tolist() == [1, 0, 0, 0]
        assert found.path.tolist() == [[1, -1], [-1, -1], [-1, -1], [-1, -1]]
        assert found.next_token.tolist() == [-1] * 4


def test_a_node_without_a_token_is_never_accepted() -> None:
    parent, indptr = np.array([-1, 0, 0], np.int32), np.array([0, 3], np.int32)
    token = np.array([0, -1, 2], np.int32)
    logits = np.array([[-1e4, -1e4, 0.0]] * 3, np.float32)
    for rule in ("greedy", "match", "target_only"):
        found = fewstep.tree.verify(parent, indptr, token, logits, [1], 0, rule=rule)
        assert found.path.tolist() == [[2]]


@pytest.mark.parametrize(
    ("rule", "law", "rounds"),
    [("chain", "iid", 24), ("rrs", "iid", 24), ("rrs", "without_replacement", 1024)],
)
def test_frequencies_at_a_large_vocabulary(rule: str, law: str, rounds: int) -> None:
    """The emitted token's law at V = 32,000, up to a million: chi-square over pooled tokens."""
    V, requests = 32000, 1024
    rng = np.random.default_rng(21)
    p_logits = (rng.normal(size=V) * 2).astype(np.float32)
    p = laws.law(p_logits, {})
    q = laws.law(p_logits + rng.normal(size=V).astype(np.float32), {}).astype(np.float32)
    q /= q.sum(dtype=float)
    steps = np.cumsum(q, dtype=float) / q.sum(dtype=float)
    k = 1 if rule == "chain" else 2
    parent = np.tile(np.array([-1] + [0] * k, np.int32), requests)
    indptr = (np.arange(requests + 1) * (k + 1)).astype(np.int32)
    rows = np.lib.stride_tricks.as_strided(p_logits, (len(parent), V), (0, 4))
    counts = np.zeros(V)
    for part in range(rounds):
        drawn = np.searchsorted(steps, rng.random((requests, k)), "right")
        while law == "without_replacement" and (same := drawn[:, 0] == drawn[:, 1]).any():
            drawn[same, 1] = np.searchsorted(steps, rng.random(same.sum()), "right")
        token = np.concatenate([np.zeros((requests, 1), int), drawn], 1).astype(np.int32).ravel()
        seeds = np.arange(part * requests, (part + 1) * requests)
        found = fewstep.tree.verify(
            parent, indptr, token, rows, seeds, 0, rule=rule, law=law, draft=q[None],
            draft_row=np.zeros(len(parent), np.int32),
        )  # fmt: skip
        first = np.where(found.accepted > 0, 0, found.next_token)
        took = found.accepted > 0
        nodes = indptr[:-1][took] + found.path[took, 0]
        first[took] = token[nodes]
        counts += np.bincount(first, minlength=V)
    order = np.argsort(-p)
    expected, observed = p[order] * counts.sum(), counts[order]
    cells = np.unique(np.cumsum(expected) // 25.0, return_inverse=True)[1]
    e, o = np.bincount(cells, expected), np.bincount(cells, observed)
    statistic = ((o - e) ** 2 / e)[e > 5].sum()
    assert stats.chi2.sf(statistic, (e > 5).sum() - 1) > 1e-4

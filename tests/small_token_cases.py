# SPDX-License-Identifier: Apache-2.0
"""Those of `small_cases` that are of trees, drafts and logits: `harness.run` runs them all."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from cases import attention, draft, logits, tree, verify


def tree_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Forests of all kinds, built and ranked, and templates."""
    for forest in list(tree.forests().values())[:: 3 if few else 1]:
        parent, indptr = tree.flat(forest)
        count = len(parent)
        outputs = {n: ((count,), "int32") for n in ("depth", "first_child", "next_sibling")}
        given = {"parent": (parent, "int32"), "indptr": (indptr, "int32")}
        yield {
            "op": "tree.build",
            "inputs": given,
            "outputs": outputs | {"bits": ((count, tree.words(forest)), "int32")},
        }
        budget = np.full(len(forest), 5, np.int32)
        scores = -np.arange(count, dtype=np.float32)
        yield {
            "op": "tree.rerank",
            "inputs": given | {"budget": (budget, "int32"), "cum_logp": (scores, "float32")},
            "outputs": {
                "kept": ((count,), "int32"),
                "kept_parent": ((count,), "int32"),
                "kept_indptr": ((len(forest) + 1,), "int32"),
            },
        }
    for seed in range(2 if few else 6):
        case = tree.template_case(seed)
        source = ("table", "heads")[seed % 2]
        yield {
            "op": "tree.from_template",
            "inputs": {n: (case[n], "int32") for n in ("parent", "rank", "root", source)},
            "outputs": {"tokens": ((len(case["root"]), len(case["parent"])), "int32")},
        }


def growth_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Frontiers over several vocabularies."""
    for seed, V in enumerate((1, 17, 1030, 5000)[:: 3 if few else 1]):
        yield from growth_of(seed, V)


def growth_of(seed: int, V: int) -> Iterator[dict[str, Any]]:
    """A ragged frontier expanded and drawn from, by every law, with and without filters."""
    case = tree.growth_case(seed, V)
    rows, requests = len(case["logits"]), len(case["indptr"]) - 1
    place = {"offset": seed % 2, "gap": 3 * (seed % 2)}
    given = {
        "cum_logp": (case["cum_logp"], "float32"),
        "logits": (case["logits"], logits.DTYPES[seed % 3]),
        "indptr": (case["indptr"], "int32"),
        "d2t": (np.arange(V) - 1, "int32"),
    }
    integers, floats = ((rows, 5), "int32"), ((rows, 5), "float32")
    beams = {n: ((requests, 7), "int32") for n in ("beam_ids", "beam_parent")}
    beams["beam_logp"] = ((requests, 7), "float32")
    yield {
        "op": "tree.expand",
        "inputs": given,
        "outputs": {"ids": integers, "logp": floats} | beams,
        "options": {"k": 5},
    } | place
    keys = {"seeds": (np.arange(requests), "int64"), "positions": (np.arange(rows), "int32")}
    for law in ("iid", "without_replacement", "stochastic_beam"):
        drawn: dict[str, Any] = {"draws": integers, "logq": floats}
        if law != "iid":
            drawn |= {"perturbed": floats, "beam": ((requests, 7), "int32")}
        for filters in ({}, {"top_k": 3}, {"top_p": 0.8}):
            yield {
                "op": "tree.sample_children",
                "inputs": given | keys,
                "outputs": drawn,
                "options": {"law": law, "k": 5, **filters},
            } | place


def logits_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Every op of logits that has a kernel, over vocabularies, types, masks and filters."""
    for index, V in enumerate(logits.VOCABULARIES[:: 3 if few else 1]):
        yield from logits_of(index, V, list(logits.FILTERS)[index % 3 :: 3])


def logits_of(index: int, V: int, names: list[str]) -> Iterator[dict[str, Any]]:
    """Every op of logits that has a kernel, over filters by their names."""
    rows = logits.rows(3, V)
    place = {"offset": index % 3, "gap": 4 * (index % 2)}
    inputs = {"logits": (rows, logits.DTYPES[index % 3])}
    if index % 2:
        inputs["bitmask"] = (logits.bitmask(3, V), "int32")
    keys = {"seeds": (np.arange(3), "int64"), "positions": (np.arange(3), "int32")}
    lists = {n: ((3, 7), "float32") for n in ("perturbed", "probabilities", "values")}
    ids, one = {"ids": ((3, 7), "int32")}, {"out": ((3,), "int32")}
    for filters in (logits.FILTERS[name] for name in names):
        given = {"inputs": inputs, "options": filters, **place}
        drawn = given | {"inputs": inputs | keys}
        yield drawn | {"op": "logits.sample", "outputs": one}
        perturbed = ids | {"perturbed": lists["perturbed"]}
        options = {"options": filters | {"k": 7}}
        yield drawn | options | {"op": "logits.gumbel_top_k", "outputs": perturbed}
        count = {"count": ((3,), "int32"), "probabilities": lists["probabilities"]}
        dense = {"out": ((3, V), "float32")}
        yield given | {"op": "logits.renorm", "outputs": dense | ids | count}
        codes = {"codes": (np.arange(3) << 60, "int64")}
        decoded = one | {"next_codes": ((3,), "int64")}
        yield given | {
            "op": "logits.sample_arithmetic",
            "inputs": inputs | codes,
            "outputs": decoded,
        }
    best = ids | {"values": lists["values"]}
    yield {
        "op": "logits.top_k",
        "inputs": inputs,
        "options": {"k": 7},
        "outputs": best,
        **place,
    }


def verify_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Every pair of rule and law, over vocabularies and filters."""
    for index, (rule, law) in enumerate(verify.LEGAL[:: 2 if few else 1]):
        yield verify_of(index, rule, law, (7, 40, 1030)[index % 3])


def verify_of(index: int, rule: str, law: str, V: int) -> dict[str, Any]:
    """Trees of a law, verified by a rule."""
    draws, depth = (1, 4) if rule in verify.ONE_CHILD else (3, 3)
    t = verify.trees(3, V, law, draws, depth, seed=index)
    kinds = {"logits": logits.DTYPES[index % 3], "draft": "float32", "draw_weight": "float32"}
    inputs = {name: (x, kinds.get(name, "int32")) for name, x in vars(t).items()}
    inputs |= {"seeds": (np.arange(3), "int64"), "positions": (np.arange(3), "int32")}
    filters = list(logits.FILTERS.values())[index % len(logits.FILTERS)]
    return {
        "op": "tree.verify",
        "inputs": inputs,
        "outputs": {
            "path": ((3, 4), "int32"),
            "accepted": ((3,), "int32"),
            "next_token": ((3,), "int32"),
            "logprobs": ((3, 5), "float32"),
        },
        "options": {"rule": rule, "law": law} | filters,
    }


def k_seq_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Whole drafts and compact ones, over vocabularies and filters."""
    for index, V in enumerate((7, 40, 1030)[:: 2 if few else 1]):
        yield from k_seq_of(index, V)


def k_seq_of(index: int, V: int) -> Iterator[dict[str, Any]]:
    """Rows, half of whose drafts are compact, over filters."""
    ids = np.arange(0, V, 1 + index % 2)
    inputs = {
        "logits": (logits.rows(3, V), logits.DTYPES[index]),
        "draft": (np.full((3, len(ids)), 1 / len(ids)), "float32"),
        "draft_ids": (np.tile(ids, (3, 1)), "int32"),
    }
    for filters in ({}, {"top_k": 3}, {"top_p": 0.8}):
        yield {
            "op": "tree.k_seq_rho",
            "inputs": inputs,
            "outputs": {"rho": ((3,), "float64"), "accept": ((3,), "float64")},
            "options": {"k": 4, **filters},
        }


def long_cases(index: int, V: int) -> Iterator[dict[str, Any]]:
    """Rows that several blocks of a GPU share."""
    yield from growth_of(index, V)
    yield from logits_of(index, V, ["plain", "top_k_top_p", "all_but_top_k", "many_typical"])
    yield from k_seq_of(index % 3, V)
    yield penalise_of(V)
    for rule, law in verify.LEGAL[index::6]:
        yield verify_of(index, rule, law, V)


def penalise_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Two vocabularies."""
    for V in (17, 5000)[: 1 if few else 2]:
        yield penalise_of(V)


def penalise_of(V: int) -> dict[str, Any]:
    """Histories of all lengths, some of which do not fit the kernel's table at once."""
    tokens, indptr = logits.histories(V)
    count = len(indptr) - 1
    return {
        "op": "logits.penalise",
        "inputs": {
            "logits": (logits.rows(count, V), "bfloat16"),
            "tokens": (tokens, "int32"),
            "indptr": (indptr, "int32"),
            "bias_ids": (np.arange(9) % V, "int32"),
            "bias_values": (np.ones(9), "float32"),
        },
        "outputs": {"out": ((count, V), "bfloat16")},
        "options": {"frequency": 0.1},
    }


def attention_cases(few: bool) -> Iterator[dict[str, Any]]:
    """A third of the case table, in every type and alignment, with and without fixed parts.

    And of many rows half the cases, in 16-bit types, aligned and without fixed parts.
    """
    kinds = {"k_scale": "float32", "v_scale": "float32", "sinks": "float32"}
    table = list(attention.CASES.values())[:: 9 if few else 3]
    wide = list(attention.MANY_ROWS.values())[:: 6 if few else 2]
    for index, case in enumerate(table + wide):
        is_wide = index >= len(table)
        dtype = attention.DTYPES[1 + index % 2 if is_wide else index % 3]
        shape = {"dim": (64, 128, 256)[index % 3], "groups": 1} if is_wide else {}
        given = shape | case
        a = attention.problem(given.pop("requests"), dtype=dtype, seed=index, **given)
        arrays = {n: x for n, x in a.items() if isinstance(x, np.ndarray)}
        rows = ("q", "k", "v", "draft_k", "draft_v")
        dtypes = {
            n: attention.cache_dtype(a, dtype) if n in ("k", "v") else dtype
            for n in rows
            if n in arrays
        }
        heads = a["q"].shape[:2]
        yield {
            "op": "tree.attention",
            "inputs": {n: (x, dtypes.get(n, kinds.get(n, "int32"))) for n, x in arrays.items()},
            "outputs": {"out": (a["q"].shape, dtype), "lse": (heads, "float32")},
            "options": {n: x for n, x in a.items() if n not in arrays}
            | {"deterministic": index % 2 == 1 and not is_wide},
            "offset": index % 2 if heads[0] and not is_wide else 0,
            "gap": 3 * (index % 4 // 2) if heads[0] and not is_wide else 0,
        }


def merge_cases(few: bool) -> Iterator[dict[str, Any]]:
    """One to eight parts, of every type."""
    rng = np.random.default_rng(5)
    for count in (2, 8) if few else range(1, 9):
        shape = (count, 3, 8 * count + 1)
        dtype = attention.DTYPES[count % 3]
        yield {
            "op": "tree.merge",
            "inputs": {},
            "outputs": {"out": (shape, dtype), "lse": (shape[:2], "float32")},
            "options": {
                name: [rng.normal(size=size).astype(np.float32) for _ in range(count)]
                for name, size in (("parts", shape), ("lses", shape[:2]))
            },
        }


def run_cases(few: bool) -> Iterator[dict[str, Any]]:
    """Cases of the ops that have no call of their own."""
    for cases in (tree_cases, growth_cases, attention_cases, merge_cases):
        yield from cases(few)
    for cases in (logits_cases, penalise_cases, verify_cases, k_seq_cases):
        yield from cases(few)
    for index, V in enumerate(logits.LONG[1 : 2 if few else 3]):
        yield from long_cases(index, V)
    for V, K, N in draft.TABLES:
        table, tokens, ids = draft.update(V, K, N)
        yield {
            "op": "draft.recycle",
            "inputs": {"tokens": (tokens, "int32"), "top_ids": (ids, "int32")},
            "updated": {"table": (table, "int32")},
            "outputs": {},
        }

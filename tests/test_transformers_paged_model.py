# SPDX-License-Identifier: Apache-2.0
"""``fewstep.transformers.PagedModel`` against the same model run plainly."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest

from hf_models import CONFIGS, model_of, text

torch = pytest.importorskip("torch")

import fewstep  # noqa: E402
from fewstep.language_model import LanguageModel  # noqa: E402
from fewstep.transformers import PagedModel  # noqa: E402

PARENTS = (-1, 0, 0, 1, 1, 2, 4)  # of the tree that is run


class Runner:
    """A model in pages, and the same one run without any cache."""

    def __init__(self, name: str = "Llama", **options: Any) -> None:
        plain = model_of(name)
        self.exact = copy.deepcopy(plain).double()
        self.exact.set_attn_implementation("eager")
        self.model = PagedModel(plain, **({"pages": 80, "page_tokens": 8} | options))

    def want(self, tokens: Any) -> Any:
        with torch.no_grad():
            return self.exact(torch.as_tensor(np.asarray(tokens))[None].long()).logits[0].float()

    def run(self, pairs: list[tuple[int, Any]], **options: Any) -> Any:
        """Extend sequences by tokens and run them."""
        for sequence, tokens in pairs:
            self.model.extend(sequence, len(tokens))
        tokens = np.concatenate([np.asarray(t, np.int32) for _, t in pairs])
        indptr = np.cumsum([0] + [len(t) for _, t in pairs]).astype(np.int32)
        return self.model.forward([s for s, _ in pairs], tokens, indptr, **options)

    def begin(self, tokens: Any) -> int:
        sequence, cached = self.model.add()
        assert cached == 0
        self.run([(sequence, tokens)], rows=np.zeros(0, np.int64))
        return sequence


def near(ours: Any, want: Any) -> bool:
    return ours.shape == want.shape and bool((ours - want).abs().max() < 2e-5)


def tree_arguments() -> tuple[Any, Any]:
    built = fewstep.tree.build(np.array(PARENTS, np.int32), np.array([0, len(PARENTS)], np.int32))
    return built.bits, built.depth


def path_to(node: int) -> list[int]:
    return [*path_to(PARENTS[node]), node] if node >= 0 else []


@pytest.mark.parametrize("name", CONFIGS)
def test_prompt_and_steps_are_the_plain_models(name: str) -> None:
    runner = Runner(name)
    assert isinstance(runner.model, LanguageModel)
    tokens = text(30).numpy()
    want = runner.want(tokens)
    sequence, _ = runner.model.add()
    assert near(runner.run([(sequence, tokens[:20])]), want[:20])
    for i in range(20, 30):
        assert near(runner.run([(sequence, tokens[i : i + 1])]), want[i : i + 1])
    assert runner.model.length(sequence) == 30


@pytest.mark.parametrize("name", CONFIGS)
def test_ragged_rows_are_those_of_each_sequence_alone(name: str) -> None:
    runner = Runner(name)
    texts = [text(n, seed=n).numpy() for n in (25, 1, 14)]
    wants = [runner.want(t) for t in texts]
    sequences = [runner.model.add()[0] for _ in texts]
    first = runner.run([(s, t[: len(t) // 2 + 1]) for s, t in zip(sequences, texts, strict=True)])
    assert near(first, torch.cat([w[: len(w) // 2 + 1] for w in wants]))
    rows = runner.run([(sequences[2], texts[2][8:]), (sequences[0], texts[0][13:])])
    assert near(rows, torch.cat([wants[2][8:], wants[0][13:]]))


@pytest.mark.parametrize("name", CONFIGS)
def test_rows_of_a_tree_are_those_of_each_path_alone(name: str) -> None:
    runner = Runner(name)
    prompt, nodes = text(12).numpy(), text(len(PARENTS), seed=1).numpy()
    bits, depth = tree_arguments()
    sequence = runner.begin(prompt)
    rows = runner.run([(sequence, nodes)], bits=bits, depth=depth)
    for node in range(len(PARENTS)):
        path = path_to(node)
        assert near(rows[node], runner.want([*prompt, *nodes[path]])[-1])
    accepted = path_to(6)[1:]
    runner.model.keep(
        [sequence],
        np.array([[*accepted, -1]], np.int32),
        np.array([len(accepted)], np.int32),
        np.array([len(PARENTS)], np.int32),
    )
    kept = [*prompt, nodes[0], *nodes[accepted]]
    assert runner.model.length(sequence) == len(kept)
    assert near(runner.run([(sequence, [9])])[0], runner.want([*kept, 9])[-1])


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_a_tree_may_grow_level_by_level(name: str) -> None:
    runner = Runner(name)
    prompt, nodes = text(12).numpy(), text(len(PARENTS), seed=1).numpy()
    bits, depth = tree_arguments()
    sequence = runner.begin(prompt)
    whole = []
    for level in range(int(depth.max()) + 1):
        here = np.flatnonzero(depth == level)
        block = np.array([here[-1] + 1], np.int32)
        options = {"bits": bits[here], "depth": depth[here], "block": block}
        whole.append(runner.run([(sequence, nodes[here])], **options))
    rows = torch.cat(whole)
    for node in range(len(PARENTS)):
        assert near(rows[node], runner.want([*prompt, *nodes[path_to(node)]])[-1])


@pytest.mark.parametrize("name", ["Llama", "Mistral"])
def test_long_prompts_are_chains_of_any_length(name: str) -> None:
    runner = Runner(name, pages=150)
    tokens = text(600).numpy()
    want = runner.want(tokens)
    one, two = runner.model.add()[0], runner.begin(tokens[:300])
    rows = runner.run([(one, tokens[:520]), (two, tokens[300:])])
    assert near(rows, torch.cat([want[:520], want[300:]]))


def test_logits_of_some_rows_or_none() -> None:
    runner = Runner()
    tokens = text(9).numpy()
    sequence, _ = runner.model.add()
    none = runner.run([(sequence, tokens)], rows=np.zeros(0, np.int64))
    assert none.shape == (0, runner.model.n_vocab)
    runner.model.truncate(sequence, 0)
    some, hidden = runner.run([(sequence, tokens)], rows=np.array([2, 8]), hidden=True)
    assert near(some, runner.want(tokens)[[2, 8]])
    assert hidden.shape == (2, 64)
    assert near(runner.model.model.lm_head(hidden), some)


def test_published_prefixes_are_found_and_shared() -> None:
    runner = Runner()
    tokens = text(20).numpy()
    first = runner.begin(tokens)
    runner.model.publish(first, tokens)
    other = np.concatenate([tokens[:17], text(3, seed=4).numpy()])
    second, cached = runner.model.add(other[:-1])
    assert (cached, runner.model.length(second)) == (16, 16)
    assert near(runner.run([(second, other[16:])]), runner.want(other)[16:])
    assert runner.model.pool.stats()["shared"] == 2


def test_forks_share_pages_until_one_writes() -> None:
    runner = Runner()
    tokens = text(13).numpy()
    first = runner.begin(tokens)
    second = runner.model.fork(first)
    third = runner.model.fork(first, 5)
    rows = runner.run([(second, [7]), (first, [8]), (third, [9])])
    wants = [runner.want([*tokens[:n], t])[-1] for n, t in ((13, 7), (13, 8), (5, 9))]
    assert near(rows, torch.stack(wants))
    assert runner.model.pool.stats()["copies"] > 0


def test_truncated_tokens_are_forgotten() -> None:
    runner = Runner()
    tokens = text(20).numpy()
    sequence = runner.begin(tokens)
    runner.model.truncate(sequence, 6)
    assert near(runner.run([(sequence, [5, 6])]), runner.want([*tokens[:6], 5, 6])[6:])
    runner.model.free(sequence)
    assert runner.model.pool.stats()["used"] == 0


def test_out_of_pages_the_others_go_on() -> None:
    runner = Runner(pages=4)
    first, second = runner.begin(text(16)), runner.begin(text(9))
    message = (
        f"fewstep.transformers.PagedModel.extend: 1 tokens of sequence {first} must fit in the 0 "
        "of 4 pages that are not in use, of 8 tokens each"
    )
    with pytest.raises(MemoryError) as error:
        runner.model.extend(first, 1)
    assert str(error.value) == message
    assert runner.model.length(first) == 16
    assert near(runner.run([(second, [4])])[0], runner.want([*text(9), 4])[-1])
    runner.model.free(second)
    assert near(runner.run([(first, [4])])[0], runner.want([*text(16), 4])[-1])


def test_a_vocabulary_subset_has_the_full_heads_logits() -> None:
    plain = model_of("Gemma2")
    ids = np.array([3, 4, 50, 96])
    runner = Runner("Gemma2")
    part = PagedModel(plain, pages=8, vocabulary=ids)
    assert part.n_vocab == 4
    assert part.d2t is not None
    assert part.d2t.tolist() == ids.tolist()
    assert part.model.model is plain.model
    runner.model = part
    sequence, _ = part.add()
    assert near(runner.run([(sequence, text(9))]), runner.want(text(9))[:, ids])


@pytest.mark.parametrize("name", CONFIGS)
def test_the_first_layers_are_a_model(name: str) -> None:
    full = Runner(name)
    early = copy.copy(full)
    early.model = PagedModel(full.model.model, pages=8, layers=2)
    early.exact = copy.deepcopy(full.exact)
    stack = next(m for m in early.exact.base_model.children() if type(m) is torch.nn.ModuleList)
    del stack[2]
    early.exact.base_model.config.num_hidden_layers = 2
    sequence, _ = early.model.add()
    assert near(early.run([(sequence, text(9))]), early.want(text(9)))
    assert near(full.run([(full.model.add()[0], text(9))]), full.want(text(9)))
    assert len(early.model._cache.store.k) == 2


@pytest.mark.parametrize(("dtype", "share"), [("int8", 0.05), ("float8_e4m3fn", 0.1)])
def test_a_cache_of_bytes_is_close(dtype: str, share: float) -> None:
    runner = Runner(cache_dtype=dtype)
    tokens = text(40).numpy()
    want = runner.want(tokens)
    sequence = runner.begin(tokens[:30])
    rows = runner.run([(sequence, tokens[30:])])
    assert {part.dtype for part in runner.model._cache.store.k.values()} == {getattr(torch, dtype)}
    assert 1e-6 < float((rows - want[30:]).abs().max()) < share * float(want.abs().max())
    second = runner.model.fork(sequence)
    assert near(*runner.run([(sequence, [5]), (second, [5])]))

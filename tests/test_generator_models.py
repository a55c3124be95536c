# SPDX-License-Identifier: Apache-2.0
"""`fewstep.Generator` with models of transformers: greedy texts are those of `generate`."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fewstep
from frequencies import p_value
from hf_models import CONFIGS, model_of
from hf_models import VOCABULARY as V

torch = pytest.importorskip("torch")

from fewstep.transformers import PagedModel, fuse  # noqa: E402

PROMPTS = [[5, 9, 5, 9, 5], [7], [int(t) for t in np.random.default_rng(0).integers(1, V, 21)]]
GREEDY = fewstep.Sampling(temperature=0, max_tokens=16)


@pytest.fixture(scope="module", params=CONFIGS)
def model(request: pytest.FixtureRequest) -> tuple[Any, list[list[int]]]:
    """Return each model and its greedy texts, by transformers alone."""
    made = model_of(request.param)
    texts = [
        made.generate(
            torch.tensor([prompt]), max_new_tokens=16, do_sample=False, use_cache=True
        )[0, len(prompt) :].tolist()
        for prompt in PROMPTS
    ]  # fmt: skip
    return made, texts


def drafters(model: Any) -> dict[str, Any]:
    small = model_of("Llama", num_hidden_layers=1)
    return {
        "none": None,
        "lookup": fewstep.drafters.PromptLookup(n_min=1, branches=2),
        "recycling": fewstep.drafters.TokenRecycling(),
        "contexts": fewstep.drafters.ContextRecycling(),
        "trigram": fewstep.drafters.TriGram(),
        "cascade": fewstep.drafters.Cascade(small, adapt=False),
        "tree": fewstep.drafters.DraftModel(small, "tree", depth=3),
        "chain": fewstep.drafters.DraftModel(small, "chain", depth=3),
        "itself": fewstep.drafters.DraftModel(model, "tree", depth=3, width=2, adapt=False),
        "early_exit": fewstep.drafters.DraftModel(PagedModel(model, layers=2), "tree", depth=3),
        "subset": fewstep.drafters.DraftModel(
            PagedModel(model, vocabulary=np.arange(0, V, 2)), "tree", depth=3
        ),
    }


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize(
    "name",
    [
        "none",
        "lookup",
        "recycling",
        "contexts",
        "trigram",
        "cascade",
        "tree",
        "chain",
        "itself",
        "early_exit",
        "subset",
    ],
)
def test_greedy_texts_are_those_of_transformers(name: str, batch: int, model: Any) -> None:
    made, texts = model
    generator = fewstep.Generator(
        made, drafter=drafters(made)[name], max_batch=batch, adapt=False, stop_tokens=()
    )
    results = generator.generate(PROMPTS, GREEDY)
    assert [result.error for result in results] == [None] * 3
    assert [result.tokens for result in results] == texts
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    if name == "itself":
        assert generator.stats.tokens_per_call > 3


@pytest.mark.parametrize("name", ["none", "recycling", "tree"])
def test_sampled_texts_do_not_depend_on_drafts_or_batch(name: str) -> None:
    made = model_of("Llama")
    each = [fewstep.Sampling(temperature=0.8, top_p=0.9, seed=i, max_tokens=20) for i in range(3)]
    plain = [
        fewstep.Generator(made, stop_tokens=()).generate([p], s)[0].tokens
        for p, s in zip(PROMPTS, each, strict=True)
    ]
    generator = fewstep.Generator(made, drafter=drafters(made)[name], stop_tokens=())
    assert [result.tokens for result in generator.generate(PROMPTS, each)] == plain


@pytest.mark.parametrize("mode", ["chain", "k_seq", "rsd_c", "rsd_s"])
def test_frequencies_of_a_real_model(mode: str) -> None:
    """The token after the first drafted one, against the model's own law of it."""
    made, count = model_of("Llama"), 1500
    made.lm_head.weight.data *= 0.3  # flatter laws, of which more is accepted
    with torch.no_grad():
        first = torch.softmax(made(torch.tensor([[5, 9]])).logits[0, -1].double(), -1)
        pairs = torch.tensor([[5, 9, token] for token in range(V)])
        second = torch.softmax(made(pairs).logits[:, -1].double(), -1)
    law = (first[:, None] * second).sum(0).numpy()
    drafter = fewstep.drafters.DraftModel(PagedModel(made, layers=2), mode, depth=2)
    generator = fewstep.Generator(made, drafter=drafter, max_batch=16, stop_tokens=())
    each = [fewstep.Sampling(seed=i, max_tokens=2) for i in range(count)]
    results = generator.generate([[5, 9]] * count, each)
    seen = np.bincount([result.tokens[1] for result in results], minlength=V)
    assert p_value(seen, law * count / law.sum()) > 1e-3
    assert generator.stats.drafter_errors == 0, generator.stats.last_error
    assert generator.stats.accepted > count / 10


def test_out_of_pages_and_cancelled_streams() -> None:
    made = model_of("Llama")
    paged = PagedModel(made, pages=6, page_tokens=8)
    generator = fewstep.Generator(paged, drafter=fewstep.drafters.TokenRecycling(), stop_tokens=())
    long, short = generator.generate(
        [[1, 2, 3], [4, 5]], [fewstep.Sampling(temperature=0, max_tokens=60), GREEDY]
    )
    assert isinstance(long.error, MemoryError)
    assert (
        short.tokens == fewstep.Generator(made, stop_tokens=()).generate([[4, 5]], GREEDY)[0].tokens
    )
    stream = generator.stream([1, 2, 3], GREEDY)
    next(stream)
    stream.close()
    assert paged.pool.stats()["used"] == 0


def test_a_prompt_that_was_seen_is_not_run_again() -> None:
    made = model_of("Llama")
    paged = PagedModel(made, pages=64, page_tokens=4)
    generator = fewstep.Generator(paged, stop_tokens=())
    prompt = list(range(1, 30))
    (first,) = generator.generate([prompt], GREEDY)
    (again,) = generator.generate([prompt], GREEDY)
    assert first.tokens == again.tokens
    assert paged.pool.stats()["found"] >= 28
    (more,) = generator.generate([[*prompt, *first.tokens, 3]], GREEDY)
    plain = fewstep.Generator(made, stop_tokens=()).generate([[*prompt, *first.tokens, 3]], GREEDY)
    assert more.tokens == plain[0].tokens


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sampled_texts_of_a_fused_model_do_not_depend_on_the_batch(dtype: str) -> None:
    """Bit for bit: one token a call, alone and with others, and with chains of drafts."""
    made = model_of("Llama").to(getattr(torch, dtype))
    fuse(made)
    each = [fewstep.Sampling(temperature=0.9, seed=i, max_tokens=30) for i in range(3)]
    texts = []
    for batch, drafter in (
        (1, None), (3, None), (2, fewstep.drafters.PromptLookup(n_min=1)),
        (3, fewstep.drafters.DraftModel(PagedModel(made, layers=2), "tree", width=1, nodes=4)),
    ):  # fmt: skip
        generator = fewstep.Generator(
            made, drafter=drafter, max_batch=batch, adapt=False, stop_tokens=()
        )
        texts.append([result.tokens for result in generator.generate(PROMPTS, each)])
    assert all(one == texts[0] for one in texts)

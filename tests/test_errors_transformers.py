# SPDX-License-Identifier: Apache-2.0
"""Every message of ``fewstep.transformers``, whole, and that nothing changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from hf_models import model_of, text

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from fewstep.transformers import PagedCache, PagedModel, fuse  # noqa: E402

MODEL = "fewstep.transformers.PagedModel"


@pytest.fixture(scope="module")
def llama() -> Any:
    return model_of("Llama")


@pytest.fixture
def paged(llama: Any) -> PagedModel:
    """Return a model whose sequence 1 has 5 tokens and room for 3 more."""
    model = PagedModel(llama, pages=4, page_tokens=8)
    assert model.add() == (1, 0)
    model.extend(1, 8)
    model.forward([1], np.arange(5, dtype=np.int32), np.array([0, 5], np.int32))
    return model


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": 0}, "'layers' must lie in 1 to 3, the model's, got 0"),
        ({"layers": 4}, "'layers' must lie in 1 to 3, the model's, got 4"),
        (
            {"cache_dtype": "int4"},
            "'cache_dtype' must be int8 or float8_e4m3fn or None, got 'int4'",
        ),
        *(
            ({"vocabulary": np.array(ids)}, "'vocabulary' must hold ascending ids below 97, " + got)
            for ids, got in (
                ([5, 4], "got int64 of shape [2]"),
                ([5, 97], "got int64 of shape [2]"),
                ([-1, 5], "got int64 of shape [2]"),
                ([0.5], "got float64 of shape [1]"),
                ([[3]], "got int64 of shape [1, 1]"),
                ([], "got float64 of shape [0]"),
            )
        ),
    ],
)
def test_options(llama: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        PagedModel(llama, **options)
    assert str(error.value) == f"{MODEL}: {message}"


def test_models_that_do_not_fit() -> None:
    cases = [
        (3, TypeError, "a causal language model of transformers, got int"),
        (torch.nn.ReLU(), TypeError, "a causal language model of transformers, got ReLU"),
        (model_of("Llama").model, TypeError, "'head'"),
        (
            model_of("Llama", torch.float64),
            ValueError,
            "on cpu or cuda, of float32, float16 or bfloat16, got float64 on cpu",
        ),
    ]
    for model, kind, want in cases:
        with pytest.raises(kind) as error:
            PagedModel(model)
        if want == "'head'":
            want = "have a head, got LlamaModel without one"
            assert str(error.value) == f"{MODEL}: 'model' must {want}"
        else:
            assert str(error.value) == f"{MODEL}: 'model' must be {want}"
    with pytest.raises(TypeError) as error:
        fuse(torch.nn.ReLU())
    assert str(error.value) == (
        "fewstep.transformers.fuse: 'model' must be a model of transformers, got ReLU"
    )


FORWARD = [
    (
        {"indptr": [0, 3]},
        "'indptr' must go from 0 to 2 in 1 steps, got [0, 3]",
    ),
    ({"indptr": [0, 0, 2], "sequences": [1, 1]}, "'indptr' must ascend, got [0, 0, 2]"),
    (
        {"tokens": [5] * 4, "indptr": [0, 4]},
        "'sequences' must have room for their rows, got 3 tokens for 4 rows of sequence 1; call "
        "extend",
    ),
    (
        {"bits": np.ones((2, 1), np.uint32), "block": [1]},
        "'block' must be the rows or more, up to 256 and the tokens of the sequence, got [1]",
    ),
    (
        {"bits": np.ones((2, 1), np.uint32), "block": [8]},
        "'block' must be the rows or more, up to 256 and the tokens of the sequence, got [8]",
    ),
]


@pytest.mark.parametrize(("changes", "message"), FORWARD)
def test_forward(paged: PagedModel, changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"sequences": [1], "tokens": [5, 6], "indptr": [0, 2]} | changes
    for name in ("tokens", "indptr"):
        given[name] = np.array(given[name], np.int32)
    with pytest.raises(ValueError) as error:  # noqa: PT011
        paged.forward(**given)
    assert str(error.value) == f"{MODEL}.forward: {message}"
    assert paged.length(1) == 5


def test_sequences(paged: PagedModel) -> None:
    for call in (paged.length, paged.free, lambda s: paged.extend(s, 1), paged.fork):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            call(7)
        assert str(error.value) == (
            f"{MODEL}: 'sequence' must be one that was added and not freed, got 7"
        )
    with pytest.raises(ValueError) as error:  # noqa: PT011
        paged.truncate(1, 6)
    assert str(error.value) == (
        f"{MODEL}.truncate: 'length' must lie in 0 to 5, the sequence's tokens, got 6"
    )


def test_keep(paged: PagedModel) -> None:
    cases = [
        (([1], [1], [6]), "'block' must lie in 1 to 5, the tokens of sequence 1, got 6"),
        (([3], [1], [3]), "'path' must hold 1 nodes below 3, got [3]"),
        (([1], [2], [3]), "'path' must hold 2 nodes below 3, got [1]"),
    ]
    for (path, accepted, block), message in cases:
        arrays = [np.array(a, np.int32) for a in ([path], accepted, block)]
        with pytest.raises(ValueError) as error:  # noqa: PT011
            paged.keep([1], *arrays)
        assert str(error.value) == f"{MODEL}.keep: {message}"
    assert paged.length(1) == 5


def test_caches(llama: Any) -> None:
    name = "fewstep.transformers.PagedCache"
    for options, message in (
        ({"tokens": 0}, "'tokens' must be 1 or more, got 0"),
        ({"dtype": "int4"}, "'dtype' must be int8 or float8_e4m3fn or None, got 'int4'"),
    ):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            PagedCache(llama, **options)
        assert str(error.value) == f"{name}: {message}"
    llama.set_attn_implementation("fewstep")
    cache = PagedCache(llama, tokens=16, page_tokens=8)
    with torch.no_grad():
        llama(text(1, 9), cache=cache)
        with pytest.raises(MemoryError) as full:
            llama(text(1, 9), cache=cache)
        assert str(full.value) == (
            f"{name}: 1 x 18 tokens must fit in 2 pages of 8; make it with more 'tokens'"
        )
        with pytest.raises(ValueError) as error:  # noqa: PT011
            llama(text(2, 1), cache=cache)
        assert str(error.value) == (
            f"{name}: 'key_states' must have the batch of the cache, 1, got 2"
        )
        with pytest.raises(ValueError) as error:  # noqa: PT011
            cache.crop(3)
        assert str(error.value) == f"{name}.crop: 'tokens_to_remove' must be 0 or less, got 3"
        assert cache.get_seq_length() == 9
        llama(text(1, 3), cache=cache)
        rows = torch.zeros(1, 2, 1, 16)
        cache.update(rows, rows, 0)
        cache.begin(0, rows, 1, 1)
        with pytest.raises(RuntimeError) as broken:
            cache.update(rows, rows, 1)
        assert str(broken.value) == (
            f"{name}: layer 1 must have the 14 tokens of the others, got 12; a forward pass broke "
            "off, call reset"
        )
        cache.reset()
        llama(text(1, 3), cache=cache)


def test_attention_that_cannot_read_pages() -> None:
    model = model_of("Llama", head_dim=24)
    message = (
        "fewstep.transformers: attention to a paged cache must be of heads of 16, 32, ... 256 "
        "elements, up to 16 to a head of keys"
    )
    paged = PagedModel(model, pages=4)
    sequence, _ = paged.add()
    paged.extend(sequence, 2)
    with pytest.raises(NotImplementedError) as error:
        paged.forward([sequence], np.array([5, 6], np.int32), np.array([0, 2], np.int32))
    assert str(error.value) == message
    assert paged.length(sequence) == 0

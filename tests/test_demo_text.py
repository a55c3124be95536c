# SPDX-License-Identifier: Apache-2.0
"""The text demo: its models, what it shows, its figures, its refusals."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from importlib.resources import files

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("typer")
pytest.importorskip("rich")

import torch
from typer.testing import CliRunner

import fewstep
from fewstep._generate.request import Piece
from fewstep.cli.app import app
from fewstep.demo import corpus, text

WEIGHTS = files("fewstep.demo") / "weights/text"


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """As the command does."""
    with text.threads(None):
        yield


@pytest.fixture(scope="module")
def models():
    return text.load()


@pytest.fixture
def quick(monkeypatch):
    """One turn of each way after the one that warms up."""
    monkeypatch.setattr(text, "ROUNDS", 1)


def nothing(what, done, total):
    """Report to nobody."""


def run(*arguments):
    return CliRunner().invoke(app, ["demo", "text", *arguments])


def test_corpus_is_split_by_name(tmp_path):
    names = [f"package/part_{i}.py" for i in range(160)] + ["package/__init__.py"]
    for name in [*names, "package/tests/test_a.py", "encodings/cp1.py", "a.so"]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    seen, unseen = (corpus.files(flag, tmp_path) for flag in (False, True))
    assert sorted(p.relative_to(tmp_path).as_posix() for p in [*seen, *unseen]) == sorted(names)
    assert all(corpus.is_held_out(p.relative_to(tmp_path).as_posix()) for p in unseen)
    assert 1 <= len(unseen) <= 30  # 10 expected


def test_weights_are_small_and_as_good_as_they_say(models):
    sizes = [p.stat().st_size for p in WEIGHTS.rglob("*") if p.is_file()]
    assert sum(sizes) <= 8_000_000
    facts = json.loads((WEIGHTS / "training.json").read_text())
    assert facts["parameters"] == [model.num_parameters() for model in models[1:3]]
    ids = torch.tensor([models.tokenizer.encode(part)[:256] for part in corpus.sample_parts()[:6]])
    for name, model in (("target", models.target), ("draft", models.draft)):
        with torch.no_grad():
            loss = float(model(ids, labels=ids).loss)
        assert loss < facts[name]["nats_per_token"] + 0.8 < math.log(2048) - 2
    assert facts["target"]["bits_per_byte"] < facts["draft"]["bits_per_byte"]


def test_tokenizer_is_lossless(models):
    odd = "def f(x):\n\treturn '\u00e9\u6f22' * 3.14 \r\n\n    \x00"
    assert models.tokenizer.decode(models.tokenizer.encode(odd)) == odd


def test_parts_of_a_piece():
    words = ["", "ab", "c", "\ufffd", "\ufffd"]
    decode = lambda ids: "".join(words[i] for i in ids)  # noqa: E731
    whole = Piece("abc", [1, 2], [True, False])
    assert list(text.parts(whole, decode)) == [("ab", True), ("c", False)]
    spanning = Piece("\u00e9", [3, 4], [True, False])  # two tokens, one character
    assert list(text.parts(spanning, decode)) == [("\u00e9", True)]
    assert list(text.parts(Piece("", [3], [True]), decode)) == []


@pytest.mark.parametrize("drafter", text.DRAFTERS)
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_streams_are_the_text_without_drafts(models, drafter, temperature):
    """No drafter of the demo changes a text, sampled ones included."""
    settings = text.Settings(drafter=drafter, temperature=temperature, seed=3, max_tokens=24)
    streamed = list(text.stream(settings, models))
    law = fewstep.Sampling(temperature=temperature, seed=3, max_tokens=24)
    prompt = text.prompt_of(settings, models)
    (plain,) = text.generator_of("none", models).generate([prompt], law)
    assert "".join(part.text for part in streamed) == plain.text
    if drafter == "none":
        assert not any(part.drafted for part in streamed)


def test_figures(models, quick):
    settings = text.Settings(drafter="model", max_tokens=12)
    result = text.run(settings, models, nothing)
    assert result["identical"] is True
    assert result["identical_to_transformers"] is True
    assert set(result["ways"]) == {"fewstep", "plain", "transformers", "lookup", "assisted"}
    assert result["assisted_by"] == "draft model"
    ways = result["ways"]
    assert result["speedup_over_plain"] == ways["fewstep"] / ways["plain"]
    assert result["speedup_over_assisted"] == ways["fewstep"] / ways["assisted"]
    assert result["tokens_per_second"] == ways["fewstep"]
    assert result["tokens_per_call"] > 1
    assert 0 < result["acceptance_by_depth"][0] <= 1
    assert {"model", "draft", "fewstep"} <= set(result["time"])


def test_a_drafter_that_changes_texts_shows(models, monkeypatch):
    """`identical` compares texts and not a name."""
    ours = text._ours

    def shifted(name, models, settings):
        generator, call = ours(name, models, settings)
        return generator, (lambda: [*call()[:-1], 0]) if name != "none" else call

    monkeypatch.setattr(text, "_ours", shifted)
    assert text.check(text.Settings(max_tokens=4), models)["identical"] is False


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """A folder with the demo's draft model: somebody's own."""
    folder = tmp_path_factory.mktemp("own") / "model"
    shutil.copytree(WEIGHTS / "draft", folder)
    return folder


def test_a_model_of_ones_own(own, quick):
    settings = text.Settings(prompt="import ", max_tokens=8, model=str(own))
    result = text.run(settings, text.load(str(own)), nothing)
    assert result["identical"] is True
    assert result["assisted_by"] == "prompt look-up"
    assert "assisted" not in result["ways"]


@pytest.mark.parametrize(
    ("removed", "arguments", "message"),
    [
        (
            None,
            ("--drafter", "recycle"),
            "'drafter' must be a known drafter, got recycle; near: recy",
        ),
        (None, ("--drafter", "model", "--model", "OWN"), "'drafter' must not be model with a"),
        (None, ("--model", "./nowhere"), "'model' must be a folder, got ./nowhere"),
        ("config.json", ("--model", "OWN"), "'model' must hold a causal language model, got"),
        ("tokenizer.json", ("--model", "OWN"), "'model' must hold a tokenizer, got"),
        (None, ("--temperature", "-1"), "'temperature' must be 0 or more and finite, got -1.0"),
        (None, ("--max-tokens", "0"), "'max_tokens' must be 1 or more, got 0"),
        (None, ("--prompt", ""), "'prompt' must have at least one token, got none"),
        (None, ("--prompt", "a " * 800), "'prompt' must leave room for 128 tokens of the model"),
    ],
)
def test_refusals(tmp_path, removed, arguments, message):
    folder = tmp_path / "own"
    shutil.copytree(WEIGHTS / "draft", folder)
    if removed:
        for path in folder.glob(f"{removed.removesuffix('.json')}*"):
            path.unlink()
    result = run(*(str(folder) if word == "OWN" else word for word in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_table(quick):
    result = run("--max-tokens", "8", "--prompt", "import os\n")
    assert result.exit_code == 0, result.output
    for word in ("import os", "tokens/call", "fewstep, contexts", "assisted", "identical"):
        assert word in result.stdout


def test_json_in_a_process():
    """Stdout holds one JSON object and nothing else."""
    result = subprocess.run(
        [sys.executable, "-m", "fewstep", "demo", "text", "--json", "--max-tokens", "6"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    figures = json.loads(result.stdout)
    assert figures["identical"] is True
    wanted = {"speedup_over_plain", "speedup_over_assisted", "tokens_per_call"}
    wanted |= {"tokens_per_second", "acceptance_by_depth", "time"}
    assert wanted <= set(figures)

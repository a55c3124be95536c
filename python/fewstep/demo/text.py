# SPDX-License-Identifier: Apache-2.0
"""Everything ``fewstep demo text`` computes: a streamed text, and ways to write it, timed.

The models are small Llamas trained on CPython's standard library (`fewstep.demo.corpus`;
``tools/train_text.py`` in the repository trains them), or a folder of one's own. Ways are timed
turn by turn; each run has a cache and a drafter of its own, so that nothing remembers the text from
the run before.
"""

from __future__ import annotations

import copy
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from importlib import import_module, resources
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import fewstep
from fewstep.transformers import PagedModel, fuse

from . import corpus

DRAFTERS = ("model", "cascade", "contexts", "recycling", "lookup", "trigram", "none")
LOOKUP_TOKENS = 10  # of transformers' prompt look-up, as in its documentation
PROMPT_PIECE, PROMPT_CHARACTERS = 9, 400  # of the held-out text
ROUNDS = 5
# Of Token Recycling. All of the published one are looked at, and of a model this small few pay.
TEMPLATE = fewstep.tree.template([(0,), (1,), (0,) * 2, (0,) * 3, (0,) * 4, (0,) * 5])

Report = Callable[[str, int, int], None]
Run = Callable[[], list[int]]


@dataclass(frozen=True)
class Settings:
    """What ``fewstep demo text`` writes and how; `run` says what is out of range."""

    prompt: str | None = None  # by default lines of `corpus.sample`
    drafter: str = "contexts"
    temperature: float = 0.0
    seed: int = 0
    max_tokens: int = 128
    model: str | None = None


class Models(NamedTuple):
    """A target and a draft of its vocabulary, as transformers has them and as we run them."""

    tokenizer: Any
    target: Any
    draft: Any  # None of a model of one's own
    fused: Any
    fused_draft: Any


def quiet() -> None:
    """Leave transformers' progress bars and advice out: its errors stay."""
    public = import_module("transformers.utils.logging")
    public.set_verbosity_error()
    public.disable_progress_bar()


@contextmanager
def threads(model: str | None) -> Iterator[None]:
    """Run the demo's own models on one thread: a second gains little for layers this small.

    On a busy machine it costs a lot, because torch's threads wait for each other hundreds of times
    a token.
    """
    before = torch.get_num_threads(), fewstep.get_num_threads()
    if model is None:
        torch.set_num_threads(1)
        fewstep.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        fewstep.set_num_threads(before[1])


def load(model: str | None = None) -> Models:
    """Load the demo's models, or a target of one's own.

    Parameters
    ----------
    model : str, optional
        A folder that transformers can load, or a name on its hub; without, the demo's two models.

    Returns
    -------
    Models

    Raises
    ------
    ValueError
        There is no such folder, or no causal language model or tokenizer in it.

    Examples
    --------
    >>> from fewstep.demo import text
    >>> models = text.load()
    >>> models.tokenizer.decode(models.tokenizer.encode("import os"))
    'import os'
    """
    draft = None
    if model is None:
        folder = resources.files(__package__) / "weights/text"
        target = _causal(str(folder / "target"), torch.float32)
        draft = _causal(str(folder / "draft"), torch.float32)
        tokenizer = _tokenizer(str(folder / "target"))
    else:
        is_path = model.startswith((".", "/", "~")) or model.count("/") != 1
        where = Path(model).expanduser()
        if is_path and not where.is_dir():
            raise ValueError(f"fewstep.demo.text: 'model' must be a folder, got {model}")
        name = str(where) if where.is_dir() else model
        target, tokenizer = _causal(name, "auto"), _tokenizer(name)
    # What is drafted may be rounded: in bfloat16 a level takes two thirds of the time.
    fused_draft = None if draft is None else _fused(draft, torch.bfloat16)
    return Models(tokenizer, target, draft, _fused(target), fused_draft)


def _causal(name: str, dtype: Any) -> Any:
    auto: Any = AutoModelForCausalLM
    try:
        return auto.from_pretrained(name, dtype=dtype).eval()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"fewstep.demo.text: 'model' must hold a causal language model, got {name}: {reason}"
        ) from error


def _tokenizer(name: str) -> Any:
    auto: Any = AutoTokenizer
    try:
        return auto.from_pretrained(name)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"fewstep.demo.text: 'model' must hold a tokenizer, got {name}: {reason}"
        ) from error


def _fused(model: Any, dtype: Any = None) -> Any:
    other = copy.deepcopy(model).to(dtype)
    fuse(other)
    return other


def drafter_of(name: str, models: Models) -> fewstep.drafters.Drafter | None:
    """Return a drafter that has seen nothing yet.

    Parameters
    ----------
    name : str
        One of `DRAFTERS`.
    models : Models

    Returns
    -------
    Drafter or None

    Raises
    ------
    ValueError
        The name is none of them, or needs a draft model and there is none.
    """
    if name in ("model", "cascade") and models.draft is None:
        raise ValueError(
            f"fewstep.demo.text: 'drafter' must not be {name} with a model of your own, which has "
            "no draft model beside it"
        )
    ours = fewstep.drafters
    made: dict[str, Callable[[], ours.Drafter | None]] = {
        "model": lambda: ours.DraftModel(PagedModel(models.fused_draft), width=1),
        "cascade": lambda: ours.Cascade(PagedModel(models.fused_draft)),
        "recycling": partial(ours.TokenRecycling, TEMPLATE), "contexts": ours.ContextRecycling,
        "lookup": ours.PromptLookup, "trigram": ours.TriGram, "none": lambda: None,
    }  # fmt: skip
    if name not in made:
        raise ValueError(
            f"fewstep.demo.text: 'drafter' must be one of {', '.join(DRAFTERS)}, got {name}"
        )
    return made[name]()


def generator_of(name: str, models: Models) -> fewstep.Generator:
    """Return a generator with an empty cache and the drafter `name`."""
    drafter = drafter_of(name, models)
    return fewstep.Generator(PagedModel(models.fused), models.tokenizer, drafter=drafter)


def theirs(
    models: Models, prompt: list[int], settings: Settings, **options: Any
) -> Callable[[], list[int]]:
    """Return transformers' ``generate`` of one text; it returns the new tokens."""
    inputs = torch.tensor([prompt])
    law: dict[str, Any] = {"do_sample": False}
    if settings.temperature:
        law = {"do_sample": True, "temperature": settings.temperature, "top_k": 0, "top_p": 1.0}

    def call() -> list[int]:
        torch.manual_seed(settings.seed)
        tokens = models.target.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=settings.max_tokens,
            pad_token_id=0,
            **law,
            **options,
        )
        new: list[int] = tokens[0, len(prompt) :].tolist()
        return new

    return call


class Part(NamedTuple):
    """A piece of a streamed text: of an accepted draft, or the target's own."""

    text: str
    drafted: bool


def parts(piece: Any, decode: Callable[[list[int]], str]) -> Iterator[Part]:
    """Split what a stream yields where drafted tokens begin and end.

    Where a character spans tokens, or text was held back, all of it counts as the first token.
    """
    texts = [decode([token]) for token in piece.tokens]
    if "".join(texts) == piece.text:
        yield from (Part(*pair) for pair in zip(texts, piece.drafted, strict=True))
    elif piece.text:
        yield Part(piece.text, bool(piece.drafted) and piece.drafted[0])


def stream(settings: Settings, models: Models) -> Iterator[Part]:
    """Write the text once, piece by piece."""
    generator = generator_of(settings.drafter, models)
    prompt, sampling = prompt_of(settings, models), _sampling(settings)
    decode = partial(models.tokenizer.decode, skip_special_tokens=True)
    for piece in generator.stream(prompt, sampling):
        yield from parts(piece, decode)


def prompt_of(settings: Settings, models: Models) -> list[int]:
    """Return the prompt's tokens; the text is not to be longer than what the model was made for."""
    tokens: list[int] = models.tokenizer.encode(prompt_text(settings))
    longest = getattr(models.target.config, "max_position_embeddings", None)
    if longest is not None and len(tokens) + settings.max_tokens > longest:
        raise ValueError(
            f"fewstep.demo.text: 'prompt' must leave room for {settings.max_tokens} tokens of the "
            f"model's {longest}, got {len(tokens)} tokens"
        )
    return tokens


def prompt_text(settings: Settings) -> str:
    """Return the prompt: what was given, or the first lines of text that no model has seen."""
    if settings.prompt is not None:
        return settings.prompt
    text = corpus.sample_parts()[PROMPT_PIECE][:PROMPT_CHARACTERS]
    return text[: text.rindex("\n") + 1]


def _sampling(settings: Settings) -> fewstep.Sampling:
    return fewstep.Sampling(
        temperature=settings.temperature, seed=settings.seed, max_tokens=settings.max_tokens
    )


def _ours(name: str, models: Models, settings: Settings) -> tuple[fewstep.Generator, Run]:
    """Return a generator with nothing in it and what writes the text with it."""
    generator = generator_of(name, models)
    prompt, sampling = prompt_of(settings, models), _sampling(settings)

    def call() -> list[int]:
        (result,) = generator.generate([prompt], sampling)
        if result.error is not None:
            raise result.error
        return result.tokens

    return generator, call


class Timed(NamedTuple):
    """A way's median: seconds, tokens, and the generator's counts where it is ours."""

    seconds: float
    tokens: int
    stats: Any = None

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.tokens / self.seconds


def measure(settings: Settings, models: Models, report: Report) -> dict[str, Timed]:
    """Time all ways turn by turn; of each the run with the median time.

    Returns
    -------
    dict
        By way: ``fewstep``, ``plain`` (our own, without drafts), ``transformers``, ``lookup``
        (its prompt look-up) and, with a draft model, ``assisted``.
    """
    prompt = prompt_of(settings, models)
    rivals = {
        "transformers": theirs(models, prompt, settings),
        "lookup": theirs(models, prompt, settings, prompt_lookup_num_tokens=LOOKUP_TOKENS),
    }
    if models.draft is not None:
        rivals["assisted"] = theirs(models, prompt, settings, assistant_model=models.draft)
    ways: dict[str, Callable[[], tuple[Any, Run]]] = {
        "fewstep": partial(_ours, settings.drafter, models, settings),
        "plain": partial(_ours, "none", models, settings),
        **{name: partial(lambda call: (None, call), call) for name, call in rivals.items()},
    }
    runs: dict[str, list[Timed]] = {name: [] for name in ways}
    for turn in range(ROUNDS + 1):
        report("timing", turn, ROUNDS + 1)
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            generator, call = ways[name]()
            began = time.perf_counter()
            tokens = call()
            seconds = time.perf_counter() - began
            if turn:  # the first of each warms up
                runs[name].append(Timed(seconds, len(tokens), generator and generator.stats))
    report("timing", ROUNDS + 1, ROUNDS + 1)
    return {name: _median(some) for name, some in runs.items()}


def _median(some: list[Timed]) -> Timed:
    middle = statistics.median_low(run.seconds / run.tokens for run in some)
    return next(run for run in some if run.seconds / run.tokens == middle)


def check(settings: Settings, models: Models) -> dict[str, bool]:
    """Compare greedy texts: with drafts, without, and transformers'.

    transformers adds in another order; where two tokens are within rounding, it may take the other.
    """
    greedy = Settings(**{**asdict(settings), "temperature": 0.0})
    drafted, plain = (_ours(name, models, greedy)[1]() for name in (settings.drafter, "none"))
    public = theirs(models, prompt_of(settings, models), greedy)()
    return {"identical": drafted == plain, "identical_to_transformers": drafted == public}


def run(settings: Settings, models: Models, report: Report) -> dict[str, Any]:
    """Measure and check everything that the demo prints.

    Parameters
    ----------
    settings : Settings
    models : Models
        From `load`.
    report : callable
        ``report(what, done, total)`` as the work goes on.

    Returns
    -------
    dict
        ``settings``, ``prompt``; ``identical`` (greedy texts with and without drafts),
        ``identical_to_transformers``; ``tokens_per_call``, ``tokens_per_second``,
        ``speedup_over_plain``, ``speedup_over_assisted`` (by a draft model where there is one, else
        by prompt look-up: transformers' ``assisted_by``), ``acceptance_by_depth``; ``time``
        (seconds of a text as in `Generator.stats`); ``ways`` (tokens per second of each).

    Raises
    ------
    ValueError
        A setting is out of range, or the prompt is empty or too long.
    """
    same = check(settings, models)
    times = measure(settings, models, report)
    ours = times["fewstep"]
    assisted = "assisted" if "assisted" in times else "lookup"
    return {
        "settings": asdict(settings),
        "prompt": prompt_text(settings),
        **same,
        "tokens_per_call": ours.stats.tokens_per_call,
        "tokens_per_second": ours.rate,
        "speedup_over_plain": ours.rate / times["plain"].rate,
        "speedup_over_assisted": ours.rate / times[assisted].rate,
        "assisted_by": "draft model" if assisted == "assisted" else "prompt look-up",
        "acceptance_by_depth": ours.stats.acceptance_by_depth,
        "time": dict(ours.stats.seconds),
        "ways": {name: timed.rate for name, timed in times.items()},
    }

# SPDX-License-Identifier: Apache-2.0
"""Generation of text with several tokens for one call of the model; `fewstep.Generator`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from fewstep._generate.engine import Engine
from fewstep._generate.request import Piece, Request, Result
from fewstep._generate.sampling import Sampling
from fewstep._generate.stats import Stats
from fewstep._generate.text import TextStream, codec
from fewstep.drafters._protocol import Drafter
from fewstep.language_model import as_language_model

__all__ = ["Generator", "Piece", "Request", "Result", "Sampling", "Stats"]

Prompt = str | Sequence[int]


class Generator:
    """Generates texts with a language model and a drafter, in exactly the model's law.

    Parameters
    ----------
    model : LanguageModel or transformers model
        The target. A model of transformers becomes a `fewstep.transformers.PagedModel`.
    tokenizer : optional
        Of ``tokenizers`` or transformers, or anything with ``encode(text)`` and ``decode(ids)``;
        for prompts, stop strings and results that are text.
    drafter : Drafter, optional
        One of `fewstep.drafters` or one's own; without, each call gives one token.
    max_batch : int
        Requests that run at the same time; others wait.
    stop_tokens : sequence of int, optional
        End every request; those that the model names by default.
    adapt : bool
        Leave out nodes of deterministic drafts, and such drafts, that cost more than they bring, by
        measured time.

    Notes
    -----
    A call runs a tree of drafted tokens below each request's last one and accepts a path of it
    (`fewstep.tree.verify`). A drafter whose drafts draw no random numbers, all but the sampling
    draft models, changes nothing at all: a request has the tokens that it has without, with the
    same seed. Others leave the law of the tokens as it is.

    Requests join whenever `submit` is called, also between steps, and leave when they end. Where
    the cache has no room for all, the youngest wait and run again. What one of them runs into (no
    room even alone, logits that are NaN, a grammar that fails) ends that request with an error, and
    no other one.

    References
    ----------
    .. [1] Leviathan et al., "Fast inference from transformers via speculative decoding",
       arXiv 2211.17192.
    .. [2] Miao et al., "SpecInfer", arXiv 2305.09781.

    Examples
    --------
    >>> table = np.roll(np.eye(8, dtype=np.float32) * 9, 1, axis=1)  # after t comes t + 1
    >>> model = fewstep.language_model.Markov(table)
    >>> generator = fewstep.Generator(model, drafter=fewstep.drafters.TokenRecycling())
    >>> greedy = fewstep.Sampling(temperature=0, max_tokens=6)
    >>> [result.tokens for result in generator.generate([[1, 2], [5]], greedy)]
    [[3, 4, 5, 6, 7, 0], [6, 7, 0, 1, 2, 3]]
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        drafter: Drafter | None = None,
        *,
        max_batch: int = 16,
        stop_tokens: Sequence[int] | None = None,
        adapt: bool = True,
    ) -> None:
        if max_batch < 1:
            raise ValueError(f"fewstep.Generator: 'max_batch' must be 1 or more, got {max_batch}")
        self.model = as_language_model("fewstep.Generator", model)
        self._engine = Engine(self.model, drafter, max_batch, adapt)
        self._codec = None if tokenizer is None else codec(tokenizer)
        given = getattr(self.model, "stop_tokens", ()) if stop_tokens is None else stop_tokens
        self._stop_tokens = frozenset(int(token) for token in given)
        self._count = 0

    @property
    def stats(self) -> Stats:
        """Counts and seconds since the generator was made or `reset_stats` called."""
        return self._engine.stats

    def reset_stats(self) -> None:
        """Begin to count anew."""
        self._engine.stats = Stats()

    def step(self) -> int:
        """Advance all requests by one call of the target.

        Returns
        -------
        int
            Requests that are still running or waiting.
        """
        return self._engine.step()

    def generate(
        self, prompts: Sequence[Prompt], sampling: Sampling | Sequence[Sampling] | None = None
    ) -> list[Result]:
        """Generate a continuation of each prompt.

        Parameters
        ----------
        prompts : sequence of str or of sequences of int
        sampling : Sampling or a sequence of them, optional
            For all prompts, or each prompt's own.

        Returns
        -------
        list of Result
            In the order of the prompts. One that failed has `finish` "error" and its `error`.

        Raises
        ------
        ValueError
            A prompt or sampling that is not as described; nothing has been generated.
        """
        if isinstance(prompts, str):
            raise TypeError("fewstep.Generator.generate: 'prompts' must be a list, got one str")
        each = sampling if isinstance(sampling, Sequence) else [sampling] * len(prompts)
        if len(each) != len(prompts):
            raise ValueError(
                f"fewstep.Generator.generate: 'sampling' must be one or as many as the "
                f"{len(prompts)} prompts, got {len(each)}"
            )
        requests = [self._request(p, s) for p, s in zip(prompts, each, strict=True)]
        for request in requests:
            self._engine.submit(request)
        try:
            while any(request.finish is None for request in requests):
                self.step()
        except BaseException:
            for request in requests:
                self.cancel(request)
            raise
        return [self.result(request) for request in requests]

    def stream(self, prompt: Prompt, sampling: Sampling | None = None) -> Iterator[Piece]:
        """Generate a continuation and yield it piece by piece.

        Parameters
        ----------
        prompt : str or sequence of int
        sampling : Sampling, optional

        Yields
        ------
        Piece
            What a call of the target gave. Other requests go on meanwhile.

        Raises
        ------
        MemoryError
            The model's cache has no room.
        ValueError
            The logits or the grammar give no token.

        Notes
        -----
        To leave the loop early cancels the request and frees its memory.
        """
        request = self.submit(prompt, sampling)
        seen = 0
        try:
            while request.finish is None:
                self.step()
                if request.error is not None:
                    raise request.error
                tokens, text = request.generated[seen:], ""
                if request.text is not None:
                    if request.finish is not None:
                        request.text.finish()
                    text = request.text.take()
                if tokens or text:
                    yield Piece(text, tokens, request.drafted[seen:])
                seen += len(tokens)
        finally:
            self.cancel(request)

    def submit(self, prompt: Prompt, sampling: Sampling | None = None) -> Request:
        """Add a request, which `step` then advances.

        Parameters
        ----------
        prompt : str or sequence of int
            At least one token.
        sampling : Sampling, optional

        Returns
        -------
        Request

        Raises
        ------
        ValueError
            A prompt that is empty, holds a token that does not exist, or is longer than the model's
            longest sequence; or text where there is no tokenizer.
        """
        request = self._request(prompt, sampling)
        self._engine.submit(request)
        return request

    def cancel(self, request: Request) -> None:
        """End a request now and free what it has; one that has ended stays as it is."""
        self._engine.cancel(request)

    def result(self, request: Request) -> Result:
        """Return what a request has generated so far."""
        if request.text is not None:
            request.text.finish() if request.finish else request.text.take()
        return Result(
            tokens=request.generated,
            text=None if request.text is None else request.text.text,
            finish=request.finish or "running",
            error=request.error,
            drafted=list(request.drafted),
            calls=request.calls,
        )

    def _request(self, prompt: Prompt, sampling: Sampling | None) -> Request:
        sampling = sampling or Sampling()
        if isinstance(prompt, str):
            if self._codec is None:
                raise ValueError("fewstep.Generator: 'prompt' must be tokens without a tokenizer")
            tokens = self._codec[0](prompt)
        else:
            tokens = [int(token) for token in prompt]
        if sampling.stop and self._codec is None:
            raise ValueError("fewstep.Generator: 'stop' must be empty without a tokenizer")
        if not tokens:
            raise ValueError("fewstep.Generator: 'prompt' must have at least one token, got none")
        wrong = [token for token in tokens if not 0 <= token < self.model.n_vocab]
        if wrong:
            raise ValueError(
                f"fewstep.Generator: 'prompt' must hold tokens in [0, {self.model.n_vocab}), got "
                f"{wrong[0]}"
            )
        longest = self._engine.longest
        if longest is not None and len(tokens) >= longest:
            raise ValueError(
                f"fewstep.Generator: 'prompt' must be shorter than the model's {longest} tokens, "
                f"got {len(tokens)}"
            )
        text = None if self._codec is None else TextStream(self._codec[1], sampling.stop)
        stops = self._stop_tokens.union(sampling.stop_tokens)
        self._count += 1
        return Request(self._count - 1, tokens, len(tokens), sampling, text, stops)

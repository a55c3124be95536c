# SPDX-License-Identifier: Apache-2.0
"""How a request's tokens are drawn and where it ends; `fewstep.Sampling`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

# Of `fewstep.logits.sample`, by name, and the dtype of each.
FILTERS: dict[str, Any] = {
    "temperature": np.float32, "top_k": np.int32, "top_p": np.float32, "min_p": np.float32,
    "typical": np.float32, "eta": np.float32,
}  # fmt: skip


@dataclass(frozen=True)
class Sampling:
    """How the tokens of a request are drawn, and where it ends.

    Parameters
    ----------
    temperature : float
        0 takes the best token (greedy decoding); 1 is the model's own law.
    top_k : int
        Keep the k largest; 0 keeps all. This filter and those that follow are those of
        `fewstep.logits.sample`, in its order.
    top_p, min_p, typical, eta : float
        1, 0, 1 and 0 keep all.
    repetition, presence, frequency : float
        Penalties of `fewstep.logits.penalise`; 1, 0 and 0 change nothing. The prompt's tokens are
        penalised for repetition alone.
    bias : mapping of int to float
        Added to the logits of tokens; minus infinity bans one.
    seed : int
        Of the request's random numbers. With the same seed a prompt has the same tokens alone or in
        any batch.
    max_tokens : int
        To generate at most.
    stop : sequence of str
        Strings that end the text, which does not hold them; they need a tokenizer.
    stop_tokens : sequence of int
        Tokens that end the request and are its last; those of the model are added by the generator.
    bitmask : callable, optional
        ``bitmask(tokens)`` gives the words of 32 bits that say which tokens may follow what has
        been generated, uint32 or int32 of shape (ceil(V / 32),). A grammar's.

    Raises
    ------
    ValueError
        A value out of range; the message names it.

    Examples
    --------
    >>> fewstep.Sampling(temperature=0.7, min_p=0.05, max_tokens=32).temperature
    0.7
    >>> fewstep.Sampling(top_p=1.5)
    Traceback (most recent call last):
        ...
    ValueError: fewstep.Sampling: 'top_p' must be in (0, 1], got 1.5
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical: float = 1.0
    eta: float = 0.0
    repetition: float = 1.0
    presence: float = 0.0
    frequency: float = 0.0
    bias: Mapping[int, float] = field(default_factory=dict)
    seed: int = 0
    max_tokens: int = 256
    stop: Sequence[str] = ()
    stop_tokens: Sequence[int] = ()
    bitmask: Callable[[Sequence[int]], Any] | None = None

    def __post_init__(self) -> None:
        """Check every value once, where it is given."""
        for name, good, wanted in (
            ("temperature", 0 <= self.temperature < math.inf, "be 0 or more and finite"),
            ("top_k", self.top_k >= 0, "be 0 or more"),
            ("top_p", 0 < self.top_p <= 1, "be in (0, 1]"),
            ("min_p", 0 <= self.min_p <= 1, "be in [0, 1]"),
            ("typical", 0 < self.typical <= 1, "be in (0, 1]"),
            ("eta", 0 <= self.eta < 1, "be in [0, 1)"),
            ("repetition", 0 < self.repetition < math.inf, "be above 0 and finite"),
            ("presence", math.isfinite(self.presence), "be finite"),
            ("frequency", math.isfinite(self.frequency), "be finite"),
            ("seed", 0 <= self.seed < 2**63, "be in [0, 2^63)"),
            ("max_tokens", self.max_tokens >= 1, "be 1 or more"),
        ):
            if not good:
                got = getattr(self, name)
                raise ValueError(f"fewstep.Sampling: '{name}' must {wanted}, got {got!r}")
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        if any(not text for text in self.stop):
            raise ValueError("fewstep.Sampling: 'stop' must hold no empty string")

    @cached_property
    def penalises(self) -> bool:
        """Whether logits change before the filters."""
        return (self.repetition, self.presence, self.frequency) != (1, 0, 0) or bool(self.bias)

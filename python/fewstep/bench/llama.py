# SPDX-License-Identifier: Apache-2.0
"""A whole Llama inside transformers' ``generate``, its linear layers packed against untouched.

Random weights of 12 layers, 768 wide, in bfloat16; one request, greedy. ``torch.pack_linears``
exchanges linear layers alone, and has the bar; ``transformers.fuse`` whole decoder layers, with
our attention and a `PagedCache`. Where the time goes is measured beside them, turn by turn: ``the
rest`` is the same ``generate`` with linear layers that compute nothing, and the limit of what
linear layers can gain is the rest and one read of the weights a token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from ..torch import Swapped, pack_linears
from .rows import Options, Row, add_bar, check, difference, set_threads, timed_row, unmeasured_row
from .timing import Timed, Timing, each_of, interleaved

NAME = "llama_generate"
SIZES = {
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 12,
    "vocab_size": 32000,
}
PROMPT, TOKENS = 32, 64
BAR, BAR_THREADS = 2.5, 2  # tokens a second over those of the model as it was


class Nothing(torch.nn.Module):
    """A linear layer without its product."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return zeros of the product's shape."""
        return x.new_zeros(*x.shape[:-1], self.outputs)


def model(**sizes: Any) -> Any:
    """Make a model with random weights in bfloat16; `sizes` go before `SIZES`."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(11)
    configure: Any = LlamaConfig
    build: Any = LlamaForCausalLM
    # No token ends the text: every call is as long.
    config = configure(**(SIZES | sizes), pad_token_id=0, bos_token_id=1, eos_token_id=None)
    return build(config).bfloat16().eval()


class Problem:
    """A model four times: as it was, packed, fused, and without products; and a prompt."""

    def __init__(self) -> None:
        from ..transformers import fuse

        self.plain = model()
        self.packed, self.fused, self.rest = (copy.deepcopy(self.plain) for _ in range(3))
        self.report: Swapped = pack_linears(self.packed)
        fuse(self.fused)
        for name in self.report.swapped:
            layer = self.rest.get_submodule(name)
            self.rest.set_submodule(name, Nothing(layer.out_features))
        self.prompt = torch.randint(3, SIZES["vocab_size"], (1, PROMPT))
        # Written, else every page is one page of zeros.
        self.memory = torch.from_numpy(np.empty(self.report.bytes_after // 4, np.float32)).fill_(1)

    def verify(self) -> None:
        """Compare logits: at most twice as far from float32 as the model's own."""
        with torch.no_grad():
            exact = copy.deepcopy(self.plain).float()(self.prompt).logits
            packed, fused, plain = (
                difference(model(self.prompt).logits, exact)
                for model in (self.packed, self.fused, self.plain)
            )
        check(f"{NAME}, packed", packed, 2 * plain)
        check(f"{NAME}, fused", fused, 2 * plain)

    def generate(self, model: Any, **options: Any) -> torch.Tensor:
        """Return the prompt and TOKENS more."""
        tokens: torch.Tensor = model.generate(
            self.prompt,
            attention_mask=torch.ones_like(self.prompt),
            max_new_tokens=TOKENS,
            do_sample=False,
            **options,
        )
        assert tokens.shape[1] == PROMPT + TOKENS
        return tokens

    def generate_fused(self) -> torch.Tensor:
        """Do the same with the fused model and a new cache of pages."""
        from ..transformers import PagedCache

        return self.generate(self.fused, cache=PagedCache(self.fused))

    def calls(self) -> dict[str, Callable[[], object]]:
        """Return what is timed: a whole text, and one read of the weights."""
        return {
            "ours": partial(self.generate, self.packed),
            "fused": self.generate_fused,
            "transformers": partial(self.generate, self.plain),
            "rest": partial(self.generate, self.rest),
            "read": self.memory.sum,
        }


def rows(options: Options) -> Iterator[Row]:
    """Measure with each number of threads; times are those of a token, the prompt's included."""
    head: Row = {"op": "torch.pack_linears", "case": NAME, "M": 1, "I": SIZES["hidden_size"]}
    head |= {"L": PROMPT, "T": TOKENS, "dtype": "bfloat16"}
    if find_spec("transformers") is None:
        reason = "'transformers' is missing; install fewstep[bench]"
        yield unmeasured_row(head | {"threads": options.threads[0]}, "transformers", reason)
        return
    problem = Problem()
    problem.verify()
    for threads in options.threads:
        set_threads(threads)
        calls = {name: Timed(call) for name, call in problem.calls().items()}
        yield from rows_of(head | {"threads": threads}, interleaved(calls, budget_s=10.0))


def rows_of(head: Row, measured: dict[str, Timing]) -> Iterator[Row]:
    """Compare the times of whole texts."""
    times = {
        name: each_of(measured[name], TOKENS) for name in ("ours", "fused", "transformers", "rest")
    }
    for name, op in (("ours", "torch.pack_linears"), ("fused", "transformers.fuse")):
        pair = times[name], times["transformers"]
        row = timed_row(head | {"op": op}, "transformers", *pair, spread=True)
        row["tokens_per_s"] = [round(1e6 / time.median_us, 2) for time in pair]
        if name == "ours" and head["threads"] >= BAR_THREADS:
            add_bar(row, BAR)
        yield row
    row = timed_row(head, "the rest", times["ours"], times["rest"], spread=True)
    yield row | {"share": row["ratio"]}
    bound = times["rest"].median_us + measured["read"].median_us
    row = timed_row(head, "the rest and a read", times["ours"], Timing(bound, bound, bound))
    yield row | {"limit": "read bandwidth", "share": row["ratio"]}

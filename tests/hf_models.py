# SPDX-License-Identifier: Apache-2.0
"""Small models of transformers with random weights, from configs alone."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

VOCABULARY = 97
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
GROUPED = {"num_key_value_heads": 2, "head_dim": 16}
WINDOWED = {"sliding_window": 9, "max_position_embeddings": 1024}
CONFIGS: dict[str, dict[str, Any]] = {
    "Llama": GROUPED,
    "Qwen2": {"num_key_value_heads": 2},
    "Qwen3": GROUPED,
    "Mistral": GROUPED | WINDOWED,
    "Gemma2": GROUPED | WINDOWED | {"attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 16},
    "Gemma3": GROUPED | WINDOWED | {"layer_types": ["sliding_attention"] * 2 + ["full_attention"]},
    "GPTNeoX": {},
}
LLAMAS = ("Llama", "Qwen2", "Qwen3", "Mistral")


def model_of(name: str, dtype: Any = torch.float32, **more: Any) -> Any:
    """Make a model of an architecture; weights as large as those of trained ones."""
    torch.manual_seed(5)
    kind = "Gemma3Text" if name == "Gemma3" else name
    config = getattr(transformers, f"{kind}Config")(**(SIZES | CONFIGS[name] | more))
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.15)
            elif parameter.count_nonzero() == 0:
                parameter.normal_(0, 0.1)
    return model.to(dtype)


def text(*shape: int, seed: int = 0) -> Any:
    """Return tokens that are no special ones."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, VOCABULARY, shape, generator=generator)


def close(ours: Any, plain: Any, exact: Any) -> bool:
    """Tell whether results are at most twice as far from the exact ones as the model's own."""
    ulp = torch.finfo(ours.dtype).eps * exact.abs().max()
    return bool((ours - exact).abs().max() <= 2 * (plain - exact).abs().max() + ulp)

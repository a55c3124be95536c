# SPDX-License-Identifier: Apache-2.0
"""Train the text demo's tokenizer and its two Llama-style models on CPython's standard library.

The data are the sources and documents of the Python that runs this (`fewstep.demo.corpus` says
which, and which files are held out): nothing is downloaded. One seeded run takes less than an hour
of two quiet cores with bfloat16 and writes folders that transformers' `from_pretrained` loads,
`target` and `draft` in `python/fewstep/demo/weights/text`, with the text of `held_out.txt` beside.

- Both models are trained in one loop, with random windows of the packed text: the target on the
  text, the draft on the target's law of the same step (Hinton, Vinyals, Dean 2015, "Distilling the
  knowledge in a neural network", at temperature 1), which costs no further pass of the target. What
  speculative decoding accepts grows as the two laws approach (Zhou et al. 2024, DistillSpec).
- Matrices of the layers move by Muon (Jordan et al. 2024), embeddings and norms by AdamW; the rate
  warms up and then falls to zero along a straight line.
- Matrices are stored in float8_e4m3fn, a byte a weight, which `from_pretrained` widens to the dtype
  that it is asked for. The target has as many weights as a package of 8 MB can hold: where the
  caches hold a model whole, its products with rows take as long as reading it, and there is little
  to win by running several rows at a time.

The weights in the repository are those of the defaults (`training.json` has its facts): a step
takes 1.4 s, and sums of other numbers of threads round otherwise.

Run ``python tools/train_text.py`` (needs fewstep, torch, transformers, tokenizers, tqdm).
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fewstep.demo import corpus

WEIGHTS = Path(__file__).resolve().parents[1] / "python/fewstep/demo/weights/text"
END = "<|endoftext|>"  # token 0; between files, and before the first
VOCABULARY = 2048
TARGET = {"hidden_size": 320, "num_hidden_layers": 6, "intermediate_size": 768}
TARGET |= {"num_attention_heads": 5, "num_key_value_heads": 1, "head_dim": 64}
DRAFT = {"hidden_size": 192, "num_hidden_layers": 2, "intermediate_size": 384}
DRAFT |= {"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 64}
MAX_BYTES = 8_000_000
SAMPLE_BYTES = 1500  # of each of the longest held-out sources
SAMPLE_FILES = 16


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Train a byte-level byte-pair encoding: every text has tokens, and decodes to itself."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, clean_up_tokenization_spaces=False
    )


def packed(texts: list[str], tokenizer: PreTrainedTokenizerFast, order: Tensor) -> Tensor:
    """Return the texts' tokens in an order, each behind one `END`."""
    end = tokenizer.convert_tokens_to_ids(END)
    rows = tokenizer([texts[i] for i in order.tolist()], add_special_tokens=False)["input_ids"]
    return torch.tensor([token for row in rows for token in [end, *row]])


def llama(shape: dict[str, int], context: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        **shape,
        vocab_size=VOCABULARY,
        max_position_embeddings=context,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=0,
        initializer_range=shape["hidden_size"] ** -0.5 / 2,
    )
    return LlamaForCausalLM(config)


def optimizers(parts: list[nn.Module], args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Return Muon for the layers' matrices and AdamW for embeddings and norms."""
    named = [item for part in parts for item in part.named_parameters()]
    matrices = [value for name, value in named if value.ndim == 2 and "embed" not in name]
    others = [value for name, value in named if value.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(
        matrices, lr=args.lr, weight_decay=args.weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    adam = torch.optim.AdamW(others, lr=args.lr_embed, betas=(0.9, 0.98), weight_decay=0.0)
    for optimizer in (muon, adam):
        for group in optimizer.param_groups:
            group["top_lr"] = group["lr"]
    return [muon, adam]


class Windows:
    """Random windows of the packed training text: each epoch shifts and shuffles them anew."""

    def __init__(
        self, texts: list[str], tokenizer: PreTrainedTokenizerFast, args: argparse.Namespace
    ) -> None:
        self.generator = torch.Generator().manual_seed(args.seed)
        order = torch.randperm(len(texts), generator=self.generator)
        self.tokenizer, self.tokens = tokenizer, packed(texts, tokenizer, order)
        self.context, self.batch = args.context, args.batch
        self.starts = torch.empty(0, dtype=torch.int64)

    def draw(self) -> Tensor:
        """Return tokens, shape [batch, context + 1]."""
        if len(self.starts) < self.batch:
            shift = int(torch.randint(self.context, (1,), generator=self.generator))
            starts = torch.arange(shift, len(self.tokens) - self.context - 1, self.context)
            self.starts = starts[torch.randperm(len(starts), generator=self.generator)]
        starts, self.starts = self.starts[: self.batch], self.starts[self.batch :]
        return self.tokens[starts[:, None] + torch.arange(self.context + 1)]


def losses(
    target: nn.Module, draft: nn.Module, tokens: Tensor, half: bool
) -> tuple[Tensor, Tensor]:
    """Return the target's cross entropy with the text, and the draft's with the target's law."""
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        seen = tokens[:, :-1]
        wide = target(input_ids=seen, use_cache=False).logits.flatten(0, 1).float()
        narrow = draft(input_ids=seen, use_cache=False).logits.flatten(0, 1).float()
    cross = functional.cross_entropy(narrow, wide.detach().softmax(-1))
    return functional.cross_entropy(wide, tokens[:, 1:].flatten()), cross


def rate(step: int, started: float, args: argparse.Namespace) -> float:
    """Return the share of the top rate: up along `warmup` steps, then down to zero at the end."""
    done = step / args.steps
    if args.minutes:
        done = max(done, (time.perf_counter() - started) / (60 * args.minutes))
    return min(1.0, (step + 1) / args.warmup) * max(0.0, 1 - done)


def train(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, windows: Windows, args: argparse.Namespace
) -> dict[str, float]:
    """Train both models; return the last running losses and the steps taken."""
    pair = [target.train(), draft.train()]
    both = optimizers(pair, args)
    running = torch.full((2,), math.nan)
    started = time.perf_counter()
    bar = tqdm(range(args.steps), desc="text", unit="step", mininterval=10.0)
    step = 0
    for step in bar:
        share = rate(step, started, args)
        if share == 0.0:
            break
        for optimizer in both:
            optimizer.zero_grad(set_to_none=True)
            for group in optimizer.param_groups:
                group["lr"] = share * group["top_lr"]
        tokens = windows.draw()
        if share > args.short_above:
            length = args.context // 2
            tokens = tokens.unfold(1, length + 1, length).flatten(0, 1)
        values = losses(target, draft, tokens, args.half)
        (values[0] + values[1]).backward()
        for part in pair:
            nn.utils.clip_grad_norm_(part.parameters(), 1.0)
        for optimizer in both:
            optimizer.step()
        now = torch.stack(values).detach()
        running = now if step == 0 else torch.lerp(running, now, max(0.02, 1 / (step + 1)))
        if step % 20 == 19:
            bar.set_postfix(target=f"{running[0]:.3f}", draft=f"{running[1]:.3f}")
        if args.every and step % args.every == args.every - 1:
            save(args.out, windows.tokenizer, target, draft)
    loss, cross = running.tolist()
    return {"steps": step + 1, "target": loss, "draft_against_target": cross}


@torch.inference_mode()
def held_out(
    folder: Path, texts: list[str], tokenizer: PreTrainedTokenizerFast, context: int
) -> dict[str, float]:
    """Return a saved model's loss on text that it was not trained on: nats and bits.

    The text is cut into windows; the second half of each is scored, so that every scored token
    follows at least half a context.
    """
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tokens = packed(texts, tokenizer, torch.arange(len(texts)))
    half = context // 2
    nats, scored = 0.0, 0
    for start in range(0, len(tokens) - context, half):
        window = tokens[start : start + context]
        logits = model(input_ids=window[None], use_cache=False).logits[0, half - 1 : -1]
        nats += float(functional.cross_entropy(logits, window[half:], reduction="sum"))
        scored += half
    scored_bytes = len(tokenizer.decode(tokens[half : half + scored]).encode())
    return {"nats_per_token": nats / scored, "bits_per_byte": nats / math.log(2) / scored_bytes}


def save(
    out: Path, tokenizer: PreTrainedTokenizerFast, target: nn.Module, draft: nn.Module
) -> None:
    """Write both folders, norms in bfloat16 and matrices in a byte a weight."""
    for name, model in (("target", target), ("draft", draft)):
        half = LlamaForCausalLM(model.config).to(torch.bfloat16)
        half.load_state_dict(model.state_dict())
        half.save_pretrained(out / name)
        tokenizer.save_pretrained(out / name)
        path = out / name / "model.safetensors"
        weights = load_file(path)
        for key in [key for key, value in weights.items() if value.ndim == 2]:
            weights[key] = model.get_parameter(key).detach().to(torch.float8_e4m3fn)
        save_file(weights, path, metadata={"format": "pt"})


def save_sample(out: Path, texts: list[str]) -> None:
    """Write whole lines of the middle of each of the longest held-out texts."""
    parts = []
    for text in sorted(texts, key=len)[-SAMPLE_FILES:]:
        middle = text[len(text) // 2 :]
        lines = middle[middle.index("\n") + 1 :][:SAMPLE_BYTES]
        parts.append(lines[: lines.rindex("\n") + 1])
    (out / "held_out.txt").write_text(corpus.END.join(parts), encoding="utf-8")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--minutes", type=float, default=0.0, help="end the schedule by then")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument(
        "--short-above", type=float, default=0.4, help="half windows above this share of the rate"
    )
    parser.add_argument("--lr", type=float, default=6e-3)
    parser.add_argument("--lr-embed", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=50)
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--every", type=int, default=0, help="save every so many steps")
    parser.add_argument("--half", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def main() -> None:
    """Train the tokenizer and both models and write their folders."""
    args = arguments()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    started = time.perf_counter()
    texts, unseen = ([corpus.read(path) for path in corpus.files(flag)] for flag in (False, True))
    tokenizer = train_tokenizer(texts)
    windows = Windows(texts, tokenizer, args)
    target, draft = llama(TARGET, args.context), llama(DRAFT, args.context)
    facts = {"python": platform.python_version(), "tokens": len(windows.tokens)}
    facts |= {"parameters": [sum(p.numel() for p in m.parameters()) for m in (target, draft)]}
    print(json.dumps(facts))
    facts |= {"train": train(target, draft, windows, args)}
    save(args.out, tokenizer, target, draft)
    save_sample(args.out, unseen)
    for name in ("target", "draft"):
        facts |= {name: held_out(args.out / name, unseen, tokenizer, args.context)}
    facts |= {"seconds": round(time.perf_counter() - started, 1), "torch": torch.__version__}
    facts |= {"settings": {k: v for k, v in vars(args).items() if k != "out"}}
    (args.out / "training.json").write_text(json.dumps(facts, indent=2) + "\n")
    print(json.dumps(facts, indent=2))
    size = sum(path.stat().st_size for path in args.out.rglob("*") if path.is_file())
    if size > MAX_BYTES:
        raise SystemExit(f"{args.out} has {size} bytes, more than {MAX_BYTES}")
    print(f"{args.out}: {size} bytes")


if __name__ == "__main__":
    main()

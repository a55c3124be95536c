# SPDX-License-Identifier: Apache-2.0
"""Train the image demo's network and classifier on scikit-learn's handwritten digits.

The data are the 1797 8x8 images that ship inside scikit-learn: nothing is downloaded. One seeded
run on one thread takes about five minutes and writes (float16) the weights that ship in
`python/fewstep/demo/weights/digits.safetensors`; `fewstep demo image` runs them in pure NumPy.

- The generator is a residual multilayer perceptron in the preconditioning of Karras et al. 2022,
  "Elucidating the design space of diffusion-based generative models" (EDM), table 1: the network F
  sees ``c_in(sigma) x`` and ``ln(sigma) / 4``, and ``x0 = c_skip x + c_out F``.
- The classifier measures the Frechet distance: its 64-wide layer is the feature space.

Run ``python tools/train_digits.py`` (needs torch, scikit-learn, safetensors, tqdm).
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn
from torch.nn import functional
from tqdm import tqdm

WEIGHTS = Path(__file__).resolve().parents[1] / "python/fewstep/demo/weights/digits.safetensors"
PIXELS = 64
CLASSES = 10  # label 10 stands for "no condition"
WIDTH = 256
EMBED = 64
BLOCKS = 4
# Angular frequencies of the embedding of ln(sigma) / 4. Low on purpose: the probability-flow ODE
# stays smooth in log sigma, so that high-order solvers show their order.
FREQUENCIES = (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
MAX_BYTES = 1_500_000


class Denoiser(nn.Module):
    """The raw network F(c_in x, ln(sigma) / 4, label); see `fewstep.demo.network` for NumPy's."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.tensor(FREQUENCIES))
        self.embed_sigma = nn.Linear(2 * len(FREQUENCIES), EMBED)
        self.embed_label = nn.Embedding(CLASSES + 1, EMBED)
        self.embed_out = nn.Linear(EMBED, EMBED)
        self.stem = nn.Linear(PIXELS, WIDTH)
        self.film = nn.ModuleList(nn.Linear(EMBED, 2 * WIDTH) for _ in range(BLOCKS))
        self.up = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS))
        self.down = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(BLOCKS))
        self.head = nn.Linear(WIDTH, PIXELS)
        self.dropout = dropout
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        for film, down in zip(self.film, self.down, strict=True):
            nn.init.normal_(film.weight, std=0.02)
            nn.init.zeros_(film.bias)
            nn.init.normal_(down.weight, std=0.02)

    def forward(self, x: Tensor, noise: Tensor, label: Tensor) -> Tensor:
        angle = noise[:, None] * self.frequencies  # [B, frequencies]
        embed = self.embed_sigma(torch.cat([angle.cos(), angle.sin()], 1)) + self.embed_label(label)
        embed = functional.silu(self.embed_out(functional.silu(embed)))
        hidden = self.stem(x)  # [B, WIDTH]
        for film, up, down in zip(self.film, self.up, self.down, strict=True):
            scale, shift = film(embed).chunk(2, 1)
            inner = functional.layer_norm(hidden, (WIDTH,)) * (1 + scale) + shift
            inner = functional.silu(up(inner))
            hidden = hidden + down(functional.dropout(inner, self.dropout, self.training))
        return self.head(functional.layer_norm(hidden, (WIDTH,)))


class Classifier(nn.Module):
    """64 -> 128 -> 64 -> 10; the 64-wide layer after its activation gives the features."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(PIXELS, 128)
        self.second = nn.Linear(128, 64)
        self.third = nn.Linear(64, CLASSES)

    def forward(self, x: Tensor, dropout: float = 0.0) -> Tensor:
        x = functional.dropout(functional.silu(self.first(x)), dropout, self.training)
        x = functional.dropout(functional.silu(self.second(x)), dropout, self.training)
        return self.third(x)


def shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Move each 8x8 image by up to one pixel, the background filling in."""
    b = images.shape[0]
    padded = functional.pad(images.view(b, 8, 8), (1, 1, 1, 1), value=-1.0)
    offset = torch.randint(0, 3, (b, 2), generator=generator)
    rows = offset[:, :1] + torch.arange(8)  # [B, 8]
    columns = offset[:, 1:] + torch.arange(8)
    picked = padded[torch.arange(b)[:, None, None], rows[:, :, None], columns[:, None, :]]
    return picked.reshape(b, PIXELS)


def preconditioned(
    net: Denoiser, x: Tensor, sigma: Tensor, label: Tensor, sigma_data: float
) -> tuple[Tensor, Tensor]:
    """Return the denoised images and the loss weight ``1 / c_out**2`` (EDM table 1)."""
    total = sigma**2 + sigma_data**2
    c_skip = sigma_data**2 / total
    c_out = sigma * sigma_data / total.sqrt()
    raw = net(x / total.sqrt()[:, None], sigma.log() / 4, label)
    return c_skip[:, None] * x + c_out[:, None] * raw, c_out**-2


def denoising_loss(
    net: Denoiser,
    clean: Tensor,
    label: Tensor,
    args: argparse.Namespace,
    sigma_data: float,
    generator: torch.Generator,
) -> Tensor:
    """EDM's weighted loss at log-normal sigma."""
    normal = torch.randn(clean.shape[0], generator=generator)
    sigma = (normal * args.p_std + args.p_mean).exp()
    noise = torch.randn(clean.shape, generator=generator)
    x0, weight = preconditioned(net, clean + sigma[:, None] * noise, sigma, label, sigma_data)
    return (weight[:, None] * (x0 - clean) ** 2).mean()


def train_denoiser(
    data: dict[str, Tensor], args: argparse.Namespace, sigma_data: float
) -> tuple[Denoiser, dict[str, float]]:
    """Train with Adam, a cosine learning rate and an exponential moving average of the weights."""
    generator = torch.Generator().manual_seed(args.seed)
    net = Denoiser(args.dropout)
    average = Denoiser(0.0)
    average.load_state_dict(net.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), lr=args.lr, weight_decay=args.weight_decay)
    bar = tqdm(range(args.steps), desc="denoiser", unit="step", mininterval=2.0)
    running = math.nan
    for step in bar:
        warm = min(1.0, (step + 1) / 200)
        rate = args.lr * warm * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        optimizer.param_groups[0]["lr"] = rate
        pick = torch.randint(0, len(data["train_x"]), (args.batch,), generator=generator)
        clean, label = data["train_x"][pick], data["train_y"][pick]
        # Grey levels are multiples of 1/8. Spreading them over their bin keeps the score finite
        # at small sigma; otherwise the network learns a staircase that no solver can follow.
        clean = clean + (torch.rand(clean.shape, generator=generator) - 0.5) / 8
        dropped = torch.rand(args.batch, generator=generator) < args.drop_label
        label = torch.where(dropped, CLASSES, label)
        loss = denoising_loss(net, clean, label, args, sigma_data, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        # The average's span grows with training: early weights are forgotten (EDM's ramp-up).
        decay = min(args.ema, (1 + step) / (20 + step))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), net.parameters(), strict=True):
                mean.lerp_(value, 1 - decay)
        running = loss.item() if math.isnan(running) else 0.99 * running + 0.01 * loss.item()
        if step % 500 == 499:
            held_out = held_out_loss(average, data, args, sigma_data)
            bar.set_postfix(train=f"{running:.4f}", held_out=f"{held_out:.4f}")
    held_out = held_out_loss(average, data, args, sigma_data)
    return average, {"train_loss": running, "held_out_loss": held_out}


@torch.no_grad()
def held_out_loss(
    net: Denoiser, data: dict[str, Tensor], args: argparse.Namespace, sigma_data: float
) -> float:
    """The same loss on images the network was not trained on, with its own fixed noise."""
    net.eval()
    generator = torch.Generator().manual_seed(args.seed + 1)
    losses = [
        denoising_loss(net, data["test_x"], data["test_y"], args, sigma_data, generator)
        for _ in range(8)
    ]
    return float(torch.stack(losses).mean())


def train_classifier(
    data: dict[str, Tensor], args: argparse.Namespace
) -> tuple[Classifier, dict[str, float]]:
    """Train the feature network on shifted, noised digits; report held-out accuracy."""
    generator = torch.Generator().manual_seed(args.seed + 2)
    net = Classifier()
    optimizer = torch.optim.AdamW(net.parameters(), lr=2e-3, weight_decay=1e-3)
    steps = args.classifier_steps
    for step in tqdm(range(steps), desc="classifier", unit="step", mininterval=2.0):
        optimizer.param_groups[0]["lr"] = 2e-3 * 0.5 * (1 + math.cos(math.pi * step / steps))
        pick = torch.randint(0, len(data["train_x"]), (256,), generator=generator)
        images = shifted(data["train_x"][pick], generator)
        images = images + 0.2 * torch.randn(images.shape, generator=generator)
        logits = net(images, 0.1)
        loss = functional.cross_entropy(logits, data["train_y"][pick], label_smoothing=0.05)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        correct = net(data["test_x"]).argmax(1) == data["test_y"]
    return net, {"classifier_accuracy": float(correct.float().mean())}


def load_data(seed: int) -> tuple[dict[str, Tensor], float]:
    """Return the images in [-1, 1], split 80 : 20 by class, and their standard deviation."""
    images, labels = load_digits(return_X_y=True)
    images = (images / 8.0 - 1.0).astype(np.float32)
    parts = train_test_split(images, labels, test_size=0.2, random_state=seed, stratify=labels)
    names = ("train_x", "test_x", "train_y", "test_y")
    return {n: torch.from_numpy(np.asarray(p)) for n, p in zip(names, parts, strict=True)}, float(
        images.std()
    )


def save(
    path: Path, denoiser: Denoiser, classifier: Classifier, metadata: dict[str, object]
) -> None:
    """Write both networks as float16 with the run's facts in the header."""
    tensors = {f"denoiser.{k}": v for k, v in denoiser.state_dict().items()}
    tensors |= {f"classifier.{k}": v for k, v in classifier.state_dict().items()}
    tensors = {k: v.half().contiguous() for k, v in tensors.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, {k: json.dumps(v) for k, v in metadata.items()})
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{path} has {size} bytes, more than {MAX_BYTES}")
    print(f"{path}: {size} bytes")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--weight-decay", type=float, default=0.01)
    parser.add_argument("--dropout", type=float, default=0.25)
    parser.add_argument("--drop-label", type=float, default=0.15)
    parser.add_argument("--ema", type=float, default=0.999)
    parser.add_argument("--p-mean", type=float, default=-0.8)
    parser.add_argument("--p-std", type=float, default=1.2)
    parser.add_argument("--classifier-steps", type=int, default=3000)
    return parser.parse_args()


def main() -> None:
    """Train both networks and write the weights file."""
    args = arguments()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    started = time.perf_counter()
    data, sigma_data = load_data(args.seed)
    classifier, metrics = train_classifier(data, args)
    denoiser, losses = train_denoiser(data, args, sigma_data)
    metrics |= losses
    metadata: dict[str, object] = {
        "format": "fewstep-digits-1",
        "data": "scikit-learn load_digits: 1797 images, 8x8, x / 8 - 1; 80 : 20 stratified split",
        "sigma_data": sigma_data,
        "seconds": round(time.perf_counter() - started, 1),
        "metrics": metrics,
        "settings": {k: v for k, v in vars(args).items() if k != "out"},
        "torch": torch.__version__,
    }
    print(json.dumps(metadata, indent=2))
    save(args.out, denoiser, classifier, metadata)


if __name__ == "__main__":
    main()

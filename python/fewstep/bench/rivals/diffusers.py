# SPDX-License-Identifier: Apache-2.0
"""``scheduler.step`` of diffusers, called as a pipeline calls it."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import torch

from ..cases import ROW, SCALE, STEPS, Case


def is_installed() -> bool:
    """Whether there is anything to compare with."""
    return find_spec("diffusers") is not None


class Scheduler:
    """A trajectory of `case` on given model outputs.

    Parameters
    ----------
    case : Case
    x : torch.Tensor
        The first sample, in the type the pipeline keeps it in.
    outputs : sequence of torch.Tensor
        Model outputs, taken in turn; with guidance the conditional half comes first, as fewstep
        has it, and is put last here, as pipelines have it.
    guided : bool
    """

    def __init__(
        self, case: Case, x: torch.Tensor, outputs: Sequence[torch.Tensor], guided: bool
    ) -> None:
        logging.getLogger("diffusers").setLevel(logging.ERROR)
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="diffusers")
        library = importlib.import_module("diffusers")
        self.scheduler: Any = getattr(library, case.scheduler)(**case.config)
        self.scheduler.set_timesteps(STEPS, device=x.device)
        self.first = x
        self.guided = guided
        self.outputs = [torch.cat(o.chunk(2)[::-1]) if guided else o for o in outputs]
        self.x = x
        self.model_input: torch.Tensor | None = None
        self.has_index = hasattr(self.scheduler, "_step_index")

    def sigmas(self) -> list[float]:
        """Return the nodes of the trajectory, as the scheduler has them."""
        scheduler = self.scheduler
        if hasattr(scheduler, "sigmas"):
            return [float(s) for s in scheduler.sigmas.double()]
        stride = scheduler.config.num_train_timesteps // STEPS
        alphas = scheduler.alphas_cumprod.double()
        nodes = []
        for t in [*scheduler.timesteps.tolist(), scheduler.timesteps[-1].item() - stride]:
            a = float(alphas[t]) if t >= 0 else float(scheduler.final_alpha_cumprod)
            nodes.append(((1.0 - a) / a) ** 0.5)
        return nodes

    def step(self, index: int) -> torch.Tensor:
        """Take one step, with guidance before it and the next model input after it if asked."""
        output = self.outputs[index % len(self.outputs)]
        t = self.scheduler.timesteps[index]
        if not self.guided:
            previous: torch.Tensor = self.scheduler.step(output, t, self.x, return_dict=False)[0]
            return previous
        uncond, cond = output.chunk(2)
        output = uncond + SCALE * (cond - uncond)
        previous = self.scheduler.step(output, t, self.x, return_dict=False)[0]
        self.model_input = torch.cat([previous] * 2)
        return previous

    def run(self, steps: int, noise: Callable[[int], torch.Tensor] | None = None) -> torch.Tensor:
        """Start again, take `steps` steps, and return the sample.

        `noise`, if given, takes the place of the scheduler's generator.
        """
        self.scheduler.set_timesteps(STEPS, device=self.first.device)
        self.x = self.first
        for index in range(steps):
            if noise is None:
                self.x = self.step(index)
                continue
            with _given_noise(self.scheduler, noise(index)):
                self.x = self.step(index)
        return self.x

    def restart(self, known_index: bool = False) -> None:
        """Stand before the first step again, without making the timesteps anew.

        `known_index` spares the scheduler looking for the first step's index on the device, which a
        pipeline may do but a captured graph must.
        """
        scheduler = self.scheduler
        scheduler._step_index = None
        scheduler._begin_index = 0 if known_index else None
        if hasattr(scheduler, "model_outputs"):
            scheduler.model_outputs = [None] * len(scheduler.model_outputs)
        if hasattr(scheduler, "lower_order_nums"):
            scheduler.lower_order_nums = 0

    def trajectory(self, known_index: bool = False) -> torch.Tensor:
        """Take every step, from the first sample on; return the last."""
        self.restart(known_index)
        self.x = self.first
        for index in range(STEPS):
            self.x = self.step(index)
        return self.x

    def prepare(self) -> None:
        """Stand before the step that is timed."""
        self.run(ROW)

    def timed(self) -> torch.Tensor:
        """Take the step that is timed; the sample stays where it is."""
        if self.has_index:
            self.scheduler._step_index = ROW
        return self.step(ROW)


@contextmanager
def _given_noise(scheduler: Any, noise: torch.Tensor) -> Iterator[None]:
    module = importlib.import_module(type(scheduler).__module__)
    if not hasattr(module, "randn_tensor"):
        yield
        return
    original = module.randn_tensor

    def given(shape: Any, **options: Any) -> torch.Tensor:
        return noise.reshape(tuple(shape)).to(options.get("dtype") or noise.dtype)

    module.randn_tensor = given  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.randn_tensor = original  # type: ignore[attr-defined]

# SPDX-License-Identifier: Apache-2.0
"""Store the nodes that pip's diffusers places, beside the call of ours that must place the same.

python tests/golden/make_schedules.py        # writes schedules.json beside this file
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
from diffusers.schedulers.scheduling_utils import AysSchedules

TRAINING = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def function_of(pipeline: str, name: str) -> Any:
    """A function of a pipeline's file, without importing what the pipeline needs."""
    source = (Path(diffusers.__file__).parent / "pipelines" / pipeline).read_text()
    tree = ast.parse(source)
    tree.body = [n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name]
    scope: dict[str, Any] = {}
    exec(compile(tree, pipeline, "exec"), scope)
    return scope[name]


calculate_shift = function_of("flux/pipeline_flux.py", "calculate_shift")
linear_quadratic_schedule = function_of("mochi/pipeline_mochi.py", "linear_quadratic_schedule")


def flow_match(steps: int, mu: float | None = None, **options: Any) -> list[float]:
    """Nodes of the flow scheduler for the uniform sigmas that its pipelines pass."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(**options)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    return [float(v) for v in scheduler.sigmas.double()]


def ranged(name: str, steps: int, **options: Any) -> list[float]:
    """Nodes of a scheduler of the training grid."""
    scheduler = getattr(diffusers, name)(**TRAINING, **options)
    scheduler.set_timesteps(steps)
    return [float(v) for v in scheduler.sigmas.double()]


def zero_snr(steps: int) -> list[float]:
    """Sigma at the trailing steps of rescaled betas."""
    scheduler = diffusers.DDIMScheduler(
        rescale_betas_zero_snr=True, timestep_spacing="trailing", **TRAINING
    )
    scheduler.set_timesteps(steps)
    bar = scheduler.alphas_cumprod.double().numpy()[scheduler.timesteps.numpy()]
    return [*np.sqrt(1 - bar).tolist(), 0.0]


def cases() -> list[dict[str, Any]]:
    """Each with the Python expression of ours and the array it must equal."""
    out = []

    def add(call: str, array: str, values: Any) -> None:
        out.append({"call": call, "array": array, "values": [float(f"{v:.9g}") for v in values]})

    for steps in (4, 9, 20):
        end = f".nodes({steps})"
        for ours, theirs in (
            ("beta_sigma", {"use_beta_sigmas": True}),
            ("exponential", {"use_exponential_sigmas": True}),
            ("karras", {"use_karras_sigmas": True}),
        ):
            values = ranged("EulerDiscreteScheduler", steps, **theirs)
            add(f'scaled_linear(spacing="{ours}"){end}', "ratio", values)
            flow = flow_match(steps, **theirs, shift=3.0)
            add(f'flow(3.0, spacing="{ours}"){end}', "sigma", flow)
        lu = ranged("DPMSolverMultistepScheduler", steps, use_lu_lambdas=True)
        add(f'scaled_linear(spacing="log_snr"){end}', "ratio", lu)
        flow = ranged("DPMSolverMultistepScheduler", steps, use_flow_sigmas=True, flow_shift=3.0)
        add(f"flow(3.0, sigma_max=0.999){end}", "sigma", flow)
        for tokens in (256, 1024, 4096):
            for kind in ("exponential", "linear"):
                values = flow_match(
                    steps, calculate_shift(tokens), use_dynamic_shifting=True, time_shift_type=kind
                )
                add(f'flow(dynamic_shift({tokens}, kind="{kind}")){end}', "sigma", values)
        values = flow_match(steps, calculate_shift(2048, max_shift=2.05, base_shift=0.95),
                            use_dynamic_shifting=True, shift_terminal=0.1)  # fmt: skip
        add(f"flow(dynamic_shift(2048, base=0.95, max=2.05), terminal=0.1){end}", "sigma", values)
        values = flow_match(steps, shift_terminal=0.2, use_beta_sigmas=True)
        add(f'flow(terminal=0.2, spacing="beta_sigma"){end}', "sigma", values)
        add(f'scaled_linear(spacing="trailing", zero_terminal_snr=True){end}', "sigma",
            zero_snr(steps))  # fmt: skip
        add(f"linear_quadratic(){end}", "sigma", [*linear_quadratic_schedule(steps, 0.025), 0.0])
        values = linear_quadratic_schedule(steps, 0.1, linear_steps=3)
        add(f"linear_quadratic(0.1, 3){end}", "sigma", [*values, 0.0])
    for name, key in (
        ("sd15", "StableDiffusionSigmas"),
        ("sdxl", "StableDiffusionXLSigmas"),
        ("svd", "StableDiffusionVideoSigmas"),
    ):
        add(f'ays("{name}").nodes(10)', "ratio", AysSchedules[key])
    return out


def main() -> None:
    """Write schedules.json."""
    golden = {"diffusers": diffusers.__version__, "cases": cases()}
    path = Path(__file__).with_name("schedules.json")
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{len(golden['cases'])} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

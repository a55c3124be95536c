# SPDX-License-Identifier: Apache-2.0
"""Run the schedulers of pip's diffusers on one-hot vectors and store the coefficients they apply.

The basis is {the first sample, one vector per model output, one per noise draw}: since a scheduler
is linear in these, the sample after each call *is* the vector of its coefficients. No network is
needed. ``tests/test_plan.py`` compares the plans with the stored numbers and needs no diffusers.

    python tests/golden/make_golden.py        # writes diffusers.json beside this file
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch

warnings.filterwarnings("ignore")
diffusers.utils.logging.set_verbosity_error()

TRAINING = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


def one_hot(i: int, size: int) -> torch.Tensor:
    """Return a [1, 1, 1, size] float32 basis vector."""
    vector = torch.zeros(1, 1, 1, size)
    vector[..., i] = 1
    return vector


def brownian(draw: Any) -> Any:
    """Return increments of one path between sigmas, for steps of a stage and a whole."""
    last: list[Any] = []

    def sample(sigma_from: torch.Tensor, sigma_to: torch.Tensor) -> torch.Tensor:
        if last and last[0] == float(sigma_from):
            # The whole step holds the stage's increment.
            _, middle, noise = last
            share = (float(sigma_from) - middle) / (float(sigma_from) - float(sigma_to))
            last.clear()
            return share**0.5 * noise + (1 - share) ** 0.5 * draw(None)
        last[:] = [float(sigma_from), float(sigma_to), draw(None)]
        return last[2]

    return sample


def run(scheduler: Any, **options: Any) -> list[list[float]]:
    """Return the coefficients of the sample after each call."""
    options["return_dict"] = False
    # SCM lists the time after its last call too.
    calls = len(scheduler.timesteps) - isinstance(scheduler, diffusers.SCMScheduler)
    size = 1 + 2 * calls
    module = sys.modules[type(scheduler).__module__]
    drawn = 0

    def draw(shape: Any, dtype: Any = None, **_: Any) -> torch.Tensor:
        nonlocal drawn
        drawn += 1
        return one_hot(calls + drawn, size).to(dtype or torch.float32)

    if isinstance(scheduler, diffusers.DPMSolverSDEScheduler):
        scheduler.noise_sampler = brownian(draw)

    original = getattr(module, "randn_tensor", None)
    if original is not None:
        module.randn_tensor = draw
    scheduler.set_begin_index(0) if hasattr(scheduler, "set_begin_index") else None
    sample, states = one_hot(0, size), []
    try:
        for i, t in enumerate(scheduler.timesteps[:calls]):
            if hasattr(scheduler, "scale_model_input"):
                scheduler.scale_model_input(sample, t)
            sample = scheduler.step(one_hot(1 + i, size), t, sample, **options)[0]
            states.append([float(f"{v:.9g}") for v in sample.flatten().double().tolist()])
    finally:
        if original is not None:
            module.randn_tensor = original
    return states


def ratios(scheduler: Any, steps: Any = None) -> list[float]:
    """Ratios sigma / alpha at the nodes of a scheduler that indexes alphas_cumprod, then 0."""
    steps = scheduler.timesteps.numpy() if steps is None else steps
    bar = scheduler.alphas_cumprod.double().numpy()[steps]
    return [*np.sqrt((1 - bar) / bar).tolist(), 0.0]


def flow_coordinates(scheduler: Any, states: Any) -> tuple[list[float], list[list[float]]]:
    """Rewrite a VP trajectory that begins without signal for alpha + sigma = 1.

    Samples and v-predictions are divided by alpha + sigma, which does not change the ODE.
    """
    sigma = np.append(scheduler.betas.double().numpy(), 0.0)[: len(states) + 1]
    scale = np.sqrt(1 - sigma**2) + sigma
    model = np.concatenate([scale[:1], scale[:-1], np.ones(len(states))])
    return (sigma / scale).tolist(), [
        (np.array(s) * model / scale[i + 1]).tolist() for i, s in enumerate(states)
    ]


def case(
    scheduler: Any,
    solver: str,
    process: str,
    steps: int | None,
    sigmas: str | list[float] | None = "sigmas",
    prediction: str = "epsilon",
    step: dict[str, Any] | None = None,
    tolerance: float = 2e-6,
    **options: Any,
) -> dict[str, Any]:
    """Run one scheduler and describe the plan that must equal it."""
    if steps is not None:
        scheduler.set_timesteps(steps)
    if solver == "pndm":  # its own list holds every node once, from data to noise
        nodes = ratios(scheduler, scheduler._timesteps[::-1])
    elif solver == "ipndm":
        nodes = []  # has neither list: below
    elif sigmas == "sigmas":
        nodes = scheduler.sigmas.double().tolist()
    else:
        nodes = ratios(scheduler) if sigmas is None else sigmas
    if solver in ("heun", "flow_heun", "dpm2", "dpm2_ancestral", "dpmpp_sde"):
        nodes = list(dict.fromkeys(nodes))  # these list each inner node twice
    states = run(scheduler, **step or {})
    if solver == "ipndm":
        nodes, states = flow_coordinates(scheduler, states)
    if nodes[-1] == nodes[-2]:
        nodes, states = nodes[:-1], states[:-1]
    # A NaN is a defect of the rival (UniPC bh1 at sigma = 0): nothing to compare with. Of a long
    # trajectory only the end is kept, which all rows before it made.
    finite = [i for i, s in enumerate(states) if np.isfinite(s).all()]
    rows = finite if len(states) <= 20 else finite[-1:]
    return {
        "scheduler": type(scheduler).__name__,
        "solver": solver,
        "process": process,
        "prediction": prediction,
        "options": options,
        "nodes": nodes,
        "rows": rows,
        "states": [np.trim_zeros(states[i], "b") for i in rows],
        "calls": len(states),
        "nan_rows": len(states) - len(finite),
        **({"tolerance": tolerance} if tolerance != 2e-6 else {}),
    }


def cases() -> list[dict[str, Any]]:
    """Every scheduler that a solver of ours must equal."""
    D = diffusers
    dpm, unipc = D.DPMSolverMultistepScheduler, D.UniPCMultistepScheduler
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    out = [
        case(D.DDIMScheduler(clip_sample=False, **TRAINING), "ddim", "vp", 10, None),
        case(D.DDPMScheduler(clip_sample=False, **TRAINING), "ddpm", "vp", 10, None),
        case(D.EulerDiscreteScheduler(**TRAINING), "euler", "ve", 10),
        case(
            D.EulerDiscreteScheduler(prediction_type="v_prediction", **TRAINING),
            "euler",
            "ve",
            10,
            prediction="v",
        ),
        case(D.EulerAncestralDiscreteScheduler(**TRAINING), "euler_ancestral", "ve", 10),
        case(D.HeunDiscreteScheduler(**TRAINING), "heun", "ve", 6),
        case(D.FlowMatchEulerDiscreteScheduler(shift=3.0), "flow_euler", "flow", 10,
             prediction="flow"),
        case(D.FlowMatchHeunDiscreteScheduler(shift=3.0), "flow_heun", "flow", 6,
             prediction="flow"),
        case(D.LCMScheduler(clip_sample=False, **TRAINING), "lcm", "vp", 4, None,
             parity="diffusers"),
    ]  # fmt: skip
    for variant in ("midpoint", "heun"):
        kind = {"solver_order": 2, "solver_type": variant}
        out.append(case(dpm(**kind, **TRAINING), "dpmpp_2m", "vp", 10, variant=variant))
        sde = dpm(algorithm_type="sde-dpmsolver++", **kind, **TRAINING)
        out.append(case(sde, "dpmpp_2m_sde", "vp", 10, variant=variant))
    for kind in ("v_prediction", "sample"):
        prediction = "v" if kind == "v_prediction" else "x0"
        out.append(case(dpm(prediction_type=kind, **TRAINING), "dpmpp_2m", "vp", 10,
                        prediction=prediction))  # fmt: skip
    out.append(case(dpm(use_karras_sigmas=True, **TRAINING), "dpmpp_2m", "vp", 10))
    for steps in (10, 16):
        out.append(case(dpm(solver_order=3, **TRAINING), "dpmpp_3m", "vp", steps,
                        parity="diffusers"))  # fmt: skip
    for order in (1, 2, 3, 4, 5):
        for variant in ("bh1", "bh2"):
            scheduler = unipc(solver_order=order, solver_type=variant, **TRAINING)
            out.append(case(scheduler, "unipc", "vp", 10, order=order, variant=variant))
    out.append(case(unipc(solver_order=3, **TRAINING), "unipc", "vp", 18, order=3,
                    parity="diffusers"))  # fmt: skip
    out.append(case(unipc(solver_order=2, **flow, **TRAINING), "unipc", "flow", 10, order=2,
                    prediction="flow"))  # fmt: skip
    for order in (1, 2, 3):
        scheduler = D.DEISMultistepScheduler(solver_order=order, **TRAINING)
        out.append(case(scheduler, "deis", "vp", 10, order=order))
    return out + slopes() + dpm_solver() + long_and_flow()


MINIMUM = {"final_sigmas_type": "sigma_min"}
KARRAS = {"use_karras_sigmas": True}
FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}


def slopes() -> list[dict[str, Any]]:
    """Solvers that combine noises, over step counts."""
    D = diffusers
    out = []
    for steps in (4, 10, 50):
        out.append(case(D.KDPM2DiscreteScheduler(**TRAINING), "dpm2", "ve", steps))
        out.append(case(D.LMSDiscreteScheduler(**TRAINING), "lms", "ve", steps))
        for skip, variant in ((False, "prk"), (True, "plms")):
            scheduler = D.PNDMScheduler(skip_prk_steps=skip, set_alpha_to_one=True, **TRAINING)
            out.append(case(scheduler, "pndm", "vp", steps, variant=variant))
        out.append(case(D.IPNDMScheduler(), "ipndm", "flow", steps, prediction="v",
                        parity="diffusers"))  # fmt: skip
    out.append(case(D.KDPM2DiscreteScheduler(**KARRAS, **TRAINING), "dpm2", "ve", 10))
    out.append(case(D.LMSDiscreteScheduler(**KARRAS, **TRAINING), "lms", "ve", 10))
    return out


def dpm_solver() -> list[dict[str, Any]]:
    """DPM-Solver and DPM-Solver++, single-step and multistep."""
    multi, single = diffusers.DPMSolverMultistepScheduler, diffusers.DPMSolverSinglestepScheduler
    out = []
    for kind, name in (("dpmsolver", "dpm"), ("dpmsolver++", "dpmpp")):
        for variant in ("midpoint", "heun"):
            both = {"algorithm_type": kind, "solver_type": variant, **TRAINING}
            if name == "dpm":
                out.append(case(multi(solver_order=2, **MINIMUM, **both), "dpm_2m", "vp", 10,
                                variant=variant))  # fmt: skip
            for steps in (9, 10, 11):
                out.append(
                    case(
                        single(solver_order=2, **MINIMUM, **both),
                        f"{name}_2s",
                        "vp",
                        steps,
                        variant=f"grid_{variant}",
                        lower_order_final=False,
                    )
                )
                out.append(case(single(solver_order=3, **MINIMUM, **both), f"{name}_3s", "vp",
                                steps, variant=f"grid_{variant}", parity="diffusers",
                                lower_order_final=False))  # fmt: skip
        out.append(case(single(solver_order=3, algorithm_type=kind, **MINIMUM, **KARRAS,
                               **TRAINING), f"{name}_3s", "vp", 50, variant="grid_midpoint",
                        lower_order_final=True, parity="diffusers"))  # fmt: skip
    out.append(case(multi(solver_order=3, algorithm_type="dpmsolver", **MINIMUM, **TRAINING),
                    "dpm_3m", "vp", 16, parity="diffusers"))  # fmt: skip
    return out


def long_and_flow() -> list[dict[str, Any]]:
    """From 4 to 50 steps on flow and Karras nodes."""
    D = diffusers
    multi, single = D.DPMSolverMultistepScheduler, D.DPMSolverSinglestepScheduler
    out = []
    for steps in (4, 10, 50):
        out.append(
            case(
                single(solver_order=2, **FLOW, **TRAINING),
                "dpmpp_2s",
                "flow",
                steps,
                prediction="flow",
                variant="grid_midpoint",
                lower_order_final=True,
            )
        )
        out.append(case(multi(solver_order=2, **FLOW, **TRAINING), "dpmpp_2m", "flow", steps,
                        prediction="flow"))  # fmt: skip
        if steps < 50:  # beyond, their float32 moments have lost more than is compared
            scheduler = D.UniPCMultistepScheduler(solver_order=3, **KARRAS, **TRAINING)
            out.append(case(scheduler, "unipc", "vp", steps, order=3, parity="diffusers"))
    # With Karras nodes its last sigma comes twice: a call that changes nothing.
    scheduler = D.DEISMultistepScheduler(solver_order=3, **KARRAS, **TRAINING)
    out.append(case(scheduler, "deis", "vp", 18, order=3))
    return out


def stochastic() -> list[dict[str, Any]]:
    """Solvers that draw noise, and samplers of distilled models."""
    D = diffusers
    out = []
    dpm = D.DPMSolverMultistepScheduler
    for order, kind in ((1, "midpoint"), (2, "midpoint"), (2, "heun")):
        scheduler = dpm(algorithm_type="sde-dpmsolver", solver_order=order, solver_type=kind,
                        final_sigmas_type="sigma_min", **TRAINING)  # fmt: skip
        scheduler.set_timesteps(10)
        # Its last step has no width: our schedules end before it.
        scheduler.timesteps = scheduler.timesteps[:-1]
        variant = {"variant": kind} if order == 2 else {}
        out.append(case(scheduler, f"dpm_{order}m_sde", "vp", None,
                        scheduler.sigmas.double().tolist()[:-1], **variant))  # fmt: skip
    sde = {"algorithm_type": "sde-dpmsolver++"}
    out.append(case(dpm(solver_order=1, **sde, **TRAINING), "dpmpp_1m_sde", "vp", 10))
    out.append(case(dpm(solver_order=3, **sde, **TRAINING), "dpmpp_3m_sde", "vp", 16,
                    parity="diffusers"))  # fmt: skip
    out.append(case(D.KDPM2AncestralDiscreteScheduler(**TRAINING), "dpm2_ancestral", "ve", 6))
    out.append(case(D.DPMSolverSDEScheduler(**TRAINING), "dpmpp_sde", "ve", 6))
    for p, c in ((1, 1), (2, 2), (2, 1), (1, 2), (3, 1), (3, 3), (3, 4), (4, 4)):
        for tau in (0.0, 0.6, 1.0):
            scheduler = D.SASolverScheduler(predictor_order=p, corrector_order=c,
                                            tau_func=lambda t, tau=tau: torch.tensor(tau),
                                            **TRAINING)  # fmt: skip
            # Wide steps: in narrow ones its float32 weights of order 4 lose all but 5 digits.
            out.append(case(scheduler, "sa", "vp", 6 if p == 4 else 10, order=p,
                            corrector_order=c, tau=tau, lower_order_final=True, parity="diffusers",
                            tolerance=1e-5 if max(p, c) > 2 else 2e-6))  # fmt: skip
    for churn in (0.0, 8.0):
        options = {"s_churn": churn, "s_tmin": 0.05, "s_tmax": 50.0, "s_noise": 1.003}
        out.append(case(D.EDMEulerScheduler(), "edm_stochastic", "ve", 10, prediction="edm",
                        step=options, variant="euler", **options))  # fmt: skip
    for gamma in (0.0, 0.3, 1.0):
        for steps in (4, 7):
            scheduler = D.TCDScheduler(**TRAINING)
            scheduler.set_timesteps(steps)
            bar = scheduler.alphas_cumprod.double().numpy()[[*scheduler.timesteps.numpy(), 0]]
            out.append(case(scheduler, "tcd", "vp", None, np.sqrt((1 - bar) / bar).tolist(),
                            step={"eta": gamma}, gamma=gamma))  # fmt: skip
    cm = D.CMStochasticIterativeScheduler(clip_denoised=False)
    out.append(case(cm, "consistency", "ve", 5, prediction="edm"))
    trigflow = D.SCMScheduler()
    trigflow.set_timesteps(4, timesteps=[1.56, 1.2, 0.8, 0.3, 0.0], max_timesteps=None,
                           intermediate_timesteps=None)  # fmt: skip
    nodes = np.tan(trigflow.timesteps.double().numpy()).tolist()
    out.append(case(trigflow, "lcm", "vp", None, nodes, prediction="v", s_noise=0.5))
    rf = {"prediction": "flow"}
    for eta in (0.4, 1.0):
        ltx = D.LTXEulerAncestralRFScheduler(eta=eta)
        out.append(case(ltx, "euler_ancestral_rf", "flow", 8, eta=eta, **rf))
    out.append(case(D.FlowMatchLCMScheduler(shift=3.0), "lcm", "flow", 4, **rf))
    return out


def spacings() -> list[dict[str, Any]]:
    """Training steps and sigmas of the spacings, from the schedulers that define them."""
    D = diffusers
    out = []
    for spacing in ("linspace", "leading", "trailing"):
        for steps in (1, 4, 7, 50):
            if spacing == "linspace" and steps == 1:
                continue  # diffusers places its only node at training step 0
            scheduler = D.DDIMScheduler(timestep_spacing=spacing, steps_offset=1, **TRAINING)
            scheduler.set_timesteps(steps)
            out.append({"spacing": spacing, "steps": steps, "t": scheduler.timesteps.tolist(),
                        "ratio": ratios(scheduler)[:-1]})  # fmt: skip
    for spacing in ("karras", "exponential"):
        scheduler = D.EulerDiscreteScheduler(**{f"use_{spacing}_sigmas": True}, **TRAINING)
        scheduler.set_timesteps(9)
        out.append({"spacing": spacing, "steps": 9, "t": scheduler.timesteps.tolist(),
                    "ratio": scheduler.sigmas.double().tolist()[:-1]})  # fmt: skip
    return out


def main() -> None:
    """Write diffusers.json."""
    golden = {
        "diffusers": diffusers.__version__,
        "training": TRAINING,
        "cases": [*cases(), *stochastic()],
        "spacings": spacings(),
    }
    path = Path(__file__).with_name("diffusers.json")
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{len(golden['cases'])} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

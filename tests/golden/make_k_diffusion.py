# SPDX-License-Identifier: Apache-2.0
"""Run the samplers of pip's k-diffusion on one-hot vectors in float64, as make_golden.py does.

Its other dependencies are not needed and are replaced by empty modules. ``tests/test_plan.py``
compares the plans with the stored numbers to 1e-12.

    pip download --no-deps k-diffusion && unzip k_diffusion-*.whl
    PYTHONPATH=. python tests/golden/make_k_diffusion.py    # writes k_diffusion.json beside it
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import json
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch


def load() -> Any:
    """Import k_diffusion.sampling alone."""
    spec = importlib.util.find_spec("k_diffusion")
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError("k_diffusion must be on PYTHONPATH")
    package = types.ModuleType("k_diffusion")
    package.__path__ = list(spec.submodule_search_locations)
    sys.modules["k_diffusion"] = package
    for name in ("torchdiffeq", "torchsde", "k_diffusion.utils"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchdiffeq"].odeint = None  # type: ignore[attr-defined]
    utils = sys.modules["k_diffusion.utils"]
    vars(utils)["append_dims"] = lambda x, n: x.reshape(*x.shape, *[1] * (n - x.ndim))
    package.utils = utils  # type: ignore[attr-defined]
    return importlib.import_module("k_diffusion.sampling")


K = load()


def dpm_solver(order: int, model: Any, x: Any, sigmas: Any, **_: Any) -> Any:
    """Repeat one step of its DPMSolver over the nodes."""
    solver = K.DPMSolver(model, {})
    move = {2: solver.dpm_solver_2_step, 3: solver.dpm_solver_3_step}[order]
    for t, t_next in zip(sigmas.log().neg(), sigmas[1:].log().neg(), strict=False):
        x = move(x, t, t_next)[0]
    return x


def brownian(draw: Callable[[], Any]) -> Callable[[Any, Any], Any]:
    """Return increments of one path, of which a step's contains its stage's."""
    last: list[Any] = []

    def noise(sigma_from: Any, sigma_to: Any) -> Any:
        if not last:
            last.extend([float(sigma_to), draw()])
            return last[1]
        middle, stage = last
        last.clear()
        share = (float(sigma_from) - middle) / (float(sigma_from) - float(sigma_to))
        return share**0.5 * stage + (1 - share) ** 0.5 * draw()

    return noise


def case(
    function: Callable[..., Any], solver: str, sigmas: Any, calls: int, **options: Any
) -> dict[str, Any]:
    """Run one sampler and describe the plan that must equal it."""
    size, count, drawn = 1 + 2 * calls, 0, 0

    def basis(i: int) -> Any:
        vector = torch.zeros(1, size, dtype=torch.float64)
        vector[0, i] = 1.0
        return vector

    def model(*_: Any, **__: Any) -> Any:
        nonlocal count
        count += 1
        return basis(count)

    def draw(*_: Any) -> Any:
        nonlocal drawn
        drawn += 1
        return basis(calls + drawn)

    noise = brownian(draw) if solver == "dpmpp_sde" else draw
    extra = {"noise_sampler": noise} if "sde" in function.__name__ + solver else {}
    if "ancestral" in getattr(function, "__name__", ""):
        extra = {"noise_sampler": noise}
    keep = {k: v for k, v in options.items() if k in ("eta", "s_churn")}
    nodes = torch.tensor(sigmas, dtype=torch.float64)
    drawing = K.torch.randn_like
    K.torch.randn_like = draw
    try:
        end = function(model, basis(0), nodes, disable=True, **extra, **keep)
    finally:
        K.torch.randn_like = drawing
    assert count == calls, f"{solver}: {count} calls"
    return {
        "solver": solver,
        # At eta = 0 its samplers of SDEs are those of the ODE, which take none here.
        "options": {k: v for k, v in options.items() if (k, v) != ("eta", 0.0)},
        "nodes": nodes.tolist(),
        "calls": calls,
        "state": np.trim_zeros(end[0].tolist(), "b"),
    }


def cases() -> list[dict[str, Any]]:
    """Every sampler that a solver of ours must equal, over 4 to 50 steps."""
    out = []
    for n in (4, 10, 50):
        nodes = K.get_sigmas_karras(n, 0.03, 15.0).double().tolist()
        last = nodes[:-1]
        for order in (1, 2, 3, 4):
            function = partial(K.sample_lms, order=order)
            function.__name__ = "lms"  # type: ignore[attr-defined]
            out.append(case(function, "lms", nodes, n, order=order))
        out.append(case(K.sample_euler, "euler", nodes, n))
        out.append(case(K.sample_heun, "heun", nodes, 2 * n - 1))
        out.append(case(K.sample_dpm_2, "dpm2", nodes, 2 * n - 1))
        out.append(case(K.sample_dpmpp_2m, "dpmpp_2m", nodes, n, lower_order_final=False))
        out.append(case(K.sample_dpmpp_2s_ancestral, "dpmpp_2s", nodes, 2 * n - 1, eta=0.0))
        out.append(case(K.sample_dpmpp_3m_sde, "dpmpp_3m", nodes, n, eta=0.0, parity="k-diffusion",
                        lower_order_final=False))  # fmt: skip
        out.append(case(K.sample_euler_ancestral, "euler_ancestral", nodes, n, eta=0.6))
        for variant in ("midpoint", "heun"):
            function = partial(K.sample_dpmpp_2m_sde, solver_type=variant)
            function.__name__ = "sde"  # type: ignore[attr-defined]
            out.append(case(function, "dpmpp_2m_sde", nodes, n, eta=0.4, variant=variant,
                            lower_order_final=False))  # fmt: skip
        for order in (2, 3):
            function = partial(dpm_solver, order)
            function.__name__ = "dpm"  # type: ignore[attr-defined]
            out.append(case(function, f"dpm_{order}s", last, order * (n - 1)))
    return out


def stochastic() -> list[dict[str, Any]]:
    """Samplers that draw noise."""
    out = []
    for n in (4, 10, 50):
        nodes = K.get_sigmas_karras(n, 0.03, 15.0).double().tolist()
        for eta in (0.6, 1.0):
            two = {"calls": 2 * n - 1, "eta": eta}
            out.append(case(K.sample_dpm_2_ancestral, "dpm2_ancestral", nodes, **two))
            out.append(case(K.sample_dpmpp_2s_ancestral, "dpmpp_2s_ancestral", nodes, **two))
            out.append(case(K.sample_dpmpp_sde, "dpmpp_sde", nodes, **two))
            out.append(case(K.sample_dpmpp_3m_sde, "dpmpp_3m_sde", nodes, n, eta=eta,
                            parity="k-diffusion", lower_order_final=False))  # fmt: skip
        for variant, calls in (("heun", 2 * n - 1), ("euler", n)):
            function = K.sample_heun if variant == "heun" else K.sample_euler
            out.append(case(function, "edm_stochastic", nodes, calls, variant=variant,
                            s_churn=0.3 * n))  # fmt: skip
    return out


def main() -> None:
    """Write k_diffusion.json."""
    path = Path(__file__).with_name("k_diffusion.json")
    golden = {"cases": [*cases(), *stochastic()]}
    path.write_text(json.dumps(golden, separators=(",", ":")) + "\n")
    print(f"{len(golden['cases'])} cases, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()

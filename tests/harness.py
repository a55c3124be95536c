# SPDX-License-Identifier: Apache-2.0
"""Runs ops in processes that are each forced to one backend: an instruction set, or CUDA.

``FEWSTEP_CPU_ISA`` is read once per process, so a test session keeps one worker per backend: this
file, run as a program. Requests and answers are pickled dictionaries of NumPy arrays. Every tensor
lies between guard bands, which are checked after the call, as is that inputs are unchanged.
"""

from __future__ import annotations

import importlib
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

FAMILIES = ("decoder", "kv", "linear")  # whose calls stand in <family>_calls.py
GUARD = 64  # bytes on either side of a tensor
PATTERN = 0xA5


CUDA = "cuda"
_device = "cpu"  # where this process places tensors
_exact = False


class Worker:
    """A process that runs ops on one backend; ``worker.step(...)`` calls ``step`` below in it."""

    def __init__(self, isa: str) -> None:
        environment = dict(os.environ)
        if isa != CUDA:
            environment["FEWSTEP_CPU_ISA"] = isa
        self.isa = isa
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__)), CUDA if isa == CUDA else "cpu"],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __getattr__(self, name: str) -> Any:
        def call(**arguments: Any) -> Any:
            assert self.process.stdin
            assert self.process.stdout
            pickle.dump((name, arguments), self.process.stdin)
            self.process.stdin.flush()
            answer = pickle.load(self.process.stdout)
            if isinstance(answer, Exception):
                raise answer
            return answer

        return call

    def close(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()
        self.process.wait(30)


def use(device: str, *, exact: bool = False) -> None:
    """Place this process's tensors on a device.

    `exact` leaves no room behind them, so that a memory checker sees what lies past their end.
    """
    global _device, _exact
    _device, _exact = device, exact


def put(values: Any) -> Any:
    """An array or a list of them, without guard bands, where tensors go; as given on the CPU."""
    if values is None or _device == "cpu":
        return values
    if isinstance(values, list):
        return [put(value) for value in values]
    import torch

    return torch.as_tensor(values).to(_device)


class Buffers:
    """Torch tensors between guard bands, checked by ``verify``."""

    def __init__(self) -> None:
        self.stores: list[tuple[str, Any, np.ndarray]] = []
        self.inputs: list[tuple[str, Any, np.ndarray]] = []

    def place(
        self, name: str, values: np.ndarray, dtype: str, *, offset: int = 0, gap: int = 0
    ) -> Any:
        """Return a tensor with these values, `offset` elements past 64-byte alignment.

        The first dimension is strided: `gap` elements of pattern lie between its entries.
        """
        import torch

        kind = getattr(torch, dtype)
        size = torch.empty(0, dtype=kind).element_size()
        rows, row = values.shape[0], int(np.prod(values.shape[1:], dtype=np.int64))
        pitch = row + gap
        extent = (rows - 1) * pitch + row if rows else 0
        begin = GUARD + offset * size
        behind = 0 if _exact else 64 + 2 * GUARD
        count = begin + extent * size + behind
        store = torch.full((count,), PATTERN, dtype=torch.uint8, device=_device)
        shift = 0 if _exact else -store.data_ptr() % 64
        flat = store[shift + begin :][: extent * size].view(kind)
        used = np.zeros(count, bool)
        for i in range(rows):
            used[shift + begin + i * pitch * size :][: row * size] = True
        strides = [pitch]
        inner = row
        for extent in values.shape[1:]:
            inner = inner // extent if extent else 0
            strides.append(max(inner, 1))
        tensor = flat.as_strided(values.shape, strides)
        exact = values.dtype == np.float64 or values.dtype.kind in "iu"  # of floats, float32 is
        given = np.ascontiguousarray(values, None if exact else np.float32)
        if kind == torch.int32 and given.dtype.kind == "u":
            given = given.astype(np.uint32).view(np.int32)  # bit masks
        tensor.copy_(torch.from_numpy(given))
        self.stores.append((name, store, ~used))
        return tensor

    def freeze(self, name: str, tensor: Any) -> Any:
        """Remember an input, which the call must leave alone."""
        self.inputs.append((name, tensor, bits(tensor)))
        return tensor

    def verify(self) -> None:
        for name, store, guard in self.stores:
            assert (store.cpu().numpy()[guard] == PATTERN).all(), (
                f"guard band of {name} was written"
            )
        for name, tensor, before in self.inputs:
            assert np.array_equal(bits(tensor), before), f"input {name} was written"


def bits(tensor: Any) -> np.ndarray:
    """The tensor's bytes as unsigned integers."""
    import torch

    kind = {8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.int8}[tensor.element_size()]
    return tensor.contiguous().view(kind).cpu().numpy().copy()


def step(
    *,
    rows: list[dict[str, Any]],
    row: Any,
    state: np.ndarray,
    models: list[np.ndarray],
    dtype: str = "float32",
    seeds: np.ndarray | None = None,
    guidance: np.ndarray | None = None,
    known: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    clip: np.ndarray | None = None,
    copies: int = 0,
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    together: bool = False,
) -> dict[str, np.ndarray]:
    """Run ``fewstep.solver.step`` on copies of the arrays; model outputs and input in `dtype`.

    `state` is [S, B, ...]. Returns the state, the `copies` model inputs as float32, and their bits.
    """
    import fewstep

    fewstep.set_num_threads(threads)
    plan = fewstep.solver.Plan.from_rows([fewstep.solver.Row(**fields) for fields in rows])
    buffers = Buffers()
    layout = {"offset": offset, "gap": gap}
    slots = [buffers.place(f"slot {i}", slot, "float32", **layout) for i, slot in enumerate(state)]
    if together and models:
        models = [np.concatenate(models)]
    outputs = [
        buffers.freeze(f"model {i}", buffers.place(f"model {i}", m, dtype, **layout))
        for i, m in enumerate(models)
    ]
    extras: dict[str, Any] = {"seeds": put(seeds), "guidance": put(guidance), "clip": put(clip)}
    for name, values in (("known", known), ("mask", mask)):
        if values is not None:
            extras[name] = buffers.freeze(name, buffers.place(name, values, "float32", **layout))
    model_input = None
    if copies:
        shape = (copies * state.shape[1], *state.shape[2:])
        model_input = buffers.place("model input", np.full(shape, 7.0), dtype, **layout)
    row = put(row) if isinstance(row, np.ndarray) else row
    fewstep.solver.step(plan, row, slots, outputs or None, model_input=model_input, **extras)
    buffers.verify()
    result = {"state": np.stack([slot.cpu().numpy() for slot in slots])}
    if model_input is not None:
        result["model_input"] = model_input.float().cpu().numpy()
        result["bits"] = bits(model_input)
    return result


def normal(
    *,
    seeds: np.ndarray,
    shape: tuple[int, ...],
    dtype: str = "float32",
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    **options: Any,
) -> np.ndarray:
    """Bits of ``fewstep.noise.normal``."""
    import fewstep

    fewstep.set_num_threads(threads)
    buffers = Buffers()
    out = buffers.place("out", np.zeros((len(seeds), *shape)), dtype, offset=offset, gap=gap)
    assert fewstep.noise.normal(put(seeds), out=out, **options) is out
    buffers.verify()
    return bits(out)


def brownian(
    *,
    seeds: np.ndarray,
    t0: Any,
    t1: Any,
    shape: tuple[int, ...],
    dtype: str = "float32",
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    **options: Any,
) -> np.ndarray:
    """Bits of ``fewstep.noise.brownian``."""
    import fewstep

    fewstep.set_num_threads(threads)
    buffers = Buffers()
    out = buffers.place("out", np.zeros((len(seeds), *shape)), dtype, offset=offset, gap=gap)
    t0, t1 = (put(t) if isinstance(t, np.ndarray) else t for t in (t0, t1))
    assert fewstep.noise.brownian(put(seeds), t0, t1, out=out, **options) is out
    buffers.verify()
    return bits(out)


def gram(
    *,
    arrays: list[np.ndarray],
    dtypes: list[str],
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    together: bool = False,
) -> np.ndarray:
    """Run ``fewstep.solver.gram`` on copies of the arrays, each of its own type."""
    import fewstep

    fewstep.set_num_threads(threads)
    buffers = Buffers()
    count = len(arrays)
    if together:
        arrays = [np.concatenate(arrays)]
    given = [
        buffers.freeze(f"array {i}", buffers.place(f"array {i}", a, t, offset=offset, gap=gap))
        for i, (a, t) in enumerate(zip(arrays, dtypes, strict=False))
    ]
    batch = len(arrays[0]) // (count if together else 1)
    out = buffers.place("out", np.full((batch, count + 1, count + 1), 7.0), "float64", gap=gap)
    assert fewstep.solver.gram(given, out=out, split=1) is out
    buffers.verify()
    return out.cpu().numpy().copy()


def quantile(
    *,
    x: np.ndarray,
    q: float,
    dtype: str = "float32",
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
    **options: Any,
) -> np.ndarray:
    """Run ``fewstep.solver.quantile`` on a copy of x in `dtype`."""
    import fewstep

    fewstep.set_num_threads(threads)
    buffers = Buffers()
    given = buffers.freeze("x", buffers.place("x", x, dtype, offset=offset, gap=gap))
    out = buffers.place("out", np.full(len(x), 7.0), "float32", gap=gap)
    assert fewstep.solver.quantile(given, q, out=out, **options) is out
    buffers.verify()
    return out.cpu().numpy().copy()


def error_norm(
    *,
    arrays: dict[str, np.ndarray],
    dtypes: list[str],
    offset: int = 0,
    gap: int = 0,
    **options: Any,
) -> np.ndarray:
    """Run ``fewstep.solver.error_norm`` on copies of the named arrays, each of its own type."""
    import fewstep

    fewstep.set_num_threads(options.pop("threads", 1))
    buffers = Buffers()
    given = {
        name: buffers.freeze(name, buffers.place(name, a, t, offset=offset, gap=gap))
        for (name, a), t in zip(arrays.items(), dtypes, strict=False)
    }
    out = buffers.place("out", np.full(len(arrays["error"]), 7.0), "float64", gap=gap)
    assert fewstep.solver.error_norm(**given, out=out, **options) is out
    buffers.verify()
    return out.cpu().numpy().copy()


def run(
    *,
    op: str,
    inputs: dict[str, tuple[np.ndarray, str] | None],
    outputs: dict[str, tuple[tuple[int, ...], str]],
    updated: dict[str, tuple[np.ndarray, str]] | None = None,
    options: dict[str, Any] | None = None,
    threads: int = 1,
    offset: int = 0,
    gap: int = 0,
) -> dict[str, np.ndarray]:
    """Run any op, such as "tree.build", on copies of arrays between guard bands.

    `inputs` are arrays and dtypes by the parameter's name, `updated` those written in place,
    `outputs` shapes and dtypes, all passed as keywords beside `options`. Returns what was written
    by name: floats as float32 or float64, and the bits of 16-bit ones under ``<name>.bits``.
    """
    import fewstep

    fewstep.set_num_threads(threads)
    family, verb = op.split(".")
    buffers = Buffers()
    layout = {"offset": offset, "gap": gap}
    given = {name: put(v) if isinstance(v, list) else v for name, v in (options or {}).items()}
    for name, value in inputs.items():
        placed = None if value is None else buffers.place(name, *value, **layout)
        given[name] = placed if placed is None else buffers.freeze(name, placed)
    written = {name: buffers.place(name, *v, **layout) for name, v in (updated or {}).items()}
    for name, (shape, dtype) in outputs.items():
        written[name] = buffers.place(name, np.full(shape, 7), dtype, **layout)
    getattr(getattr(fewstep, family), verb)(**given, **written)
    buffers.verify()
    result = {}
    for name, tensor in written.items():
        if tensor.dtype.itemsize == 2:
            result[f"{name}.bits"] = bits(tensor)
            tensor = tensor.float()
        result[name] = tensor.cpu().numpy().copy()
    return result


def isa() -> str:
    """The instruction set in use."""
    import fewstep

    return fewstep.info()["cpu"]["isa"]


def function_of(name: str, arguments: dict[str, Any]) -> Any:
    """Return the function above, or one of a family's calls: its `verb`, or that of its name."""
    if name not in FAMILIES:
        return globals()[name]
    return getattr(importlib.import_module(f"{name}_calls"), arguments.pop("verb", name))


def serve() -> None:
    """Answer requests until standard input ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not get between the answers
    while True:
        try:
            name, arguments = pickle.load(requests)
        except EOFError:
            os._exit(0)  # tearing torch down would take a second
        try:
            answer = function_of(name, arguments)(**arguments)
        except Exception as error:
            answer = error
        pickle.dump(answer, answers)
        answers.flush()


if __name__ == "__main__":
    use(sys.argv[1])
    serve()

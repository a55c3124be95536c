# SPDX-License-Identifier: Apache-2.0
"""Producers of arrays that claim to lie on a CUDA device and record the stream they are asked with.

Their memory is the host's: a call on them must fail before it starts a kernel.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np

CUDA, CUDA_MANAGED = 2, 13


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.c_void_p),
        ("strides", ctypes.c_void_p),
        ("byte_offset", ctypes.c_uint64),
    ]


class Managed(ctypes.Structure):
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


_python = ctypes.pythonapi
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_New.restype = ctypes.py_object
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


class CapsuleArray:
    """Has ``__dlpack__`` alone, as CuPy's arrays do; `asked` holds the keywords of each export."""

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (CUDA, 0)) -> None:
        self.array, self.device = array, device
        self.asked: list[dict[str, Any]] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        self.asked.append(options)
        capsule = self.array.__dlpack__(max_version=options["max_version"])
        pointer = _python.PyCapsule_GetPointer(capsule, b"dltensor_versioned")
        Managed.from_address(pointer).tensor.device = Device(*self.device)
        return capsule

    @property
    def streams(self) -> list[Any]:
        return [options["stream"] for options in self.asked]


class OldCapsuleArray(CapsuleArray):
    """A producer older than DLPack 1.0: takes `stream` alone, gives an unversioned capsule."""

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.asked.append({"stream": stream})
        capsule = self.array.__dlpack__()
        pointer = _python.PyCapsule_GetPointer(capsule, b"dltensor")
        Tensor.from_address(pointer).device = Device(*self.device)
        return capsule


_Export = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.py_object, ctypes.POINTER(Tensor))
_Stream = ctypes.PYFUNCTYPE(
    ctypes.c_int, ctypes.c_int32, ctypes.c_int32, ctypes.POINTER(ctypes.c_void_p)
)


class ExchangeTable(ctypes.Structure):
    """DLPackExchangeAPI of DLPack 1.3."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("previous", ctypes.c_void_p),
        ("allocate", ctypes.c_void_p),
        ("from_object", ctypes.c_void_p),
        ("to_object", ctypes.c_void_p),
        ("export", _Export),
        ("stream", _Stream),
    ]


class ExchangeArray:
    """Has the C exchange API, as torch's tensors do; its framework's current stream is `current`.

    `queries` holds the devices that the current stream was asked for.
    """

    current = 0
    queries: list[tuple[int, int]] = []  # noqa: RUF012

    def __init__(self, array: np.ndarray, device: tuple[int, int] = (CUDA, 0)) -> None:
        self.array, self.device = np.ascontiguousarray(array), device
        self.shape = (ctypes.c_int64 * array.ndim)(*array.shape)


@_Export
def _export(array: ExchangeArray, out: Any) -> int:
    dtype = array.array.dtype
    out[0] = Tensor(
        data=array.array.ctypes.data,
        device=Device(*array.device),
        ndim=array.array.ndim,
        code={"i": 0, "u": 1, "f": 2}[dtype.kind],
        bits=8 * dtype.itemsize,
        lanes=1,
        shape=ctypes.addressof(array.shape),
    )
    return 0


@_Stream
def _current_stream(device_type: int, device_id: int, out: Any) -> int:
    ExchangeArray.queries.append((device_type, device_id))
    out[0] = ExchangeArray.current
    return 0


_NAME = ctypes.c_char_p(b"dlpack_exchange_api")  # a capsule keeps the pointer, not the text
_TABLE = ExchangeTable(major=1, minor=3, export=_export, stream=_current_stream)
ExchangeArray.__dlpack_c_exchange_api__ = _python.PyCapsule_New(  # type: ignore[attr-defined]
    ctypes.addressof(_TABLE), _NAME, None
)

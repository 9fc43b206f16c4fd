"""Blocks to floats to blocks, by the runtime's own code. The calls release the GIL: threads run side by side."""

from __future__ import annotations

import numpy as np
from gguf import GGMLQuantizationType as Type
from longheads._native import ffi, lib

from longheads.errors import FormatError, check


def _pointer(array: np.ndarray, kind: str):
    return ffi.cast(kind, array.ctypes.data)


def decode(raw: np.ndarray, kind: Type, n: int) -> np.ndarray:
    """n values from their blocks (flat uint8): (n,) float32."""
    values = np.empty(n, np.float32)
    check(lib.lh_dequantize(int(kind), _pointer(raw, "void *"), n, _pointer(values, "float *")))
    return values


def encode(values: np.ndarray, kind: Type, size: int) -> np.ndarray:
    """(n,) float32 to blocks: (size,) uint8. Raises FormatError for NaN, infinity and what the type cannot hold."""
    blocks = np.empty(size, np.uint8)
    check(lib.lh_quantize(int(kind), _pointer(values, "float *"), values.size, _pointer(blocks, "void *")))
    return blocks


def recode(raw: np.ndarray, source: Type, target: Type, n: int, size: int, name: str) -> np.ndarray:
    """n values from blocks of one type to blocks of another, `size` bytes. Blocks that stay what they are stay exact.

    name: of the tensor, for the sentence of what is raised.
    """
    values = decode(raw, source, n)
    try:
        if source != target:
            return encode(values, target, size)
        if np.isfinite(values).all():
            return raw
        raise FormatError(f"it holds {'NaN' if np.isnan(values).any() else 'infinity'}, expected finite weights")
    except FormatError as error:
        raise FormatError(f"the tensor {name} is damaged or does not suit this type: {error}") from None

"""A GGUF file's metadata as Python values."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from longheads._core import ffi, lib
from longheads.errors import check

STRING, ARRAY = 8, 9
# GGUF value types that are numbers.
_NUMBERS = {
    0: "<u1",
    1: "<i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


class Metadata(Mapping[str, Any]):
    """The metadata of a model, read-only: int, float, bool, str, and lists of them. Decoded when first asked for."""

    def __init__(self, model_handle: Any) -> None:
        self._model = model_handle  # owns the memory that entries point to
        self._entries: dict[str, Any] = {}
        self._values: dict[str, Any] = {}
        for i in range(lib.lh_model_n_metadata(model_handle)):
            entry = ffi.new("lh_metadata *")
            check(lib.lh_model_get_metadata(model_handle, i, entry))
            self._entries[ffi.string(entry.key).decode("utf-8", "replace")] = entry

    def __getitem__(self, key: str) -> Any:
        if key not in self._values:
            self._values[key] = _decode(self._entries[key])
        return self._values[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __repr__(self) -> str:
        return f"<longheads.Metadata of {len(self)} entries>"


def _decode(entry: Any) -> Any:
    data = ffi.buffer(entry.data, entry.size)
    if entry.type == STRING:
        return data[:].decode("utf-8", "replace")
    if entry.type != ARRAY:
        return np.frombuffer(data, _NUMBERS[entry.type])[0].item()
    if entry.elem_type != STRING:
        return np.frombuffer(data, _NUMBERS[entry.elem_type], entry.count).tolist()
    out, at = [], 0
    for _ in range(entry.count):
        (size,) = struct.unpack_from("<Q", data, at)
        out.append(data[at + 8 : at + 8 + size].decode("utf-8", "replace"))
        at += 8 + size
    return out

"""What a source of weights is: metadata, and tensors whose rows are read a few at a time."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

from longheads.errors import FormatError

# A key's value and its type. A list is an array of that type; strings may be bytes.
Metadata = dict[str, tuple[Any, Value]]


def row_bytes(kind: Type, n_cols: int) -> int:
    """Bytes of n_cols values, which must be whole blocks."""
    block_len, block_size = gguf.GGML_QUANT_SIZES[kind]
    return n_cols // block_len * block_size


@dataclass(frozen=True)
class Tensor:
    """One tensor of a source, under the name that GGUF gives it."""

    name: str
    shape: tuple[int, ...]  # (rows, columns) or (n,)
    type: Type  # of what lies in the file
    path: Path
    offset: int  # bytes from the start of the file
    origin: str  # its name in the source, for messages
    head_dim: int = 0  # > 0: rows of q or k in half-split order, to become interleaved
    values: np.ndarray | None = None  # computed, not read: (n,) float32

    @property
    def n_rows(self) -> int:
        """A vector is one row."""
        return math.prod(self.shape[:-1])

    @property
    def n_cols(self) -> int:
        return self.shape[-1]

    @property
    def row_unit(self) -> int:
        """Rows that have to be read together."""
        return self.head_dim if len(self.shape) > 1 and self.head_dim else 1

    def read(self, file: int | None, start: int, stop: int) -> np.ndarray:
        """Rows [start, stop) as stored, in GGUF's order: flat uint8. start is a multiple of row_unit.

        file: a descriptor of `path`. Raises FormatError where the file ends early.
        """
        if self.values is not None:
            return self.values.view(np.uint8)
        size = row_bytes(self.type, self.n_cols)
        raw = np.empty((stop - start) * size, np.uint8)
        view, at = memoryview(raw), 0
        while at < raw.size:
            got = os.preadv(file, [view[at:]], self.offset + start * size + at)
            if not got:
                raise FormatError(f"{self.path} ends inside the tensor {self.origin}: it is cut short; fetch it again")
            at += got
        if not self.head_dim:
            return raw
        # Component i of a head turns with i + d/2 in the source and with its neighbour in GGUF.
        width = size if len(self.shape) > 1 else row_bytes(self.type, 1)
        return np.ascontiguousarray(raw.reshape(-1, 2, self.head_dim // 2, width).swapaxes(1, 2)).ravel()


@dataclass
class Source:
    """Metadata without what depends on the types of the output, and tensors in the order to write them."""

    metadata: Metadata
    tensors: list[Tensor]
    notes: list[str] = field(default_factory=list)

    @property
    def main_type(self) -> Type:
        """The type that most bytes of the matrices have."""
        sizes: dict[Type, int] = {}
        for t in self.tensors:
            if len(t.shape) > 1:
                sizes[t.type] = sizes.get(t.type, 0) + t.n_rows * row_bytes(t.type, t.n_cols)
        return max(sizes, key=sizes.__getitem__) if sizes else Type.F32

    def number(self, key: str, default: int = 0) -> int:
        """An integer of the metadata; the first where layers have one each."""
        value = self.metadata.get(key, (default, None))[0]
        if isinstance(value, list):
            value = value[0] if value else default
        if not isinstance(value, int):
            raise FormatError(f"the key {key} is {value!r}, expected an integer; fetch or convert the file again")
        return value

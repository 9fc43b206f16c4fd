"""Bytes of a GGUF header.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

from longheads.errors import FormatError

from .source import Metadata

ALIGNMENT = 32
_SCALARS = {
    Value.UINT8: "<B", Value.INT8: "<b", Value.UINT16: "<H", Value.INT16: "<h", Value.UINT32: "<I", Value.INT32: "<i",
    Value.FLOAT32: "<f", Value.BOOL: "<?", Value.UINT64: "<Q", Value.INT64: "<q", Value.FLOAT64: "<d",
}  # fmt: skip


def _string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any, kind: Value) -> bytes:
    return _string(value) if kind == Value.STRING else struct.pack(_SCALARS[kind], value)


def _entry(key: str, value: Any, kind: Value) -> bytes:
    if isinstance(value, list):
        head = struct.pack("<IIQ", Value.ARRAY, kind, len(value))
        return _string(key) + head + b"".join(_value(item, kind) for item in value)
    return _string(key) + struct.pack("<I", kind) + _value(value, kind)


def padded(size: int) -> int:
    """The next multiple of the alignment."""
    return -(-size // ALIGNMENT) * ALIGNMENT


def header(metadata: Metadata, tensors: Sequence[tuple[str, tuple[int, ...], Type, int]]) -> bytes:
    """All that comes before the tensors' bytes, padding included.

    tensors: name, shape (rows, columns), type and bytes of each, in the order in which they will follow, each at the
    next multiple of the alignment. Raises FormatError for a value that the format cannot hold.
    """
    parts = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(metadata))]
    for key, pair in metadata.items():
        try:
            parts.append(_entry(key, *pair))
        except (ValueError, struct.error) as error:  # half of a surrogate pair, which JSON can hold; a number too large
            raise FormatError(f"the value of {key} cannot be written ({error}); fetch the source again") from None
    offset = 0
    for name, shape, kind, size in tensors:
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *reversed(shape))
        parts.append(_string(name) + dims + struct.pack("<IQ", kind, offset))
        offset += padded(size)
    head = b"".join(parts)
    return head + bytes(padded(len(head)) - len(head))

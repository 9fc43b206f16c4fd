"""Headers of safetensors files: which tensors lie where. The numbers themselves are read later, a few rows at a time.

A file is the length of a header (u64), the header (JSON: name -> dtype, shape, first and last byte), and the bytes.
It is read here and not by the package safetensors because NumPy, into which that reads, has no BF16.
Format: https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gguf import GGMLQuantizationType as Type

from longheads.errors import FormatError

DTYPES = {"F32": Type.F32, "F16": Type.F16, "BF16": Type.BF16}
_WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


@dataclass(frozen=True)
class Stored:
    """A tensor of a file."""

    dtype: str  # as the format writes it
    shape: tuple[int, ...]
    path: Path
    offset: int  # bytes from the start of the file


def _damaged(path: Path, what: str) -> FormatError:
    return FormatError(f"{path} is not a whole safetensors file: {what}; fetch it again")


def read_header(path: Path) -> dict[str, Stored]:
    """All tensors of a file by name. Raises FormatError where any of them does not lie inside the file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(8)
        if head == b"version ":
            raise _damaged(path, "it is a git-lfs pointer, not the weights")
        length = int.from_bytes(head, "little")
        if size < 8 or length > min(size - 8, 100 << 20):
            raise _damaged(path, f"its header would take {length} of {size} bytes")
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors: dict[str, tuple[Any, ...]] = {
                name: (str(t["dtype"]), tuple(map(int, t["shape"])), *map(int, t["data_offsets"]))
                for name, t in header.items()
            }
        except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError):
            raise _damaged(path, "its header is not what the format says") from None
    found = {}
    for name, (dtype, shape, *ends) in tensors.items():
        width = _WIDTHS.get(dtype)
        if len(ends) != 2 or not 0 <= ends[0] <= ends[1] <= size - 8 - length:
            raise _damaged(path, f"the tensor {name} does not lie inside")
        if any(n < 0 for n in shape) or (width and ends[1] - ends[0] != width * math.prod(shape)):
            raise _damaged(path, f"the tensor {name} of shape {list(shape)} in {dtype} has {ends[1] - ends[0]} bytes")
        found[name] = Stored(dtype, shape, path, 8 + length + ends[0])
    return found


def read_folder(folder: Path) -> dict[str, Stored]:
    """All tensors of a folder's checkpoint: one file, or shards with an index."""
    index, single = folder / "model.safetensors.index.json", folder / "model.safetensors"
    if index.exists():
        try:
            where = dict(json.loads(index.read_text(encoding="utf-8"))["weight_map"])
            names = sorted(set(map(str, where.values())))
        except (ValueError, TypeError, KeyError, RecursionError):
            raise FormatError(f"{index} is not an index of shards: expected a weight_map; fetch it again") from None
        files = [folder / name for name in names]
        if any(file.parent != folder for file in files):
            raise FormatError(f"{index} names files outside the folder; expected shards beside it")
        if missing := [file.name for file in files if not file.exists()]:
            raise FormatError(f"{', '.join(missing)} of {len(files)} shards is missing in {folder}; fetch it")
    elif single.exists():
        files, where = [single], None
    elif files := sorted(folder.glob("*.safetensors")):
        where = None
        if len(files) > 1:
            raise FormatError(
                f"{folder} has {len(files)} safetensors files and no {index.name} that says which is what"
            )
    elif found := [*folder.glob("*.bin"), *folder.glob("*.pth"), *folder.glob("*.pt")]:
        raise FormatError(
            f"{found[0].name} is a pickle, which runs whatever code it holds when it is read, and is refused; save the "
            "model as safetensors (save_pretrained of transformers does)"
        )
    else:
        raise FormatError(f"{folder} holds no model.safetensors and no {index.name}; give a whole model folder")
    tensors: dict[str, Stored] = {}
    for file in files:
        tensors |= read_header(file)
    if where is not None and (lost := sorted(set(where) - set(tensors))):
        raise FormatError(
            f"the tensor {lost[0]} is in no shard, though {index.name} names one for it; fetch them again"
        )
    return tensors

"""An existing GGUF file, or all files of a split, as a source."""

from __future__ import annotations

import re
from pathlib import Path

import gguf
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

from longheads.errors import FileError, FormatError, UnsupportedError

from .encode import SUPPORTED
from .source import Metadata, Source, Tensor

# Written anew for the output, or only about the input's files.
_DROPPED = {"general.file_type", "general.quantization_version", "general.alignment", "split.no", "split.count",
            "split.tensors.count"}  # fmt: skip


def _open(path: Path) -> gguf.GGUFReader:
    try:
        reader = gguf.GGUFReader(path)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # the reader checks little: damage comes out as whatever NumPy makes of it
        raise FormatError(f"{path} is no whole GGUF file ({error}); fetch or convert it again") from None
    if reader.endianess == gguf.GGUFEndian.BIG:
        raise UnsupportedError(f"{path} is big-endian, expected little-endian; convert the original weights instead")
    return reader


def _metadata(reader: gguf.GGUFReader) -> Metadata:
    """All keys of a file, strings as the bytes that they are."""
    found: Metadata = {}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in _DROPPED:
            continue
        kind, element = field.types[0], field.types[-1]
        if kind == Value.ARRAY:
            if len(field.types) > 2:
                raise UnsupportedError(f"the key {name} is an array of arrays, which nothing in a LLaMA model needs")
            strings = element == Value.STRING
            # An empty array says no more than an array of this type; readers accept any.
            items = [field.parts[i].tobytes() if strings else field.parts[i][0].item() for i in field.data]
            found[name] = (items, element)
        elif kind == Value.STRING:
            found[name] = (field.parts[field.data[0]].tobytes(), kind)
        else:
            found[name] = (field.parts[field.data[0]][0].item(), kind)
    return found


def _parts(path: Path, reader: gguf.GGUFReader) -> list[Path]:
    """The files of the split that `path` is the first of; itself where it is none."""
    count = reader.get_field("split.count")
    n = int(count.contents()) if count else 1
    if n <= 1:
        return [path]
    match = re.fullmatch(r"(.*)-00001-of-(\d{5})\.gguf", path.name)
    if not match or int(match[2]) != n:
        raise FormatError(f"{path} is part of a split of {n} files; give the first, NAME-00001-of-{n:05d}.gguf")
    parts = [path.with_name(f"{match[1]}-{i + 1:05d}-of-{n:05d}.gguf") for i in range(n)]
    if missing := [part.name for part in parts if not part.exists()]:
        raise FormatError(f"{', '.join(missing)} of the split of {n} files is missing beside {path}; fetch it")
    return parts


def open_gguf(path: Path) -> Source:
    """Raises FormatError for damage and UnsupportedError for what the runtime could not read either."""
    reader = _open(path)
    parts = _parts(path, reader)  # first: only the first part of a split knows what model it is
    source = Source(_metadata(reader), [])
    architecture = source.metadata.get("general.architecture", (b"", None))[0]
    if architecture != b"llama":
        name = architecture.decode(errors="replace") if isinstance(architecture, bytes) else architecture
        raise UnsupportedError(f"{path} has the architecture {name!r}, expected 'llama'")
    for part in parts:
        reader = reader if part == path else _open(part)
        for t in reader.tensors:
            if t.tensor_type not in SUPPORTED:
                raise UnsupportedError(
                    f"the tensor {t.name} of {part} is of type {t.tensor_type.name}, expected one of "
                    + ", ".join(kind.name for kind in SUPPORTED)
                )
            shape = tuple(int(n) for n in reversed(t.shape))
            source.tensors.append(Tensor(t.name, shape, Type(t.tensor_type), part, int(t.data_offset), t.name))
    if not source.tensors:
        raise UnsupportedError(f"{path} holds no weights, only metadata; give the model's own file")
    return source

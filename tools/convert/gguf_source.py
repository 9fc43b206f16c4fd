"""An existing GGUF file, or all files of a split, as a source."""

from __future__ import annotations

from pathlib import Path

import gguf
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

from longheads import Tokenizer
from longheads.errors import FileError, FormatError, UnsupportedError

from .source import Metadata, Source, Tensor

# Written anew for the output, or only about the input's files.
_DROPPED = {"general.file_type", "general.quantization_version", "general.alignment", "split.no", "split.count",
            "split.tensors.count"}  # fmt: skip


def _open(path: Path) -> gguf.GGUFReader:
    """Of a file that the runtime has accepted: the reader would follow a damaged length for years."""
    try:
        return gguf.GGUFReader(path)
    except OSError as error:
        raise FileError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:  # it is stricter about some things, such as names that are no UTF-8
        raise FormatError(f"the package gguf cannot read {path} ({error}); fetch or convert it again") from None


def _metadata(reader: gguf.GGUFReader) -> Metadata:
    """All keys of a file, strings as the bytes that they are."""
    found: Metadata = {}
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name in _DROPPED:
            continue
        kind, element = field.types[0], field.types[-1]
        if kind == Value.ARRAY:
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
    stem = path.name.removesuffix(f"-00001-of-{n:05d}.gguf")
    return [path, *(path.with_name(f"{stem}-{i + 1:05d}-of-{n:05d}.gguf") for i in range(1, n))]


def open_gguf(path: Path) -> Source:
    """Raises FormatError for damage and UnsupportedError for what the runtime could not read either."""
    Tokenizer(path).close()  # parses and checks all parts of a split
    reader = _open(path)
    source = Source(_metadata(reader), [])
    architecture = source.metadata.get("general.architecture", (b"", None))[0]
    if architecture != b"llama":
        name = architecture.decode(errors="replace") if isinstance(architecture, bytes) else architecture
        raise UnsupportedError(f"{path} has the architecture {name!r}, expected 'llama'")
    for part in _parts(path, reader):
        for t in (reader if part == path else _open(part)).tensors:
            shape = tuple(int(n) for n in reversed(t.shape))
            source.tensors.append(Tensor(t.name, shape, Type(t.tensor_type), part, int(t.data_offset), t.name))
    if not source.tensors:
        raise UnsupportedError(f"{path} holds no weights, only metadata; give the model's own file")
    return source

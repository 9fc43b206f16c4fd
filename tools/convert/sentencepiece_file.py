"""tokenizer.model: a SentencePiece model, which is a message of Protocol Buffers. The few fields that matter are read
here; the package sentencepiece would not tell the normaliser's settings anyway.

Fields: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from longheads.errors import FormatError, UnsupportedError

BPE = 2  # TrainerSpec.ModelType
_KINDS = {1: "unigram", 2: "BPE", 3: "word", 4: "char"}
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)  # the same numbers as GGUF's


@dataclass
class SentencePiece:
    """A vocabulary. types are those above; ids are -1 where there is no such token."""

    tokens: list[bytes]
    scores: list[float]
    types: list[int]
    unk: int = 0
    bos: int = 1
    eos: int = 2
    pad: int = -1
    add_space_prefix: bool = True
    remove_extra_spaces: bool = True


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise ValueError("a number is too long")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of a message: an int for varints, else bytes. Raises ValueError or IndexError for damage."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        if key & 7 == 0:
            value, at = _varint(data, at)
            yield key >> 3, value
            continue
        sizes = {1: 8, 5: 4}
        if key & 7 == 2:
            size, at = _varint(data, at)
        elif key & 7 in sizes:
            size = sizes[key & 7]
        else:
            raise ValueError("no such kind of field")
        if size > len(data) - at:
            raise ValueError("a field is cut short")
        yield key >> 3, data[at : at + size]
        at += size


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def read_sentencepiece(path: Path) -> SentencePiece:
    """Raises FormatError where it is something else, UnsupportedError where it is no BPE."""
    model, kind = SentencePiece([], [], []), 1
    try:
        for number, value in _fields(path.read_bytes()):
            if number == 1:
                piece = dict(_fields(value))
                model.tokens.append(piece[1])
                model.scores.append(struct.unpack("<f", piece[2])[0] if 2 in piece else 0.0)
                model.types.append(int(piece.get(3, NORMAL)))
            elif number == 2:
                trainer = dict(_fields(value))
                kind = int(trainer.get(3, 1))
                for field, name in {40: "unk", 41: "bos", 42: "eos", 43: "pad"}.items():
                    if field in trainer:
                        setattr(model, name, _signed(int(trainer[field])))
            elif number == 3:
                normalizer = dict(_fields(value))
                model.add_space_prefix = bool(normalizer.get(3, 1))
                model.remove_extra_spaces = bool(normalizer.get(4, 1))
        if not model.tokens or not all(isinstance(token, bytes) for token in model.tokens):
            raise ValueError("no pieces")
    except (ValueError, TypeError, IndexError, KeyError, struct.error):
        raise FormatError(f"{path} is not a SentencePiece model; fetch it again") from None
    if kind != BPE:
        raise UnsupportedError(f"{path} is a SentencePiece model of the kind {_KINDS.get(kind, kind)}, expected BPE")
    return model

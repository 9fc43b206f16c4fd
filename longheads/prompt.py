"""Prompts from parts that are trusted and parts that are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from longheads.tokenizer import Tokenizer


class Part(NamedTuple):
    """A stretch of a prompt."""

    text: str
    trusted: bool  #: whether control tokens written in it mean what they say


def encode_parts(tokenizer: Tokenizer, parts: Iterable[Part]) -> list[int]:
    """Token ids of the parts joined, as if encoded at once, but for control tokens: only those of trusted parts count.

    BOS comes first where the file asks for it and the text does not begin with it already; EOS never comes last.
    """
    ids: list[int] = []
    plain: list[str] = []  # text since the last control token; it may span parts

    def flush() -> None:
        if text := "".join(plain):
            ids.extend(tokenizer.encode(text, bos=False, special=False))
            plain.clear()

    for part in parts:
        at = 0
        if part.trusted:
            for match in tokenizer.control_pattern.finditer(part.text):
                plain.append(part.text[at : match.start()])
                flush()
                ids.append(tokenizer.control_tokens[match.group()])
                at = match.end()
        plain.append(part.text[at:])
    flush()
    if tokenizer.adds_bos and tokenizer.bos is not None and ids[:1] != [tokenizer.bos]:
        ids.insert(0, tokenizer.bos)
    return ids


def common_prefix(a: Sequence[int] | NDArray[np.int32], b: Sequence[int] | NDArray[np.int32]) -> int:
    """How many tokens two prompts begin with in common."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n


def ask_about(document: str, question: str) -> str:
    """A document, then a blank line, then the question; either may be empty."""
    return "\n\n".join(text for text in (document.rstrip("\n"), question) if text)

"""Prompts from parts that are trusted and parts that are not."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

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


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def ask_about(document: str, question: str) -> str:
    """A document, then a blank line, then the question; either may be empty."""
    return "\n\n".join(text for text in (document.rstrip("\n"), question) if text)

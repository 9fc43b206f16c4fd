"""Texts with a question at their end, as tokens, and as long as is wanted."""

from __future__ import annotations

import re
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from longheads.chat import ChatTemplate
from longheads.documents import read_text
from longheads.errors import ArgumentError, ContextError, FormatError
from longheads.prompt import common_prefix
from longheads.tokenizer import Tokenizer

# Between what is asked about, where nothing else is said.
CLASSIC_FILLER = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
LONGEST = 5000  # characters of a sentence: what has more, as code or Chinese may have, is cut into pieces
PIECE = 40  # characters of a piece
LACKING = 128  # tokens that a prompt may lack, as many as a long sentence has; or a tenth of it


@dataclass(frozen=True)
class Text:
    """A document, with the task before it; the question; how the answer begins; what then has to come.

    gap: what stands between opening and answer, a space or nothing.
    """

    document: str
    question: str
    opening: str
    answer: str
    gap: str = " "


@dataclass(frozen=True)
class Prompt:
    """A text as tokens."""

    ids: list[int]
    answer: list[int]  # the ids that should follow
    key: str  # what the answer must name
    n_document: int  # of ids, before anything that the question may change


class Encoder:
    """Turns texts into tokens: as a message of a chat that the model's template frames, or as they are."""

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        self._tokenizer, self._template = tokenizer, template

    @property
    def chats(self) -> bool:
        return self._template is not None

    def encode(self, text: Text, answer: str = "") -> list[int]:
        """All of the text, and perhaps the answer. The whole is tokenised at once, so that tokens are right where parts
        meet."""
        asked = f"{text.document}\n{text.question}".strip("\n")
        if self._template:
            framed = self._template.encode([{"role": "user", "content": asked}])
            return framed + self._tokenizer.encode(text.opening + answer, bos=False, special=False)
        opened = f"{asked} {text.opening}".rstrip(" ") + answer
        return self._tokenizer.encode(opened, bos=self._tokenizer.adds_bos, special=False)

    def prompt(self, text: Text) -> Prompt:
        ids, whole = self.encode(text), self.encode(text, text.gap + text.answer)
        if whole[: len(ids)] != ids or len(whole) == len(ids):
            raise ArgumentError(
                "this tokenizer joins the question with its answer, so the answer has no tokens of its own: "
                "the task cannot be measured with this model"
            )
        other = self.encode(Text(text.document, "?", "", ""))
        return Prompt(ids, whole[len(ids) :], text.answer, min(common_prefix(ids, other), len(ids) - 1))

    def fit(self, make: Callable[[int], Text], tokens: int, most: int = sys.maxsize) -> int:
        """The largest n up to `most` for which make(n), longer with every n, has at most `tokens` tokens.

        Raises ContextError where not even make(0) has, ArgumentError where it has far fewer.
        """

        def length(n: int) -> int:
            return len(self.encode(make(n)))

        least = length(0)
        if least > tokens:
            raise ContextError(f"{tokens} tokens are too few: task and question alone take {least}")
        too_many = 1
        while too_many <= most and length(too_many) <= tokens:
            too_many *= 2
        n = bisect_right(range(min(too_many, most + 1)), tokens, lo=too_many // 2, key=length) - 1
        if n < most and tokens - length(n) > max(tokens // 10, LACKING):
            raise ArgumentError(
                f"a prompt of {tokens} tokens comes to {length(n)} only, and to {length(n + 1)} with the filler's next "
                "sentence: raise --lengths, or take a filler of shorter sentences"
            )
        return n


def read_filler(path: Path | None) -> Sequence[str]:
    """The sentences of a book, without its line breaks; without a book the classic ones.

    A text that has none gives pieces, cut between words where it has words.
    """
    if path is None:
        return CLASSIC_FILLER
    text = " ".join(read_text(str(path)).split())
    if not text:
        raise FormatError(f"{path} has no text: a filler needs a sentence at least")
    pieces = re.compile(rf"\S.{{0,{PIECE - 1}}}(?!\S)|\S{{{PIECE}}}")
    sentences = re.split(r"(?<=[.!?]) ", text)
    return [part for s in sentences for part in ([s] if len(s) <= LONGEST else pieces.findall(s))]

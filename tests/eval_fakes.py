"""A tokenizer of words and a session that finds what it was asked for: tests of the evaluation without a model."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np

from longheads.prompt import common_prefix


class Words:
    """Words with their leading space, digits one by one. Loses nothing."""

    adds_bos = False

    def __init__(self) -> None:
        self.ids: dict[str, int] = {}
        self.words: list[str] = []

    def encode(self, text: str, *, bos: bool | None = None, special: bool = True) -> list[int]:
        return [self._id(word) for word in re.findall(r"\d| ?[^\s\d]+|\s", text)]

    def _id(self, word: str) -> int:
        if word not in self.ids:
            self.ids[word] = len(self.words)
            self.words.append(word)
        return self.ids[word]

    def token_bytes(self, id_: int) -> bytes:
        return self.words[id_].encode()

    def decode(self, ids: list[int]) -> str:
        return b"".join(map(self.token_bytes, ids)).decode()

    def is_end(self, id_: int) -> bool:
        return False


class Reader:
    """A session that answers what find(text) says of the text that it was fed, and notes how much it was fed."""

    def __init__(self, tokenizer: Words, find: Callable[[str], str]) -> None:
        self.tokenizer, self.find = tokenizer, find
        self.held: list[int] = []
        self.fed = 0

    def read(self, ids, *, progress=None) -> int:
        keep = min(common_prefix(self.held, ids), len(ids) - 1)
        self.held = self.held[:keep]
        self.feed(ids[keep:])
        if progress:
            progress(len(ids) - keep, len(ids) - keep)
        return len(ids) - keep

    def feed(self, ids) -> None:
        self.held = self.held + list(ids)
        self.fed += len(ids)

    def score(self, ids) -> np.ndarray:
        self.feed(ids)
        return np.array([0.0 if self.tokenizer.token_bytes(id_) == b" " else -1.0 for id_ in ids], np.float32)

    @property
    def logits(self) -> np.ndarray:
        text = self.tokenizer.decode(self.held)
        question = text.rindex("?")
        opening = text.rindex(" is", question) + 3
        following = f"{self.find(text)}. And that is that."[len(text) - opening :]
        logits = np.zeros(20_000)
        logits[self.tokenizer.encode(following)[0]] = 1
        return logits

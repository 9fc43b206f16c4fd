"""Random vocabularies in GGUF files, what they mean by the definition, and texts for tokenizers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import native
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

gguf = pytest.importorskip("gguf", reason="these tests write vocabularies with the package gguf")

Value = gguf.GGUFValueType

MEGABYTE = 1 << 20

relaxed = settings(deadline=None, suppress_health_check=list(HealthCheck))

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6


# --- vocabularies --------------------------------------------------------------------------------------------------


def write_vocab(path: Path, model: str, tokens: list[str | bytes], **keys: Any) -> Path:
    """A GGUF file with nothing but a vocabulary. keys: tokenizer.ggml.KEY; a value of None leaves the key out."""
    types: dict[type, Any] = {
        bool: Value.BOOL,
        int: Value.UINT32,
        float: Value.FLOAT32,
        str: Value.STRING,
        bytes: Value.STRING,
    }
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in {"model": model, "tokens": tokens, **keys}.items():
        name = f"tokenizer.ggml.{key}"
        if value is None:
            continue
        if isinstance(value, list):
            kind = Value.INT32 if isinstance(value[0], int) else types[type(value[0])]
            writer.add_key_value(name, value, Value.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(name, value, types[type(value)])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def alphabet() -> list[str]:
    """The character that byte-level BPE writes for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(others)) for b in range(256)]


ALPHABET = alphabet()
BYTE_TOKENS = [f"<0x{b:02X}>" for b in range(256)]


def spell(data: bytes) -> str:
    """Bytes as a byte-level vocabulary writes them."""
    return "".join(ALPHABET[b] for b in data)


class Bpe:
    """A random byte-level vocabulary: <s>, <|im_end|> and <user> (user-defined), the bytes, and random merges."""

    special = ["<s>", "<|im_end|>", "<user>"]

    def __init__(self, seed: int, letters: bytes, n_merges: int) -> None:
        rng = random.Random(seed)
        parts = [bytes([b]) for b in letters]
        self.ranks: dict[tuple[bytes, bytes], int] = {}
        pieces: dict[bytes, None] = {}
        while len(self.ranks) < n_merges:
            left, right = rng.choice(parts), rng.choice(parts)
            if (left, right) in self.ranks or len(left + right) > 12:
                continue
            self.ranks[left, right] = len(self.ranks)
            if left + right not in pieces:
                pieces[left + right] = None
                parts.append(left + right)
        self.tokens = [bytes([b]) for b in range(256)] + list(pieces)
        self.ids = {token: i + len(self.special) for i, token in enumerate(self.tokens)}

    def write(self, path: Path, **keys: Any) -> Path:
        tokens = self.special + [spell(t) for t in self.tokens]
        types = [CONTROL, CONTROL, USER_DEFINED] + [NORMAL] * len(self.tokens)
        merges = [f"{spell(a)} {spell(b)}" for a, b in self.ranks]
        defaults = {"token_type": types, "merges": merges, "pre": "gpt-2", "bos_token_id": 0, "eos_token_id": 1}
        return write_vocab(path, "gpt2", tokens, **defaults | keys)

    def encode_word(self, word: bytes) -> list[int]:
        """By the definition: merge the leftmost of the pairs with the lowest rank until no pair merges."""
        parts = [bytes([b]) for b in word]
        while pairs := [(self.ranks[p], i) for i, p in enumerate(pairwise(parts)) if p in self.ranks]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        return [self.ids[part] for part in parts]


class Spm:
    """A random SentencePiece vocabulary: <unk>, <s>, </s>, perhaps bytes, and pieces with random scores, some equal."""

    def __init__(self, seed: int, letters: str, n_pieces: int, *, byte_tokens: bool = True) -> None:
        rng = random.Random(seed)
        pieces = dict.fromkeys(letters)
        while len(pieces) < n_pieces:
            piece = rng.choice(list(pieces)) + rng.choice(list(pieces))
            if len(piece) <= 8:
                pieces[piece] = None
        self.byte_tokens = BYTE_TOKENS if byte_tokens else []
        first = 3 + len(self.byte_tokens)
        self.ids = {piece: first + i for i, piece in enumerate(pieces)}
        self.scores = {piece: -float(rng.randrange(n_pieces // 2)) for piece in pieces}

    def write(self, path: Path, **keys: Any) -> Path:
        tokens = ["<unk>", "<s>", "</s>", *self.byte_tokens, *self.ids]
        types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * len(self.byte_tokens) + [NORMAL] * len(self.ids)
        scores = [0.0] * (len(tokens) - len(self.ids)) + [self.scores[p] for p in self.ids]
        return write_vocab(path, "llama", tokens, **{"token_type": types, "scores": scores} | keys)

    def encode(self, text: str) -> list[int]:
        """By the definition: merge the leftmost of the pairs with the best score until no pair is a piece."""
        parts = list("▁" + text.replace(" ", "▁"))
        while pairs := [(-self.scores[a + b], i) for i, (a, b) in enumerate(pairwise(parts)) if a + b in self.ids]:
            _, i = min(pairs)
            parts[i : i + 2] = [parts[i] + parts[i + 1]]
        ids: list[int] = []
        for part in parts:
            if part in self.ids:
                ids.append(self.ids[part])
            else:
                ids += [3 + b for b in part.encode()] if self.byte_tokens else [0]
        return ids


# --- texts ---------------------------------------------------------------------------------------------------------

# What pre-tokenizers and vocabularies treat in a way of its own.
FRAGMENTS = [
    *"aZé ß'\"!?.,;:$+=^|`~_-/\\#@(){}[]0123456789\n\r\t\x0b\x0c\x00\x1c\x7f\x85",
    "  ", "   ", "\r\n", "\n\n", " \n", "'s", "'S", "'ll", "'RE", "'ſ", "don't", "Hello", " world", "HTTPServer",
    "ǅ", "ʰ", "ª", "\u00a0", "\u1680", "\u2003", "\u2028", "\u202f", "\u3000", "\ufeff", "\u200d", "\u00ad",
    "\u0301", "\u0903", "\u20dd", "١٢", "²", "Ⅳ", "½", "𝟘", "七", "漢字", "かな", "カナ", "한국", "ไทย", "हिन्दी",
    "עברית", "ضَرَبَ", "русский", "ქართული", "😀", "👨\u200d👩\u200d👧", "🇩🇪", "👍🏽", "€", "∑", "→", "…", "。", "，",
    "«", "‘", "\U000e0001", "\U00010ffd", "\ufffd", "<s>", "</s>", "▁",
]  # fmt: skip

# Unassigned code points are left out: libraries with other Unicode versions disagree about them.
CHARACTERS = st.characters(exclude_categories=["Cs", "Cn"])
TEXTS = st.lists(st.one_of(st.sampled_from(FRAGMENTS), CHARACTERS), max_size=30).map("".join)
LETTERS = st.text(alphabet="aabbc é'", max_size=60)


def random_texts(seed: int, n: int) -> Iterator[str]:
    """Texts like TEXTS, fast enough to have thousands."""
    rng = random.Random(seed)
    ascii_letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    for _ in range(n):
        parts = []
        for _ in range(rng.randrange(1, 40)):
            kind = rng.randrange(4)
            parts.append(rng.choice(FRAGMENTS) if kind else "".join(rng.choices(ascii_letters, k=rng.randrange(1, 9))))
            if rng.randrange(8) == 0:
                parts[-1] *= rng.randrange(2, 6)
        yield "".join(parts)


def book(n: int = MEGABYTE) -> str:
    return native.data("books/war_and_peace.txt").read_text(encoding="utf-8")[:n]


# --- pre-tokenizers ------------------------------------------------------------------------------------------------

GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTION = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
OTHER = r" ?[^\s\p{L}\p{N}]+"
LLAMA3 = rf"{CONTRACTION}|{WORD}|\p{{N}}{{1,3}}|{OTHER}[\r\n]*|{SPACES}"
QWEN2 = rf"{CONTRACTION}|{WORD}|\p{{N}}|{OTHER}[\r\n]*|{SPACES}"
UPPERS, LOWERS = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
LEAD = r"[^\r\n\p{L}\p{N}]?"

# The published expressions, each splitting the pieces of the one before.
PUBLISHED = {
    "gpt-2": [GPT2],
    "smollm": [r"\p{N}", GPT2],
    "llama-bpe": [LLAMA3],
    "qwen2": [QWEN2],
    "default": [r"[\p{P}$+<=>^~|]+", GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"],
    "falcon": [r"[\p{P}$+<=>^~|`]+", GPT2, r"[0-9][0-9][0-9]"],
    "tekken": [rf"{LEAD}{UPPERS}*{LOWERS}+|{LEAD}{UPPERS}+{LOWERS}*|\p{{N}}|{OTHER}[\r\n/]*|{SPACES}"],
    "gpt-4o": [
        rf"{LEAD}{UPPERS}*{LOWERS}+{CONTRACTION}?|{LEAD}{UPPERS}+{LOWERS}*{CONTRACTION}?|"
        rf"\p{{N}}{{1,3}}|{OTHER}[\r\n/]*|{SPACES}"
    ],
    "seed-coder": [rf"{CONTRACTION}|{WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{SPACES}"],
    "minicpm5": [r"\p{N}{1,3}", rf"{CONTRACTION}|{WORD}|\p{{N}}+|{OTHER}[\r\n]*|{SPACES}"],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-\ud7ff]+", r"\p{N}"],
    "deepseek-llm": [
        r"[\r\n]",
        # Letters with case in the scripts that the texts here have; the whole list is long.
        r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓ\u0370-\u0373Ά-ϵϷ-ҁҊ-ԯႠ-Ⴥ]+",
        "\\s?[!-/:-~！-／：-～‘-‟\u3000-。]+",
        r"\s+\z",
        "[一-龥ࠀ-一가-\ud7ff]+",
        r"\p{N}",
    ],
    "viking": [r" ?[^(\s|.,!?…。，、।۔،)]+", r"\p{N}"],
    "poro-chat": [r" ?[^(\s|.,!?…。，、।۔،)]+"],
}

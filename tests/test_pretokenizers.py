"""Pre-tokenizers, under sanitizers, against the published expressions."""

from __future__ import annotations

import struct
import subprocess
import unicodedata

import native
import pytest
from vocabularies import PUBLISHED, random_texts

ALIASES = {
    "llama-bpe": ["llama3", "llama-v3", "falcon3", "pixtral", "lfm2", "smaug-bpe", "dbrx", "glm4", "chatglm-bpe"],
    "gpt-2": ["phi-2", "olmo", "mpt", "jais", "gigachat", "mellum", "trillion", "exaone4"],
    "smollm": ["starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
    "qwen2": ["deepseek-r1-qwen", "megrez", "stablelm2", "hunyuan"],
    "gpt-4o": ["llama4"],
}

SAMPLE = "I'll  see HTTPServer's 12345 x²\n\n  été…漢字 don'T\t\t!"
SPLITS = {
    "gpt-2": "I|'ll| | see| HTTPServer|'s| 12345| x|²|\n\n | été|…|漢字| don|'|T|\t|\t|!",
    "smollm": "I|'ll| | see| HTTPServer|'s| |1|2|3|4|5| x|²|\n\n | été|…|漢字| don|'|T|\t|\t|!",
    "llama-bpe": "I|'ll| | see| HTTPServer|'s| |123|45| x|²|\n\n| | été|…漢字| don|'T|\t|\t|!",
    "qwen2": "I|'ll| | see| HTTPServer|'s| |1|2|3|4|5| x|²|\n\n| | été|…漢字| don|'T|\t|\t|!",
    "tekken": "I|'ll| | see| HTTPServer|'s| |1|2|3|4|5| x|²|\n\n| | été|…漢字| don|'T|\t|\t|!",
    "gpt-4o": "I'll| | see| HTTPServer's| |123|45| x|²|\n\n| | été|…漢字| don'T|\t|\t|!",
    "default": "I|'|ll| | see| HTTPServer|'|s| |123|45| x|²|\n\n | été|…|漢字| don|'|T|\t\t|!",
    "falcon": "I|'|ll| | see| HTTPServer|'|s| |123|45| x|²|\n\n | été|…|漢字| don|'|T|\t\t|!",
}  # fmt: skip


def pretokenize(name: str, texts: list[str]) -> list[list[str]]:
    """The pieces of each text, by the native code under sanitizers."""
    sources = [
        "tests/c/pretokenize.c",
        "runtime/tokenizer_pre.c",
        "runtime/unicode.c",
        "runtime/unicode_tables.c",
        "runtime/base.c",
    ]
    program = native.build_sanitized("pretokenize", sources)
    stdin = b"".join(struct.pack("<I", len(data)) + data for data in (text.encode() for text in texts))
    out = subprocess.run([program, name], input=stdin, capture_output=True, check=True).stdout
    result: list[list[str]] = []
    pieces: list[str] = []
    at = 0
    while at < len(out):
        (n,) = struct.unpack_from("<I", out, at)
        at += 4
        if n == 0:
            result.append(pieces)
            pieces = []
        else:
            pieces.append(out[at : at + n].decode())
            at += n
    return result


@pytest.mark.parametrize("name", SPLITS)
def test_pretokenizer_samples(name: str) -> None:
    assert "|".join(pretokenize(name, [SAMPLE])[0]) == SPLITS[name]


@pytest.mark.parametrize("name", PUBLISHED)
def test_pretokenizers_equal_the_published_expressions(name: str) -> None:
    tokenizers = pytest.importorskip(
        "tokenizers", reason="the package tokenizers, which runs the published expressions, is not installed"
    )
    pre = tokenizers.pre_tokenizers
    oracle = pre.Sequence([pre.Split(tokenizers.Regex(e), "isolated") for e in PUBLISHED[name]])
    texts = list(random_texts(7, 3000))
    for text, pieces in zip(texts, pretokenize(name, texts), strict=True):
        assert pieces == [piece for piece, _ in oracle.pre_tokenize_str(text)], text
    for alias in ALIASES.get(name, []):
        assert pretokenize(alias, texts[:200]) == pretokenize(name, texts[:200])


def test_classes_of_characters() -> None:
    """Every code point, through the expressions of Tekken and GPT-2: \\p{L}, \\p{N}, \\s, case and marks."""
    tokenizers = pytest.importorskip(
        "tokenizers", reason="the package tokenizers, which knows classes of characters, is not installed"
    )
    assigned = [chr(c) for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs")]
    texts = ["".join(f"A{c}a {c}{c}1{c}" for c in assigned[i : i + 500]) for i in range(0, len(assigned), 500)]
    for name in ["tekken", "gpt-2"]:
        oracle = tokenizers.pre_tokenizers.Split(tokenizers.Regex(PUBLISHED[name][0]), "isolated")
        for text, pieces in zip(texts, pretokenize(name, texts), strict=True):
            assert pieces == [piece for piece, _ in oracle.pre_tokenize_str(text)]



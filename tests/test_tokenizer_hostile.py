"""Texts and vocabularies meant to be slow or to crash."""

from __future__ import annotations

import subprocess
import time
from functools import cache
from pathlib import Path

import native
import pytest
from vocabularies import (
    ALPHABET,
    BYTE,
    BYTE_TOKENS,
    CONTROL,
    MEGABYTE,
    NORMAL,
    UNKNOWN,
    USER_DEFINED,
    spell,
    write_vocab,
)  # fmt: skip

from longheads import Tokenizer
from longheads.errors import ArgumentError

HOSTILE_SECONDS = 10  # of a processor, for a megabyte; what is quadratic takes hours
FUZZ_RUNS = 3000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocab")


HOSTILE = [
    "a",
    "ab",
    " ",
    "\n",
    "\r\n",
    "\t ",
    " a",
    "7",
    "'",
    "😀",
    "漢",
    "\u0301",
    "\0",
    "<",
    "<|im",
    "<|im_end|>",
    "</s",
    "é'",
]


@cache
def hostile_tokenizers(folder: Path) -> list[Tokenizer]:
    """Vocabularies with tokens for long runs, and hundreds of special tokens that begin alike."""
    runs = [unit * (1 << k) for unit in ["a", " ", "\n", "'", "7", "ab"] for k in range(7)]
    specials = [f"<|im_reserved_{i}|>" for i in range(500)] + ["\n" * n for n in range(20, 32)] + ["<|im_end|>"]
    kinds = [CONTROL] * 500 + [USER_DEFINED] * 12 + [CONTROL]
    pieces = [*ALPHABET, *(spell(r.encode()) for r in runs if len(r) > 1)]
    merges = [
        f"{spell((u * n).encode())} {spell((u * n).encode())}"
        for u in ["a", " ", "\n", "'", "7"]
        for n in (1, 2, 4, 8, 16, 32)
    ]
    merges = ["a b", *merges, *(f"{'ab' * n} {'ab' * n}" for n in (1, 2, 4, 8, 16, 32))]
    types = [NORMAL] * len(pieces) + kinds
    found = [
        Tokenizer(
            write_vocab(
                folder / f"{pre}.gguf",
                "gpt2",
                [*pieces, *specials],
                token_type=types,
                merges=merges,
                pre=pre,
                bos_token_id=0,
            )
        )
        for pre in ["smollm", "llama-bpe", "default", "tekken", "deepseek-llm"]
    ]
    fixed = ["<unk>", "<s>", "</s>", *BYTE_TOKENS]
    for inside in ([], ["a▁a"]):  # word by word, and the whole text at once
        tokens = [*fixed, *dict.fromkeys(["▁", "b", *(r.replace(" ", "▁") for r in runs), *inside]), *specials]
        n = len(tokens) - len(fixed) - len(specials)
        types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * n + kinds
        scores = [0.0] * 259 + [float(len(t)) for t in tokens[259:]]
        found.append(
            Tokenizer(write_vocab(folder / f"runs{len(inside)}.gguf", "llama", tokens, token_type=types, scores=scores))
        )
    return found


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_texts_take_linear_time(folder: Path, unit: str) -> None:
    text = unit * (MEGABYTE // len(unit.encode()))
    for tokenizer in hostile_tokenizers(folder):
        start = time.process_time()
        ids = tokenizer.encode(text, bos=False)
        assert time.process_time() - start < HOSTILE_SECONDS
        assert text.startswith(tokenizer.decode(ids[:1000], special=True).rstrip("\ufffd"))


def test_a_text_that_positions_cannot_number(folder: Path) -> None:
    from longheads._core import ffi, lib
    from longheads.errors import check

    n = ffi.new("int64_t *")
    with pytest.raises(ArgumentError, match="too long"):  # before the first byte is read
        check(lib.lh_tokenize(hostile_tokenizers(folder)[0]._pointer, b"a", 2**31, -1, True, ffi.NULL, 0, n))


@pytest.mark.parametrize("seed", [1, 2])
def test_random_vocabularies_and_texts(seed: int) -> None:
    """The fuzz target without its fuzzer, under sanitizers; what it promises stands at its top."""
    sources = ["tests/c/fuzz_tokenizer.c", "tests/c/run_fuzzer.c", *native.GGUF]
    sources += [
        str(path.relative_to(native.ROOT))
        for name in ["tokenizer", "unicode"]
        for path in native.ROOT.glob(f"runtime/{name}*.c")
    ]
    program = native.build_sanitized("run_fuzzer", sorted(sources))
    done = subprocess.run([program, str(FUZZ_RUNS), str(seed)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]



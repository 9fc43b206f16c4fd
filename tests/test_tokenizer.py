"""Tokenizers against vectors and against naive ones; special tokens; streaming; files that cannot be used."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import native
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from vocabularies import (
    ALPHABET,
    BYTE,
    BYTE_TOKENS,
    CONTROL,
    LETTERS,
    NORMAL,
    TEXTS,
    UNKNOWN,
    USER_DEFINED,
    Bpe,
    Spm,
    relaxed,
    write_vocab,
)  # fmt: skip

from longheads import Tokenizer
from longheads.errors import ArgumentError, FormatError, UnsupportedError
from longheads.tokenizer import Detokenizer


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocab")


BPE_LETTERS, SPM_LETTERS = b"abc '\xc3\xa9", "▁abcé"


@cache
def bpe_vocab() -> Bpe:
    return Bpe(1, BPE_LETTERS, 150)


@pytest.fixture(scope="module")
def bpe(folder: Path) -> Tokenizer:
    return Tokenizer(bpe_vocab().write(folder / "bpe.gguf"))


@cache
def spm_vocab() -> Spm:
    return Spm(1, SPM_LETTERS, 150)


@pytest.fixture(scope="module")
def spm(folder: Path) -> Tokenizer:
    return Tokenizer(spm_vocab().write(folder / "spm.gguf"))


# --- vectors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-spm", "llama-bpe", "gpt-2"])
def test_vectors(name: str) -> None:
    path = native.data(f"vocab/ggml-vocab-{name}.gguf")
    texts = path.with_name(path.name + ".inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = path.with_name(path.name + ".out").read_text().split("\n")
    assert len(texts) == 47
    tokenizer = Tokenizer(path)
    for text, line in zip(texts, lines, strict=True):
        # They were made without special tokens around the text or in it.
        assert tokenizer.encode(text, bos=False, special=False) == [int(n) for n in line.split()], text


def test_tokens_at_both_ends_of_the_real_vocabularies() -> None:
    llama, llama3, gpt2 = (
        Tokenizer(native.data(f"vocab/ggml-vocab-{name}.gguf")) for name in ["llama-spm", "llama-bpe", "gpt-2"]
    )
    assert llama.encode("Hello") == [1, 15043] and llama.encode("Hello", bos=False) == [15043]
    assert llama3.encode("Hello") == [128000, 9906]
    assert gpt2.encode("Hello") == [15496] and gpt2.encode("Hello", bos=True) == [50256, 15496]
    # <|end_of_text|> and <|eot_id|>
    assert [i for i in range(llama3.n_vocab) if llama3.is_end(i)] == [128001, 128009]


# --- the two algorithms --------------------------------------------------------------------------------------------


@relaxed
@given(text=LETTERS)
def test_bpe_equals_its_definition(bpe: Tokenizer, text: str) -> None:
    words = re.findall(r"'s|'t|'re|'ve|'m|'ll|'d| ?[abcé]+| ?'+|\s+(?!\S)|\s+", text)
    assert "".join(words) == text
    assert bpe.encode(text, bos=False) == [i for word in words for i in bpe_vocab().encode_word(word.encode())]


@relaxed
@given(text=LETTERS)
def test_spm_equals_its_definition(spm: Tokenizer, text: str) -> None:
    assert spm.encode(text, bos=False) == (spm_vocab().encode(text) if text else [])


@relaxed
@given(text=LETTERS)
def test_spm_with_words_apart(folder: Path, text: str) -> None:
    # Without a piece that has a mark inside, the text is taken word by word.
    vocab = spm_apart()
    assert apart_tokenizer(folder).encode(text, bos=False) == (vocab.encode(text) if text else [])


@cache
def spm_apart() -> Spm:
    vocab = Spm(2, SPM_LETTERS, 400)
    for piece in [p for p in vocab.ids if re.search("[^▁]▁", p)]:
        del vocab.ids[piece]
    vocab.ids = {piece: 259 + i for i, piece in enumerate(vocab.ids)}
    return vocab


@cache
def apart_tokenizer(folder: Path) -> Tokenizer:
    return Tokenizer(spm_apart().write(folder / "apart.gguf"))


def test_spm_space_prefix(folder: Path) -> None:
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS, "▁", "a", "▁a", "▁▁", "<user>"]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * 4 + [USER_DEFINED]
    scores = [0.0] * len(tokens)
    mark, a, mark_a, marks, user = range(259, 264)

    def make(**keys: Any) -> Tokenizer:
        return Tokenizer(write_vocab(folder / "prefix.gguf", "llama", tokens, token_type=types, scores=scores, **keys))

    t = make()
    assert t.encode("a") == [1, mark_a] and t.encode("") == [1] and t.encode("", bos=False) == []
    assert t.encode(" a", bos=False) == [marks, a]
    assert t.encode("a</s>a", bos=False) == [mark_a, 2, mark_a]  # again after a special token
    assert t.encode("a<user>a", bos=False, special=False) == [mark_a, user, mark_a]
    assert t.encode("</s>", bos=False, special=False) == [mark, *(3 + b for b in b"</s>")]
    assert t.encode("▁a", bos=False) == t.encode(" a", bos=False)  # the mark is a space
    assert t.encode("\n\0é", bos=False) == [mark, 3 + 10, 3, 3 + 0xC3, 3 + 0xA9]

    t = make(add_space_prefix=False)
    assert t.encode("a", bos=False) == [a] and t.encode("a</s>a", bos=False) == [a, 2, a]

    t = make(remove_extra_whitespaces=True)
    assert t.encode("  a   a  ", bos=False) == [mark_a, mark_a] and t.encode("   ", bos=False) == []

    t = make(add_bos_token=False, add_eos_token=True)
    assert t.encode("a") == [mark_a, 2] and not t.adds_bos
    assert t.encode("a", bos=True) == [1, mark_a] and t.encode("a", bos=False) == [mark_a]


def test_spm_without_byte_tokens(folder: Path) -> None:
    vocab = Spm(3, "▁ab", 20, byte_tokens=False)
    t = Tokenizer(vocab.write(folder / "no-bytes.gguf"))
    assert t.encode("aéb", bos=False) == vocab.encode("aéb")
    assert 0 in t.encode("é", bos=False)


def test_bpe_takes_whole_words_where_merges_are_ignored(folder: Path) -> None:
    # 'abc' has no merge that makes it; only pre-tokenizers like Llama 3's find it all the same.
    tokens = ["<s>", *ALPHABET, "ab", "abc"]
    keys = {"token_type": [CONTROL] + [NORMAL] * 258, "merges": ["a b"], "bos_token_id": 0}
    a, b = 1 + ord("a"), 1 + ord("b")
    for pre, expected in {"llama-bpe": [258], "gpt-2": [257, 1 + ord("c")]}.items():
        t = Tokenizer(write_vocab(folder / "ignore.gguf", "gpt2", tokens, pre=pre, **keys))
        assert t.encode("abc", bos=False) == expected
        assert t.encode("ba", bos=False) == [b, a]
        assert t.adds_bos == (pre == "llama-bpe")


def test_bpe_leaves_out_bytes_that_it_lacks(folder: Path) -> None:
    tokens = [*ALPHABET[:128], *ALPHABET[129:]]
    t = Tokenizer(write_vocab(folder / "gap.gguf", "gpt2", tokens, merges=["a b", "x yz"]))
    assert t.encode("a\u0080b") == [97, 0xC2 - 1, 98]
    assert t.bos is None and t.eos is None


def test_merges_that_lead_nowhere_are_skipped(folder: Path) -> None:
    t = Tokenizer(write_vocab(folder / "m.gguf", "gpt2", [*ALPHABET, "bc"], merges=["a b", "b c", "€ c"]))
    assert t.encode("abc") == [97, 256]


def test_equal_tokens(folder: Path) -> None:
    t = Tokenizer(write_vocab(folder / "equal.gguf", "gpt2", [*ALPHABET, "ab", "ab"], merges=["a b"]))
    assert t.encode("ab") == [256] and t.token_bytes(257) == b"ab"


# --- special tokens ------------------------------------------------------------------------------------------------

SPECIALS = {
    "a": USER_DEFINED,
    "ab": CONTROL,
    "ba": CONTROL,
    "aba": USER_DEFINED,
    "bbab": CONTROL,
    "é": CONTROL,
    "cabc": CONTROL,
}


def naive_partition(text: str, specials: dict[str, int], special: bool) -> list[str | int]:
    """Split at all special tokens of one length, then at the next shorter ones; a str is text that is left."""
    parts: list[str | int] = [text]
    wanted = {name: i for i, name in enumerate(specials) if special or specials[name] == USER_DEFINED}
    for length in sorted({len(name.encode()) for name in wanted}, reverse=True):
        pattern = "|".join(name for name in wanted if len(name.encode()) == length)
        split: list[str | int] = []
        for part in parts:
            pieces = re.split(f"({pattern})", part) if isinstance(part, str) else [part]
            split += [wanted[piece] if k % 2 else piece for k, piece in enumerate(pieces)]
        parts = [part for part in split if part != ""]
    return parts


@relaxed
@given(text=st.text(alphabet="abcé", max_size=40), special=st.booleans())
def test_special_tokens_are_matched_longest_first(folder: Path, text: str, special: bool) -> None:
    expected: list[int] = []
    for part in naive_partition(text, SPECIALS, special):
        expected += [part] if isinstance(part, int) else [len(SPECIALS) + b for b in part.encode()]
    assert specials_tokenizer(folder).encode(text, special=special) == expected


@cache
def specials_tokenizer(folder: Path) -> Tokenizer:
    keys = {"token_type": [*SPECIALS.values()] + [NORMAL] * 256, "merges": ["a b"]}
    return Tokenizer(write_vocab(folder / "special.gguf", "gpt2", [*SPECIALS, *ALPHABET], **keys))


def test_special_tokens_do_not_come_out_of_merges(folder: Path) -> None:
    # A stranger's text must not become a control token by way of a merge that makes the same bytes.
    tokens = ["<s>", *ALPHABET, "<s"]
    keys = {"token_type": [CONTROL] + [NORMAL] * 257, "merges": ["< s", "<s >"], "bos_token_id": 0}
    t = Tokenizer(write_vocab(folder / "stranger.gguf", "gpt2", tokens, **keys))
    assert t.encode("<s>") == [0] and 0 not in t.encode("<s>", special=False)
    tokens = ["<unk>", "<s>", "</s>", *BYTE_TOKENS, "▁", "<", "s", ">", "<s"]
    types = [UNKNOWN, CONTROL, CONTROL] + [BYTE] * 256 + [NORMAL] * 5
    t = Tokenizer(write_vocab(folder / "stranger.gguf", "llama", tokens, token_type=types, scores=[0.0] * len(tokens)))
    assert t.encode("<s>", bos=False) == [1]
    assert t.encode("<s>", bos=False, special=False) == [259, 263, 262]
    assert t.decode(t.encode("<0x41><unk>", bos=False, special=False)) == "<0x41><unk>"


def test_ends(folder: Path) -> None:
    named = ["<|im_end|>", "<|eot_id|>", "<|end|>", "</s>", "<｜end▁of▁sentence｜>", "<end_of_turn>", "<|fim_pad|>"]
    tokens = [*ALPHABET, *named, "<eot>", "<eom>", "<eos of the file>", "<|im_start|>"]
    n = len(ALPHABET)
    types = [NORMAL] * n + [NORMAL] * len(named) + [CONTROL] * 4
    ids = {"eot_token_id": n + 7, "eom_token_id": n + 8, "eos_token_id": n + 9, "padding_token_id": 2**32 - 1}
    t = Tokenizer(write_vocab(folder / "ends.gguf", "gpt2", tokens, token_type=types, merges=["a b"], **ids))
    assert [i for i in range(t.n_vocab) if t.is_end(i)] == [*range(n, n + 10)]
    # Those named so are control tokens, whatever the file says.
    assert [i for i in range(t.n_vocab) if t.is_control(i)] == [*range(n, n + 11)]
    assert not t.is_end(-1) and not t.is_end(t.n_vocab) and not t.is_control(-1) and not t.is_control(t.n_vocab)
    assert t.eos == n + 9 and t.bos is None
    with pytest.raises(ArgumentError, match="BOS"):
        t.encode("a", bos=True)


def test_turns_are_not_begun_by_what_is_read(folder: Path) -> None:
    """Files that call <|im_start|> user-defined would have it found in any text."""
    named = ["<|im_start|>", "[INST]", "<|user|>", "<own>"]
    tokens, n = [*ALPHABET, *named], len(ALPHABET)
    types = [NORMAL] * n + [USER_DEFINED] * len(named)
    t = Tokenizer(write_vocab(folder / "turns.gguf", "gpt2", tokens, token_type=types, merges=["a b"]))
    text = "".join(named)
    assert t.encode(text, special=True) == [n, n + 1, n + 2, n + 3]
    read = t.encode(text, special=False)
    assert not {n, n + 1, n + 2} & set(read) and n + 3 in read
    assert t.decode(read) == text


# --- back to text --------------------------------------------------------------------------------------------------


@relaxed
@given(text=TEXTS.filter(lambda text: "<" not in text))
def test_round_trip(bpe: Tokenizer, spm: Tokenizer, text: str) -> None:
    assert bpe.decode(bpe.encode(text)) == text
    assert spm.decode(spm.encode(text)) == text.replace("▁", " ")


@cache
def beginnings() -> set[bytes]:
    """Bytes that more bytes make a character of. The last byte of one has 64 values."""
    characters = (chr(c).encode() for c in range(0x80, 0x110000, 64) if not 0xD800 <= c < 0xE000)
    return {c[:n] for c in characters for n in range(1, len(c))}


def settled(data: bytes) -> str:
    """The text of what no further byte can change, U+FFFD for each maximal subpart of what is none.

    Python's incremental decoder would do, but that it waits for the third byte of a surrogate.
    """
    waiting = next((n for n in (3, 2, 1) if n <= len(data) and data[-n:] in beginnings()), 0)
    return data[: len(data) - waiting].decode("utf-8", "replace")


@relaxed
@example(ids=[240, 163])  # 0xED 0xA0, of which nothing can become any more
@given(ids=st.lists(st.integers(0, 400), max_size=40))
def test_streaming_never_gives_half_a_character(bpe: Tokenizer, spm: Tokenizer, ids: list[int]) -> None:
    for tokenizer, hidden in [(bpe, {0, 1}), (spm, {0, 1, 2})]:
        detokenizer = Detokenizer(tokenizer)
        at_start = tokenizer is spm
        valid = [i for i in ids if i < tokenizer.n_vocab]
        pieces, known = [], b""
        for i in valid:
            data = b"" if i in hidden else tokenizer.token_bytes(i)
            if data and at_start:
                data, at_start = data.removeprefix(b" "), False
            known += data
            pieces.append(detokenizer.push(i))
            assert "".join(pieces) == settled(known)
        pieces.append(detokenizer.flush())
        assert "".join(pieces) == known.decode("utf-8", "replace")
        assert "".join(pieces) == tokenizer.decode(valid)


def test_detokenizer(bpe: Tokenizer, spm: Tokenizer) -> None:
    assert bpe.decode([0, 1, 2]) == "<user>" and bpe.decode([0, 1, 2], special=True) == "<s><|im_end|><user>"
    a = spm.encode("a", bos=False)
    assert spm.decode([1, *a, *a]) == "a a" and spm.decode([1, *a], special=True) == "<s> a"
    # To go on with a text, show the detokenizer the end of that text first.
    going_on = Detokenizer(spm)
    assert [going_on.push(i) for i in a] and "".join([going_on.push(i) for i in a]) == " a"
    for bad in [-1, bpe.n_vocab]:
        with pytest.raises(ArgumentError):
            Detokenizer(bpe).push(bad) if bad >= 0 else bpe.token_bytes(bad)
    # Flushing begins again.
    half = Detokenizer(spm)
    assert (
        half.push(3 + 0xF0) == ""
        and half.push(3 + 0x9F) == ""
        and half.flush() == "\ufffd"
        and "".join(map(half.push, a)) == "a"
    )


def test_token_bytes(bpe: Tokenizer, spm: Tokenizer) -> None:
    assert bpe.token_bytes(0) == b"<s>" and bpe.token_bytes(3 + 0x80) == b"\x80"
    assert spm.token_bytes(3 + 0x80) == b"\x80" and spm.token_bytes(spm_vocab().ids["▁"]) == b" "


# --- files that cannot be used -------------------------------------------------------------------------------------

GOOD_BPE = {"tokens": [*ALPHABET, "ab"], "merges": ["a b"], "token_type": [NORMAL] * 257, "pre": "gpt-2"}
GOOD_SPM = {
    "tokens": ["<unk>", "<s>", "</s>", *BYTE_TOKENS],
    "scores": [0.0] * 259,
    "token_type": [2, 3, 3] + [BYTE] * 256,
}


@pytest.mark.parametrize(
    ("model", "change", "error", "says"),
    [
        ("bert", {}, UnsupportedError, "'bert'"),
        ("gpt2", {"pre": "no-such\n"}, UnsupportedError, "no-such.*llama-bpe"),
        ("gpt2", {"merges": None}, FormatError, "merges is missing"),
        ("gpt2", {"merges": ["ab"]}, FormatError, "merge 0 is 'ab'"),
        ("gpt2", {"merges": ["a b", " b"]}, FormatError, "merge 1"),
        ("gpt2", {"tokens": ["ab"] * 257}, FormatError, "single byte"),
        ("gpt2", {"token_type": [1]}, FormatError, "1 entries.*257"),
        ("gpt2", {"token_type": [7] + [1] * 256}, FormatError, "token 0 has type 7"),
        ("gpt2", {"token_type": [-1] + [1] * 256}, FormatError, "token 0 has type -1"),
        ("gpt2", {"token_type": [BYTE] + [1] * 256}, FormatError, "token 0 is a byte token"),
        ("gpt2", {"bos_token_id": 257}, FormatError, "bos_token_id is 257"),
        ("gpt2", {"eot_token_id": 2**31}, FormatError, "eot_token_id is 2147483648"),
        ("gpt2", {"add_bos_token": True}, FormatError, "add_bos_token is true"),
        ("gpt2", {"add_eos_token": True}, FormatError, "add_eos_token is true"),
        ("gpt2", {"tokens": [1] * 257}, FormatError, "tokens.*expected an array of string"),
        ("llama", {"scores": None}, FormatError, "scores is missing"),
        ("llama", {"scores": [0.0]}, FormatError, "1 entries.*259"),
        ("llama", {"tokens": None}, FormatError, "0 tokens"),
        ("llama", {"tokens": ["<unk>", "<s>", "</s>", *BYTE_TOKENS[:-1], "<0xfg>"]}, FormatError, "'<0xfg>'"),
        ("llama", {"token_type": [1, 3, 3] + [1] * 256, "unknown_token_id": 2**32 - 1}, FormatError, "0 of 256"),
        (None, {}, FormatError, "no vocabulary"),
    ],
)  # fmt: skip
def test_refusals(folder: Path, model: str | None, change: dict[str, Any], error: type[Exception], says: str) -> None:
    keys = (GOOD_SPM if model == "llama" else GOOD_BPE) | change
    path = write_vocab(folder / "bad.gguf", model, keys.pop("tokens"), **keys)  # type: ignore[arg-type]
    with pytest.raises(error, match=says) as caught:
        Tokenizer(path)
    assert "bad.gguf" in str(caught.value)


def test_what_the_refused_files_were_made_of_is_good(folder: Path) -> None:
    for model, good in {"gpt2": GOOD_BPE, "llama": GOOD_SPM}.items():
        keys = dict(good)
        t = Tokenizer(write_vocab(folder / "good.gguf", model, keys.pop("tokens"), **keys))
        assert t.decode(t.encode("ab é")) == "ab é"
    # Types are a help, not a need.
    keys = dict(GOOD_SPM, token_type=None)
    t = Tokenizer(write_vocab(folder / "good.gguf", "llama", keys.pop("tokens"), **keys))
    assert t.is_control(1) and t.encode("</s>", bos=False) == [2] and t.decode(t.encode("a")) == "a"

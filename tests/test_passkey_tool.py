"""tools/passkey.py: prompts of exact length, cases that share what they have in common, runs that resume."""

import re
import sys

import numpy as np
import pytest
from native import ROOT, data

from longheads import Tokenizer

sys.path.insert(0, str(ROOT / "tools"))

import passkey  # noqa: E402


class Words:
    """A tokenizer of words with their leading space, digits one by one. Loses nothing."""

    def __init__(self):
        self.ids = {}

    def tokenize(self, text):
        return [self.ids.setdefault(word, len(self.ids)) for word in re.findall(r"\d| ?[^\s\d]+|\s", text)]

    def token_bytes(self, id_):
        return list(self.ids)[id_].encode()

    def decode(self, ids):
        return b"".join(map(self.token_bytes, ids)).decode()

    def is_end(self, id_):
        return False


class Reader:
    """A session that always finds the key, if what it was fed is the prompt."""

    def __init__(self, tokenizer):
        self.tokenizer, self.held, self.fed = tokenizer, [], 0

    def read(self, ids, *, progress=None):
        keep = min(passkey.common_prefix(self.held, ids), len(ids) - 1)
        self.held = self.held[:keep]
        self.feed(ids[keep:])
        if progress:
            progress(len(ids) - keep, len(ids) - keep)
        return len(ids) - keep

    def feed(self, ids):
        self.held = self.held + list(ids)
        self.fed += len(ids)

    def score(self, ids):
        self.feed(ids)
        return np.array([0.0 if self.tokenizer.token_bytes(id_) == b" " else -1.0 for id_ in ids], np.float32)

    @property
    def logits(self):
        text = self.tokenizer.decode(self.held)
        keys = set(re.findall(r"The pass key is (\d{5})\. Remember it\. (\d{5}) is the pass key\.", text))
        assert len(keys) == 1
        [(key, again)] = keys
        assert key == again
        answer = text.split(passkey.QUESTION)[1]
        following = f" {key}. And that is that."[len(answer) :]
        logits = np.zeros(10_000)
        logits[self.tokenizer.tokenize(following)[0]] = 1
        return logits


@pytest.mark.parametrize("depth", [0.0, 0.31, 0.999])
@pytest.mark.parametrize("tokens", [70, 75, 76, 77, 500, 2048])
def test_prompt_is_as_long_as_fits(tokens, depth):
    words = Words()
    prompt = passkey.build_prompt(words.tokenize, passkey.FILLER, "12345", tokens, depth)
    assert prompt.ids == words.tokenize(prompt.text)
    assert tokens - 6 < len(prompt.ids) <= tokens  # the longest sentence has five words and its space
    assert words.decode(prompt.answer) == " 12345"
    task, *body, question = prompt.text.split("\n")
    assert (task, question) == (passkey.TASK, passkey.QUESTION)
    [at] = [i for i, line in enumerate(body) if line == "The pass key is 12345. Remember it. 12345 is the pass key."]
    before, after = (re.findall(r"[^.]+\.", " ".join(lines)) for lines in (body[:at], body[at + 1 :]))
    assert len(before) == int(depth * (len(before) + len(after) + 1))
    sentences = [sentence.strip() for sentence in before + after]
    assert sentences == [passkey.FILLER[i % len(passkey.FILLER)] for i in range(len(sentences))]


def test_prompt_that_does_not_fit():
    with pytest.raises(ValueError, match="10 tokens are too few: task, key and question alone take"):
        passkey.build_prompt(Words().tokenize, passkey.FILLER, "12345", 10, 0.5)


@pytest.mark.parametrize("vocab", ["llama-spm", "llama-bpe", "gpt-2"])
def test_prompts_of_real_tokenizers(vocab):
    tokenizer = Tokenizer(data(f"vocab/ggml-vocab-{vocab}.gguf"))
    for depth in 0.0, 0.5:
        prompt = passkey.build_prompt(tokenizer.encode, passkey.FILLER, "90210", 1000, depth)
        assert 990 < len(prompt.ids) <= 1000
        assert b"".join(map(tokenizer.token_bytes, prompt.answer)).strip() == b"90210"


def test_cases_share_their_beginnings_and_resume(tmp_path):
    words, file = Words(), tmp_path / "results.jsonl"
    cases = sorted((passkey.draw_case(seed)[1], seed) for seed in range(8))
    work = []
    for depth, seed in cases:
        prompt = passkey.build_prompt(words.tokenize, passkey.FILLER, passkey.draw_case(seed)[0], 1500, depth)
        work.append((passkey.Case("model", "classic", {"chunk": 64}, 1500, seed), prompt))

    reader, results = Reader(words), passkey.Results(file)
    passkey.measure_all(reader, work[:3], results, "")
    reader = Reader(words)
    passkey.measure_all(reader, work, passkey.Results(file), "")
    assert len(file.read_text().splitlines()) == len(work)

    found = [passkey.Results(file).get(case) for case, _ in work]
    assert all(result.hit and result.logprob == -1 and result.key == prompt.key
               for result, (_, prompt) in zip(found, work, strict=True))  # fmt: skip
    # Each reads from the key of the one before it on.
    for result, last in zip(found[4:], found[3:]):
        unread = 1 - last.depth
        assert result.n_fed == pytest.approx(unread * result.n_tokens, abs=80)
    passkey.measure_all(None, work, passkey.Results(file), "")  # nothing is left to ask a session


def test_a_miss_is_a_miss():
    words = Words()
    prompt = passkey.build_prompt(words.tokenize, passkey.FILLER, "12345", 300, 0.5)
    other = passkey.build_prompt(words.tokenize, passkey.FILLER, "54321", 300, 0.5)
    mixed = passkey.Prompt("12345", 0.5, other.text, other.ids, prompt.answer)
    result = passkey.measure(Reader(words), mixed)
    assert not result.hit
    assert "54321" in result.answer


def test_a_damaged_file_is_refused(tmp_path):
    file = tmp_path / "results.jsonl"
    file.write_text('{"case": 1}\n')
    with pytest.raises(ValueError, match="line 1 of .* is no result of this tool"):
        passkey.Results(file)


def test_settings():
    setting = passkey.parse_setting("paper: chunk=256, scheme=paper,local=2")
    assert setting == passkey.Setting("paper", {"chunk": 256, "scheme": "paper", "local": 2})
    assert passkey.parse_setting("defaults") == passkey.Setting("defaults", {})
    for wrong in "x: chunk=big", "x: size=3", ": chunk=64", "x: chunk":
        with pytest.raises(passkey.argparse.ArgumentTypeError):
            passkey.parse_setting(wrong)
    assert [passkey.parse_tokens(text) for text in ("4096", "4k", "32K")] == [4096, 4096, 32768]


def test_book_filler(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("It was\nthe best of times.  Was it? Yes!\n\nThe end")
    assert passkey.read_filler(book) == ["It was the best of times.", "Was it?", "Yes!", "The end"]
    book.write_text(" \n")
    with pytest.raises(ValueError, match="has no text"):
        passkey.read_filler(book)


def test_table():
    def result(hit, logprob):
        return passkey.Result("12345", 0.5, 100, 100, "", hit, logprob, 2.0)

    text = passkey.table([("a", [[result(True, -0.5), result(False, -1.5)]])], [4096])
    assert text.splitlines()[-3:] == ["| setting | 4096 tokens |", "|---|---|", "| a | 1/2 (-1.00, 2 s) |"]

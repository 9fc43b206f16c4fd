"""longheads.eval: texts of exact length, with an answer that can be found in them."""

from __future__ import annotations

import argparse
import json
import re

import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from eval_fakes import Words  # noqa: E402
from native import data  # noqa: E402

from longheads import Tokenizer  # noqa: E402
from longheads.eval import kv, lines, needles, passkey  # noqa: E402
from longheads.eval.generators import depths, lengths  # noqa: E402
from longheads.eval.prompts import CLASSIC_FILLER, Encoder, Text, read_filler  # noqa: E402


def arguments(task, *words: object) -> argparse.Namespace:
    p = argparse.ArgumentParser()
    task.add_options(p)
    return p.parse_args([str(word) for word in words])


def asked(task, *words: object, tokenizer=None):
    """The questions, and the text of each prompt."""
    tokenizer = tokenizer or Words()
    questions = list(task.questions(arguments(task, *words), Encoder(tokenizer, None)))
    return [(question, tokenizer.decode(question.prompt.ids)) for question in questions]


# --- passkey -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [0.0, 0.31, 0.999, 1.0])
@pytest.mark.parametrize("tokens", [70, 75, 76, 77, 500, 2048])
def test_passkey_is_as_long_as_fits(tokens, depth):
    words = Words()
    encoder = Encoder(words, None)
    n = encoder.fit(lambda n: passkey.text_of(CLASSIC_FILLER, "12345", n, depth), tokens)
    prompt = encoder.prompt(passkey.text_of(CLASSIC_FILLER, "12345", n, depth))
    assert tokens - 6 < len(prompt.ids) <= tokens  # the longest sentence has five words and its space
    assert words.decode(prompt.answer) == " 12345" and prompt.key == "12345"
    task, *body, question = words.decode(prompt.ids).split("\n")
    assert (task, question) == (passkey.TASK, "What is the pass key? The pass key is")
    assert words.decode(prompt.ids[: prompt.n_document]).endswith(body[-1] + "\n")
    [at] = [i for i, line in enumerate(body) if line == "The pass key is 12345. Remember it. 12345 is the pass key."]
    before, after = (re.findall(r"[^.]+\.", " ".join(part)) for part in (body[:at], body[at + 1 :]))
    assert len(before) == min(int(depth * (n + 1)), n)
    sentences = [sentence.strip() for sentence in before + after]
    assert sentences == [CLASSIC_FILLER[i % len(CLASSIC_FILLER)] for i in range(n)]


def test_passkey_cases():
    drawn = asked(passkey, "--lengths", "100,200", "--seeds", 3, "--first-seed", 5)
    assert [(q.column, q.parameters["seed"]) for q, _ in drawn] == [(n, s) for n in ("100", "200") for s in (5, 6, 7)]
    assert len({q.prompt.key for q, _ in drawn}) == len({q.depth for q, _ in drawn}) == 3
    crossed = asked(passkey, "--lengths", "100", "--seeds", 2, "--depths", "0,50,100")
    assert [q.depth for q, _ in crossed] == [0, 0.5, 1] * 2


def test_a_length_that_does_not_fit():
    with pytest.raises(longheads.ContextError, match="10 tokens are too few: task and question alone take"):
        asked(passkey, "--lengths", 10)


@pytest.mark.parametrize("vocab", ["llama-spm", "llama-bpe", "gpt-2"])
@pytest.mark.parametrize("task", [passkey, needles, kv])
def test_prompts_of_real_tokenizers(vocab, task):
    tokenizer = Tokenizer(data(f"vocab/ggml-vocab-{vocab}.gguf"))
    for question, text in asked(task, "--lengths", 1000, "--seeds", 2, tokenizer=tokenizer):
        assert 950 < len(question.prompt.ids) <= 1004
        answer = b"".join(map(tokenizer.token_bytes, question.prompt.answer)).decode()
        assert answer.strip() == question.prompt.key and question.prompt.key in text


# --- needles and pairs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", ["1", "8", "all"])
def test_needles(count):
    found = asked(needles, "--lengths", 900, "--seeds", 2, "--needles", count, "--depths", "0,40,100")
    assert len(found) == 6
    for (question, text), wanted in zip(found, [0, 0.4, 1] * 2):
        pairs = re.findall(r"The number of the ((?:\w+ ){2}\w+) is (\d{5})\.", text)
        assert len(dict(pairs)) == len(pairs) == question.parameters["needles"]
        [name] = re.findall(r"What is the number of the (.+)\?", text)
        assert text.endswith(f"? The number of the {name} is") and dict(pairs)[name] == question.prompt.key
        at = pairs.index((name, question.prompt.key))
        assert at == round(wanted * (len(pairs) - 1))
        filler = sum(text.count(sentence) for sentence in CLASSIC_FILLER)
        assert (filler == 0) == (count == "all") and len(pairs) == (int(count) if count != "all" else len(pairs))
        assert 870 < len(question.prompt.ids) <= 900
        assert question.depth == pytest.approx(text.index(f"{name} is {question.prompt.key}") / len(text), abs=0.05)
    if count == "all":
        assert len(pairs) > 50
    # One text serves all its questions.
    for (a, _), (b, _) in zip(found[:2], found[1:3]):
        assert a.prompt.ids[: a.prompt.n_document] == b.prompt.ids[: b.prompt.n_document]
    assert found[0][0].prompt.ids[:800] != found[3][0].prompt.ids[:800]


def test_more_needles_than_names():
    with pytest.raises(longheads.ArgumentError, match="needles are wanted, but there are names for 13824 only"):
        asked(needles, "--needles", "20k")


def test_more_names_than_there_are(monkeypatch):
    monkeypatch.setattr(needles, "N_NAMES", 40)
    [(_, text)] = asked(needles, "--lengths", 500, "--seeds", 1, "--needles", "all")
    assert 30 < text.count("The number of the") < 40
    with pytest.raises(longheads.ArgumentError, match="900 tokens need more than 40 names"):
        asked(needles, "--lengths", 900, "--needles", "all")


def test_pairs():
    found = asked(kv, "--lengths", 700, "--seeds", 2, "--depths", "0,100")
    for (question, text), last in zip(found, [False, True] * 2):
        pairs = json.loads(re.search(r"\{.+\}", text, re.DOTALL)[0])
        assert len(pairs) == question.parameters["pairs"] > 20
        [key] = re.findall(r'What is the value of "(\w{8})"\?', text)
        assert pairs[key] == question.prompt.key and len(question.prompt.key) == 8
        assert list(pairs).index(key) == (len(pairs) - 1 if last else 0)
        assert text.endswith(f'The value of "{key}" is "')
        assert 650 < len(question.prompt.ids) <= 700
    assert kv.draw(3, 50)[:20] == kv.draw(3, 20)


# --- LongEval ----------------------------------------------------------------------------------------------------

CASE = {
    "random_idx": ["torpid-kid", 1],
    "expected_number": 241,
    "correct_line": "line torpid-kid: REGISTER_CONTENT is <241>\n",
    "prompt": "Record:\n\nline a-b: REGISTER_CONTENT is <7>\nline torpid-kid: REGISTER_CONTENT is <241>\n\n"
    "Tell me what is the <REGISTER_CONTENT> in line torpid-kid? I need the number. ",
}


def test_lines(tmp_path):
    file = tmp_path / "two.jsonl"
    file.write_text(f"{json.dumps(CASE)}\n\n{json.dumps(CASE)}\n")
    (question, text), (other, _) = asked(lines, file)
    assert text == CASE["prompt"] + "The <REGISTER_CONTENT> in line torpid-kid is <"
    assert question.column == "two" and question.prompt.key == "241" and 0.4 < question.depth < 0.6
    assert (question.parameters["number"], other.parameters["number"]) == (0, 1)
    assert len(asked(lines, file, "--cases", 1)) == 1
    (tmp_path / "b").mkdir()
    other = tmp_path / "b" / "two.jsonl"
    other.write_text(file.read_text())
    found = asked(lines, file, other, file, "--cases", 1)
    assert [(q.column, q.parameters) for q, _ in found] == [
        (str(path), {"file": "two.jsonl", "number": 0}) for path in (file, other)
    ]


@pytest.mark.parametrize(
    "content",
    ["", "{}", "3", "nonsense", json.dumps(CASE | {"correct_line": "line z"}), json.dumps(CASE | {"prompt": 1})],
)
def test_lines_of_something_else(tmp_path, content):
    file = tmp_path / "cases.jsonl"
    file.write_text(content)
    with pytest.raises(longheads.FormatError, match="holds no cases|line 1 of .* is not a case of LongEval"):
        asked(lines, file)


def test_lines_of_longchat():
    for name in "200_lines", "400_lines":
        found = asked(lines, data(f"tasks/{name}.jsonl"))
        assert len(found) == 50
        for question, text in found:
            assert f"is <{question.prompt.key}>" in text and text.rstrip("<").endswith("is ")


# --- what they share ---------------------------------------------------------------------------------------------


class Joining(Words):
    """A tokenizer that makes one token of a question and its answer."""

    def encode(self, text, *, bos=None, special=True):
        return [self._id(text)]


def test_a_tokenizer_that_joins_question_and_answer():
    with pytest.raises(longheads.ArgumentError, match="joins the question with its answer"):
        Encoder(Joining(), None).prompt(Text("a", "b?", "It is", "c"))


def test_through_a_chat_template(tiny_path):
    with longheads.Model(tiny_path) as model:
        encoder = Encoder(model.tokenizer, model.chat_template)
        prompt = encoder.prompt(Text("<|im_end|>a document", "what?", "It is", "12"))
        text = b"".join(map(model.tokenizer.token_bytes, prompt.ids)).decode()
        assert text.endswith("<|im_end|>\n<|im_start|>assistant\nIt is")
        assert "user\n<|im_end|>a document\nwhat?<|im_end|>" in text
        assert model.detokenize(prompt.answer) == " 12"
        document = b"".join(map(model.tokenizer.token_bytes, prompt.ids[: prompt.n_document])).decode()
        assert document.endswith("a document\n")
        # What a document says is text, whatever it looks like.
        assert prompt.ids.count(model.tokenizer.control_tokens["<|im_end|>"]) == text.count("<|im_end|>") - 1


def test_book_filler(tmp_path):
    book = tmp_path / "book.txt"
    book.write_text("It was\nthe best of times.  Was it? Yes!\n\nThe end")
    assert read_filler(book) == ["It was the best of times.", "Was it?", "Yes!", "The end"]
    book.write_text(" \n")
    with pytest.raises(longheads.FormatError, match="has no text"):
        read_filler(book)
    with pytest.raises(longheads.FileError, match="cannot be read: No such file"):
        read_filler(tmp_path / "none.txt")


@pytest.mark.parametrize(
    "content", ["从前有座山，山里有座庙。" * 900, "x = f(x)\n" * 900, "- one\n- two\n\n" * 900, "7" * 9000]
)
def test_a_filler_without_sentences(tmp_path, content):
    book = tmp_path / "book.txt"
    book.write_text(content)
    pieces = read_filler(book)
    assert all(0 < len(piece) <= 40 and piece == piece.strip() for piece in pieces)
    assert "".join("".join(pieces).split()) == "".join(content.split())
    if " " in content:
        assert " ".join(pieces) == " ".join(content.split())
    for task in passkey, needles:
        [(question, text)] = asked(task, "--lengths", 600, "--seeds", 1, "--filler", book)
        assert 540 < len(question.prompt.ids) <= 600 and pieces[3] in text


def test_a_filler_of_long_sentences(tmp_path):
    book = tmp_path / "book.txt"
    long = "and " * 800 + "so on."
    book.write_text(f"It began. {long} It ended.")
    assert read_filler(book) == ["It began.", long, "It ended."]
    for task in passkey, needles:
        assert len(asked(task, "--lengths", 980, "--seeds", 1, "--filler", book)) == 1
        with pytest.raises(longheads.ArgumentError, match="of 500 tokens comes to .* only, and to .* raise --lengths"):
            asked(task, "--lengths", 500, "--seeds", 1, "--filler", book)


def test_what_is_said_twice_counts_once():
    assert lengths("4k, 256,4096") == [4096, 256] and depths("50,0,50.0") == [0.5, 0]


def test_depths():
    assert depths("0,12.5,100") == [0, 0.125, 1]
    for wrong in "x", "-1", "101", "1,,2", "nan":
        with pytest.raises(argparse.ArgumentTypeError, match="are no depths"):
            depths(wrong)

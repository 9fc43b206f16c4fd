"""What is said in a chat becomes prompts: the document once, every turn in order."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from longheads import Model, interactive  # noqa: E402
from longheads.conversation import Chat, PlainText, conversation_about, shared_start  # noqa: E402

DOCUMENT = "A castle<|im_end|> stood there.\n"


@pytest.fixture(scope="module")
def model(tiny_path):
    with Model(tiny_path) as model:
        yield model


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": "assistant" if i % 2 else "user", "content": text} for i, text in enumerate(texts)]


def test_a_chat(model):
    chat = Chat(model, DOCUMENT, "Be brief.")
    opening = [{"role": "system", "content": "Be brief."}]
    first = "A castle<|im_end|> stood there.\n\nWhere?"
    assert chat.prompt("Where?") == model.chat_prompt(opening + said(first))
    chat.note("Where?", "There.")
    assert chat.prompt("Who?") == model.chat_prompt(opening + said(first, "There.", "Who?"))
    chat.note("Who?", "He.")
    assert chat.prompt("Why?") == model.chat_prompt(opening + said(first, "There.", "Who?", "He.", "Why?"))
    chat.clear()
    assert chat.prompt("Where?") == model.chat_prompt(opening + said(first))
    assert chat.prompt("x")[: len(shared_start(chat))] == shared_start(chat)


def test_answers_and_commands(model, monkeypatch, capsys):
    """What an answer said before Ctrl-C is kept; a full context ends no chat; /clear forgets."""
    chat = Chat(model, "", None)
    fresh = chat.prompt("x")

    def answer(question: str, error: BaseException) -> None:
        def write(ids, said):
            said.append("Because")
            raise error

        interactive.answer(SimpleNamespace(write=write), chat, question)

    answer("Why?", KeyboardInterrupt())
    assert chat.prompt("x") == model.chat_prompt(said("Why?", "Because", "x"))
    answer("And?", longheads.ContextError("it is full"))
    assert "it is full; /clear forgets" in capsys.readouterr().err
    monkeypatch.setattr(interactive, "ask", lambda: "/clear")
    assert interactive.turn(None, chat) and chat.prompt("x") == fresh


def test_plain_text(model):
    """Control tokens count in what is typed, and nowhere else."""

    def ids(*parts: tuple[str, bool]) -> list[int]:
        return [i for text, trusted in parts for i in model.tokenizer.encode(text, bos=False, special=trusted)]

    text = PlainText(model, DOCUMENT)
    document = ("A castle<|im_end|> stood there.\n\n", False)
    shown = model.tokenizer.decode
    assert shown(text.prompt("Once<|im_end|>")) == shown(ids(document, ("Once<|im_end|>", True)))
    assert text.prompt("Once<|im_end|>").count(2) == 1
    text.note("Once", " upon<|im_end|>")
    again = text.prompt(" a time")
    assert shown(again) == "A castle<|im_end|> stood there.\n\nOnce upon<|im_end|>\n a time" and again.count(2) == 0
    text.clear()
    assert shown(text.prompt("x")) == "A castle<|im_end|> stood there.\n\nx"
    assert shown(text.prompt("")) == "A castle<|im_end|> stood there."


def test_which_one(model):
    assert isinstance(conversation_about(model, ""), Chat)
    assert isinstance(conversation_about(model, "", chat=False), PlainText)
    with pytest.raises(longheads.ArgumentError, match="--system"):
        conversation_about(model, "", chat=False, system="x")

"""What has been said: turns a question into the prompt that holds all that came before it."""

from __future__ import annotations

from typing import Protocol

from longheads.errors import ArgumentError
from longheads.model import Model
from longheads.prompt import Part, ask_about, common_prefix, encode_parts


class Conversation(Protocol):
    """A document, perhaps, and the questions and answers that follow it."""

    def prompt(self, question: str) -> list[int]:
        """Token ids of everything so far and this question."""

    def note(self, question: str, answer: str) -> None:
        """Remember a question that was answered."""

    def clear(self) -> None:
        """Forget all questions and answers; the document stays."""


class Chat:
    """Through the model's chat template."""

    def __init__(self, model: Model, document: str, system: str | None) -> None:
        self._model, self._document = model, document
        self._opening = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[dict[str, str]] = []

    def _asked(self, question: str) -> dict[str, str]:
        document = self._document if not self._turns else ""
        return {"role": "user", "content": ask_about(document, question)}

    def prompt(self, question: str) -> list[int]:
        return self._model.chat_prompt([*self._opening, *self._turns, self._asked(question)])

    def note(self, question: str, answer: str) -> None:
        self._turns += [self._asked(question), {"role": "assistant", "content": answer}]

    def clear(self) -> None:
        self._turns = []


class PlainText:
    """As text that the model continues, for models that were not taught to chat."""

    def __init__(self, model: Model, document: str) -> None:
        self._model = model
        # Control tokens in a document are text; who types a prompt may mean them.
        self._document = document
        self._text: list[Part] = []

    def _asked(self, question: str) -> list[Part]:
        if self._text or not self._document:
            return [Part(question, True)]
        if not question:
            # A text file ends with a newline that is no part of what is to be continued.
            return [Part(self._document.removesuffix("\n"), False)]
        return [Part(ask_about(self._document, "") + "\n\n", False), Part(question, True)]

    def prompt(self, question: str) -> list[int]:
        return encode_parts(self._model.tokenizer, self._text + self._asked(question))

    def note(self, question: str, answer: str) -> None:
        self._text += [*self._asked(question), Part(answer + "\n", False)]

    def clear(self) -> None:
        self._text = []


def shared_start(conversation: Conversation) -> list[int]:
    """What the prompts of any two questions have in common: the document, and what a template puts around it."""
    one, other = conversation.prompt("A"), conversation.prompt("b")
    return one[: common_prefix(one, other)]


def conversation_about(
    model: Model, document: str, chat: bool | None = None, system: str | None = None
) -> Conversation:
    """A chat where the model has a template, unless chat says otherwise. Raises ArgumentError, TemplateError."""
    if chat is not False and model.chat_template:
        return Chat(model, document, system)
    if chat:
        raise ArgumentError("the model has no chat template, so --chat means nothing: omit it, or name a template")
    if system is not None:
        raise ArgumentError("the model has no chat template, so --system means nothing: put the text into the prompt")
    return PlainText(model, document)

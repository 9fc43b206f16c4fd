"""Chat templates: from messages to the prompt that the model was trained on."""

from __future__ import annotations

import datetime
import json
import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from longheads.errors import ArgumentError, TemplateError
from longheads.prompt import Part, encode_parts
from longheads.tokenizer import Tokenizer

#: {"role": "system" | "user" | "assistant" | ..., "content": text}, and what else the template knows. The content may be
#: a list of {"type": "text", "text": text}, which are lines then, and None in a message that calls tools.
Message: TypeAlias = Mapping[str, Any]


def _raise(message: str) -> None:
    raise TemplateError(f"the chat template refuses the messages: {message}")


def _now(format_: str) -> str:
    return datetime.datetime.now().strftime(format_)


def _to_json(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, **options)


class _Generation(jinja2.ext.Extension):
    """{% generation %} tells trainers what the model itself is to write; here it is text like all other."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A jinja2 template as models carry them, run in a sandbox: a model file is not to be trusted with the machine."""

    def __init__(self, source: str, tokenizer: Tokenizer) -> None:
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
        )
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise, strftime_now=_now)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateError as error:
            raise TemplateError(f"the chat template cannot be read: {error}") from None
        self._tokenizer = tokenizer
        self._tokens = {
            f"{name}_token": "" if token is None else tokenizer.token_bytes(token).decode("utf-8", "replace")
            for name, token in (("bos", tokenizer.bos), ("eos", tokenizer.eos))
        }

    def render(self, messages: Sequence[Message], variables: Mapping[str, Any] | None = None) -> str:
        """The prompt as text.

        variables: what else the template is told, beside bos_token, eos_token and add_generation_prompt=True.
        Raises TemplateError where the template fails or refuses the messages.
        """
        known = {"add_generation_prompt": True, "tools": None, "documents": None, **self._tokens}
        try:
            return self._template.render(known | dict(variables or {}) | {"messages": messages})
        except TemplateError:
            raise
        except Exception as error:  # a template is a program that came with a file: it may fail in any way
            raise TemplateError(f"the chat template fails: {error}") from None

    def encode(
        self,
        messages: Iterable[Message],
        variables: Mapping[str, Any] | None = None,
        *,
        continue_final_message: bool = False,
    ) -> list[int]:
        """The prompt as token ids. Control tokens count where the template writes them, never where a message or a
        variable does.

        continue_final_message: end where the last message does, for the model to go on with it.
        variables: see render. Raises ArgumentError for messages that are none, TemplateError as render does.
        """
        pattern = self._tokenizer.control_pattern
        said = [_broken({**m, "content": ""}, pattern) | {"content": _text_of(m)} for m in _checked(messages)]
        told: dict[str, Any] = _broken(variables or {}, pattern)
        if not continue_final_message:
            return encode_parts(self._tokenizer, self._parts(said, told))
        told = {"add_generation_prompt": False} | told
        parts = self._parts(said, told)
        end = self._end_of_last(said, "".join(part.text for part in parts), told)
        return encode_parts(self._tokenizer, _up_to(parts, end))

    def _end_of_last(self, messages: Sequence[dict[str, Any]], text: str, variables: dict[str, Any]) -> int:
        """Where the last message's content, which the template may have stripped, ends in the text."""
        mark, content = _mark(), messages[-1]["content"]
        if not content.strip():
            raise TemplateError("the last message cannot be continued: it is empty")
        before, found, _ = self.render([*messages[:-1], {**messages[-1], "content": mark}], variables).partition(mark)
        for said in (content, content.strip()):
            if found and text.startswith(before + said):
                return len(before + said)
        raise TemplateError("the last message cannot be continued: the chat template does not write it as it is")

    def _parts(self, messages: Sequence[dict[str, Any]], variables: dict[str, Any]) -> list[Part]:
        """The prompt, in parts that are the template's and parts that are the messages'."""
        pattern = self._tokenizer.control_pattern
        text = self.render(messages, variables)
        if not any(pattern.search(message["content"]) for message in messages):
            return [Part(text, True)]

        # Somebody wrote control tokens. Find what of the prompt is theirs by rendering with marks in place of contents.
        for contents in ([m["content"] for m in messages], [m["content"].strip() for m in messages]):
            marks = [_mark() for _ in messages]
            marked = [{**m, "content": mark} for m, mark in zip(messages, marks)]
            frame = self.render(marked, variables)
            parts = _fill(frame, dict(zip(marks, contents)))
            if "".join(part.text for part in parts) == text:
                return parts

        # The template does more with contents than insert them: break the tokens up before it sees them.
        return [Part(self.render(_broken(messages, pattern), variables), True)]


def _broken(value: Any, pattern: re.Pattern[str]) -> Any:
    """The same without a control token in any text of it: their characters are put apart."""
    if isinstance(value, str):
        return pattern.sub(lambda found: " ".join(found.group()), value)
    if isinstance(value, Mapping):
        return {_broken(key, pattern): _broken(item, pattern) for key, item in value.items()}
    return [_broken(item, pattern) for item in value] if isinstance(value, (list, tuple)) else value


def _text_of(message: Message) -> str | None:
    """What a message says; None: it is no message."""
    content = message.get("content")
    if content is None and message.get("tool_calls"):
        return ""
    if isinstance(content, (list, tuple)):
        texts = [part.get("text") if isinstance(part, Mapping) else None for part in content]
        return "\n".join(cast(list[str], texts)) if all(isinstance(text, str) for text in texts) else None
    return content if isinstance(content, str) else None


def _checked(messages: Iterable[Message]) -> list[Message]:
    if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Iterable):
        raise TypeError(
            f"expected a list of messages, got {type(messages).__name__}: write [{{'role': 'user', 'content': ...}}]"
        )
    messages = list(messages)  # which an iterator gives once only
    if not messages:
        raise ArgumentError("there are no messages: a chat needs at least one")
    for i, message in enumerate(messages):
        if not (isinstance(message, Mapping) and isinstance(message.get("role"), str) and _text_of(message) is not None):
            raise ArgumentError(
                f"message {i} is {message!r:.80}, expected a mapping with the texts 'role' and 'content'"
            )
    return messages


def _up_to(parts: Sequence[Part], end: int) -> list[Part]:
    """The first `end` characters."""
    out: list[Part] = []
    for part in parts:
        out.append(Part(part.text[:end], part.trusted))
        end -= len(out[-1].text)
    return out


def _mark() -> str:
    """What stands for a content, and is found nowhere else."""
    return f"mark{secrets.token_hex(16)}"


def _fill(frame: str, contents: dict[str, str]) -> list[Part]:
    """The frame with contents in place of their marks, as parts. A mark may be missing, or there more than once."""
    places = sorted((found.start(), mark) for mark in contents for found in re.finditer(mark, frame))
    parts, end = [], 0
    for at, mark in places:
        parts += [Part(frame[end:at], True), Part(contents[mark], False)]
        end = at + len(mark)
    return [*parts, Part(frame[end:], True)]

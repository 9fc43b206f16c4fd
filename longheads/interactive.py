"""The chat on a terminal."""

from __future__ import annotations

import sys

from longheads.command import tell
from longheads.conversation import Conversation, shared_start
from longheads.errors import ContextError, LongHeadsError
from longheads.writer import Writer

PROMPT = "> "
HELP = """Ask, and end with Enter. Ctrl-C stops an answer, Ctrl-D leaves.
  /clear  forget the questions and answers; the document stays
  /stats  speed and memory so far
  /exit   leave"""


def show(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def ask() -> str:
    """A line from the person. Raises EOFError at Ctrl-D, KeyboardInterrupt at Ctrl-C."""
    if sys.stdout.isatty():
        return input(PROMPT)
    # Standard output goes elsewhere and is for answers alone.
    sys.stderr.write(PROMPT)
    sys.stderr.flush()
    if not (line := sys.stdin.readline()):
        raise EOFError
    return line.rstrip("\n")


def talk(writer: Writer, conversation: Conversation, *, read_ahead: bool) -> None:
    """Questions and answers until Ctrl-D. read_ahead: read the document before the first question."""
    try:
        import readline  # noqa: F401, line editing and history for input()
    except ImportError:
        pass
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(errors="surrogateescape")  # what is no UTF-8 is refused as a question, not as a program
    show("Ask a question; /help shows more, Ctrl-D leaves.")
    if read_ahead and (start := shared_start(conversation)):
        try:
            writer.read(start)
        except KeyboardInterrupt:
            show(f"stopped at token {writer.session.position}; the rest is read with the first question")
    hint = ""
    while True:
        try:
            if hint:  # in here, where a second Ctrl-C does no harm
                show(hint)
                hint = ""
            if not turn(writer, conversation):
                return
        except KeyboardInterrupt:
            hint = "\nCtrl-D leaves"


def turn(writer: Writer, conversation: Conversation) -> bool:
    """One question or command. False where the person leaves."""
    try:
        question = ask().strip()
    except EOFError:
        show("")
        return False
    if question in ("/exit", "/quit"):
        return False
    if question == "/help":
        show(HELP)
    elif question == "/stats":
        writer.stats.show(writer.model, writer.session)
    elif question == "/clear":
        conversation.clear()
    elif question.startswith("/"):
        show(f"{question.split()[0]} is not a command; /help shows them")
    elif question:
        answer(writer, conversation, question)
    return True


def answer(writer: Writer, conversation: Conversation, question: str) -> None:
    """Write one answer. Ctrl-C ends it; what was said until then stays part of the conversation."""
    said: list[str] = []
    try:
        writer.write(conversation.prompt(question), said)
    except KeyboardInterrupt:
        show("stopped")
    except ContextError as error:
        tell(f"{error}; /clear forgets what was said")
        return
    except LongHeadsError as error:
        tell(str(error))
        return
    if said:
        conversation.note(question, "".join(said))

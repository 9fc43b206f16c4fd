"""The command: `python -m longheads.eval TASK MODEL ...`.

Tables go to standard output. Exit statuses are those of `longheads.run`.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean
from typing import Protocol

from longheads import trace
from longheads.chat import ChatTemplate
from longheads.command import Stopped, check_outputs, exit_status, open_model, tell
from longheads.errors import ArgumentError, TemplateError
from longheads.eval import heads, kv, lines, needles, passkey, perplexity, picture
from longheads.eval.prompts import Encoder
from longheads.eval.results import Result, Results, model_digest
from longheads.eval.retrieval import Question, Row, ask_all, ask_over
from longheads.eval.settings import Setting, add_settings, parse_setting, said_settings
from longheads.find import find_model
from longheads.model import Model
from longheads.options import Parser, add_machine, machine_options
from longheads.table import table


class Task(Protocol):
    """A maker of questions: a module, whose docstring explains it."""

    HELP: str
    CHATS: bool  # through the model's chat template, where it has one and nobody says otherwise
    __doc__: str | None

    def add_options(self, p: argparse.ArgumentParser) -> None: ...
    def questions(self, arguments: argparse.Namespace, encoder: Encoder) -> Iterator[Question]: ...
    def about(self, arguments: argparse.Namespace) -> str: ...


RETRIEVAL: dict[str, Task] = {"passkey": passkey, "needles": needles, "kv": kv, "lines": lines}


# --- the command line --------------------------------------------------------------------------------------------


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="longheads.eval",
        description="Measure what a model still knows of what it read, under the rules of --setting.",
        epilog="`python -m longheads.eval TASK --help` explains a task. A number may end in k, which is 1024.",
    )
    tasks = p.add_subparsers(dest="task", metavar="TASK", required=True)

    def add(name: str, help_: str, text: str | None) -> argparse.ArgumentParser:
        task = tasks.add_parser(
            name, help=help_, description=text, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        task.add_argument("model", metavar="MODEL", help="a GGUF file, or smollm2")
        return task

    def add_chat(task: argparse.ArgumentParser, chats: bool) -> None:
        default = "where it has one" if chats else "no"
        task.add_argument("--chat", action=argparse.BooleanOptionalAction, default=None if chats else False,
                          help=f"ask through the model's chat template (default: {default})")  # fmt: skip

    def add_common(task: argparse.ArgumentParser, plot: str) -> None:
        g = task.add_argument_group("settings and results")
        add_settings(g)
        # fmt: off
        g.add_argument("--json", metavar="FILE", type=Path,
                       help="append every result as a line of JSON; what is there already is not measured again")
        g.add_argument("--plot", metavar="FILE", type=Path, help=f"{plot} (PNG, SVG, PDF)")
        # fmt: on
        add_machine(task)

    for name, task in RETRIEVAL.items():
        sub = add(name, task.HELP, task.__doc__)
        task.add_options(sub)
        add_chat(sub, task.CHATS)
        sub.add_argument("--read-with", metavar="SETTING", type=parse_setting,
                         help="read each document once under this rule, and ask the question alone under the others; "
                              "chunk, scheme, kv_type and rope must be the same in all")  # fmt: skip
        add_common(sub, "draw hits by length and depth, a map for each setting")
    sub = add("perplexity", "how well a text is predicted, by position", perplexity.__doc__)
    perplexity.add_options(sub)
    add_common(sub, "draw perplexity against position, a curve for each setting")
    sub = add("heads", "which chunks each head of each layer picks for the last token", heads.__doc__)
    heads.add_options(sub)
    add_chat(sub, True)
    add_common(sub, "draw heads by chunks, the answer's framed")
    return p


# --- the tasks ---------------------------------------------------------------------------------------------------


def template_of(model: Model, chat: bool | None) -> ChatTemplate | None:
    """The template to ask through; chat: True, False, or None for where there is one."""
    if chat is False:
        return None
    if chat and model.chat_template is None:
        raise TemplateError("the model has no chat template: use --no-chat")
    return model.chat_template


def cell(results: Sequence[Result]) -> str:
    hits = sum(result["hit"] for result in results)
    begins, logprob, seconds = (fmean(r[name] for r in results) for name in ("begins", "logprob", "seconds"))
    return f"{hits}/{len(results)} ({begins:.2f}, {logprob:.2f}, {seconds:.0f} s)"


def hits_table(questions: Sequence[Question], rows: Sequence[Row]) -> str:
    """A row for each setting, a column for each length or file."""
    columns = list(dict.fromkeys(question.column for question in questions))
    cells = [
        [row.name, *(cell([r for q, r in zip(questions, row.results) if q.column == column]) for column in columns)]
        for row in rows
    ]
    return table(["setting", *columns], cells, left=[0])


def retrieval(arguments: argparse.Namespace, model: Model, settings: Sequence[Setting], results: Results) -> None:
    task = RETRIEVAL[arguments.task]
    encoder = Encoder(model.tokenizer, template_of(model, arguments.chat))
    questions = list(task.questions(arguments, encoder))
    asked = (arguments.task, model, arguments.model_id, questions, settings, results)
    reading = arguments.read_with
    rows = ask_over(*asked, reading) if reading else ask_all(*asked)
    how = "asked through the chat template" if encoder.chats else "continued as plain text"
    how += f"; documents read with {reading.name}, only questions under each setting" if reading else ""
    print(f"{arguments.task} of {arguments.model_name}: {task.about(arguments)}; {how}.")
    print("Hits (mean log-probability of the answer's first token, and of its words; mean seconds a case).\n")
    print(hits_table(questions, rows))
    if arguments.plot:
        picture.draw_maps(questions, rows, f"{arguments.task}, {arguments.model_name}", arguments.plot)


def predict(arguments: argparse.Namespace, model: Model, settings: Sequence[Setting], results: Results) -> None:
    tables = perplexity.run(arguments, model, settings, results)
    print(f"perplexity of {arguments.model_name}, trained at {model.trained_ctx} tokens, on {arguments.file.name}.")
    print("\n".join(perplexity.text(tables, arguments)))
    if arguments.plot:
        title = f"{arguments.file.name}, {arguments.model_name}"
        picture.draw_curves(tables, model.trained_ctx, title, arguments.plot)


def look(arguments: argparse.Namespace, model: Model, settings: Sequence[Setting], results: Results) -> None:
    if len(settings) > 1:
        raise ArgumentError(f"{len(settings)} settings are given, but heads draws one: run it once for each")
    found = heads.run(arguments, model, settings[0], results)
    print(trace.text_of(found, model.tokenizer))
    if arguments.plot:
        trace.draw(found, arguments.plot, f"{arguments.prompt[:80]} ({arguments.model_name}, {settings[0].name})")


def run(arguments: argparse.Namespace, usage: argparse.ArgumentParser) -> None:
    settings = said_settings(arguments, usage)
    check_outputs(arguments.json, arguments.plot)
    results = Results(arguments.json)
    path = Path(os.fsdecode(find_model(arguments.model)))
    work = {"perplexity": predict, "heads": look}.get(arguments.task, retrieval)
    with open_model(path, **machine_options(arguments), kv_offload=bool(arguments.kv_offload)) as model:
        arguments.model_name = path.name
        arguments.model_id = f"{path.name} {model_digest(path)}"
        try:
            work(arguments, model, settings, results)
        except (KeyboardInterrupt, Stopped):
            kept = f": what was measured is in {arguments.json}, and the same command goes on" if arguments.json else ""
            tell(f"interrupted{kept}")
            raise


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command and return its exit status."""
    usage = parser()
    arguments = usage.parse_args(argv)
    return exit_status(lambda: run(arguments, usage))

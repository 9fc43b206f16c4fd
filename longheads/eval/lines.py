"""LongEval line retrieval: records such as "line torpid-kid: REGISTER_CONTENT is <2416>", one of them asked for.

The cases are those of files of JSON lines as LongChat publishes them (LongEval, 2023), one object a line:
prompt (its last line is the question), random_idx (name and number of the line asked for), correct_line and
expected_number. The answer's beginning, up to the number, is given to the model, so that the number can be scored.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from longheads.documents import read_text
from longheads.errors import FormatError
from longheads.eval.prompts import Encoder, Text
from longheads.eval.retrieval import Question
from longheads.options import count

HELP = "LongEval's line retrieval, from files of cases"
CHATS = True


def add_options(p: argparse.ArgumentParser) -> None:
    # fmt: off
    p.add_argument("files", metavar="FILE", type=Path, nargs="+", help="cases as JSON lines, such as 200_lines.jsonl")
    p.add_argument("--cases", metavar="N", type=count, help="only the first so many of each file")
    # fmt: on


def text_of(case: dict[str, Any]) -> Text:
    document, _, question = case["prompt"].rstrip().rpartition("\n")
    opening = f"The <REGISTER_CONTENT> in line {case['random_idx'][0]} is <"
    return Text(document, question, opening, str(case["expected_number"]), gap="")


def read_cases(path: Path) -> Iterator[tuple[Text, float]]:
    """Texts and the depths of their answers. Raises FormatError for a line that is no case."""
    lines = [line for line in read_text(str(path)).splitlines() if line.strip()]
    if not lines:
        raise FormatError(f"{path} holds no cases: expected LongEval's lines of JSON")
    for number, line in enumerate(lines, start=1):
        try:
            case = json.loads(line)
            text = text_of(case)
            yield text, text.document.index(case["correct_line"].strip()) / len(text.document)
        except (ValueError, TypeError, KeyError, AttributeError, IndexError, ZeroDivisionError):
            raise FormatError(
                f"line {number} of {path} is not a case of LongEval's line retrieval: expected a JSON object with "
                "prompt, random_idx, correct_line and expected_number"
            ) from None


def questions(arguments: argparse.Namespace, encoder: Encoder) -> Iterator[Question]:
    files = list(dict.fromkeys(arguments.files))
    stems = [path.stem for path in files]
    for path in files:
        column = path.stem if stems.count(path.stem) == 1 else str(path)
        for number, (text, depth) in enumerate(read_cases(path)):
            if number == arguments.cases:
                break
            yield Question(column, depth, encoder.prompt(text), {"file": path.name, "number": number})


def about(arguments: argparse.Namespace) -> str:
    some = f", the first {arguments.cases} cases of each" if arguments.cases else ""
    return f"line retrieval of {', '.join(path.name for path in arguments.files)}{some}"

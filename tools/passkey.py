"""Measure passkey retrieval: a five-digit key hidden somewhere in a long filler, and a question about it at the end.

    python tools/passkey.py smollm2 --tokens 4k 16k --seeds 10 --json passkey.jsonl \\
        --setting defaults --setting "paper: chunk=256,budget=4096,window=4096,scheme=paper,local=2"

Every seed is one case: a key and a depth, drawn at random. A case is a hit where the greedy continuation of the prompt
names the key; beside it stands the log-probability of the key's digits given the prompt, which tells near misses from
far ones. The table goes to stdout. With --json every case is one more line of a file as soon as it is measured, and a
case that the file holds already is not measured again, so that an interrupted run goes on where it was.

The prompts of one length differ only from the place of the key on. Cases are measured in the order of their depth, and
each keeps what it has in common with the one before it: Session.read rewinds to there and feeds the rest. On average
half of every prompt is read once for all. Up to rounding that changes no result: after a rewind a session goes on as if
what it forgot had never been there.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import itertools
import json
import random
import re
import sys
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from tqdm import tqdm

from longheads import LongHeadsError, Model, Session, Tokenizer
from longheads.model import find_model

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there."
)
FILLER = (
    "The grass is green.",
    "The sky is blue.",
    "The sun is yellow.",
    "Here we go.",
    "There and back again.",
)
QUESTION = "What is the pass key? The pass key is"

EXTRA_TOKENS = 4  # of the continuation: an answer may begin with a word or two before the key

# Options of a setting, by what their values are.
NUMBERS = ("chunk", "budget", "window", "local", "dense_until")
WORDS = ("scheme", "select_per", "attention", "kv_type")


# --- prompts -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompt:
    """One question. ids, then answer, are the tokens of the text, a space and the key."""

    key: str
    depth: float  # share of the filler that comes before the key
    text: str
    ids: list[int]
    answer: list[int]


def prompt_text(filler: Sequence[str], key: str, n: int, depth: float) -> str:
    """The prompt with n sentences of filler, repeated as needed, and the key's line after a share `depth` of them."""
    sentences = list(itertools.islice(itertools.cycle(filler), n))
    before = int(depth * (n + 1))
    line = f"The pass key is {key}. Remember it. {key} is the pass key."
    parts = [TASK, " ".join(sentences[:before]), line, " ".join(sentences[before:]), QUESTION]
    return "\n".join(part for part in parts if part)


def build_prompt(
    tokenize: Callable[[str], list[int]], filler: Sequence[str], key: str, tokens: int, depth: float
) -> Prompt:
    """The prompt with as many sentences of filler as fit into `tokens` tokens, the key at `depth` in [0, 1).

    The whole text is tokenised for every length that is tried, so that tokens are right wherever its parts meet.
    Raises ValueError where the prompt does not fit even without filler.
    """

    def length(n: int) -> int:
        return len(tokenize(prompt_text(filler, key, n, depth)))

    if length(0) > tokens:
        raise ValueError(f"{tokens} tokens are too few: task, key and question alone take {length(0)}")
    too_many = 1
    while length(too_many) <= tokens:
        too_many *= 2
    n = bisect_right(range(too_many), tokens, key=length) - 1
    text = prompt_text(filler, key, n, depth)
    ids, whole = tokenize(text), tokenize(f"{text} {key}")
    if whole[: len(ids)] != ids:
        raise ValueError("this tokenizer joins the question with the key, so the answer has no tokens of its own")
    return Prompt(key, depth, text, ids, whole[len(ids) :])


def draw_case(seed: int) -> tuple[str, float]:
    """Key and depth of a seed, the same at every length."""
    rng = random.Random(seed)
    return str(rng.randrange(10_000, 100_000)), rng.random()


def read_filler(path: Path) -> list[str]:
    """The sentences of a book, without its line breaks."""
    text = " ".join(path.read_text(encoding="utf-8-sig", errors="replace").split())
    if not text:
        raise ValueError(f"{path} has no text: a filler needs a sentence at least")
    return re.split(r"(?<=[.!?]) ", text)


# --- settings ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Setting:
    """A name for the table, and keywords of Model."""

    name: str
    options: dict[str, Any]


def parse_setting(text: str) -> Setting:
    """`name: option=value,option=value`; a name alone is the defaults."""
    name, _, rest = text.partition(":")
    if not name.strip():
        raise argparse.ArgumentTypeError(f"setting {text!r} has no name: write NAME: option=value,...")
    options: dict[str, Any] = {}
    for part in filter(None, (part.strip() for part in rest.split(","))):
        option, _, value = (word.strip() for word in part.partition("="))
        if option in NUMBERS and re.fullmatch("[0-9]+", value):
            options[option] = int(value)
        elif option in WORDS and value:
            options[option] = value
        else:
            raise argparse.ArgumentTypeError(
                f"setting {name.strip()!r} says {part!r}, expected option=number for {', '.join(NUMBERS)}, "
                f"or option=word for {', '.join(WORDS)}"
            )
    return Setting(name.strip(), options)


def parse_tokens(text: str) -> int:
    """`4096` or `4k`."""
    if match := re.fullmatch("([0-9]+)([kK]?)", text):
        return int(match[1]) * (1024 if match[2] else 1)
    raise argparse.ArgumentTypeError(f"{text!r} is no number of tokens, such as 4096 or 4k")


def resolve(model: Model, setting: Setting) -> dict[str, Any]:
    """All options, with what the model makes of those that the setting leaves open."""
    words = {name: inspect.signature(Model).parameters[name].default for name in WORDS}
    return words | setting.options | {name: getattr(model, name) for name in NUMBERS}


# --- measuring ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is measured: a result belongs to it as long as all of this is the same."""

    model: str
    filler: str
    options: dict[str, Any]
    tokens: int
    seed: int

    @property
    def identity(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


@dataclass(frozen=True)
class Result:
    """What came out."""

    key: str
    depth: float     # share of the filler before the key
    n_tokens: int    # of the prompt
    n_fed: int       # of these, not shared with the case before
    answer: str
    hit: bool
    logprob: float   # mean over the tokens of the key's digits
    seconds: float   # for reading n_fed tokens and answering


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two prompts begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))


def continue_greedily(session: Session, n: int) -> str:
    """The text of the n likeliest next tokens, one after the other; fewer where the model ends it."""
    ids: list[int] = []
    while len(ids) < n:
        token = int(np.argmax(session.logits))
        if session.tokenizer.is_end(token):
            break
        ids.append(token)
        session.feed([token])
    return session.tokenizer.decode(ids)


def measure(session: Session, prompt: Prompt, progress: Callable[[int, int], object] | None = None) -> Result:
    """Ask one question. The session may hold another prompt: what both begin with is kept."""
    began = time.monotonic()
    n_fed = session.read(prompt.ids, progress=progress)
    logprobs = session.score(prompt.answer)
    digits = [any(byte in b"0123456789" for byte in session.tokenizer.token_bytes(id_)) for id_ in prompt.answer]
    session.read(prompt.ids)  # back to the end of the question
    answer = continue_greedily(session, len(prompt.answer) + EXTRA_TOKENS)
    return Result(
        key=prompt.key,
        depth=round(prompt.depth, 4),
        n_tokens=len(prompt.ids),
        n_fed=n_fed,
        answer=answer,
        hit=prompt.key in answer,
        logprob=round(float(logprobs[digits].mean()), 4),
        seconds=round(time.monotonic() - began, 2),
    )


class Results:
    """Results by case: those of a file, and new ones, which the file gets at once."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Result] = {}
        if path and path.exists():
            for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
                try:
                    record = json.loads(line)
                    self._known[Case(**record["case"]).identity] = Result(**record["result"])
                except (ValueError, TypeError, KeyError):
                    raise ValueError(f"line {number} of {path} is no result of this tool: delete it") from None

    def get(self, case: Case) -> Result | None:
        return self._known.get(case.identity)

    def add(self, case: Case, result: Result) -> None:
        self._known[case.identity] = result
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"case": asdict(case), "result": asdict(result)}) + "\n")


def measure_all(session: Session, work: Sequence[tuple[Case, Prompt]], results: Results, label: str) -> None:
    """Measure what results do not hold yet, behind one progress bar that counts tokens."""
    work = [(case, prompt) for case, prompt in work if results.get(case) is None]
    before = [[], *(prompt.ids for _, prompt in work)]
    total = sum(len(prompt.ids) - common_prefix(prompt.ids, last) for (_, prompt), last in zip(work, before))
    with tqdm(total=total, desc=label, unit=" tokens", leave=False, dynamic_ncols=True, disable=None) as bar:
        for case, prompt in work:
            start = bar.n
            result = measure(session, prompt, lambda done, _, start=start: bar.update(start + done - bar.n))
            results.add(case, result)
            bar.set_postfix_str(f"seed {case.seed}: {'hit' if result.hit else 'miss'} {result.logprob:.2f}")


# --- the table ---------------------------------------------------------------------------------------------------


def cell(results: Sequence[Result]) -> str:
    hits = sum(result.hit for result in results)
    logprob, seconds = fmean(r.logprob for r in results), fmean(r.seconds for r in results)
    return f"{hits}/{len(results)} ({logprob:.2f}, {seconds:.0f} s)"


def table(rows: Iterable[tuple[str, Sequence[Sequence[Result]]]], tokens: Sequence[int]) -> str:
    """Markdown: a row for each setting, a column for each length."""
    lines = [
        "Hits (mean log-probability of the key's digits, mean seconds a case).",
        "",
        "| setting | " + " | ".join(f"{n} tokens" for n in tokens) + " |",
        "|---|" + "---|" * len(tokens),
    ]
    lines += [f"| {name} | " + " | ".join(map(cell, cells)) + " |" for name, cells in rows]
    return "\n".join(lines)


# --- the command -------------------------------------------------------------------------------------------------


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure passkey retrieval at several lengths and settings.")
    parser.add_argument("model", help="a GGUF file, or smollm2")
    parser.add_argument("--tokens", type=parse_tokens, nargs="+", default=[4096], metavar="N",
                        help="lengths of the prompt, such as 4096 or 4k (default: 4k)")  # fmt: skip
    parser.add_argument("--seeds", type=int, default=10, metavar="N", help="cases a length (default: 10)")
    parser.add_argument("--setting", type=parse_setting, action="append", dest="settings", metavar="SETTING",
                        help="a row of the table, as 'NAME: OPTION=VALUE,...'; may be repeated; options are "
                        + ", ".join((*NUMBERS, *WORDS)))  # fmt: skip
    parser.add_argument("--filler", type=Path, metavar="FILE", help="hide the key in this text, not in the classic filler")
    parser.add_argument("--json", type=Path, metavar="FILE", help="append every result; skip those already there")
    parser.add_argument("-t", "--threads", type=int, metavar="N", help="default: as many as the process may use")
    options = parser.parse_args(arguments)
    if options.seeds < 1:
        parser.error(f"--seeds is {options.seeds}, expected at least 1")
    options.settings = options.settings or [Setting("defaults", {})]
    return options


def run(options: argparse.Namespace) -> str:
    """Measure what is asked for; returns the table."""
    path = Path(find_model(options.model))
    filler = read_filler(options.filler) if options.filler else FILLER
    filler_name = options.filler.name if options.filler else "classic"
    results = Results(options.json)
    tokenizer = Tokenizer(path)

    @functools.cache
    def prompts(tokens: int) -> list[tuple[int, Prompt]]:
        """Every seed's prompt, by depth."""

        def tokenize(text: str) -> list[int]:
            return tokenizer.encode(text, bos=tokenizer.adds_bos, special=False)

        built = ((seed, build_prompt(tokenize, filler, key, tokens, depth))
                 for seed in range(options.seeds) for key, depth in [draw_case(seed)])  # fmt: skip
        return sorted(built, key=lambda item: item[1].depth)

    rows = []
    for setting in options.settings:
        row = []
        with (
            Model(path, ctx=max(options.tokens) + 64, threads=options.threads, **setting.options) as model,
            model.session() as session,
        ):
            resolved = resolve(model, setting)
            for tokens in options.tokens:
                work = [
                    (Case(path.name, filler_name, resolved, tokens, seed), prompt) for seed, prompt in prompts(tokens)
                ]
                measure_all(session, work, results, f"{setting.name}, {tokens} tokens")
                row.append([results.get(case) for case, _ in work])
        rows.append((setting.name, row))
    return table(rows, options.tokens)


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        print(run(options))
    except (LongHeadsError, ValueError, OSError) as error:
        print(f"passkey: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        kept = f"; what was measured is in {options.json}" if options.json else ""
        print(f"passkey: interrupted{kept}", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())

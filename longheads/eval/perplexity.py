"""Perplexity by position: does a text stay as predictable as it was, far past the trained context?

A window is --ctx tokens of the text, BOS among them where the model wants one, read into an empty session. Every token
but the first is scored given all before it in its window. Windows follow each other without overlap; what is left at
the end of the text, and is less than a window, is not read. A bucket holds the tokens at the same positions of all
windows; its perplexity is exp of their mean negative log-probability.

No two places of a text are equally hard, so that a curve alone does not tell drift from content. --pieces adds what the
same tokens cost a model that never reads far: the distance between the two curves is what reading far is worth.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longheads.documents import read_text
from longheads.errors import ContextError
from longheads.eval.results import Case, Result, Results, digest
from longheads.eval.settings import Setting, rule_of
from longheads.model import Model
from longheads.options import count
from longheads.plot import length_label
from longheads.progress import token_bar, within
from longheads.session import Session
from longheads.table import table

FIRST_EDGE = 1024  # of the default buckets, or a sixteenth of ctx where that is less
FIELDS = ("n", "logprob")  # of a result, that a curve needs


def edges(text: str) -> list[int]:
    """1k,4k,16k, ascending."""
    return sorted({count(part.strip()) for part in text.split(",")})


def add_options(p: argparse.ArgumentParser) -> None:
    # fmt: off
    p.add_argument("file", metavar="FILE", type=Path, help="a text (UTF-8)")
    p.add_argument("-c", "--ctx", metavar="N,N", type=edges, default=[4096],
                   help="tokens read in one go, such as 8k,128k; a table for each (default: 4k)")
    p.add_argument("--windows", metavar="N", type=count, default=1,
                   help="read so many stretches of the text, one behind the other, each from an empty session "
                        "(default: %(default)s)")
    p.add_argument("--buckets", metavar="N,N", type=edges,
                   help="positions where a bucket ends and the next begins (default: powers of two from 1k on, or from "
                        "a sixteenth of ctx where that is less)")
    p.add_argument("--pieces", metavar="N", type=count,
                   help="add a row: the same tokens, but dense attention that begins anew every so many of them; it "
                        "says how hard the text itself is at each position")
    # fmt: on


@dataclass(frozen=True)
class Curve:
    """One setting at one ctx: perplexity for each bucket, and of all."""

    name: str
    perplexities: list[float]
    whole: float


@dataclass(frozen=True)
class Curves:
    """All settings at one ctx. bounds: where buckets begin, and the last one's end."""

    ctx: int
    bounds: list[int]
    curves: list[Curve]


def bounds_of(ctx: int, inner: Sequence[int] | None) -> list[int]:
    """0, where buckets meet, ctx."""
    if inner is None:
        first = FIRST_EDGE
        while first > 1 and first * 16 > ctx:
            first //= 2
        inner = [first << i for i in range(64) if first << i < ctx]
    return [0, *(edge for edge in inner if edge < ctx), ctx]


def windows_of(ids: Sequence[int], ctx: int, n: int, bos: int | None, path: Path) -> list[NDArray[np.int32]]:
    """Token ids of each window: (ctx,). Raises ContextError where the text is too short."""
    start = [] if bos is None else [bos]
    each = ctx - len(start)
    if len(ids) < n * each:
        raise ContextError(
            f"{path} has {len(ids)} tokens, but {n} x {each} are wanted: "
            "take a longer text, or lower --ctx or --windows"
        )
    return [np.array([*start, *ids[i * each : (i + 1) * each]], np.int32) for i in range(n)]


def measure(session: Session, ids: NDArray[np.int32], bounds: Sequence[int], piece: int, bar: Any) -> Result:
    """Read one window, every `piece` tokens of it from an empty session.

    Gives for each bucket how many tokens were scored, and the sum of their log-probabilities.
    """
    began, scores = time.monotonic(), []
    for at in range(0, len(ids), piece):
        session.rewind(session.position)
        scores.append(session.score(ids[at : at + piece], progress=within(bar)))
    logprobs = np.concatenate(scores).astype(np.float64)
    parts = [logprobs[begin:end] for begin, end in zip(bounds, bounds[1:])]
    return {
        "n": [int(np.isfinite(part).sum()) for part in parts],
        "logprob": [round(float(np.nansum(part)), 4) for part in parts],
        "seconds": round(time.monotonic() - began, 2),
    }


def _perplexity(logprob: float, n: int) -> float:
    return math.exp(min(-logprob / n, 700)) if n else math.nan


def curve_of(name: str, results: Sequence[Result]) -> Curve:
    n = np.sum([result["n"] for result in results], axis=0)
    logprob = np.sum([result["logprob"] for result in results], axis=0)
    return Curve(name, [_perplexity(*pair) for pair in zip(logprob, n)], _perplexity(logprob.sum(), n.sum()))


def read_windows(
    arguments: argparse.Namespace,
    model: Model,
    setting: Setting,
    piece: int,
    bounds: Sequence[int],
    windows: Sequence[NDArray[np.int32]],
    results: Results,
) -> Curve:
    """One row: all windows under one setting. What results hold is not read again."""
    ctx = bounds[-1]
    piece = min(piece, ctx)
    label = f"perplexity at {length_label(ctx)}, {setting.name}"
    with model.session(ctx=piece, **setting.options) as session:
        rule = rule_of(session)
        cases = [
            Case("perplexity", arguments.model_id, rule, {"piece": piece, "bounds": bounds, "digest": digest(window)})
            for window in windows
        ]
        missing = [(case, window) for case, window in zip(cases, windows) if results.get(case, *FIELDS) is None]
        with token_bar(ctx * len(missing), label) as bar:
            for case, window in missing:
                results.add(case, measure(session, window, bounds, piece, bar))
    return curve_of(setting.name, [result for case in cases if (result := results.get(case, *FIELDS))])


def run(arguments: argparse.Namespace, model: Model, settings: Sequence[Setting], results: Results) -> list[Curves]:
    tokenizer = model.tokenizer
    ids = tokenizer.encode(read_text(str(arguments.file)), bos=False, special=False)
    bos = tokenizer.bos if tokenizer.adds_bos else None
    rows = [(setting, max(arguments.ctx)) for setting in settings]
    if arguments.pieces:
        rows.insert(
            0, (Setting(f"pieces of {length_label(arguments.pieces)}", {"attention": "dense"}), arguments.pieces)
        )
    work = [
        (ctx, bounds_of(ctx, arguments.buckets), windows_of(ids, ctx, arguments.windows, bos, arguments.file))
        for ctx in arguments.ctx
    ]
    return [
        Curves(ctx, bounds, [read_windows(arguments, model, *row, bounds, windows, results) for row in rows])
        for ctx, bounds, windows in work
    ]


def text(tables: Sequence[Curves], arguments: argparse.Namespace) -> Iterator[str]:
    """A table for each ctx."""
    for curves in tables:
        yield ""
        ends = [length_label(edge) for edge in curves.bounds]
        header = ["setting", *(f"{begin}..{end}" for begin, end in zip(ends, ends[1:])), "all"]
        rows = [[c.name, *(f"{x:.3f}" for x in (*c.perplexities, c.whole))] for c in curves.curves]
        several = f", mean of {arguments.windows} windows one behind the other" if arguments.windows > 1 else ""
        yield f"Perplexity by position, {curves.ctx} tokens read from an empty session{several}."
        yield ""
        yield table(header, rows, left=[0])

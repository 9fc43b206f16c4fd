"""Rounds of timed reading and writing at depths, every engine in turn."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from longheads.bench.cost import arithmetic, prompt_operations, token_bytes
from longheads.bench.engines import Engine, LongHeads, Text
from longheads.model import Model
from longheads.progress import ProgressBar

SETTLE_SECONDS = 0.02  # before each measurement: threads of the other engine may still spin


@dataclass(frozen=True)
class Plan:
    """Lengths in tokens."""

    depths: Sequence[int]  # ascending
    prompt: int
    decode: int
    repeat: int
    whole: bool  # measure reading everything up to a depth, too
    vs_depth: int  # the peer comes along up to here

    @property
    def room(self) -> int:
        """What the last depth needs."""
        return self.depths[-1] + max(self.prompt, self.decode)


@dataclass(frozen=True)
class Speed:
    """Tokens a second, round by round."""

    rounds: list[float]

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)


@dataclass(frozen=True)
class Row:
    """A test at a depth. cost: of a token, in what the ceiling of that name counts."""

    depth: int
    test: str  # "whole", "prompt" or "decode"
    tokens: int
    ours: Speed
    theirs: Speed | None
    ceiling: str
    cost: float
    found: float | None = None  # under kv_offload: the share of chunks that the GPU had copies of

    @property
    def ratio(self) -> float | None:
        return self.ours.median / self.theirs.median if self.theirs else None


class _Work:
    """One progress bar over all that happens at a depth, in tokens."""

    def __init__(self, bar: ProgressBar, total: int) -> None:
        self._bar, self._total, self._done = bar, total, 0

    def within(self, done: int, _: int) -> None:
        """A part has come this far."""
        self._bar(self._done + done, self._total)

    def finished(self, n: int) -> None:
        self._done += n
        self._bar(self._done, self._total)


def _rounds(
    engines: Sequence[Engine], plan: Plan, work: _Work, n: int, start: int, run: Callable[[Engine], object]
) -> list[Speed]:
    """Time run(engine), which takes n tokens from position start on: A B A B. Engines end where the last run ended."""
    speeds: list[list[float]] = [[] for _ in engines]
    for _ in range(plan.repeat):
        for engine, speed in zip(engines, speeds):
            engine.rewind(start)
            time.sleep(SETTLE_SECONDS)
            began = time.perf_counter()
            run(engine)
            speed.append(n / (time.perf_counter() - began))
            work.finished(n)
    return [Speed(speed) for speed in speeds]


def _write(engine: Engine, ids: Text) -> None:
    """As decoding does: one token at a time."""
    for i in range(len(ids)):
        engine.read(ids[i : i + 1])


def measure_depth(
    model: Model, ours: LongHeads, theirs: Engine | None, text: Text, depth: int, plan: Plan
) -> list[Row]:
    """All tests at one depth; the engines have been at no greater one."""
    engines: list[Engine] = [ours] if theirs is None or depth > plan.vs_depth else [ours, theirs]
    rows = []

    def add(test: str, n: int, speeds: list[Speed], ceiling: str, cost: float, found: float | None = None) -> None:
        peer = speeds[1] if len(speeds) > 1 else None
        rows.append(Row(depth, test, n, speeds[0], peer, ceiling, cost, found))

    whole = plan.whole and depth > 0
    tokens = (depth if whole else 0) + plan.prompt + plan.decode
    approach = 0 if whole else depth
    prompt, decode = text[depth : depth + plan.prompt], text[depth : depth + plan.decode]
    integers = arithmetic(model)
    with ProgressBar(f"depth {depth}") as bar:
        work = _Work(bar, len(engines) * (plan.repeat * tokens + approach))
        if whole:
            speeds = _rounds(engines, plan, work, depth, 0, lambda engine: engine.read(text[:depth], work.within))
            add("whole", depth, speeds, integers, prompt_operations(model, depth) / depth)
        for engine in engines if approach else []:
            engine.deepen(text, depth, work.within)
            work.finished(depth)
        speeds = _rounds(engines, plan, work, plan.prompt, depth, lambda engine: engine.read(prompt))
        add("prompt", plan.prompt, speeds, integers, prompt_operations(model, plan.prompt) / plan.prompt)
        before = ours.session.chunk_hits
        speeds = _rounds(engines, plan, work, plan.decode, depth, lambda engine: _write(engine, decode))
        hits, misses = (now - then for now, then in zip(ours.session.chunk_hits, before))
        found = hits / (hits + misses) if hits + misses else None
        add("decode", plan.decode, speeds, "read", token_bytes(model, ours.session), found)
        for engine in engines:
            engine.rewind(depth)
    return rows


def warm_up(engines: Sequence[Engine], text: Text) -> None:
    """The first token reads the weights from the disk."""
    for engine in engines:
        engine.read(text[:1])
        engine.rewind(0)

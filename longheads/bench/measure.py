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

    def room(self, depth: int) -> int:
        """What a depth and what is measured there need."""
        return depth + max(self.prompt, self.decode)


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
    """One progress bar over all that happens at some places, in tokens."""

    def __init__(self, bar: ProgressBar, total: int) -> None:
        self._bar, self._total, self._done = bar, total, 0

    def within(self, done: int, _: int) -> None:
        """A part has come this far."""
        self._bar(self._done + done, self._total)

    def finished(self, n: int) -> None:
        self._done += n
        self._bar(self._done, self._total)


@dataclass(frozen=True)
class Place:
    """A depth, and engines that have been at no greater one."""

    depth: int
    ours: LongHeads
    theirs: Engine | None = None

    @property
    def engines(self) -> list[Engine]:
        return [self.ours] if self.theirs is None else [self.ours, self.theirs]


def _rounds(
    places: Sequence[Place], plan: Plan, work: _Work, run: Callable[[Engine, Place], int], whole: bool = False
) -> list[list[Speed]]:
    """Time run, which returns how many tokens it took, for all engines of all places in turn: A B A B. It begins at the
    place's depth, or with whole at 0, and engines end where its last run ended."""
    speeds: list[list[list[float]]] = [[[] for _ in place.engines] for place in places]
    for _ in range(plan.repeat):
        for place, of_place in zip(places, speeds):
            for engine, speed in zip(place.engines, of_place):
                engine.rewind(0 if whole else place.depth)
                time.sleep(SETTLE_SECONDS)
                began = time.perf_counter()
                n = run(engine, place)
                speed.append(n / (time.perf_counter() - began))
                work.finished(n)
    return [[Speed(speed) for speed in of_place] for of_place in speeds]


def measure(model: Model, places: Sequence[Place], text: Text, plan: Plan) -> list[Row]:
    """All tests at these places, which take turns in every test: what else the machine does meets all alike."""
    rows: dict[Place, list[Row]] = {place: [] for place in places}

    def add(place: Place, test: str, n: int, speeds: list[Speed], cost: float, found: float | None = None) -> None:
        ceiling, peer = "read" if test == "decode" else arithmetic(model), speeds[1] if len(speeds) > 1 else None
        rows[place].append(Row(place.depth, test, n, speeds[0], peer, ceiling, cost, found))

    def tokens(place: Place) -> int:
        of_all = place.depth * (plan.repeat if plan.whole else 1)
        return len(place.engines) * (of_all + plan.repeat * (plan.prompt + plan.decode))

    def read_all(engine: Engine, place: Place) -> int:
        engine.read(text[: place.depth], work.within)
        return place.depth

    def prompt(engine: Engine, place: Place) -> int:
        engine.read(text[place.depth : place.depth + plan.prompt])
        return plan.prompt

    def decode(engine: Engine, place: Place) -> int:
        """One token at a time."""
        for i in range(place.depth, place.depth + plan.decode):
            engine.read(text[i : i + 1])
        return plan.decode

    with ProgressBar("depth " + ", ".join(str(place.depth) for place in places)) as bar:
        work = _Work(bar, sum(map(tokens, places)))
        deep = [place for place in places if place.depth > 0]
        if plan.whole:
            for place, speeds in zip(deep, _rounds(deep, plan, work, read_all, whole=True)):
                add(place, "whole", place.depth, speeds, prompt_operations(model, place.depth) / place.depth)
        else:
            for place in deep:
                for engine in place.engines:
                    engine.deepen(text, place.depth, work.within)
                    work.finished(place.depth)
        for place, speeds in zip(places, _rounds(places, plan, work, prompt)):
            add(place, "prompt", plan.prompt, speeds, prompt_operations(model, plan.prompt) / plan.prompt)
        before = [place.ours.session.chunk_hits for place in places]
        for place, speeds, then in zip(places, _rounds(places, plan, work, decode), before):
            hits, misses = (now - was for now, was in zip(place.ours.session.chunk_hits, then))
            found = hits / (hits + misses) if hits + misses else None
            add(place, "decode", plan.decode, speeds, token_bytes(model, place.ours.session), found)
            for engine in place.engines:
                engine.rewind(place.depth)
    return [row for place in places for row in rows[place]]


def warm_up(engines: Sequence[Engine], text: Text) -> None:
    """The first token reads the weights from the disk."""
    for engine in engines:
        engine.read(text[:1])
        engine.rewind(0)

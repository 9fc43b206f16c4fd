"""The results as a table for people and as JSON for programs."""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import longheads
from longheads.bench.cost import Ceilings
from longheads.bench.measure import Plan, Row, Speed
from longheads.model import Model
from longheads.stats import memory_text
from longheads.table import table

BUSY = 0.2  # processors kept busy by others, from which on speeds are not to be trusted


@dataclass
class Report:
    """Everything that is known when the measuring is over."""

    path: Path
    model: Model
    options: dict[str, Any]  # of the session, resolved
    plan: Plan
    in_turn: bool  # depths took turns, each in a session of its own
    filled: bool  # depths hold random keys and values
    ceilings: Ceilings
    peer: str | None  # what it says of itself
    peer_options: dict[str, Any]
    others: float | None  # processors that other processes kept busy meanwhile
    memory: dict[str, int]
    rows: list[Row]

    def share(self, row: Row) -> float:
        """Of what the machine could do at best."""
        return row.ours.median * row.cost / getattr(self.ceilings, row.ceiling)

    def kept(self, row: Row) -> float | None:
        """Of the speed at the first depth; None where depths did not take turns."""
        if not self.in_turn or row.test == "whole":
            return None
        first = next(other for other in self.rows if other.test == row.test)
        return statistics.median(here / there for here, there in zip(row.ours.rounds, first.ours.rounds))


def processor() -> str:
    """The processor's name, as far as the system tells."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.machine()


class Others:
    """How many processors everybody else keeps busy, from now on."""

    def __init__(self) -> None:
        self._began, self._busy, self._own = time.monotonic(), self._everybody(), time.process_time()

    @staticmethod
    def _everybody() -> float | None:
        """Seconds of all processors since the start of the system; None where the system does not tell."""
        try:
            user, nice, system, _idle, _wait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
        except (OSError, ValueError):
            return None
        return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")

    def processors(self) -> float | None:
        now = self._everybody()
        if now is None or self._busy is None:
            return None
        own = time.process_time() - self._own
        return max(0.0, (now - self._busy - own) / (time.monotonic() - self._began))


# --- for people --------------------------------------------------------------------------------------------------


def _settings(report: Report) -> str:
    o = report.options
    rope = f"rope {o['rope_scaling']} x {o['rope_scale']:g}, " if o["rope_scale"] != 1 else ""
    tail = f"{rope}kv {o['kv_type']}{' offloaded' if o['kv_offload'] else ''}, ctx {o['ctx']}"
    if o["attention"] == "dense":
        return f"dense attention, {tail}"
    return (
        f"{o['scheme']}, chunk {o['chunk']}, budget {o['budget']}, near budget {o['near_budget']}, "
        f"window {o['window']}, local {o['local']}, "
        f"dense until {o['dense_until']}, far heads {o['far_heads']}, far bias {o['far_bias']:g}, "
        f"select per {o['select_per']}, {tail}"
    )


def _depths(report: Report) -> str:
    peer = ", llama.cpp reads" if report.peer and report.filled else ""
    return f"filled with random keys and values{peer}" if report.filled else "read"


def _facts(report: Report) -> Iterator[tuple[str, str]]:
    m, c = report.model, report.ceilings
    yield "model", f"{report.path.name}: {m.n_params / 1e6:.0f}M parameters, {m.weight_bytes / 1e6:.1f} MB of weights"
    yield "machine", f"{processor()}, {m.device}"
    halves = f"float16 {c.float16 / 1e9:.0f} GFLOP/s, " if c.float16 else ""
    yield (
        "ceilings",
        f"fp32 {c.fp32 / 1e9:.0f} GFLOP/s, {halves}int8 {c.int8 / 1e9:.0f} GOP/s, read {c.read / 1e9:.1f} GB/s",
    )
    yield "settings", _settings(report)
    if any(report.plan.depths):
        yield "depths", _depths(report)
    if report.peer:
        o = report.peer_options
        flash = "on" if o["flash_attention"] else "off"
        yield "llama.cpp", f"{report.peer}; flash attention {flash}, kv f16, n_batch {o['n_batch']}/{o['n_ubatch']}"
    of_whom = " (both engines)" if report.peer else " (all depths)" if report.in_turn else ""
    yield "memory", memory_text(report.memory, report.options["ctx"]) + of_whom


def _number(x: float) -> str:
    return f"{x:.0f}" if x >= 1000 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def _speed(speed: Speed | None) -> str:
    if speed is None:
        return "-"
    if len(speed.rounds) == 1:
        return _number(speed.median)
    return f"{_number(speed.median)} ({_number(min(speed.rounds))}..{_number(max(speed.rounds))})"


def _legend(report: Report) -> Iterator[str]:
    if report.others is not None and report.others > BUSY:
        yield (
            f"NOT TO BE TRUSTED, ratios least of all: others kept {report.others:.1f} processors busy meanwhile, "
            "and engines suffer from that unequally."
        )
    n, ceilings = report.plan.repeat, {row.ceiling for row in report.rows}
    yield "Tokens a second" + (f", median of {n} (slowest..fastest)." if n > 1 else ".")
    for name in ("int8", "fp32", "float16"):
        if name in ceilings:
            yield f"of {name}: two operations for every weight and token, without attention, of what registers alone do."
    yield "of read: the weights, summaries, chosen keys and values that a token needs, of what memory alone delivers."
    if report.in_turn:
        yield f"to {report.plan.depths[0]}: this depth's speed to that one's, median of the rounds, which took turns."
    if report.options["kv_offload"]:
        yield "found: of the chunks that a token attends in memory of the host, those that the GPU had a copy of."
    if report.peer:
        yield "ratio: of the medians, longheads to llama.cpp."


def text(report: Report) -> str:
    rows = []
    for row in report.rows:
        cells = [
            str(row.depth),
            f"{row.test} {row.tokens}",
            _speed(row.ours),
            f"{report.share(row):.0%} of {row.ceiling}",
        ]
        if report.in_turn:
            kept = report.kept(row)
            cells.append("-" if kept is None else f"{kept:.2f}")
        if report.options["kv_offload"]:
            cells.append("-" if row.found is None else f"{row.found:.1%}")
        if report.peer:
            cells += [_speed(row.theirs), "-" if row.ratio is None else f"{row.ratio:.2f}"]
        rows.append(cells)
    more = [f"to {report.plan.depths[0]}"] if report.in_turn else []
    more += ["found"] if report.options["kv_offload"] else []
    header = ["depth", "test", "longheads", "share", *more] + (["llama.cpp", "ratio"] if report.peer else [])
    facts = "\n".join(f"{name:<9} {value}" for name, value in _facts(report))
    return f"{facts}\n\n{table(header, rows, left=[1])}\n\n" + "\n".join(_legend(report))


# --- for programs ------------------------------------------------------------------------------------------------


def as_object(report: Report) -> dict[str, Any]:
    """One JSON object. Speeds in tokens a second, sizes in bytes, ceilings in operations and bytes a second."""
    m = report.model

    def speed(s: Speed | None) -> dict[str, Any] | None:
        return s and {"median": s.median, "min": min(s.rounds), "max": max(s.rounds), "rounds": s.rounds}

    return {
        "model": {"file": report.path.name, "n_params": m.n_params, "weight_bytes": m.weight_bytes},
        "machine": {"processor": processor(), "device": m.device, "threads": m.threads, "others": report.others},
        "versions": {"longheads": longheads.__version__, "python": platform.python_version(), "peer": report.peer},
        "options": report.options | {"depths": "filled" if report.filled else "read"},
        "plan": asdict(report.plan),
        "peer_options": report.peer_options if report.peer else None,
        "ceilings": asdict(report.ceilings),
        "memory": report.memory,
        "rows": [
            {
                "depth": row.depth,
                "test": row.test,
                "tokens": row.tokens,
                "longheads": speed(row.ours),
                "llama.cpp": speed(row.theirs),
                "ratio": row.ratio,
                "ceiling": row.ceiling,
                "share": report.share(row),
                "kept": report.kept(row),
                "found": row.found,
            }
            for row in report.rows
        ],
    }

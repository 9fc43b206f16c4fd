"""What --stats and the benchmark tell of speed and memory."""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass

from longheads.model import Model
from longheads.session import Session


def memory_of(model: Model, session: Session) -> dict[str, int]:
    """Bytes: of the weights, of what a session reserves for its whole context, and the most the process has held."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"weights": model.weight_bytes, **session.stats, "peak_rss": peak}


def memory_text(memory: dict[str, int], ctx: int) -> str:
    mb = {name: f"{n / 1e6:.1f} MB" for name, n in memory.items()}
    copies = f" (copies on the GPU: {mb['cache']})" if memory["cache"] else ""
    return (
        f"weights {mb['weights']}, KV {mb['kv']}{copies}, summaries {mb['summaries']}, buffers {mb['buffers']} for ctx "
        f"{ctx}; peak RSS {mb['peak_rss']}"
    )


@dataclass
class Stats:
    """What --stats shows. Seconds and tokens."""

    load_seconds: float = 0.0
    n_read: int = 0
    read_seconds: float = 0.0
    n_written: int = 0
    write_seconds: float = 0.0
    cut: bool = False  # the last answer, by -n or the context

    def show(self, model: Model, session: Session) -> None:
        def speed(n: int, seconds: float) -> str:
            return f"{n} tokens in {seconds:.2f} s" + (f", {n / seconds:.1f} tokens/s" if n and seconds else "")

        right, guessed = session.lookups
        if guessed:
            print(f"guesses   {right} of {guessed} right", file=sys.stderr)
        found, fetched = session.chunk_hits
        if found or fetched:
            print(f"chunks    {found / (found + fetched):.1%} found on the GPU, {fetched} fetched", file=sys.stderr)
        print(
            f"load      {self.load_seconds:.2f} s, {model.device}\n"
            f"prompt    {speed(self.n_read, self.read_seconds)}\n"
            f"generated {speed(self.n_written, self.write_seconds)}{', cut by -n or --ctx' if self.cut else ''}\n"
            f"memory    {memory_text(memory_of(model, session), session.ctx)}",
            file=sys.stderr,
        )

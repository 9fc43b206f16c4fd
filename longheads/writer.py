"""Answers on standard output, with a progress bar before and figures after."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from longheads.command import tell
from longheads.generate import DEFAULT_MAX_TOKENS, Sampler, Sampling, check_room, with_defaults
from longheads.model import Model
from longheads.progress import ProgressBar
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


class Writer:
    """Reads prompts and writes answers, keeping count."""

    def __init__(
        self,
        model: Model,
        session: Session,
        sampling: Sampling,
        stats: Stats,
        when_read: Callable[[Session], None] | None = None,
    ) -> None:
        """when_read: called when a prompt has been read, before the answer is written."""
        self._when_read = when_read
        self.model, self.session, self.stats = model, session, stats
        self._sampling = sampling
        Sampler(with_defaults(sampling), model.n_vocab)  # a value that cannot be is told before anything is read

    def read(self, ids: Sequence[int]) -> None:
        """Bring the session to these ids, under a progress bar."""
        began, before = time.monotonic(), 0

        def progress(done: int, total: int) -> None:
            nonlocal before
            self.stats.n_read += done - before
            before = done
            bar(done, total)

        try:
            with ProgressBar("reading") as bar:
                self.session.read(ids, progress=progress)
        finally:
            self.stats.read_seconds += time.monotonic() - began

    def answer(self, ids: Sequence[int]) -> Iterator[str]:
        """Read the prompt, then yield the answer's text."""
        check_room(len(ids), self._sampling["max_tokens"], self.session.ctx)
        self.read(ids)
        if self._when_read:
            self._when_read(self.session)
        self.stats.cut = False
        began = time.monotonic()
        for piece in self.session.stream(**self._sampling):
            self.stats.n_written += 1
            self.stats.write_seconds += time.monotonic() - began
            yield piece.text
            self.stats.cut = piece.finish_reason == "length"
            began = time.monotonic()

    def _tell_why_cut(self) -> None:
        if self.session.position + 1 >= self.session.ctx:
            tell(f"note: the context of {self.session.ctx} tokens is full: --ctx can be raised")
        elif self._sampling["max_tokens"] is None:
            tell(f"note: the answer was cut after {DEFAULT_MAX_TOKENS} tokens: -n says how many it may have")

    def write(self, ids: Sequence[int], said: list[str] | None = None) -> None:
        """Stream the answer to standard output, ending with a newline. said gets its pieces, even if cut short."""
        said = [] if said is None else said
        try:
            for text in self.answer(ids):
                said.append(text)
                sys.stdout.write(text)
                sys.stdout.flush()
        finally:
            if said and not "".join(said).endswith("\n"):
                sys.stdout.write("\n")
                sys.stdout.flush()
        if self.stats.cut:
            self._tell_why_cut()

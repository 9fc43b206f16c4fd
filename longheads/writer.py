"""Answers on standard output, with a progress bar before."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence

from longheads.command import tell
from longheads.generate import DEFAULT_MAX_TOKENS, Sampler, Sampling, check_room, with_defaults
from longheads.model import Model
from longheads.progress import ProgressBar
from longheads.session import Session
from longheads.stats import Stats


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
        if self.session.position >= self.session.ctx:
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

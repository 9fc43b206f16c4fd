"""Which chunks each head of each layer attends for the last token: as text, and as the paper's figure 5 shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from longheads._core import text_bytes
from longheads.errors import ArgumentError
from longheads.plot import figure_class, save
from longheads.session import Session
from longheads.table import table
from longheads.tokenizer import Tokenizer

MOST_PICKED = 10  # chunks in the text
EXCERPT = 60  # characters of a chunk


@dataclass(frozen=True)
class Trace:
    """ids: (n,) what was read; chosen: (n_layer, n_head, k) chunks attended by its last token, -1 where unused."""

    ids: NDArray[np.int32]
    chosen: NDArray[np.int32]
    chunk: int  # tokens in a chunk
    local: int  # chunks at the end that heads attend always, if they choose others
    answer: list[int]  # chunks that hold the answer, ascending; none where nobody asked

    @property
    def n_chunk(self) -> int:
        return -(-len(self.ids) // self.chunk)

    @property
    def everything(self) -> bool:
        """Was nothing chosen?"""
        return self.chosen.shape[2] >= self.n_chunk and bool((self.chosen[..., : self.n_chunk] >= 0).all())

    def attended(self) -> NDArray[np.bool_]:
        """(n_layer * n_head, n_chunk): does that head attend that chunk?"""
        rows = self.chosen.reshape(-1, self.chosen.shape[2])
        out = np.zeros((len(rows), self.n_chunk), bool)
        head, place = np.nonzero(rows >= 0)
        out[head, rows[head, place]] = True
        return out

    def picked(self) -> NDArray[np.bool_]:
        """(n_layer * n_head, n_chunk): did that head choose that chunk? A head that attends the first chunk and the
        last ones, and no others, chose none, whether it had a choice or not."""
        attended = self.attended()
        n = attended.sum(axis=1, keepdims=True)
        columns = np.arange(self.n_chunk)
        last = (attended & (columns > self.n_chunk - n)).sum(axis=1, keepdims=True)
        free = (columns > 0) & (columns < self.n_chunk - self.local)
        return np.asarray(attended & free & (last < n - 1))

    def finders(self) -> NDArray[np.bool_]:
        """(n_layer, n_head): does that head attend a chunk with the answer?"""
        found = np.any(self.attended()[:, self.answer], axis=1)
        return np.asarray(found).reshape(self.chosen.shape[:2])


def chunks_with(tokenizer: Tokenizer, ids: Sequence[int], answer: str, question: str, chunk: int) -> list[int]:
    """Chunks that hold a text, wherever it stands before the question. Raises ArgumentError where it does not."""
    pieces = [tokenizer.token_bytes(id_) for id_ in ids]
    ends = np.cumsum([len(piece) for piece in pieces])
    text, wanted = b"".join(pieces), text_bytes(answer)
    upto = text.rfind(text_bytes(question)) if question else len(text)
    upto = len(text) if upto < 0 else upto
    chunks: set[int] = set()
    at = text.find(wanted, 0, upto)
    while wanted and at >= 0:
        first, last = np.searchsorted(ends, [at, at + len(wanted) - 1], side="right")
        chunks.update(range(int(first) // chunk, int(last) // chunk + 1))
        at = text.find(wanted, at + 1, upto)
    if not chunks:
        raise ArgumentError(f"{answer!r} is nowhere in the document: write it as it stands there")
    return sorted(chunks)


def trace_of(session: Session, answer: str | None = None, question: str = "") -> Trace:
    """What the session's last token attended; answer: a text whose chunks are marked."""
    options, ids = session.options, session.ids
    chunk = options["chunk"]
    marked = [] if answer is None else chunks_with(session.tokenizer, ids.tolist(), answer, question, chunk)
    return Trace(ids, session.selected(), chunk, options["local"], marked)


# --- for people --------------------------------------------------------------------------------------------------


def text_of(trace: Trace, tokenizer: Tokenizer) -> str:
    """Who found the answer, and which chunks were picked most."""
    n_layer, n_head, _ = trace.chosen.shape
    lines = [f"{len(trace.ids)} tokens in {trace.n_chunk} chunks of {trace.chunk}, {n_layer} layers of {n_head} heads."]
    if trace.everything:
        return lines[0] + "\nThe last token attends every chunk: the text is too short for a choice (see dense_until)."
    picked = trace.picked()
    n_picking = int(picked.any(axis=1).sum())
    lines.append(
        f"{n_picking} of {len(picked)} heads attend up to {picked.sum(axis=1).max()} chunks of their choice, beside the "
        f"first one and the last {trace.local}; the others attend the first one and the last ones."
    )
    if trace.answer:
        finders = trace.finders()
        best = np.argsort(-finders.sum(axis=1), kind="stable")[:5]
        layers = ", ".join(f"{layer} ({finders[layer].sum()})" for layer in best if finders[layer].any())
        lines.append(
            f"The answer is in chunk {', '.join(map(str, trace.answer))}: {finders.sum()} of {finders.size} heads "
            f"({finders.mean():.0%}) attend it" + (f", most in layers {layers}." if layers else ".")
        )
    counts = Counter({c: int(n) for c, n in enumerate(picked.sum(axis=0)) if n})
    rows = []
    for c, n in counts.most_common(MOST_PICKED):
        words = " ".join(tokenizer.decode(trace.ids[c * trace.chunk : (c + 1) * trace.chunk]).split())
        rows.append([f"{c}{' *' if c in trace.answer else ''}", f"{n} ({n / n_picking:.0%})", words[:EXCERPT]])
    star = ", * with the answer" if trace.answer else ""
    if rows:
        lines += ["", f"Most picked{star}:", ""]
        lines.append(table(["chunk", "heads", "begins"], rows, left=[2]))
    return "\n".join(lines)


def draw(trace: Trace, path: Path, title: str) -> None:
    """A row for each head, layer by layer; a column for each chunk; above, the share of heads that attend it."""
    attended = trace.attended()
    n_layer, n_head = trace.chosen.shape[:2]
    shade = attended.astype(float)
    if not trace.everything:
        shade[~trace.picked()] *= 0.35  # no choice: paler
    height = min(3 + len(attended) / 40, 14)
    figure = figure_class()(figsize=(12, height), layout="constrained")
    above, axes = figure.subplots(2, 1, sharex=True, height_ratios=[1, 6])
    above.bar(range(trace.n_chunk), attended.mean(axis=0), width=1.0, color="#0b6e99")
    above.set_ylim(0, 1.02)
    above.set_ylabel("share of\nheads", fontsize=9)
    above.spines[["top", "right"]].set_visible(False)
    axes.imshow(shade, aspect="auto", interpolation="nearest", cmap="Blues", vmin=0, vmax=1)
    for layer in range(1, n_layer):
        axes.axhline(layer * n_head - 0.5, color="#cccccc", linewidth=0.4)
    step = max(1, n_layer // 16)
    layers = range(0, n_layer, step)
    axes.set_yticks([(layer + 0.5) * n_head - 0.5 for layer in layers], [str(layer) for layer in layers])
    axes.set_ylabel(f"layer ({n_head} heads each)")
    meaning = "attends it" if trace.everything else "chose it, pale where it attends it always"
    axes.set_xlabel(f"chunk of {trace.chunk} tokens; dark where a head {meaning}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    half = max(0.5, trace.n_chunk / 600)  # a frame must be seen, however many chunks there are
    for c in trace.answer:
        for panel in (above, axes):
            panel.axvspan(c - half, c + half, fill=False, edgecolor="#c8553d", linewidth=1.4, zorder=3)
    if trace.answer:
        found = trace.finders()
        title += f"\nframed: the answer, attended by {found.sum()} of {found.size} heads"
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    axes.set_xlim(-0.5, trace.n_chunk - 0.5)
    save(figure, path)

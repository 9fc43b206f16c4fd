"""Results as pictures: hits by length and depth, perplexity by position."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from longheads.eval.perplexity import Curves
from longheads.eval.retrieval import Question, Row
from longheads.plot import figure_class, length_label, save

MOST_ROWS = 12  # of a map: where there are more depths than that they are put together
BINS = 5
COLOURS = ("#0b6e99", "#c8553d", "#5b8c5a", "#8a5a9e", "#d9a441", "#555555", "#3bb3c3", "#b0413e")


def depth_rows(depths: Sequence[float]) -> tuple[list[str], list[int]]:
    """Names of a map's rows, and the row of each depth."""
    distinct = sorted({round(depth, 3) for depth in depths})
    if len(distinct) <= MOST_ROWS and len(distinct) < len(depths):
        return [f"{depth:.0%}" for depth in distinct], [distinct.index(round(depth, 3)) for depth in depths]
    names = [f"{100 * i // BINS}-{100 * (i + 1) // BINS}%" for i in range(BINS)]
    return names, [min(int(depth * BINS), BINS - 1) for depth in depths]


def _map(axes: Any, questions: Sequence[Question], row: Row) -> Any:
    columns = list(dict.fromkeys(question.column for question in questions))
    names, places = depth_rows([question.depth for question in questions])
    cells: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for question, place, result in zip(questions, places, row.results):
        cells.setdefault((place, columns.index(question.column)), []).append(result)
    share = np.full((len(names), len(columns)), np.nan)
    for at, results in cells.items():
        share[at] = fmean(result["hit"] for result in results)
        text = f"{sum(result['hit'] for result in results)}/{len(results)}"
        text += f"\n{fmean(result['logprob'] for result in results):.2f}"
        axes.text(at[1], at[0], text, ha="center", va="center", fontsize=8)
    axes.set_facecolor("#dddddd")  # where nothing was asked
    image = axes.imshow(share, cmap="RdYlGn", vmin=0, vmax=1, aspect="auto", alpha=0.6)
    axes.set_xticks(range(len(columns)), columns, parse_math=False)
    axes.set_yticks(range(len(names)), names)
    axes.set_title(row.name, fontsize=11, loc="left", parse_math=False)
    return image


def draw_maps(questions: Sequence[Question], rows: Sequence[Row], title: str, path: Path) -> None:
    """A map for each setting: length by depth, coloured by the share of hits; beside it the mean log-probability."""
    n_columns = len({question.column for question in questions})
    width = max(3.2, 1.2 + 0.8 * n_columns)
    figure = figure_class()(figsize=(1.2 + width * len(rows), 4.2), layout="constrained")
    panels = figure.subplots(1, len(rows), squeeze=False, sharey=True)[0]
    for axes, row in zip(panels, rows):
        image = _map(axes, questions, row)
    panels[0].set_ylabel("depth of the answer")
    figure.colorbar(image, ax=list(panels), label="share of hits")
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    save(figure, path)


def draw_curves(tables: Sequence[Curves], trained_ctx: int, title: str, path: Path) -> None:
    """A panel for each ctx, a curve for each setting: perplexity against the middle of each bucket."""
    figure = figure_class()(figsize=(1.5 + 6 * len(tables), 4.4), layout="constrained")
    panels = figure.subplots(1, len(tables), squeeze=False)[0]
    for axes, table in zip(panels, tables):
        middles = [(a * b) ** 0.5 if a else b / 2 for a, b in zip(table.bounds, table.bounds[1:])]
        for i, curve in enumerate(table.curves):
            colour = COLOURS[i % len(COLOURS)]
            axes.plot(middles, curve.perplexities, marker="o", markersize=4, color=colour, label=curve.name)
        axes.set_xscale("log", base=2)
        axes.set_xticks(table.bounds[1:], [length_label(edge) for edge in table.bounds[1:]])
        axes.minorticks_off()
        if table.bounds[1] < trained_ctx < table.ctx:
            axes.axvline(trained_ctx, color="#888888", linewidth=1, linestyle="--")
            place = ("data", "axes fraction")
            axes.annotate(" trained context", (trained_ctx, 1), xycoords=place, va="top", fontsize=8)
        finite = [x for curve in table.curves for x in curve.perplexities if np.isfinite(x)]
        if finite and max(finite) > 4 * min(finite):
            axes.set_yscale("log")
        axes.set_xlabel("position, tokens")
        axes.set_title(f"{length_label(table.ctx)} tokens", fontsize=11, loc="left")
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("perplexity")
    for label in panels[0].legend(frameon=False).get_texts():
        label.set_parse_math(False)
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    save(figure, path)

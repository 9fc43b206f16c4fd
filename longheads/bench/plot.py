"""Speed against depth, as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from longheads.plot import figure_class, length_label, save

if TYPE_CHECKING:
    from longheads.bench.report import Report

COLOURS = {"longheads": "#0b6e99", "llama.cpp": "#c8553d"}
PANELS = {"prompt": "Reading a prompt of {} tokens", "decode": "Writing, a token at a time"}


def _panel(axes: Any, report: Report, test: str) -> None:
    rows = [row for row in report.rows if row.test == test]
    depths = sorted({row.depth for row in rows})
    for name, speed_of in (("longheads", lambda row: row.ours), ("llama.cpp", lambda row: row.theirs)):
        points = [(row.depth, speed) for row in rows if (speed := speed_of(row))]
        if not points:
            continue
        x, median = [depth for depth, _ in points], [speed.median for _, speed in points]
        low, high = [min(speed.rounds) for _, speed in points], [max(speed.rounds) for _, speed in points]
        axes.fill_between(x, low, high, color=COLOURS[name], alpha=0.18, linewidth=0)
        axes.plot(x, median, marker="o", markersize=5, linewidth=2, color=COLOURS[name], label=name)
    positive = [depth for depth in depths if depth]
    if positive:
        # Logarithmic from the first depth on, with 0 one step to its left.
        axes.set_xscale("symlog", base=2, linthresh=positive[0], linscale=1)
        axes.set_xlim(depths[0] - positive[0] * 0.06, positive[-1] * 1.12)
    axes.set_xticks(depths, [length_label(depth) for depth in depths])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_title(PANELS[test].format(report.plan.prompt), fontsize=11, loc="left")
    axes.set_xlabel("tokens before it")
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def plot(report: Report, path: Path) -> None:
    """Write a picture of both tests; the format follows from the name."""
    figure = figure_class()(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, test in zip(panels, PANELS):
        _panel(axes, report, test)
    panels[0].set_ylabel("tokens a second")
    if report.peer:
        panels[0].legend(frameon=False)
    title = f"{report.path.stem} on {report.model.device}"
    figure.suptitle(title, fontsize=12, fontweight="bold", parse_math=False)
    save(figure, path)

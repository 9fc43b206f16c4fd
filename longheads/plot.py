"""What every picture needs: matplotlib, which is optional, and how lengths are written on an axis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from longheads.errors import UnsupportedError


def figure_class() -> Any:
    """matplotlib's Figure, which needs no display."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UnsupportedError("a picture needs matplotlib: get it with `pip install matplotlib`") from None
    return Figure


def check_plot(path: Path) -> None:
    """Raises UnsupportedError where that file could not be written as a picture."""
    formats = figure_class()().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in formats:
        raise UnsupportedError(f"{path} is not a picture that matplotlib writes: end it in one of {', '.join(formats)}")


def length_label(tokens: int) -> str:
    """4096 as 4k, 1000 as 1000."""
    return f"{tokens // 1024}k" if tokens and tokens % 1024 == 0 else str(tokens)


def save(figure: Any, path: Path) -> None:
    """Write the picture; the format follows from the name."""
    figure.savefig(path, dpi=160)

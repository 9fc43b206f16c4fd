"""A progress bar for long waits."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable


class ProgressBar:
    """Tokens (or bytes) done, their speed and the time left, on stderr where that is a terminal; silent elsewhere.

    Call it as progress(done, total). It shows only where the wait is long enough to be one, and goes when it is over.
    """

    def __init__(self, label: str, unit: str = " tokens") -> None:
        self._label, self._unit = label, unit
        self._bar: Any = None
        self._visible = sys.stderr is not None and sys.stderr.isatty()

    def __call__(self, done: int, total: int) -> None:
        if not self._visible:
            return
        if self._bar is None:
            from tqdm import tqdm  # only where there is something to show

            self._bar = tqdm(
                total=total,
                desc=self._label,
                unit=self._unit,
                unit_scale=self._unit == "B",
                leave=False,
                dynamic_ncols=True,
                delay=0.2,
            )
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def token_bar(total: int, label: str) -> Any:
    """A tqdm bar over the tokens of a whole measurement, with room for words behind it; on a terminal only."""
    from tqdm import tqdm

    return tqdm(total=total, desc=label, unit=" tokens", leave=False, dynamic_ncols=True, disable=None)


def within(bar: Any) -> Callable[[int, int], object]:
    """The progress of a part that begins where the bar stands now."""
    start = bar.n
    return lambda done, _total: bar.update(start + done - bar.n)

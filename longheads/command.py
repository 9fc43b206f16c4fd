"""What every command does alike: lines for the person on standard error, and an exit status instead of a traceback."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from longheads.errors import FileError, LongHeadsError, LongHeadsWarning
from longheads.plot import check_plot


def tell(message: str) -> None:
    """A line for the person, not for the pipe."""
    print(f"longheads: {message}", file=sys.stderr, flush=True)


@contextmanager
def notes_as_lines() -> Iterator[None]:
    """Warnings of the package as lines like all others."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", LongHeadsWarning)
        warnings.showwarning = lambda message, *_, **__: tell(f"note: {message}")
        yield


def check_outputs(json: Path | None, plot: Path | None) -> None:
    """Raises FileError or UnsupportedError before any work is done where its results could not be written."""
    if plot:
        check_plot(plot)
    for path in filter(None, (json, plot)):
        check_writable(path)


def check_writable(path: Path) -> None:
    """Raises FileError where a file of this name could not be written."""
    if not path.parent.is_dir():
        raise FileError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise FileError(f"{path} cannot be written: it is a folder")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise FileError(f"{path} cannot be written: check its permissions")


def exit_status(run: Callable[[], None]) -> int:
    """Run a command: 0, or what went wrong in one sentence and 1, or 130 after Ctrl-C, or 141 where nobody reads on."""
    if sys.stderr is None:  # closed, and print would take standard output instead
        sys.stderr = open(os.devnull, "w")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    if sys.stdout is None:
        tell("standard output is closed: there is nowhere to write the answer")
        return 1
    try:
        with notes_as_lines():
            run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141  # whoever read us has gone
    except LongHeadsError as error:
        tell(str(error))
        return 1
    except (MemoryError, OSError) as error:
        tell(str(error) or "there is not enough memory")
        return 1
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # it was told, or nobody is there: Python's flush at exit is not to tell it again
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0

"""What every command does alike: lines for the person on standard error, and an exit status instead of a traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from longheads.errors import FileError, LongHeadsError, LongHeadsWarning
from longheads.model import Model
from longheads.plot import check_plot
from longheads.progress import ProgressBar


def tell(message: str) -> None:
    """A line for the person, not for the pipe; whose terminal may have gone."""
    with suppress(OSError):
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


def check_writable(path: Path, *, replaced: bool = False) -> None:
    """Raises FileError where a file of this name could not be written, or replaced by one that is written beside it."""
    if replaced:
        path = path.resolve()
    if not path.parent.is_dir():
        raise FileError(f"{path} cannot be written: there is no folder {path.parent}")
    if path.is_dir():
        raise FileError(f"{path} cannot be written: it is a folder")
    if not os.access(path if path.exists() and not replaced else path.parent, os.W_OK):
        raise FileError(f"{path} cannot be written: check its permissions")


def open_model(path: str | Path, **options: Any) -> Model:
    """Model(path, **options) under a progress bar."""
    with ProgressBar("loading", "B") as bar:
        return Model(path, progress=bar, **options)


class Stopped(SystemExit):
    """SIGTERM or SIGHUP: like Ctrl-C, but for a chat, which goes on after that."""

    code: int


def _stop(number: int, _frame: object) -> NoReturn:
    raise Stopped(128 + number)


@contextmanager
def _stopping() -> Iterator[None]:
    """Have signals that end a process unwind it, so that what was read is saved and no half of a file is left."""
    own = threading.current_thread() is threading.main_thread()
    # Whoever ignores one, as nohup does, is let.
    numbers = [n for n in (signal.SIGTERM, signal.SIGHUP) if own and signal.getsignal(n) is signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)


def leave(status: int) -> NoReturn:
    """End the process; where a signal stopped it, by that signal, from which a shell knows to stop its loop, too."""
    number = status - 128
    if number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    sys.exit(status)


def exit_status(run: Callable[[], None]) -> int:
    """Run a command: 0, or what went wrong in one sentence and 1, or 128 plus the signal that stopped it (130 after
    Ctrl-C), or 141 where nobody reads on."""
    if sys.stderr is None:  # closed, and print would take standard output instead
        sys.stderr = open(os.devnull, "w")
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal that cannot show a character is no reason to stop
    if sys.stdout is None:
        tell("standard output is closed: there is nowhere to write the answer")
        return 1
    try:
        with notes_as_lines(), _stopping():
            run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except Stopped as stop:
        return stop.code
    except BrokenPipeError:
        return 141  # whoever read us has gone
    except LongHeadsError as error:
        tell(str(error))
        return 1
    except MemoryError as error:
        tell(str(error) or "there is not enough memory")
        return 1
    except OSError as error:  # of a named file, or else of standard output
        tell(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return 1
    finally:
        try:
            sys.stdout.flush()
        except OSError:  # it was told, or nobody is there: Python's flush at exit is not to tell it again
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 0

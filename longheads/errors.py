"""One family of exceptions, and the one place that raises it from the core's statuses."""

from __future__ import annotations

from longheads._native import ffi, lib


class LongHeadsError(Exception):
    """Anything that goes wrong here. The message is one sentence: what was found, what was expected, what to do."""


class FileError(LongHeadsError, OSError):
    """A file cannot be opened, read or written."""


class FormatError(LongHeadsError, ValueError):
    """A file is damaged or not what it claims to be."""


class UnsupportedError(LongHeadsError, NotImplementedError):
    """Well-formed, but nothing that this build can do: an architecture, a tensor type, a device."""


class ArgumentError(LongHeadsError, ValueError):
    """A value is out of range."""


class OutOfMemoryError(LongHeadsError, MemoryError):
    """There is not enough memory."""


class ContextError(LongHeadsError, ValueError):
    """The tokens do not fit the context."""


class StateError(LongHeadsError, RuntimeError):
    """The call makes no sense now: no logits yet, already closed."""


class BusyError(LongHeadsError, RuntimeError):
    """The session is in use on another thread."""


class BackendError(LongHeadsError, RuntimeError):
    """The device failed."""


class TemplateError(LongHeadsError, ValueError):
    """The chat template is missing, broken, or refuses the messages."""


class LongHeadsWarning(UserWarning):
    """A value was changed to one that is possible; the message says which and why."""


_BY_STATUS: dict[int, type[LongHeadsError]] = {
    lib.LH_ERR_IO: FileError,
    lib.LH_ERR_FORMAT: FormatError,
    lib.LH_ERR_UNSUPPORTED: UnsupportedError,
    lib.LH_ERR_ARGUMENT: ArgumentError,
    lib.LH_ERR_MEMORY: OutOfMemoryError,
    lib.LH_ERR_CONTEXT: ContextError,
    lib.LH_ERR_STATE: StateError,
    lib.LH_ERR_BUSY: BusyError,
    lib.LH_ERR_BACKEND: BackendError,
}


def check(status: int) -> None:
    """Raise what a status of the core stands for, with its sentence; call it on the thread that made the call."""
    if status != lib.LH_OK:
        message = ffi.string(lib.lh_last_error()).decode("utf-8", "replace")
        raise _BY_STATUS.get(status, LongHeadsError)(message)

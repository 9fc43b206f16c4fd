"""What the wrappers share: converting arguments for the core."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Set
from numbers import Integral, Real
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from longheads._native import ffi, lib
from longheads.errors import ArgumentError, check

__all__ = [
    "Ids",
    "Progress",
    "Reporting",
    "StrPath",
    "ffi",
    "ids_array",
    "ids_pointer",
    "lib",
    "path_bytes",
    "set_number",
    "text_bytes",
    "whole",
]

Ids: TypeAlias = Iterable[int] | NDArray[np.integer]
StrPath: TypeAlias = str | bytes | os.PathLike[str] | os.PathLike[bytes]
Progress: TypeAlias = Callable[[int, int], object]  #: called with what is done and what is to do in all


class Reporting:
    """What a long call of the core tells on its way. In between Python notices signals, and an exception stops the call."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress
        self._error: BaseException | None = None
        self._handle = ffi.new_handle(self)
        #: lh_progress *, for one call; it lives as long as this object
        self.pointer = ffi.new("lh_progress *", {"report": lib.lh_report_to_python, "arg": self._handle})

    def report(self, done: int, total: int) -> bool:
        try:
            if self._progress:
                self._progress(done, total)
        except BaseException as error:
            self._error = error
        return self._error is None

    def check(self, status: int) -> None:
        """Raise what stopped the call, or what its status stands for."""
        if status == lib.LH_ERR_STOPPED:
            raise self._error or KeyboardInterrupt
        check(status)


@ffi.def_extern(name="lh_report_to_python", onerror=lambda *_: False)
def _report_to_python(arg: Any, done: int, total: int) -> bool:
    return ffi.from_handle(arg).report(done, total)


def whole(value: Any, name: str) -> int:
    """The number, of at most 64 bits with a sign; name: what the caller knows it as. Raises TypeError, ArgumentError."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, expected a whole number")
    if not -(2**63) <= value < 2**64:
        raise ArgumentError(f"{name} is {value}, which is out of range")
    return int(value)


def set_number(struct: Any, field: str, value: float, name: str | None = None) -> None:
    """Set a field of a struct of the core's; name: what the caller knows it as. Raises ArgumentError where it is beyond
    the field's bits, TypeError where it is no such number."""
    if not isinstance(getattr(struct, field), float):
        whole(value, name or field)
    elif not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name or field} is {value!r}, expected a number")
    try:
        setattr(struct, field, value)
    except OverflowError:
        raise ArgumentError(f"{name or field} is {value}, which is out of range") from None


def path_bytes(path: StrPath) -> bytes:
    """A path as the file system spells it."""
    name = os.fsencode(path)
    if not name or b"\0" in name:
        raise ArgumentError(f"{os.fsdecode(name)!r} is not a path")
    return name


def text_bytes(text: str) -> bytes:
    """Text as UTF-8."""
    if not isinstance(text, str):
        raise TypeError(f"expected text (str), got {type(text).__name__}")
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # As Python decodes the command line and the environment where they are no UTF-8.
        escaped = 0xDC80 <= code < 0xDD00
        found = f"byte 0x{code - 0xDC00:02X}, which is no UTF-8," if escaped else f"lone surrogate (U+{code:04X})"
        raise ArgumentError(f"the text is not valid Unicode: a {found} at index {error.start}") from None


def ids_array(ids: Ids) -> NDArray[np.int32]:
    """Token ids as the core takes them: (n,) int32, contiguous."""
    if isinstance(ids, (str, bytes, bytearray)):
        raise TypeError(f"expected token ids, got {type(ids).__name__}: tokenize it first")
    if not isinstance(ids, Iterable) or isinstance(ids, (Set, Mapping)):
        raise TypeError(f"expected a sequence of token ids, got {type(ids).__name__}")
    array = np.asarray(ids if isinstance(ids, (np.ndarray, list, tuple)) else list(ids))
    if array.size == 0:
        return np.empty(0, np.int32)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise TypeError(f"expected a flat sequence of token ids (integers), got shape {array.shape} of {array.dtype}")
    if array.min() < 0 or array.max() > np.iinfo(np.int32).max:
        bad = int(array.min() if array.min() < 0 else array.max())
        raise ArgumentError(f"{bad} is not a token id: ids lie in [0, n_vocab)")
    return np.ascontiguousarray(array, np.int32)


def ids_pointer(ids: NDArray[np.int32]):
    """The array's memory; valid while the array is."""
    return ffi.cast("int32_t *", ids.ctypes.data)

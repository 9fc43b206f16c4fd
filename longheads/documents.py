"""Documents that a command reads: files, and standard input."""

from __future__ import annotations

import os
import select
import stat
from collections.abc import Sequence

from longheads.command import tell
from longheads.errors import ArgumentError, FileError, FormatError

STDIN = "-"


def read_documents(names: Sequence[str]) -> str:
    """The files' texts, a blank line between them; where none is named, that of a piped standard input."""
    if not names and _is_piped():
        names = [STDIN]
    if names.count(STDIN) > 1:
        raise ArgumentError("standard input can be read only once: name it once")
    texts = [read_text(name) for name in names]
    return "\n\n".join(text for text in texts if text)


def _is_piped() -> bool:
    try:
        mode = os.fstat(0).st_mode
    except OSError:
        return False  # closed
    if stat.S_ISREG(mode):
        return os.lseek(0, 0, os.SEEK_CUR) == 0  # a shell's loop reads what is left
    return stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode)


def _read(name: str) -> bytes:
    if name != STDIN:
        with open(name, "rb") as file:
            return file.read()
    if not select.select([0], [], [], 1.0)[0]:
        tell("reading the document from standard input: end it with Ctrl-D, or use </dev/null if there is none")
    with open(0, "rb", closefd=False) as file:
        return file.read()


def read_text(name: str) -> str:
    """A file's text; - is standard input. Raises FileError, and FormatError for what is not UTF-8."""
    label = "standard input" if name == STDIN else name
    try:
        data = _read(name)
    except OSError as error:
        raise FileError(f"{label} cannot be read: {error.strerror}") from None
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "latin1"
        raise FormatError(
            f"{label} is not UTF-8 text (byte 0x{data[error.start]:02x} at offset {error.start}): "
            f"convert it first, for example with `iconv -f {encoding} -t utf-8`"
        ) from None

"""Results by case, in memory and in a file of JSON lines that lets an interrupted run go on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from longheads.errors import FormatError, LongHeadsWarning

Result = dict[str, Any]  #: what came out, by name; plain JSON

START = '{"case": {"task": "'  # of every line


@dataclass(frozen=True)
class Case:
    """What is measured: a result belongs to it as long as all of this is the same."""

    task: str
    model: str  # name and digest of the file
    options: dict[str, Any]  # of the session, all of them
    parameters: dict[str, Any]  # of the task, the digest of the tokens among them

    @property
    def identity(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def digest(*texts: Sequence[int] | NDArray[np.int32]) -> str:
    """A short name for token ids, so that a result is not taken for that of another text."""
    return hashlib.sha256(b"|".join(np.asarray(ids, "<i4").tobytes() for ids in texts)).hexdigest()[:16]


def model_digest(path: Path) -> str:
    """A short name for a model's file, so that a result is not taken for that of another one of this name: from its
    size and a thousandth of its bytes, or a megabyte."""
    size, found = path.stat().st_size, hashlib.sha256()
    found.update(str(size).encode())
    with path.open("rb") as file:
        for i in range(256):
            file.seek(size * i // 256)
            found.update(file.read(max(4096, size // 256_000)))
    return found.hexdigest()[:16]


class Results:
    """Results by case: those of a file, and new ones, which the file gets at once."""

    def __init__(self, path: Path | None) -> None:
        """Raises FormatError where the file holds something else. A last line that was cut short is taken off it."""
        self._path = path
        self._known: dict[str, Result] = {}
        self._unended = False  # the last line has no newline
        if path and path.exists():
            self._read(path)

    def _read(self, path: Path) -> None:
        data = path.read_bytes()
        *lines, last = data.decode("utf-8", errors="replace").split("\n")
        for number, line in enumerate([*lines, last] if last else lines, start=1):
            try:
                record = json.loads(line)
                self._known[Case(**record["case"]).identity] = dict(record["result"])
            except (ValueError, TypeError, KeyError) as error:
                if number > len(lines) and isinstance(error, ValueError) and START.startswith(line[: len(START)]):
                    os.truncate(path, data.rfind(b"\n") + 1)
                    told = f"the last line of {path} was cut short: it is taken off, and measured again"
                    warnings.warn(told, LongHeadsWarning, stacklevel=3)
                    return
                raise FormatError(
                    f"line {number} of {path} is not a result of longheads.eval: delete that line, or name another file"
                ) from None
        self._unended = bool(last)

    def get(self, case: Case, *fields: str) -> Result | None:
        """None: it has to be measured; so has what lacks one of these fields, as an earlier version's may."""
        result = self._known.get(case.identity)
        return result if result is not None and result.keys() >= set(fields) else None

    def add(self, case: Case, result: Result) -> None:
        self._known[case.identity] = result
        if self._path:
            with self._path.open("a", encoding="utf-8") as file:
                line = json.dumps({"case": asdict(case), "result": result})
                file.write("\n" * self._unended + line + "\n")
            self._unended = False

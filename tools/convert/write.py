"""From a source to files: rows flow through a few threads, and names appear when everything behind them is whole."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

from longheads import Tokenizer
from longheads.errors import ArgumentError, FileError, LongHeadsError

from .container import header, padded
from .encode import recode
from .recipes import FLOATS, RECIPES, Model, choose
from .source import Metadata, Source, Tensor, row_bytes

MAX_PARTS = 2**16 - 1  # split.count is a UINT16
SLICE = 1 << 20  # values that a thread converts at once: 4 MB of floats


@dataclass(frozen=True)
class Planned:
    """A tensor and what becomes of it."""

    tensor: Tensor
    type: Type
    wanted: Type  # what type would be if its block divided the rows

    @property
    def size(self) -> int:
        """Bytes in the output, without padding."""
        return self.tensor.n_rows * row_bytes(self.type, self.tensor.n_cols)


@dataclass(frozen=True)
class Plan:
    """What to write."""

    metadata: Metadata
    parts: list[list[Planned]]  # by file

    @property
    def tensors(self) -> list[Planned]:
        return [planned for part in self.parts for planned in part]

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(padded(planned.size) for planned in self.tensors)

    def paths(self, out: Path) -> list[Path]:
        """Of the files: `out`, or its name numbered as all readers of splits expect it."""
        if len(self.parts) == 1:
            return [out]
        stem = out.name.removesuffix(".gguf")
        return [out.with_name(f"{stem}-{i + 1:05d}-of-{len(self.parts):05d}.gguf") for i in range(len(self.parts))]


def make_plan(source: Source, name: str, split_size: int | None) -> Plan:
    """name: of the type of file. split_size: most bytes of tensors in a file; a larger tensor has one for itself."""
    n_head = source.number("llama.attention.head_count", 1)
    model = Model(
        n_layer=source.number("llama.block_count"),
        n_group=n_head // max(1, source.number("llama.attention.head_count_kv", n_head)),
        tied=all(t.name != "output.weight" for t in source.tensors),
    )
    metadata = source.metadata | {"general.file_type": (RECIPES[name].file_type, Value.UINT32)}
    if RECIPES[name].base not in FLOATS:
        metadata["general.quantization_version"] = (2, Value.UINT32)
    parts: list[list[Planned]] = [[]]
    used = 0
    for tensor in source.tensors:
        planned = Planned(tensor, *choose(name, tensor.name, tensor.shape, model))
        if split_size and parts[-1] and used + padded(planned.size) > split_size:
            parts.append([])
            used = 0
        parts[-1].append(planned)
        used += padded(planned.size)
    if len(parts) > MAX_PARTS:
        raise ArgumentError(f"--split-size {split_size} would make {len(parts)} files, expected at most {MAX_PARTS}")
    return Plan(metadata, parts)


def check_vocabulary(metadata: Metadata, origin: str) -> None:
    """Raises LongHeadsError where the runtime could not read the vocabulary: before the long wait, not after.

    origin: what the vocabulary comes from, for the sentence.
    """
    with tempfile.TemporaryDirectory(prefix="longheads-convert-") as folder:
        path = Path(folder, "vocabulary.gguf")
        path.write_bytes(header(metadata, []))
        try:
            Tokenizer(path).close()
        except LongHeadsError as error:
            raise type(error)(f"{origin}: {str(error).removeprefix(f'{path}: ')}") from None


# --- one file after the other ----------------------------------------------------------------------------------------


def _slices(tensor: Tensor) -> Iterator[tuple[int, int]]:
    """Ranges of rows, each about SLICE values."""
    unit = tensor.row_unit
    step = max(1, SLICE // (tensor.n_cols * unit)) * unit
    for start in range(0, tensor.n_rows, step):
        yield start, min(start + step, tensor.n_rows)


def _converted(planned: Planned, pool: ThreadPoolExecutor, ahead: int) -> Iterator[np.ndarray]:
    """The tensor's blocks, slice by slice in order; at most `ahead` slices are under way."""
    t = planned.tensor
    with ExitStack() as stack:
        file = None
        if t.values is None:
            file = os.open(t.path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, file)

        def convert(start: int, stop: int) -> np.ndarray:
            n, size = (stop - start) * t.n_cols, (stop - start) * row_bytes(planned.type, t.n_cols)
            return recode(t.read(file, start, stop), t.type, planned.type, n, size, t.origin)

        waiting: deque[Future[np.ndarray]] = deque()
        try:
            for start, stop in _slices(t):
                if len(waiting) == ahead:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(convert, start, stop))
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # none may still read from a file that is closed
                future.cancel()
            for future in waiting:
                if not future.cancelled():
                    future.exception()


def _metadata_of(plan: Plan, part: int) -> Metadata:
    """Of one file: all of it in the first, and in each what tells that it is one of several."""
    if len(plan.parts) == 1:
        return plan.metadata
    return (plan.metadata if part == 0 else {}) | {
        "split.no": (part, Value.UINT16),
        "split.count": (len(plan.parts), Value.UINT16),
        "split.tensors.count": (len(plan.tensors), Value.INT32),
    }


def _write_file(
    file: IO[bytes], plan: Plan, part: int, pool: ThreadPoolExecutor, ahead: int, report: Callable[[int], object],
    sha256: bool,
) -> str:  # fmt: skip
    """One whole file; returns its SHA-256, or "". report: of bytes as they are written."""
    digest = hashlib.sha256() if sha256 else None

    def write(data: bytes | np.ndarray) -> None:
        file.write(data)
        if digest:
            digest.update(data)

    infos = [(p.tensor.name, p.tensor.shape, p.type, p.size) for p in plan.parts[part]]
    write(header(_metadata_of(plan, part), infos))
    for planned in plan.parts[part]:
        for blocks in _converted(planned, pool, ahead):
            write(blocks)
            report(blocks.nbytes)
        write(bytes(padded(planned.size) - planned.size))
    return digest.hexdigest() if digest else ""


def write_plan(
    plan: Plan, out: Path, n_threads: int, progress: Callable[[int, int], object], sha256: bool = False
) -> list[tuple[Path, str]]:
    """Write the files; returns them with their SHA-256 ("" unless asked for).

    Everything is written under other names beside `out` and renamed when all is whole, the first file last. Whatever
    stops it, nothing is left behind. progress(done, total): bytes of tensors.
    """
    paths = plan.paths(out)
    free = shutil.disk_usage(out.parent).free
    if plan.size > free:
        raise FileError(f"{out} will take {plan.size / 1e9:.2f} GB, but {out.parent} has only {free / 1e9:.2f} GB free")
    targets = [path.resolve() for path in paths]  # where links lead
    partials = [path.with_name(f".{path.name}.{os.getpid()}.partial") for path in targets]
    digests, done = [], 0

    def report(n_bytes: int) -> None:
        nonlocal done
        done += n_bytes
        progress(done, plan.size)

    try:
        with ThreadPoolExecutor(n_threads) as pool:
            for i, partial in enumerate(partials):
                with partial.open("wb") as file:
                    digest = _write_file(file, plan, i, pool, 2 * n_threads, report, sha256)
                    file.flush()
                    os.fsync(file.fileno())
                digests.append(digest)
        for partial, target in reversed(list(zip(partials, targets, strict=True))):
            os.replace(partial, target)
    except OSError as error:
        if isinstance(error, FileError) or error.strerror is None:
            raise
        raise FileError(f"cannot write {out}: {error.strerror}; nothing was kept") from None
    finally:
        for partial in partials:
            partial.unlink(missing_ok=True)
    return list(zip(paths, digests, strict=True))

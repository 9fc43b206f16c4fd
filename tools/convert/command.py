"""A Hugging Face folder or a GGUF file as a GGUF file of the type that is asked for.

    python tools/convert path/to/hf-model -o model.gguf --type q4_k_m
    python tools/convert model-f16.gguf -o model-q8_0.gguf --type q8_0 --split-size 4G

Floats are kept exact where the type allows. Memory does not grow with the model: rows are read, converted by all
threads and written a few megabytes at a time. The output appears under its name when it is whole.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from longheads.command import exit_status, leave, tell
from longheads.errors import ArgumentError, FileError
from longheads.find import find_model
from longheads.options import Parser, count
from longheads.progress import ProgressBar

try:
    from .gguf_source import open_gguf
    from .hf_source import open_folder
    from .recipes import ALIASES, FLOATS, RECIPES
    from .source import Source
    from .write import Plan, check_vocabulary, make_plan, write_plan
except ModuleNotFoundError as error:
    if error.name != "gguf":
        raise
    sys.exit("longheads: the converter needs the package gguf: pip install gguf")


def parse_size(text: str) -> int:
    """`4G`, `500M`: bytes, by thousands."""
    if (match := re.fullmatch(r"(\d+)([KMGkmg]?)B?", text)) and int(match[1]):
        return int(match[1]) * {"": 1, "k": 10**3, "m": 10**6, "g": 10**9}[match[2].lower()]
    raise argparse.ArgumentTypeError(f"{text!r} is not a size, such as 4G or 500M")


def parse_type(text: str) -> str:
    name = ALIASES.get(text.lower(), text.lower())
    if name not in RECIPES:
        raise argparse.ArgumentTypeError(f"{text!r} is not a type; expected one of {', '.join([*RECIPES, *ALIASES])}")
    return name


def parser() -> argparse.ArgumentParser:
    p = Parser(
        prog="longheads-convert", description="Convert a Hugging Face LLaMA folder, or a GGUF file, to a GGUF file."
    )
    p.add_argument("source", type=Path, metavar="SRC",
                   help="a folder with config.json, safetensors and a tokenizer; a GGUF file; or smollm2")  # fmt: skip
    p.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the GGUF file to write")
    p.add_argument("--type", type=parse_type, metavar="TYPE",
                   help="of the weights; default: as the source has them, where those are floats. One of "
                   + ", ".join([*RECIPES, *ALIASES]))  # fmt: skip
    p.add_argument("--split-size", type=parse_size, metavar="SIZE",
                   help="write several files of at most so many bytes of weights each, such as 4G")  # fmt: skip
    p.add_argument("--pre", metavar="NAME", help="the pre-tokenizer, where that of tokenizer.json is not recognised")
    p.add_argument("--dry-run", action="store_true", help="say what would be written, and write nothing")
    p.add_argument("--sha256", action="store_true", help="print the SHA-256 of each file that is written")
    p.add_argument("-t", "--threads", type=count, metavar="N", help="default: as many as the process may use")
    return p


def open_source(path: Path, pre: str | None) -> Source:
    """A folder or a file, by what it is."""
    if path.is_dir():
        return open_folder(path, pre)
    if not path.exists():
        raise FileError(f"{path} does not exist; give a model's folder or a GGUF file")
    if path.suffix == ".safetensors" or path.name == "config.json":
        raise ArgumentError(f"{path} is one file of a model; give its folder, {path.parent}")
    if pre:
        raise ArgumentError("--pre says what a folder does not; a GGUF file says its pre-tokenizer itself")
    return open_gguf(path)


def type_for(source: Source, name: str | None) -> str:
    """The type that is asked for, or the source's own where it is one of floats."""
    if name:
        return name
    own = source.main_type.name.lower()
    if own not in ("f32", "f16", "bf16"):
        raise ArgumentError(f"the source is quantised already ({own}); say with --type what to make of it")
    return own


def check_output(source: Source, plan: Plan, out: Path) -> None:
    """Raises where the output cannot be written, or is what is being read."""
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else "lies in a folder that does not exist"
        raise FileError(f"{out} {what}; give the name of a file to write")
    if strange := [path for path in plan.paths(out) if path.exists() and not path.is_file()]:
        raise FileError(f"{strange[0]} is not a regular file; give another name")
    sources = {t.path.resolve() for t in source.tensors}
    if any(path.resolve() in sources for path in plan.paths(out)):
        raise ArgumentError(f"{out} is what is being read; give another name")


def notices(source: Source, plan: Plan) -> list[str]:
    """What a person may not expect."""
    found = list(source.notes)
    fallen = Counter((p.wanted, p.type, p.tensor.n_cols) for p in plan.tensors if p.type != p.wanted)
    for (wanted, kind, n_cols), n in fallen.items():
        found.append(f"{n} tensors have rows of {n_cols} values, which blocks of {wanted.name} do not divide; they are "
                     f"{kind.name}")  # fmt: skip
    coarse = [p for p in plan.tensors if p.tensor.type not in FLOATS and p.type not in (p.tensor.type, *FLOATS)]
    if coarse:
        found.append(
            f"{len(coarse)} tensors were quantised already ({coarse[0].tensor.type.name}); what that lost stays lost"
        )
    return found


def bits(plan: Plan) -> float:
    """Bits a weight, all tensors together."""
    return 8 * sum(p.size for p in plan.tensors) / sum(p.tensor.n_rows * p.tensor.n_cols for p in plan.tensors)


def show(plan: Plan, out: Path) -> None:
    """The plan as a table on standard output."""
    for path, part in zip(plan.paths(out), plan.parts):
        print(f"{path}: {sum(p.size for p in part) / 1e6:.1f} MB of weights")
        for p in part:
            shape = " x ".join(map(str, p.tensor.shape))
            types = f"{p.tensor.type.name:>6} -> {p.type.name:<6}"
            print(f"  {p.tensor.name:<32} {shape:>16}  {types} {p.size / 1e6:10.2f} MB")
    print(f"{len(plan.tensors)} tensors, {plan.size / 1e6:.1f} MB, {bits(plan):.2f} bits a weight")


def run(options: argparse.Namespace) -> None:
    began = time.monotonic()
    source = open_source(Path(find_model(options.source)), options.pre)
    plan = make_plan(source, type_for(source, options.type), options.split_size)
    check_output(source, plan, options.output)
    given = f" with --pre {options.pre}" if options.pre else ""
    check_vocabulary(plan.metadata, f"{options.source}{given}")
    for notice in notices(source, plan):
        tell(f"note: {notice}")
    if options.dry_run:
        show(plan, options.output)
        return
    n_threads = options.threads or len(os.sched_getaffinity(0))
    with ProgressBar("converting", unit="B") as bar:
        written = write_plan(plan, options.output, n_threads, bar, options.sha256)
    name = written[0][0] if len(written) == 1 else f"{written[0][0]} and {len(written) - 1} more"
    tell(f"{name}: {len(plan.tensors)} tensors, {plan.size / 1e6:.1f} MB, {bits(plan):.2f} bits a weight, "
         f"in {time.monotonic() - began:.1f} s")  # fmt: skip
    for path, digest in written:
        if digest:
            print(f"{digest}  {path}")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parser().parse_args(arguments)
    return exit_status(lambda: run(options))


def command() -> NoReturn:
    leave(main())

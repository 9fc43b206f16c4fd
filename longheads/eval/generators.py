"""What makers of questions share: their options, and the cases that these stand for."""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from pathlib import Path

from longheads.options import count
from longheads.plot import length_label


def lengths(text: str) -> list[int]:
    """4k,16k; what is said twice counts once."""
    return list(dict.fromkeys(count(part.strip()) for part in text.split(",")))


def depths(text: str) -> list[float]:
    """0,50,100 per cent, as shares; what is said twice counts once."""
    try:
        shares = [float(part) / 100 for part in text.split(",")]
    except ValueError:
        shares = [-1.0]
    if not all(0 <= share <= 1 for share in shares):
        raise argparse.ArgumentTypeError(f"{text!r} are no depths: expected per cents such as 0,25,50,75,100")
    return list(dict.fromkeys(shares))


def add_generator(p: argparse.ArgumentParser, filler: bool) -> None:
    """The options of a task that makes texts of its own; filler: whether books can go into them."""
    g = p.add_argument_group("texts")
    # fmt: off
    g.add_argument("--lengths", metavar="N,N", type=lengths, default=[4096],
                   help="of the prompt in tokens, such as 4k,16k,128k (default: 4k)")
    g.add_argument("--depths", metavar="P,P", type=depths,
                   help="where in the text the answer is, in per cent; every seed at every depth (default: one that is "
                        "drawn with the seed)")
    g.add_argument("--seeds", metavar="N", type=count, default=10, help="texts of each length (default: %(default)s)")
    g.add_argument("--first-seed", metavar="N", type=int, default=0,
                   help="seeds go on from here (default: %(default)s)")
    if filler:
        g.add_argument("--filler", metavar="FILE", type=Path, help="hide in this text, not in the classic filler")
    # fmt: on


def cases_of(arguments: argparse.Namespace) -> Iterator[tuple[int, int, float | None]]:
    """Length, seed and depth of every case; None where the seed says the depth."""
    return itertools.product(arguments.lengths, seeds_of(arguments), arguments.depths or [None])


def seeds_of(arguments: argparse.Namespace) -> range:
    return range(arguments.first_seed, arguments.first_seed + arguments.seeds)


def seeds_line(arguments: argparse.Namespace) -> str:
    seeds = seeds_of(arguments)
    return f"seed {seeds[0]}" if len(seeds) == 1 else f"seeds {seeds[0]} to {seeds[-1]}"


def lengths_line(arguments: argparse.Namespace) -> str:
    return f"at most {', '.join(map(length_label, arguments.lengths))} tokens"

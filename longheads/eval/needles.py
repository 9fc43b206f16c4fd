"""Many needles, one of them asked for: "The number of the amber wooden kettle is 12345."

After the multi-key tasks of RULER (arXiv 2404.06654). The needles stand among sentences of filler, or there is nothing
but needles (--needles all), which is the hardest: every sentence looks like the one that is asked for. A seed is a
text; --depths asks it for needles at several depths, and it is read once for all of them.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from longheads.errors import ArgumentError
from longheads.eval.generators import add_generator, lengths_line, seeds_line, seeds_of
from longheads.eval.prompts import Encoder, Text, read_filler
from longheads.eval.retrieval import Question
from longheads.options import count
from longheads.plot import length_label

HELP = "many numbered things hidden in filler, or nothing else; one is asked for"
CHATS = True

TASK = "Some things in the following text have a number. Memorize the numbers. I will ask you for one of them."
LOOKS = (
    "amber", "ancient", "black", "blue", "bright", "broken", "brown", "cold", "crooked", "empty", "foreign", "golden",
    "green", "grey", "heavy", "hollow", "little", "painted", "purple", "quiet", "red", "silver", "white", "yellow",
)  # fmt: skip
STUFFS = (
    "bamboo", "brass", "brick", "bronze", "canvas", "clay", "copper", "cotton", "glass", "iron", "ivory", "leather",
    "linen", "marble", "oak", "paper", "pine", "rubber", "silk", "steel", "stone", "straw", "wax", "wool",
)  # fmt: skip
THINGS = (
    "anchor", "basket", "bell", "bottle", "box", "bridge", "candle", "chair", "clock", "door", "drum", "flag",
    "hammer", "kettle", "ladder", "lamp", "mirror", "needle", "pipe", "table", "tower", "wagon", "wheel", "whistle",
)  # fmt: skip
N_NAMES = len(LOOKS) * len(STUFFS) * len(THINGS)
ALL = 0  # --needles all


@dataclass(frozen=True)
class Needle:
    name: str
    number: str
    place: float  # share of the filler that comes before it

    def __str__(self) -> str:
        return f"The number of the {self.name} is {self.number}."


def draw(seed: int, n: int) -> tuple[list[Needle], float]:
    """n needles of a seed, in the order of the text, and a depth in [0, 1)."""
    rng = random.Random(seed)
    depth = rng.random()
    needles = []
    for at in rng.sample(range(N_NAMES), n):
        rest, thing = divmod(at, len(THINGS))
        look, stuff = divmod(rest, len(STUFFS))
        name = f"{LOOKS[look]} {STUFFS[stuff]} {THINGS[thing]}"
        needles.append(Needle(name, str(rng.randrange(10_000, 100_000)), rng.random()))
    return sorted(needles, key=lambda needle: needle.place), depth


def document(filler: Sequence[str], needles: Sequence[Needle], n: int) -> str:
    """The needles at their places among n sentences of filler, repeated as needed."""
    sentences = list(itertools.islice(itertools.cycle(filler), n))
    parts, at = [], 0
    for needle in needles:
        upto = int(needle.place * (n + 1))
        parts += [*sentences[at:upto], str(needle)]
        at = upto
    return f"{TASK}\n\n{' '.join([*parts, *sentences[at:]])}\n"


def ask(document: str, needle: Needle) -> Text:
    name = needle.name
    return Text(document, f"What is the number of the {name}?", f"The number of the {name} is", needle.number)


def needle_count(text: str) -> int:
    return ALL if text == "all" else count(text)


def add_options(p: argparse.ArgumentParser) -> None:
    p.add_argument("--needles", metavar="N", type=needle_count, default=8,
                   help="how many, or all: nothing but needles (default: %(default)s)")  # fmt: skip
    add_generator(p, filler=True)


def _of_length(
    arguments: argparse.Namespace, filler: Sequence[str], encoder: Encoder, tokens: int, seed: int
) -> tuple[str, list[Needle], float]:
    """A text, its needles, and the depth that is drawn with the seed."""
    if arguments.needles != ALL:
        needles, drawn = draw(seed, arguments.needles)
        longest = max(needles, key=lambda needle: len(needle.name))
        n = encoder.fit(lambda n: ask(document(filler, needles, n), longest), tokens)
        return document(filler, needles, n), needles, drawn
    needles, drawn = draw(seed, N_NAMES)
    needles = random.Random(seed).sample(needles, N_NAMES)  # the order of their names would tell the place

    def only(n: int) -> str:
        return f"{TASK}\n\n{' '.join(map(str, needles[: n + 1]))}\n"

    n = encoder.fit(lambda n: ask(only(n), needles[0]), tokens, most=N_NAMES)
    if n == N_NAMES:
        raise ArgumentError(f"{tokens} tokens need more than {N_NAMES} names, and there are no more: shorten --lengths")
    return only(n), needles[: n + 1], drawn


def questions(arguments: argparse.Namespace, encoder: Encoder) -> Iterator[Question]:
    filler = read_filler(arguments.filler)
    if arguments.needles > N_NAMES:
        raise ArgumentError(f"{arguments.needles} needles are wanted, but there are names for {N_NAMES} only")
    for tokens, seed in itertools.product(arguments.lengths, seeds_of(arguments)):
        text, needles, drawn = _of_length(arguments, filler, encoder, tokens, seed)
        for depth in [drawn] if arguments.depths is None else arguments.depths:
            at = int(depth * len(needles)) if arguments.depths is None else round(depth * (len(needles) - 1))
            needle = needles[at]
            share = text.index(str(needle)) / len(text)
            parameters = {"tokens": tokens, "seed": seed, "needles": len(needles), "needle": at}
            yield Question(length_label(tokens), share, encoder.prompt(ask(text, needle)), parameters)


def about(arguments: argparse.Namespace) -> str:
    filler = arguments.filler.name if arguments.filler else "classic"
    where = "nothing but needles" if arguments.needles == ALL else f"{arguments.needles} needles in filler ({filler})"
    return f"{where}, one of them asked for; {lengths_line(arguments)}, {seeds_line(arguments)}"

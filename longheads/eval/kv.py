"""A JSON object of random keys and values, one value asked for. After "Lost in the Middle" (arXiv 2307.03172).

No key is a word, and every pair looks like the one that is asked for. A seed is an object; --depths asks it for pairs
at several depths, and it is read once for all of them.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator, Sequence

from longheads.eval.generators import add_generator, lengths_line, seeds_line, seeds_of
from longheads.eval.prompts import Encoder, Text
from longheads.eval.retrieval import Question
from longheads.plot import length_label

HELP = "a JSON object of random keys and values; one is asked for"
CHATS = True

TASK = "Below is a JSON object. I will ask you for the value of one of its keys."


def add_options(p: argparse.ArgumentParser) -> None:
    add_generator(p, filler=False)


def draw(seed: int, n: int) -> list[tuple[str, str]]:
    """n keys of eight hexadecimal digits, no two alike, and values of eight decimal ones; more go on as fewer do."""
    rng = random.Random(seed)
    pairs: dict[str, str] = {}
    while len(pairs) < n:
        key, value = f"{rng.getrandbits(32):08x}", str(rng.randrange(10_000_000, 100_000_000))
        pairs.setdefault(key, value)
    return list(pairs.items())


def line(pair: tuple[str, str]) -> str:
    return f'"{pair[0]}": "{pair[1]}"'


def ask(pairs: Sequence[tuple[str, str]], pair: tuple[str, str]) -> Text:
    body = ",\n ".join(map(line, pairs))
    document = f"{TASK}\n\n{{{body}}}\n"
    return Text(document, f'What is the value of "{pair[0]}"?', f'The value of "{pair[0]}" is "', pair[1], gap="")


def questions(arguments: argparse.Namespace, encoder: Encoder) -> Iterator[Question]:
    for tokens, seed in itertools.product(arguments.lengths, seeds_of(arguments)):
        # No pair has fewer tokens than characters / 4.
        pairs = draw(seed, 2 + tokens // 4)
        n = 1 + encoder.fit(lambda n: ask(pairs[: n + 1], pairs[0]), tokens)
        drawn = random.Random(f"depth {seed}").random()
        for depth in [drawn] if arguments.depths is None else arguments.depths:
            at = int(depth * n) if arguments.depths is None else round(depth * (n - 1))
            parameters = {"tokens": tokens, "seed": seed, "pairs": n, "pair": at}
            yield Question(length_label(tokens), at / n, encoder.prompt(ask(pairs[:n], pairs[at])), parameters)


def about(arguments: argparse.Namespace) -> str:
    return f"JSON of random keys and values, one asked for; {lengths_line(arguments)}, {seeds_line(arguments)}"

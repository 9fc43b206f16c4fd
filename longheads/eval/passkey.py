"""Passkey retrieval: a five-digit key hidden somewhere in a long filler, and a question about it at the end.

Every seed is a key and, where --depths does not say it, a depth. The prompts of one length differ only from the place
of the key on, so that on average half of each is read once for all.
"""

from __future__ import annotations

import argparse
import itertools
import random
from collections.abc import Iterator, Sequence

from longheads.eval.generators import add_generator, cases_of, lengths_line, seeds_line
from longheads.eval.prompts import Encoder, Text, read_filler
from longheads.eval.retrieval import Question
from longheads.plot import length_label

HELP = "a five-digit key hidden in filler"
CHATS = False  # the classic prompt is continued

TASK = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize it. "
    "I will quiz you about the important information there."
)
QUESTION = "What is the pass key?"
OPENING = "The pass key is"


def add_options(p: argparse.ArgumentParser) -> None:
    add_generator(p, filler=True)


def draw(seed: int) -> tuple[str, float]:
    """Key and depth of a seed, the same at every length."""
    rng = random.Random(seed)
    return str(rng.randrange(10_000, 100_000)), rng.random()


def text_of(filler: Sequence[str], key: str, n: int, depth: float) -> Text:
    """n sentences of filler, repeated as needed, and the key's line after a share `depth` of them."""
    sentences = list(itertools.islice(itertools.cycle(filler), n))
    before = int(depth * (n + 1))
    line = f"The pass key is {key}. Remember it. {key} is the pass key."
    parts = [TASK, " ".join(sentences[:before]), line, " ".join(sentences[before:])]
    return Text("\n".join(part for part in parts if part), QUESTION, OPENING, key)


def questions(arguments: argparse.Namespace, encoder: Encoder) -> Iterator[Question]:
    filler = read_filler(arguments.filler)
    for tokens, seed, depth in cases_of(arguments):
        key, drawn = draw(seed)
        share = drawn if depth is None else depth
        n = encoder.fit(lambda n: text_of(filler, key, n, share), tokens)
        prompt = encoder.prompt(text_of(filler, key, n, share))
        yield Question(length_label(tokens), share, prompt, {"tokens": tokens, "seed": seed, "depth": share})


def about(arguments: argparse.Namespace) -> str:
    filler = arguments.filler.name if arguments.filler else "classic"
    return f"a five-digit key in filler ({filler}); {lengths_line(arguments)}, {seeds_line(arguments)}"

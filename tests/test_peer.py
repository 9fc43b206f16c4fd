"""Greedy text of a real instruct model, token for token beside llama.cpp."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import smollm2

longheads = pytest.importorskip("longheads", reason="longheads is not installed")
llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")

N_TOKENS = 64
# Both round activations to 8 bits, each in its own way. Where the two texts part, both must have thought the other's token
# nearly as good: logits that differ by less than this (logits of this model spread over some 30 units).
NEAR_TIE = 0.5
# So many of the five texts must be equal to the end, or near-ties explain too much.
MIN_EQUAL = 3
PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a lighthouse keeper who",
    "def fibonacci(n):\n",
    "Water boils at 100 degrees Celsius because",
    "<|im_start|>user\nName three kinds of trees.<|im_end|>\n<|im_start|>assistant\n",
]


@pytest.fixture(scope="module")
def peer():
    return llama_cpp.Llama(str(smollm2()), n_ctx=512, n_threads=2, logits_all=True, verbose=False)


def greedy(feed, prompt: list[int]) -> tuple[list[int], list[np.ndarray]]:
    """N_TOKENS best tokens after the prompt, and the logits that each was chosen from. feed: ids -> logits."""
    tokens, logits = [], [feed(prompt)]
    while len(tokens) < N_TOKENS:
        tokens.append(int(np.argmax(logits[-1])))
        logits.append(feed(tokens[-1:]))
    return tokens, logits


def test_greedy_equals_llama_cpp(peer):
    def feed_peer(ids: list[int]) -> np.ndarray:
        peer.eval(ids)
        return np.array(peer.scores[peer.n_tokens - 1])

    n_equal = 0
    with longheads.Model(smollm2(), ctx=512, threads=2) as model:
        for prompt in PROMPTS:
            ids = model.tokenize(prompt)
            assert ids == peer.tokenize(prompt.encode(), add_bos=False, special=True)
            with model.session() as session:

                def feed(ids: list[int], session=session) -> np.ndarray:
                    session.feed(ids)
                    return np.array(session.logits)

                ours, our_logits = greedy(feed, ids)
            peer.reset()
            theirs, their_logits = greedy(feed_peer, ids)
            if ours == theirs:
                n_equal += 1
                continue
            at = next(i for i in range(N_TOKENS) if ours[i] != theirs[i])
            a, b = ours[at], theirs[at]
            assert our_logits[at][a] - our_logits[at][b] < NEAR_TIE, f"{prompt!r}: token {at} is no near-tie here"
            assert their_logits[at][b] - their_logits[at][a] < NEAR_TIE, f"{prompt!r}: token {at} is no near-tie there"
    assert n_equal >= MIN_EQUAL

"""Greedy text of a real instruct model, token for token beside llama.cpp: as recorded, and as installed.

    python tests/test_peer.py     # records llama.cpp anew
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers import smollm2

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

RECORD = Path(__file__).with_name("peer_llama_cpp.json")
N_TOKENS = 64
N_BEST = 4
# Both round activations to 8 bits, each in its own way, which moves logits by 0.2 (root mean square, of either from
# float64; they spread by 6). Where the best tokens differ, each must think the other's less than this worse.
NEAR_TIE = 0.5
# Of 5 times 64 tokens so many may be near-ties that fall differently; found: 7.
MAX_NEAR_TIES = 20
PROMPTS = [
    "The capital of France is",
    "Once upon a time, there was a lighthouse keeper who",
    "def fibonacci(n):\n",
    "Water boils at 100 degrees Celsius because",
    "<|im_start|>user\nName three kinds of trees.<|im_end|>\n<|im_start|>assistant\n",
]


def ask_llama_cpp() -> dict[str, Any]:
    """Of every prompt its ids, and for each token that llama.cpp writes the best ones and their logits, best first."""
    import llama_cpp

    peer = llama_cpp.Llama(str(smollm2()), n_ctx=512, n_threads=1, logits_all=True, verbose=False)
    asked: dict[str, Any] = {"version": llama_cpp.__version__, "prompts": {}}
    for prompt in PROMPTS:
        ids = peer.tokenize(prompt.encode(), add_bos=False, special=True)
        peer.reset()
        peer.eval(ids)
        steps = []
        for _ in range(N_TOKENS):
            logits = np.array(peer.scores[peer.n_tokens - 1])
            best = np.argsort(-logits)[:N_BEST]
            steps.append([[int(i), round(float(logits[i]), 3)] for i in best])
            peer.eval([int(best[0])])
        asked["prompts"][prompt] = {"ids": ids, "steps": steps}
    return asked


@pytest.mark.parametrize("peer", ["recorded", "installed"])
def test_greedy_equals_llama_cpp(peer):
    """llama.cpp writes; at each of its tokens ours must want the same one."""
    if peer == "installed":
        pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    asked = json.loads(RECORD.read_text()) if peer == "recorded" else ask_llama_cpp()
    assert list(asked["prompts"]) == PROMPTS
    near_ties = []
    with longheads.Model(smollm2(), ctx=512) as model:
        for prompt, of_prompt in asked["prompts"].items():
            assert model.tokenize(prompt) == of_prompt["ids"]
            assert len(of_prompt["steps"]) == N_TOKENS
            with model.session() as session:
                session.feed(of_prompt["ids"])
                for i, best in enumerate(of_prompt["steps"]):
                    theirs, wanted, ours = dict(best), best[0][0], session.logits
                    a = int(np.argmax(ours))
                    if a != wanted:
                        near_ties.append((prompt, i))
                        assert ours[a] - ours[wanted] < NEAR_TIE, f"{prompt!r}: token {i} is no near-tie here"
                        assert theirs[wanted] - theirs.get(a, -np.inf) < NEAR_TIE, f"{prompt!r}: nor token {i} there"
                    session.feed([wanted])
    assert len(near_ties) <= MAX_NEAR_TIES, near_ties


if __name__ == "__main__":
    RECORD.write_text(json.dumps(ask_llama_cpp(), separators=(",", ":")).replace('{"ids"', '\n{"ids"') + "\n")

"""Read ids one at a time and note, after each, the logits and the chunks attended.

Also a program, so that a test can do it in another process: with another LH_CPU, or after loading a saved session.

    python tests/walk.py request.json out.npz
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np


def walk(session, ids) -> tuple[np.ndarray, list[np.ndarray]]:
    """Logits (n, n_vocab), and for each token its attended chunks (n_layer, n_head, width)."""
    logits, selected = [], []
    for token in ids:
        session.feed([int(token)])
        logits.append(np.array(session.logits))
        selected.append(np.array(session.selected()))
    return np.array(logits), selected


def main(request_path: str, out_path: str) -> None:
    from longheads import Model

    request = json.loads(Path(request_path).read_text())
    with Model(request["model"], **request["options"]) as model, model.session() as session:
        if "load" in request:
            session.load(request["load"])
        logits, selected = walk(session, request["ids"])
        device = model.device
    width = max(s.shape[-1] for s in selected)
    padded = [np.pad(s, ((0, 0), (0, 0), (0, width - s.shape[-1])), constant_values=-1) for s in selected]
    np.savez(out_path, logits=logits, selected=np.array(padded), device=device)


if __name__ == "__main__":
    main(*sys.argv[1:])

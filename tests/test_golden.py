"""The runtime reproduces what others computed on a real, trained model of 260 thousand parameters."""

from __future__ import annotations

import json

import numpy as np
import pytest
from native import data

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

# Both sides are float32; logits spread over some ten units.
LOGITS = 2e-4
# The smallest score margin in the golden file is 6e-4 (tests/test_reference.py): there are no ties to forgive.


@pytest.fixture(scope="module")
def golden():
    arrays = np.load(data("golden/compact_paper_l32_k8_P700.npz"))
    return arrays, json.loads(str(arrays["meta"]))


@pytest.fixture(scope="module")
def model(golden):
    _, meta = golden
    budget = meta["chunk_size"] * meta["chunks"]
    with longheads.Model(
        data("models/stories260K.gguf"),
        ctx=1024,
        chunk=meta["chunk_size"],
        budget=budget,
        window=budget,
        local=2,
        dense_until=meta["begin_selective_length"],
        scheme=meta["behaviour"],
        select_per="head",
        kv_type="f32",
    ) as model:
        yield model


def test_longheads(golden, model):
    """Prefill in pieces that end at every golden position, then decoding one token at a time."""
    arrays, meta = golden
    ids = arrays["ids"].tolist()
    prefill_pos, sel_pos = arrays["prefill_pos"].tolist(), arrays["prefill_sel_pos"].tolist()
    with model.session() as session:
        for p in sorted({*prefill_pos, *sel_pos, meta["prefill"] - 1}):
            session.feed(ids[session.position : p + 1])
            if p in prefill_pos:
                assert np.abs(session.logits - arrays["prefill_logits"][prefill_pos.index(p)]).max() < LOGITS
            if p in sel_pos:
                assert (session.selected() == arrays["prefill_sel"][:, :, sel_pos.index(p)]).all()
        steps = arrays["decode_step"].tolist()
        for step in range(meta["decode"]):
            session.feed([ids[meta["prefill"] + step]])
            if step in steps:
                at = steps.index(step)
                assert np.abs(session.logits - arrays["decode_logits"][at]).max() < LOGITS
                assert (session.selected() == arrays["decode_sel"][at]).all()


def test_longheads_prefilled_in_one_piece(golden, model):
    arrays, meta = golden
    with model.session() as session:
        session.feed(arrays["ids"][: meta["prefill"]].tolist())
        last = meta["prefill"] - 1
        assert np.abs(session.logits - arrays["prefill_logits"][arrays["prefill_pos"] == last][0]).max() < LOGITS
        assert (session.selected() == arrays["prefill_sel"][:, :, arrays["prefill_sel_pos"] == last][:, :, 0]).all()


@pytest.mark.parametrize("kv_type", ["f32", "f16"])
def test_greedy(kv_type):
    """256 tokens, densely: the smallest lead of a best token is 4e-3, so that half-precision keys do no harm."""
    expected = json.loads(data("models/greedy_golden.json").read_text())["ids"]
    with longheads.Model(data("models/stories260K.gguf"), attention="dense", kv_type=kv_type) as model:
        with model.session() as session:
            session.feed([1])
            found = []
            for _ in expected:
                found.append(int(np.argmax(session.logits)))
                session.feed(found[-1:])
        assert found == expected
        assert [piece.token for piece in model.stream([1], max_tokens=256, temperature=0.0)] == expected

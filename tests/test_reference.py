"""Is the oracle right? Against files computed by others, against another implementation, and against itself."""

from __future__ import annotations

import json

import numpy as np
import pytest
from helpers import data, make_model
from reference import Plan, Reference

# The golden file was computed in float32; the differences found are 3.2e-5 (prefill) and 1.3e-5 (decoding).
GOLDEN_LOGITS = 2e-4
# Score margins below this are ties for a float32 computation. The smallest in the golden file is 6.4e-4, so none is.
TIE = 1e-4
# Float32 of llama.cpp against float64, on logits that spread over a few units; found: at most 2e-5.
PEER_LOGITS = 2e-4


def test_golden_longheads():
    golden = np.load(data("golden/compact_paper_l32_k8_P700.npz"))
    meta = json.loads(str(golden["meta"]))
    plan = Plan(
        chunk=meta["chunk_size"],
        budget=meta["chunk_size"] * meta["chunks"],
        local=2,
        dense_until=meta["begin_selective_length"],
        scheme=meta["behaviour"],
    )
    run = Reference(data("models/stories260K.gguf")).run(golden["ids"], plan)

    prefill, decode = golden["prefill_pos"], meta["prefill"] + golden["decode_step"]
    assert np.abs(run.logits[prefill] - golden["prefill_logits"]).max() < GOLDEN_LOGITS
    assert np.abs(run.logits[decode] - golden["decode_logits"]).max() < GOLDEN_LOGITS

    for positions, chosen in (
        (golden["prefill_sel_pos"], golden["prefill_sel"]),
        (decode, golden["decode_sel"].transpose(1, 2, 0, 3)),
    ):
        differs = (run.chosen[:, :, positions] != chosen).any(axis=-1)
        assert (run.margin[:, :, positions][differs] < TIE).all()
        assert differs.mean() < 0.01


def test_golden_greedy():
    """Teacher-forced: at every position of the golden text the model's best token is the one that follows."""
    ids = json.loads(data("models/greedy_golden.json").read_text())["ids"]
    run = Reference(data("models/stories260K.gguf")).run([1] + ids[:-1], Plan(attention="dense"))
    assert run.logits.argmax(axis=-1).tolist() == ids


@pytest.mark.parametrize(
    "shape",
    [
        {},
        {"n_head_kv": 2, "bias": True, "tied": True},
        {"n_head": 3, "n_head_kv": 1, "head_dim": 32},
        {"rope_scaling": "linear"},
        {"rope_scaling": "yarn"},
        {"rope_scaling": "yarn", "rope_attn_factor": 1.3, "rope_base": 500.0},
        {"rope_scaling": "llama3"},
        {"type": "q4_1", "embd_type": "q8_0"},
    ],
    ids=str,
)
def test_dense_equals_llama_cpp(tmp_path, shape):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    path = make_model(tmp_path / "model.gguf", **shape)
    ids = np.random.default_rng(1).integers(3, 390, 100)
    ours = Reference(path).run(ids, Plan(attention="dense")).logits
    f32 = llama_cpp.GGML_TYPE_F32
    theirs = llama_cpp.Llama(
        str(path), n_ctx=256, n_threads=1, logits_all=True, type_k=f32, type_v=f32, flash_attn=False, verbose=False
    )
    theirs.eval(ids.tolist())
    # llama.cpp quantises activations where weights are quantised, to 8 bits per block of 32.
    tolerance = 0.2 if "type" in shape else PEER_LOGITS
    assert np.abs(ours - theirs.scores[: len(ids)]).max() < tolerance


@pytest.mark.parametrize("scheme", ["paper", "bounds", "peak"])
def test_longheads_with_room_for_everything_is_dense(tmp_path, scheme):
    """With as many chunks in the budget as in the text, all are attended, and at their true distances."""
    model = Reference(make_model(tmp_path / "model.gguf", n_head_kv=2))
    ids = np.random.default_rng(2).integers(3, 390, 96)
    dense = model.run(ids, Plan(chunk=8, budget=96, attention="dense"))
    assert (dense.chosen == -1).all()
    sparse = model.run(ids, Plan(chunk=8, budget=96, scheme=scheme))
    assert np.abs(dense.logits - sparse.logits).max() < 1e-12

    # From the 8th chunk on all 8 of the budget are attended when there are 8 chunks, and the choice matters afterwards.
    plan = Plan(chunk=8, budget=64, dense_until=56, window=96, scheme=scheme)
    run = model.run(ids, plan)
    assert (run.chosen[:, :, 56:64] == np.arange(8)).all()
    assert np.abs(run.logits[:64] - dense.logits[:64]).max() < 1e-12
    assert np.abs(run.logits[64:] - dense.logits[64:]).max() > 1e-3


def test_follow_reports_a_wrong_choice_and_refuses_an_impossible_one(tmp_path):
    model = Reference(make_model(tmp_path / "model.gguf"))
    ids = np.random.default_rng(3).integers(3, 390, 80)
    plan = Plan(chunk=8, budget=32, local=1)
    own = model.run(ids, plan)
    again = model.run(ids, plan, follow=own.chosen)
    assert (again.logits == own.logits).all() and (again.margin == own.margin).all()

    swapped = own.chosen.copy()
    taken = swapped[0, 0, 79]  # chunk 0, two choices, the own chunk 9
    left_out = next(c for c in range(1, 9) if c not in taken)
    swapped[0, 0, 79, 1:3] = sorted([taken[1], left_out])
    assert model.run(ids, plan, follow=swapped).margin[0, 0, 79] < 0

    swapped[0, 0, 79, 0] = 1
    with pytest.raises(ValueError, match="position 79"):
        model.run(ids, plan, follow=swapped)

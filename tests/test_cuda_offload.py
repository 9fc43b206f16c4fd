"""kv_offload: keys and values in memory of the host and copies of chunks on the GPU change nothing but where they lie.
On the emulator, and on a real GPU where there is one."""

from __future__ import annotations

import cuda_builds
import numpy as np
import pytest
from helpers import make_model
from walk import walk

pytest.importorskip("gguf", reason="the gguf package, which writes test models, is not installed")

OPTIONS = dict(ctx=512, chunk=8, budget=64, window=160, local=2, far_heads=99)


@pytest.fixture(scope="module", params=["emulated", "real"])
def gpu(request, tiny_path):
    return cuda_builds.emulated() if request.param == "emulated" else cuda_builds.real(tiny_path)


@pytest.fixture(scope="module")
def model(gpu, tmp_path_factory):
    path = make_model(tmp_path_factory.mktemp("models") / "model.gguf", n_head_kv=2, n_vocab=600)
    with gpu.Model(path, device="cuda", **OPTIONS) as opened:
        yield opened


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(1).integers(3, 600, 400, dtype=np.int32)


@pytest.mark.parametrize("scheme", ["peak", "bounds", "paper"])
def test_nothing_changes(model, ids, scheme):
    """Bit for bit: a prompt, single tokens, and choices."""
    results = []
    for offload in (False, True):
        with model.session(scheme=scheme, kv_offload=offload) as session:
            assert session.options["kv_offload"] is offload
            session.feed(ids[:200])
            logits, chosen = walk(session, ids[200:230])
            results.append((session.stats["cache"], session.chunk_hits, logits, chosen))
    (none, no_hits, *expected), (copies, (hits, misses), *found) = results
    assert none == 0 and no_hits == (0, 0) and copies > 0
    # Both layers and KV heads, and eight chunks of a token at least.
    assert hits + misses >= 30 * 2 * 2 * 8 and hits > 5 * misses
    assert (found[0] == expected[0]).all()
    assert all((a == b).all() for a, b in zip(found[1], expected[1], strict=True))


@pytest.mark.parametrize(("far_heads", "most"), [(4, 16), (1, 48)])
def test_few_copies(tmp_path, ids, far_heads, most):
    """Where the GPU has little room, many chunks are fetched. On the emulator, whose memory has any size."""
    package = cuda_builds.emulated()
    path = make_model(tmp_path / "model.gguf", n_head=2, n_head_kv=2, head_dim=256, n_embd=32, n_vocab=600)
    slot = 2 * far_heads * 8 * 256 * 4  # bytes: K and V, KV heads that keep all, tokens, dimensions, floats
    options = {**OPTIONS, "batch": 8, "kv_type": "f32", "far_heads": far_heads}
    with package.Model(path, device="cuda", **options) as model, model.session() as plain:
        session = None
        for left in range(20_000, 8_000_000, 40_000):
            package.emulator.lh_emulator_limit(package.emulator.lh_emulator_allocated() + left)
            try:
                session = model.session(kv_offload=True)
                break
            except package.OutOfMemoryError as error:
                assert "lower ctx" in str(error)
            finally:
                package.emulator.lh_emulator_limit(8 << 30)
        with session:
            assert 1 <= session.stats["cache"] / slot <= most  # of 64
            for s in (session, plain):
                s.feed(ids[:200])
            (found, chosen), (expected, chosen_there) = walk(session, ids[200:230]), walk(plain, ids[200:230])
            assert (found == expected).all()
            assert all((a == b).all() for a, b in zip(chosen, chosen_there, strict=True))
            hits, misses = session.chunk_hits
            assert misses > 25 * far_heads and hits > 25 * far_heads


def test_copies_follow_what_is_written(model, ids, tmp_path):
    """Rewound, loaded and filled sessions never see an old copy."""
    with model.session(kv_offload=True) as session, model.session() as plain:
        for s in (session, plain):
            s.feed(ids[:150])
            s.feed(ids[150:151])
        session.save(tmp_path / "session")
        for s in (session, plain):
            s.rewind(90)
            s.feed(ids[200:280])
            s.feed(ids[280:281])
        assert (session.logits == plain.logits).all()
        for s in (session, plain):
            s.load(tmp_path / "session")
            s.feed(ids[300:301])
        assert (session.logits == plain.logits).all()


def test_heads_that_keep_the_last_chunks(gpu, ids, tmp_path):
    """Of four KV heads one keeps the whole text, the others less: all is as if everything was kept. See test_kept.py."""
    path = make_model(tmp_path / "model.gguf", n_head_kv=2, n_vocab=600)
    options = {**OPTIONS, "ctx": 5400, "batch": 144, "far_heads": 1}
    with gpu.Model(path, device="cuda", **options) as model:
        sessions = [model.session(keep_all=True), model.session(), model.session(kv_offload=True)]
        sessions.append(model.session(kv_offload=True, keep_all=True))  # copies of what heads attend that choose nothing

        def go_on(begin: int, prompt: int, single: int) -> None:
            for session in sessions:
                session.feed(ids[begin : begin + prompt])
                for i in range(begin + prompt, begin + prompt + single):
                    session.feed(ids[i : i + 1])
                assert (session.logits == sessions[0].logits).all()
                assert (session.selected() == sessions[0].selected()).all()

        for session in sessions:
            session.fill(4996)
        assert sessions[1].stats["kv"] < 0.95 * sessions[0].stats["kv"]
        go_on(0, 70, 20)
        sessions[1].save(tmp_path / "session")
        for session in sessions:
            session.rewind(300)
        go_on(100, 80, 6)
        for session in sessions[1:3]:
            session.load(tmp_path / "session")
            session.feed(ids[200:204])
        assert (sessions[1].logits == sessions[2].logits).all()


def test_it_shapes_the_cache(gpu, model):
    with model.session(kv_offload=True) as session, pytest.raises(gpu.ArgumentError, match="kv_offload shapes"):
        session.set_options(kv_offload=False)


def test_cpu_says_that_it_has_no_effect(gpu, tiny_path):
    with pytest.warns(gpu.LongHeadsWarning, match="kv_offload has no effect on cpu"):
        with gpu.Model(tiny_path, device="cpu", kv_offload=True) as model, model.session() as session:
            assert session.options["kv_offload"] is False and session.stats["cache"] == 0

"""What KV heads keep of the text: those that do not read far keep the last chunks only, and nothing but memory changes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from longheads import Model  # noqa: E402

# Room for 24 dense tokens, a batch, 4096 tokens to go back by and two chunks: 4280, or 535 chunks.
OPTIONS = dict(ctx=9000, chunk=8, budget=24, window=64, local=1, batch=144, kv_type="f32", far_heads=1)
ROOM, BACK = 4280, 4096


@pytest.fixture(scope="module")
def model(tiny_path):
    with Model(tiny_path, threads=1, **OPTIONS) as model:
        yield model


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(5).integers(3, 600, 9000, dtype=np.int32)


@pytest.fixture
def kept(model, ids):
    """A session that keeps everything, and one that does not, far enough for that to tell."""
    with model.session(keep_all=True) as everything, model.session() as session:
        for each in everything, session:
            each.feed(ids[:6500])
        yield everything, session


def assert_same(everything, session):
    assert everything.position == session.position
    assert (everything.logits == session.logits).all()
    assert (everything.selected() == session.selected()).all()


def test_memory(model):
    with model.session(keep_all=True) as everything, model.session() as session:
        for name, share in ("kv", (9000 + 3 * ROOM) / 36000), ("summaries", 1 / 4):
            assert session.stats[name] == pytest.approx(everything.stats[name] * share, abs=0.01 * session.stats[name])
    with model.session(ctx=ROOM, keep_all=True) as everything, model.session(ctx=ROOM) as short:
        assert short.stats["kv"] == everything.stats["kv"]
    with model.session(far_heads=4, keep_all=True) as everything, model.session(far_heads=4) as session:
        assert session.stats == everything.stats


@pytest.mark.parametrize("scheme", ["bounds", "paper", "peak"])
def test_nothing_changes(model, ids, scheme):
    with model.session(keep_all=True, scheme=scheme) as everything, model.session(scheme=scheme) as session:
        scores = [each.score(ids[:4500]) for each in (everything, session)]
        assert (scores[0][1:] == scores[1][1:]).all()
        for at in range(4500, 4520):
            everything.feed(ids[at : at + 1])
            session.feed(ids[at : at + 1])
            assert_same(everything, session)


def test_rewind(kept, ids):
    everything, session = kept
    for n in 1, 7, BACK - 8:
        for each in kept:
            each.rewind(n)
        assert_same(everything, session)
    before = session.logits
    with pytest.raises(
        longheads.ArgumentError, match=r"cannot forget 200 of 2404 tokens: 3 of 4 KV heads.*expected 0 to \d+ or all.*keep_all"
    ):
        session.rewind(200)
    assert session.position == 2404 and (session.logits == before).all()
    for each in kept:
        each.feed(ids[2404:2600])
    assert_same(everything, session)
    for each in kept:
        each.rewind(each.position)
        each.feed(ids[100:300])
        each.rewind(150)
    assert_same(everything, session)


def test_a_failed_rewind_says_how_far_one_can_go(kept):
    """The number in the sentence is the largest that is accepted."""
    session = kept[1]
    with pytest.raises(longheads.ArgumentError) as error:
        session.rewind(6000)
    most = int(str(error.value).split("expected 0 to ")[1].split()[0])
    assert most >= BACK
    with pytest.raises(longheads.ArgumentError):
        session.rewind(most + 1)
    session.rewind(most)
    assert np.isfinite(session.logits).all()


def test_read_begins_anew_where_it_must(kept, ids):
    everything, session = kept
    other = ids[:6400].copy()
    other[5000:] = ids[100:1500]
    assert [each.read(other) for each in kept] == [1400, 1400]
    assert_same(everything, session)
    other[1000:] = ids[3000:8400]
    assert [each.read(other) for each in kept] == [5400, 6400]
    assert (everything.ids == session.ids).all()
    # Fed from another place, slices begin elsewhere: the same up to rounding.
    assert np.abs(everything.logits - session.logits).max() < 1e-4


@pytest.mark.filterwarnings("ignore:dense attention past the trained context")
def test_options_that_take_more(kept):
    session = kept[1]
    session.rewind(6500 - 2245)  # about as far as it goes: more near chunks would want more
    for options in dict(far_heads=4), dict(attention="dense"), dict(near_budget=64, dense_until=64):
        with pytest.raises(longheads.ArgumentError, match="3 of 4 KV heads of this session keep no more.*keep_all"):
            session.set_options(**options)
    with pytest.raises(longheads.ArgumentError, match="keep_all shapes"):
        session.set_options(keep_all=True)
    session.set_options(local=2, far_bias=1.0)
    assert np.isfinite(session.logits).all()


@pytest.mark.parametrize("ctx", [6500, 9000])
def test_save_and_load(model, kept, ids, tmp_path, ctx):
    everything, session = kept
    everything.save(tmp_path / "all")
    session.save(tmp_path / "some")
    assert (tmp_path / "some").stat().st_size < 0.9 * (tmp_path / "all").stat().st_size
    with model.session(ctx=ctx) as other:
        with pytest.raises(longheads.ArgumentError, match="the whole text in 4 KV heads, this session in 1.*keep_all"):
            other.load(tmp_path / "all")
        other.load(tmp_path / "some")
        other.rewind(BACK)
        everything.rewind(BACK)
        assert_same(everything, other)
        with pytest.raises(longheads.ArgumentError, match="cannot forget 2000 of"):
            other.rewind(2000)


def test_load_where_less_fits(model, ids, tmp_path):
    """A file from a session that had room for more: larger batches."""
    with model.session(batch=1024) as wide, model.session() as narrow, model.session(keep_all=True) as everything:
        for each in wide, everything:
            each.feed(ids[:8000])
        wide.save(tmp_path / "wide")
        narrow.load(tmp_path / "wide")
        for each in narrow, everything:
            each.rewind(BACK)
            each.feed(ids[:200])
        # Other batches: the same up to rounding.
        assert np.abs(everything.logits - narrow.logits).max() < 1e-4


@settings(max_examples=15, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(["feed", "rewind"]), st.integers(0, 2500)), min_size=3, max_size=9))
def test_any_way(model, ids, steps):
    """Whatever is fed and forgotten: what one can do at all is the same as where everything is kept."""
    with model.session(keep_all=True) as everything, model.session() as session:
        for step, n in [("feed", 3000), *steps]:
            if step == "feed":
                n = min(n, everything.ctx - everything.position)
                for each in everything, session:
                    each.feed(ids[(each.position * 7) % 500 :][:n])
            else:
                n = min(n, everything.position)
                try:
                    session.rewind(n)
                except longheads.ArgumentError:
                    continue
                everything.rewind(n)
            if everything.position:
                assert_same(everything, session)


def test_a_token_alone_chooses_as_many_do(tiny_path, ids):
    """Alone it looks at bounds first and settles what they leave open; and it meets chunks in several blocks."""
    options = dict(ctx=20000, chunk=8, budget=64, window=80, local=2, kv_type="f32", threads=1, far_heads=4)
    with Model(tiny_path, **options) as model, model.session() as session:
        session.fill(19000)  # 2375 chunks
        together = []
        for n in range(1, 9):
            session.feed(ids[:n])
            together.append(session.selected())
            session.rewind(n)
        for expected in together:
            session.feed(ids[session.position - 19000 :][:1])
            assert (session.selected() == expected).all()
        assert len(np.unique(together)) > 30

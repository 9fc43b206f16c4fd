"""Session.set_options: another rule for what comes, over what was read already."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

LOGITS = 1e-4  # of float32 models, as in test_longheads.py
RULE = {"chunk": 8, "budget": 32, "near_budget": 32, "window": 128, "local": 2, "dense_until": 64, "kv_type": "f32",
        "keep_all": True, "select_per": "head", "far_heads": 4, "far_bias": 0.0, "attention": "longheads"}  # fmt: skip
OTHER = RULE | {"budget": 48, "near_budget": 40, "window": 96, "local": 3, "select_per": "kv_head", "far_heads": 1,
                "far_bias": 2.0}  # fmt: skip
DENSE = RULE | {"attention": "dense"}


@pytest.fixture(scope="module")
def model(tiny_path):
    with longheads.Model(tiny_path, ctx=200, threads=1) as model:
        yield model


@pytest.fixture(scope="module")
def ids() -> np.ndarray:
    return np.random.default_rng(8).integers(3, 590, 190)


def after(model, ids, options) -> np.ndarray:
    with model.session(**options) as session:
        session.feed(ids)
        return session.logits


@pytest.mark.parametrize("scheme", ["bounds", "paper", "peak"])
@pytest.mark.parametrize(("first", "then"), [(RULE, OTHER), (OTHER, RULE), (RULE, DENSE)])
def test_where_rules_agree_changing_them_is_no_change(model, ids, first, then, scheme):
    """Below dense_until all rules attend alike, so that the rule of the beginning leaves no trace."""
    first, then = first | {"scheme": scheme}, then | {"scheme": scheme}
    with model.session(**first) as session:
        session.feed(ids[:60])
        session.set_options(**then)
        session.feed(ids[60:])
        assert session.position == len(ids) and {k: session.options[k] for k in then} == then
        assert np.abs(session.logits - after(model, ids, then)).max() < LOGITS
        assert np.abs(session.logits - after(model, ids, first)).max() > 100 * LOGITS
        # And back: dense attention kept the summaries up.
        session.rewind(len(ids) - 60)
        session.set_options(**(first | {"attention": "longheads"}))
        session.feed(ids[60:])
        assert np.abs(session.logits - after(model, ids, first)).max() < LOGITS


def test_logits_and_choices_are_those_of_the_new_rule(model, ids):
    with model.session(**RULE) as session:
        session.feed(ids)
        before, chosen = session.logits, session.selected()
        session.set_options(budget=48)
        assert session.options["budget"] == 48 and session.options["local"] == 2
        assert session.selected().shape[2] == 6 and chosen.shape[2] == 4
        assert np.abs(session.logits - before).max() > 100 * LOGITS
        session.set_options(budget=32)
        assert np.abs(session.logits - before).max() < LOGITS and (session.selected() == chosen).all()


@pytest.mark.filterwarnings("ignore:dense_until is set")
def test_a_change_is_capped_like_any_option(model, ids):
    with model.session(**RULE) as session:
        with pytest.warns(longheads.LongHeadsWarning, match="budget is capped to the window of 128"):
            session.set_options(budget=256)
        session.set_options(budget=None, window=None, dense_until=None, local=None)
        with model.session(chunk=8) as fresh:
            names = ("budget", "window", "dense_until", "local")
            assert [session.options[n] for n in names] == [fresh.options[n] for n in names]


@pytest.mark.filterwarnings("ignore:local is capped")
@pytest.mark.parametrize(
    "change",
    [{"chunk": 16}, {"scheme": "paper"}, {"kv_type": "f16"}, {"ctx": 100}, {"batch": 7},
     {"rope_scaling": "yarn", "rope_scale": 2}],
    ids=lambda change: next(iter(change)),
)  # fmt: skip
def test_what_shapes_the_cache_stays(model, ids, change):
    with model.session(**RULE) as session:
        session.feed(ids[:100])
        before, options = session.logits, session.options
        with pytest.raises(longheads.ArgumentError, match=f"{next(iter(change))} shapes what a session stores"):
            session.set_options(**change)
        with pytest.raises(longheads.ArgumentError):
            session.set_options(budget=33)
        assert (session.logits == before).all() and session.options == options


def test_what_was_not_named_follows(model, ids):
    """Options that nobody named come from those that somebody did, now as when a session is made."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with model.session(chunk=8, window=192, budget=96) as session, model.session(chunk=8, window=192) as other:
            was = session.options
            session.set_options(budget=32)
            assert session.options["local"] < was["local"] and session.options["near_budget"] < was["near_budget"]
            session.set_options(budget=96)
            assert session.options == was
            session.set_options(budget=None)
            assert session.options == other.options


def test_a_session_made_dense_stays_dense(model, ids):
    with model.session(**DENSE) as session:
        session.feed(ids[:50])
        with pytest.raises(longheads.ArgumentError, match="made with dense attention"):
            session.set_options(attention="longheads")
        session.set_options(budget=48)


def test_saved_while_dense(model, ids, tmp_path):
    """A file holds what the session stores, which summaries are part of."""
    with model.session(**RULE) as session, model.session(**RULE) as again, model.session(**DENSE) as dense:
        session.set_options(attention="dense")
        session.feed(ids)
        session.save(tmp_path / "saved")
        again.load(tmp_path / "saved")
        assert np.abs(again.logits - session.logits).max() > 100 * LOGITS  # the last token is asked for under its rule
        with pytest.raises(longheads.ArgumentError, match="attention longheads, this session has dense"):
            dense.load(tmp_path / "saved")


def test_loaded_while_dense(model, ids, tmp_path):
    """A file's logits are those of its own rule."""
    with model.session(**RULE) as session, model.session(**RULE) as other:
        session.feed(ids)
        session.save(tmp_path / "saved")
        other.set_options(attention="dense")
        other.load(tmp_path / "saved")
        session.set_options(attention="dense")
        assert (other.logits == session.logits).all()

"""Rope scaling that is asked for instead of written in the file: rope_scaling and rope_scale."""

from __future__ import annotations

import numpy as np
import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")
pytest.importorskip("gguf", reason="the gguf package, which writes test models, is not installed")

from helpers import make_model  # noqa: E402
from reference import Plan, Reference  # noqa: E402

from longheads.run import main  # noqa: E402

TRAINED, FACTOR = 64, 4.0
LOGITS = 1e-4  # of float32 models with a standard deviation of 2, as in test_longheads.py
PLAN = {"chunk": 8, "budget": 40, "local": 2, "scheme": "bounds", "select_per": "head", "kv_type": "f32", "threads": 1}


@pytest.fixture(scope="module")
def ids() -> list[int]:
    return np.random.default_rng(5).integers(3, 393, 150).tolist()


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("models") / "plain.gguf", n_head_kv=2, trained_ctx=TRAINED)


@pytest.fixture(scope="module")
def scaled(tmp_path_factory):
    """The same weights with the scaling in the file, as converters write it: the context is the stretched one."""
    folder = tmp_path_factory.mktemp("models")

    def make(kind: str):
        path = folder / f"{kind}.gguf"
        shape = {"rope_scaling": kind, "rope_factor": FACTOR, "trained_ctx": int(TRAINED * FACTOR)}
        return path if path.exists() else make_model(path, n_head_kv=2, **shape)

    return make


def logits(path, ids, **options) -> tuple[np.ndarray, dict]:
    """Logits after every 10th id, and the resolved options."""
    with longheads.Model(path, ctx=len(ids), **PLAN, **options) as model, model.session() as session:
        found = []
        for at in range(0, len(ids), 10):
            session.feed(ids[at : at + 10])
            found.append(session.logits)
        return np.array(found), session.options


@pytest.mark.parametrize("attention", ["longheads", "dense"])
@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_the_override_is_what_the_file_would_say(plain, scaled, ids, kind, attention):
    asked, options = logits(plain, ids, attention=attention, rope_scaling=kind, rope_scale=FACTOR)
    written, same = logits(scaled(kind), ids, attention=attention)
    assert np.array_equal(asked, written) and options == same
    assert options["rope_scaling"] == kind and options["rope_scale"] == FACTOR and options["window"] == 192
    plan = Plan(8, 40, 192, 2, attention=attention)
    expected = Reference(scaled(kind)).run(ids, plan).logits[9::10]
    assert np.abs(asked - expected).max() < LOGITS
    assert np.abs(asked - logits(plain, ids, attention="longheads")[0]).max() > 100 * LOGITS


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_none_takes_the_scaling_of_the_file_away(plain, scaled, ids, kind):
    with pytest.warns(longheads.LongHeadsWarning, match="trained context of 64"):
        bare, options = logits(scaled(kind), ids, attention="dense", rope_scaling="none")
    assert options["rope_scaling"] == "none" and options["rope_scale"] == 1
    with pytest.warns(longheads.LongHeadsWarning, match="trained context of 64"):
        assert np.array_equal(bare, logits(plain, ids, attention="dense")[0])


def test_what_is_left_open(plain, scaled):
    def resolved(path, **options):
        with longheads.Model(path, **options) as model:
            o = model.options
            assert model.trained_ctx == (TRAINED if path == plain else TRAINED * FACTOR)  # what the file says
            return o["rope_scaling"], o["rope_scale"], o["ctx"]

    assert resolved(plain) == ("none", 1, 64)
    assert resolved(plain, rope_scale=2) == ("linear", 2, 128)  # as llama.cpp takes it
    assert resolved(plain, rope_scaling="yarn", rope_scale=2.5) == ("yarn", 2.5, 160)
    assert resolved(scaled("yarn")) == ("yarn", 4, 256)
    assert resolved(scaled("yarn"), rope_scale=8) == ("yarn", 8, 512)
    assert resolved(scaled("yarn"), rope_scaling="linear") == ("linear", 4, 256)
    assert resolved(scaled("linear"), rope_scaling="yarn", rope_scale=2) == ("yarn", 2, 128)
    assert resolved(scaled("linear"), rope_scaling="none") == ("none", 1, 64)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"rope_scaling": "dynamic"}, "rope_scaling is 'dynamic', expected 'none' or 'linear' or 'yarn'"),
        ({"rope_scaling": "yarn"}, "rope_scaling is yarn, but the file does not say by how much: give rope_scale"),
        ({"rope_scaling": "none", "rope_scale": 4}, "rope_scaling is none and rope_scale 4: omit rope_scale"),
        ({"rope_scale": 0.25}, "rope_scale is 0.25, expected 1 to 65536"),
        ({"rope_scale": 1e9}, r"rope_scale is 1e\+09, expected 1 to 65536"),
        ({"rope_scale": float("nan")}, "rope_scale is nan, expected 1 to 65536"),
    ],
)
def test_refused(plain, options, sentence):
    with pytest.raises(longheads.ArgumentError, match=sentence):
        longheads.Model(plain, **options)


def test_yarn_of_half_a_head(tmp_path):
    path = make_model(tmp_path / "half.gguf", rope_dim=8)
    with pytest.raises(longheads.UnsupportedError, match="yarn scaling of 8 of 16 dimensions"):
        longheads.Model(path, rope_scaling="yarn", rope_scale=2)
    longheads.Model(path, rope_scale=2).close()


def test_sessions_of_one_model(plain, scaled, ids, tmp_path):
    """Scaling belongs to the session; a saved one goes into its like only."""
    with longheads.Model(plain, ctx=len(ids), **PLAN) as model:
        yarn = {"rope_scaling": "yarn", "rope_scale": FACTOR}
        with model.session(**yarn) as session, model.session() as other:
            session.feed(ids)
            other.feed(ids)
            assert np.abs(session.logits - logits(scaled("yarn"), ids)[0][-1]).max() < LOGITS
            assert np.abs(other.logits - logits(plain, ids)[0][-1]).max() < LOGITS
            session.save(tmp_path / "saved")
            with pytest.raises(longheads.ArgumentError, match="saved with .*, this session has"):
                other.load(tmp_path / "saved")
            with model.session(window=192, rope_scaling="linear", rope_scale=FACTOR) as linear:
                with pytest.raises(longheads.ArgumentError, match="rope_scaling yarn, this session has linear"):
                    linear.load(tmp_path / "saved")
            with model.session(window=192, rope_scaling="yarn", rope_scale=5) as wider:
                with pytest.raises(longheads.ArgumentError, match="rope_scale 4, this session has 5"):
                    wider.load(tmp_path / "saved")
            with model.session(**yarn) as again:
                again.load(tmp_path / "saved")
                assert np.array_equal(again.logits, session.logits)


def test_the_command(plain, capsys):
    options = ["-p", "a b", "-n", "4", "--temp", "0", "--rope-scaling", "yarn"]
    assert main([str(plain), *options, "--rope-scale", "4"]) == 0
    assert main([str(plain), *options]) == 1
    assert "give rope_scale" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_as_llama_cpp(plain, ids, kind):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    f32 = llama_cpp.GGML_TYPE_F32
    type_ = {"linear": llama_cpp.LLAMA_ROPE_SCALING_TYPE_LINEAR, "yarn": llama_cpp.LLAMA_ROPE_SCALING_TYPE_YARN}[kind]
    theirs = llama_cpp.Llama(
        str(plain), n_ctx=256, n_threads=1, logits_all=True, type_k=f32, type_v=f32, flash_attn=False, verbose=False,
        rope_scaling_type=type_, rope_freq_scale=1 / FACTOR,
    )  # fmt: skip
    theirs.eval(ids)
    ours, _ = logits(plain, ids, attention="dense", rope_scaling=kind, rope_scale=FACTOR)
    assert np.abs(ours - theirs.scores[: len(ids)][9::10]).max() < 2e-3

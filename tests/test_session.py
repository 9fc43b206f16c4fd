"""Sessions: feeding, scoring, rewinding, files, threads, closing."""

from __future__ import annotations

import gc
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import warnings
import weakref

import native
import numpy as np
import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from gguf_files import Value, write_model  # noqa: E402
from helpers import make_model  # noqa: E402

from longheads import Model  # noqa: E402
from longheads._core import ffi, lib  # noqa: E402

# Logits after the same tokens fed in other pieces; logits spread over a few units.
ROUNDING = 2e-4
OPTIONS = dict(ctx=1024, chunk=16, budget=128, window=160, local=2, kv_type="f32", batch=128)


@pytest.fixture(scope="module")
def model(tiny_path):
    with Model(tiny_path, **OPTIONS) as model:
        yield model


@pytest.fixture
def session(model):
    with model.session() as session:
        yield session


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(3, 600, 500, dtype=np.int32)


def test_feed(session, ids):
    assert session.position == 0
    with pytest.raises(longheads.StateError, match="feed"):
        session.logits
    session.feed(ids[:10].tolist())
    session.feed([])
    assert session.position == 10
    logits = session.logits
    assert logits.shape == (600,) and logits.dtype == np.float32 and np.isfinite(logits).all()
    session.feed(ids[10:20])
    assert session.position == 20
    assert (logits != session.logits).any()  # a copy: later calls do not change it


def test_feed_refuses_as_a_whole(session, ids):
    session.feed(ids[:5])
    with pytest.raises(longheads.ContextError, match="1024 by 6"):
        session.feed(np.resize(ids, 1025))
    with pytest.raises(longheads.ArgumentError, match="600"):
        session.feed([5] * 100 + [600])
    with pytest.raises(longheads.ArgumentError, match="-1"):
        session.feed([-1])
    assert session.position == 5


def test_score(model, session, ids):
    scores = session.score(ids[:200])
    assert scores.shape == (200,) and scores.dtype == np.float32
    assert np.isnan(scores[0]) and (scores[1:] < 0).all()
    other = model.session()
    for i in range(1, 200):
        other.feed(ids[i - 1 : i])
        if i % 40 == 0:
            logits = other.logits.astype(np.float64)
            expected = logits[ids[i]] - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
            assert scores[i] == pytest.approx(expected, abs=ROUNDING)
    # Going on: the first id has a past now.
    assert np.isfinite(session.score(ids[200:210])).all()
    assert session.position == 210


def test_rewind_and_feed_again(session, ids):
    session.feed(ids)
    logits, selected = session.logits, session.selected()
    for n in (1, 7, 16, 333, 500):
        session.rewind(n)
        assert session.position == 500 - n
        if n < 500:
            fresh = session.logits  # of the token that is last now
            assert session.position == 500 - n and np.isfinite(session.score(ids[500 - n :])).all()
            session.rewind(n)
            assert np.abs(session.logits - fresh).max() < ROUNDING
        else:
            with pytest.raises(longheads.StateError):
                session.logits
        session.feed(ids[500 - n :])
        assert np.abs(session.logits - logits).max() < ROUNDING
        assert (session.selected() == selected).all()
    with pytest.raises(longheads.ArgumentError, match="501"):
        session.rewind(501)
    with pytest.raises(longheads.ArgumentError):
        session.rewind(-1)
    assert session.position == 500


@pytest.mark.parametrize("n", [2, 210, 257])
def test_the_end_of_a_text_is_what_it_was(model, session, ids, tmp_path, n):
    """Bit for bit, whereas the last token read again alone rounds otherwise; where the last batch has one, too."""
    session.feed(ids[:n])
    logits = session.logits
    for token in ids[n : n + 5]:
        session.feed([token])
    after = session.logits
    session.rewind(5)
    assert (session.logits == logits).all()
    session.selected()  # reads the last token again
    assert (session.logits == logits).all()
    session.save(tmp_path / "a")
    with model.session() as loaded:
        loaded.load(tmp_path / "a")
        loaded.feed(ids[n : n + 1])
        assert loaded.read(ids[:n]) == 0 and (loaded.logits == logits).all()
    for token in ids[n : n + 5]:
        session.feed([token])
    assert np.abs(session.logits - after).max() < ROUNDING
    session.rewind(6)
    session.feed([ids[n] - 1])  # another text of that length
    assert np.abs(session.logits - logits).max() > ROUNDING


def test_read_keeps_the_common_beginning(model, session, ids):
    assert session.read(ids[:300]) == 300
    changed = ids[:310].copy()
    changed[250] += 1
    assert session.read(changed) == 60
    other = model.session()
    other.feed(changed)
    assert np.abs(session.logits - other.logits).max() < ROUNDING
    assert session.read(changed) == 0
    assert session.read(ids[:20]) == 0
    assert session.position == 20
    for nothing in [], [10**6]:
        with pytest.raises(longheads.ArgumentError):
            session.read(nothing)
    with pytest.raises(longheads.ContextError):
        session.read(np.resize(ids, 1025))
    assert session.position == 20


def test_selected(model, session, ids):
    with pytest.raises(longheads.StateError):
        session.selected()
    session.feed(ids)
    chosen = session.selected()
    own = 499 // 16
    assert chosen.dtype == np.int32 and chosen.shape == (2, 4, 8)
    rows = [row[row >= 0] for row in chosen.reshape(-1, 8)]
    assert {len(row) for row in rows} == {4, 8}  # half of the budget where nothing is chosen
    assert all(row[0] == 0 and row[-2:].tolist() == [own - 1, own] and (np.diff(row) > 0).all() for row in rows)
    session.rewind(480)
    session.feed(ids[20:40])
    few = session.selected()
    assert (few[..., :3] == [0, 1, 2]).all() and (few[..., 3:] == -1).all()


def test_options_of_a_session(model, ids):
    with model.session(scheme="paper", select_per="kv_head", kv_type="f16", ctx=512) as session:
        assert session.ctx == 512
        session.feed(ids)
        chosen = session.selected()
        assert (chosen[:, 0] == chosen[:, 1]).all()  # heads of a group choose together
    with pytest.raises(TypeError, match="buget"):
        model.session(buget=3)
    with pytest.raises(longheads.ArgumentError, match="attention"):
        model.session(attention="sparse")


def test_ctrl_c(session, model, ids):
    """The session stops between two batches and goes on from there."""

    def interrupt(done: int, total: int) -> None:
        if done > 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        session.feed(ids, progress=interrupt)
    assert 100 < session.position < 500
    session.feed(ids[session.position :])
    other = model.session()
    other.feed(ids)
    assert np.abs(session.logits - other.logits).max() < ROUNDING


def test_a_signal_while_the_core_computes(tiny_path, ids):
    with Model(tiny_path, ctx=2**18) as model, model.session() as session:
        timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
        timer.start()
        try:
            with pytest.raises(KeyboardInterrupt):
                session.feed(np.resize(ids, 2**18 - 3))
        finally:
            timer.join()
        position = session.position
        session.feed(ids[:3])
        assert session.position == position + 3


def test_operations_that_fail(tiny_path):
    program = native.build("test_failures", ["tests/c/test_failures.c", *native.runtime_sources()])
    done = subprocess.run([program, tiny_path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_context_that_memory_cannot_hold(tiny_path):
    with Model(tiny_path, ctx=2**28, chunk=1, kv_type="f32") as model:
        with pytest.raises(longheads.OutOfMemoryError, match="ctx") as caught:
            model.session()
    assert isinstance(caught.value, MemoryError)


def test_sessions_that_memory_cannot_hold_together(tiny_path):
    """Each would fit, and none has touched what it was given."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    token = 2 * 2 * 2 * 16 * 4  # keys and values, layers, KV heads, of f32
    with Model(tiny_path, ctx=min(total // token // 5, 2**28), kv_type="f32", keep_all=True) as model:
        with pytest.raises(longheads.OutOfMemoryError, match="GiB are free"):
            sessions = [model.session() for _ in range(6)]
        assert model.session().position == 0  # these are gone, and their memory with them


def test_buffers_are_taken_off_what_a_cache_may_have(tmp_path):
    """They would be missing from memory that the cache was given whole."""
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") > 2**38:
        pytest.skip("this machine may have room for the cache, which is to be refused")
    path = make_model(tmp_path / "wide.gguf", n_ff=16384, n_layer=1)

    def refusal(ctx: int, batch: int) -> str | None:
        with Model(path, ctx=ctx, chunk=1, kv_type="f32", keep_all=True, batch=batch, device="cpu") as model:
            try:
                model.session().close()
            except longheads.OutOfMemoryError as error:
                return str(error)
        return None

    def counted() -> bool:
        """Is a cache that leaves half of the buffers' room refused only where there are such buffers?"""
        needed, free = map(float, re.findall(r"([\d.]+) GiB", str(refusal(2**28, batch=1))))
        free += 2**28 * 4 / 2**30  # what the ids of so many tokens had been given
        if free < 2 * buffers:
            pytest.skip("there is too little free memory")
        ctx = int((free - buffers / 2) / needed * 2**28)
        return refusal(ctx, batch=1) is None and "GiB are free" in str(refusal(ctx, batch=8192))

    buffers = 8192 * 2 * 16384 * 4 / 2**30
    assert any(counted() for _ in range(3))  # others may take some or give some back in between


def test_a_fork_while_the_model_computes(model, ids):
    """The thread that computes is not there in the child to end what it has begun."""
    stop = threading.Event()

    def work() -> None:
        with model.session() as session:
            while not stop.is_set():
                session.read(ids)
                session.rewind(len(ids))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(5):
            if (child := os.fork()) == 0:
                signal.alarm(20)
                os._exit(int(model.session().position != 0))
            assert os.waitpid(child, 0)[1] == 0
    finally:
        stop.set()
        thread.join()


def test_stream_goes_on_from_the_session(model, session):
    ids = model.tokenize("Near the castle there was")
    session.feed(ids)
    pieces = [*session.stream(temperature=0, max_tokens=2), *session.stream(temperature=0, max_tokens=4)]
    assert "".join(p.text for p in pieces) == model.generate(ids, temperature=0, max_tokens=6)
    assert session.ids.tolist() == [*ids, *(p.token for p in pieces)]
    session.rewind(1)
    assert len(list(session.stream(stop=pieces[-1].text, temperature=0))) == 1
    assert session.position == len(ids) + 5  # what ends a text is no part of it
    with pytest.raises(longheads.ContextError):
        session.stream(max_tokens=2000)


def test_the_core_refuses_a_session_in_use(tiny_path):
    """For whoever calls it from C; Python has a lock of its own."""
    ids = ffi.new("int32_t[]", [5] * 30000)
    with Model(tiny_path, ctx=2**16) as model, model.session() as session:

        def feed() -> None:
            while lib.lh_session_feed(session._pointer, ids, len(ids), ffi.NULL) == lib.LH_ERR_BUSY:
                pass

        thread = threading.Thread(target=feed)
        thread.start()
        status = lib.LH_OK
        while status == lib.LH_OK and thread.is_alive():
            status = lib.lh_session_rewind(session._pointer, 0)
        thread.join()
        assert status == lib.LH_ERR_BUSY and session.position == len(ids)


def test_each_thread_has_its_own_last_error():
    out = ffi.new("lh_model **")
    lib.lh_model_open(b"mine.gguf", ffi.NULL, out)
    thread = threading.Thread(target=lib.lh_model_open, args=(b"other.gguf", ffi.NULL, ffi.new("lh_model **")))
    thread.start()
    thread.join()
    assert b"mine.gguf" in ffi.string(lib.lh_last_error())


def test_room_for_selected_chunks(session, ids):
    session.feed(ids[:40])
    k, out = ffi.new("int32_t *"), ffi.new("int32_t[1]", [77])
    assert lib.lh_session_selected(session._pointer, out, 1, k) == lib.LH_ERR_ARGUMENT
    assert out[0] == 77 and b"do not fit" in ffi.string(lib.lh_last_error())


def test_stream_notices_interference(session, ids):
    session.feed(ids[:10])
    stream = session.stream(temperature=0, logit_bias={77: 1000.0})
    next(stream)
    session.feed(ids[10:12])
    with pytest.raises(longheads.StateError, match="elsewhere"):
        next(stream)


def test_stats(model, session):
    # K and V, f32, of 2 layers, 2 KV heads, 16 dimensions
    assert session.stats["kv"] == 2 * 4 * 2 * 2 * 16 * 1024
    assert session.stats["summaries"] > 0 and session.stats["buffers"] > 0
    assert session.stats["cache"] == 0 and session.chunk_hits == (0, 0)  # nothing is offloaded


@pytest.mark.filterwarnings("ignore:dense attention past the trained context")
@pytest.mark.parametrize("scheme", ["bounds", "paper", "peak"])
@pytest.mark.parametrize("kv_type", ["f16", "f32"])
@pytest.mark.parametrize("attention", ["longheads", "dense"])
def test_fill(model, ids, tmp_path, scheme, kv_type, attention):
    """Random keys and values are a past like any other: whole or in pieces, and one can go on from it and back."""
    options = dict(scheme=scheme, kv_type=kv_type, attention=attention)

    def saved(*pieces, seed=7):
        with model.session(**options) as session:
            for n in pieces:
                session.fill(n, seed=seed)
            session.save(tmp_path / "session")
        return (tmp_path / "session").read_bytes()

    assert saved(500) == saved(123, 0, 1, 376) != saved(500, seed=8)
    with model.session(**options) as session:
        session.fill(512, seed=7)  # whole chunks: what a rewind has to read again it reads as ids
        assert session.position == 512 and not session.ids.any()
        session.feed(ids[:40])
        logits = session.logits
        assert np.isfinite(logits).all() and session.position == 552
        session.rewind(40)
        session.feed(ids[:40])
        assert np.abs(session.logits - logits).max() < (ROUNDING if kv_type == "f32" else 2e-2)
        if attention == "longheads":
            assert len({tuple(head) for head in session.selected().reshape(8, -1)}) > 1  # there is something to choose


def test_fill_is_a_past_that_matters(model, ids):
    """Keys and values differ by layer, head and position: logits after them depend on how many there are."""
    logits = []
    for n in (0, 100, 101):
        with model.session() as session:
            session.fill(n)
            session.feed(ids[:3])
            logits.append(session.logits)
    assert all((a != b).any() for a, b in [logits[:2], logits[1:]])


def test_fill_refuses(session, ids):
    seen = []
    session.fill(1000, progress=lambda done, total: seen.append((done, total)))
    assert seen[0] == (0, 1000) and seen[-1] == (1000, 1000)
    session.feed(ids[:5])
    with pytest.raises(longheads.ContextError, match="1024 by 1"):
        session.fill(20)
    with pytest.raises(longheads.ArgumentError, match="-1"):
        session.fill(-1)
    assert session.position == 1005


# --- threads and closing -----------------------------------------------------------------------------------------


def test_sessions_in_threads(model, ids):
    """Several sessions of one model at once compute what one alone does."""
    with model.session() as session:
        session.feed(ids)
        expected = session.logits
    results: list[np.ndarray] = []

    def work(seed: int) -> None:
        cuts = np.sort(np.random.default_rng(seed).integers(1, 500, 5)).tolist()
        with model.session() as session:
            for begin, end in zip([0, *cuts], [*cuts, 500]):
                session.feed(ids[begin:end])
            results.append(session.logits)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    assert max(np.abs(logits - expected).max() for logits in results) < ROUNDING


def test_one_session_from_two_threads(session, ids):
    """The second call is refused and harms nothing."""
    inside, go_on = threading.Event(), threading.Event()

    def hold(done: int, total: int) -> None:
        inside.set()
        assert go_on.wait(20)

    thread = threading.Thread(target=session.feed, args=(ids[:100],), kwargs={"progress": hold})
    thread.start()
    assert inside.wait(20)
    for call in (lambda: session.feed([5]), lambda: session.logits, lambda: session.rewind(0), session.selected):
        with pytest.raises(longheads.BusyError):
            call()
    go_on.set()
    thread.join()
    assert session.position == 100
    session.feed(ids[100:110])


def test_ctrl_c_at_any_moment(session, ids):
    """It ends a call wherever it comes, and the session goes on."""
    session.feed(ids[:3])
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        for n in range(400):
            with pytest.raises(KeyboardInterrupt):
                signal.setitimer(signal.ITIMER_REAL, 1e-4 + 1e-6 * n)
                while True:
                    session.ids  # noqa: B018
            assert len(session.ids) == 3
    finally:
        signal.signal(signal.SIGALRM, before)


def test_closing_while_in_use(model, ids):
    for _ in range(5):
        session = model.session()
        inside = threading.Event()
        outcome: list[Exception | None] = []

        def work() -> None:
            try:
                session.feed(ids, progress=lambda done, total: inside.set())
                session.feed(ids)
                outcome.append(None)
            except longheads.LongHeadsError as error:
                outcome.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(20)
        session.close()
        thread.join()
        assert outcome[0] is None or isinstance(outcome[0], longheads.StateError)


def test_nothing_keeps_a_dropped_session(model):
    session = model.session()
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


def test_model_dropped_first(tiny_path, ids):
    session = Model(tiny_path, **OPTIONS).session()
    gc.collect()
    session.feed(ids[:50])
    assert np.isfinite(session.logits).all()


def test_logits_of_every_token(model, ids):
    """They are those of a token that is read last, and score says the same of them, in any batches."""
    text = ids[:150]
    with model.session(batch=64) as a, model.session() as b:
        a.feed(text[:7])
        b.feed(text[:7])
        logits = a.feed_logits(text[7:])
        assert logits.shape == (143, a.n_vocab) and (a.logits == logits[-1]).all() and a.position == 150
        scored = b.score(text[7:])
        logprobs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        np.testing.assert_allclose(logprobs[np.arange(142), text[8:]], scored[1:], atol=0.05)
        assert a.feed_logits([]).shape == (0, a.n_vocab)
        with pytest.raises(longheads.ArgumentError):
            a.feed_logits([10**6])


# --- files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["bounds", "paper", "peak"])
def test_save_and_load_in_a_new_process(tiny_path, model, ids, tmp_path, scheme):
    saved, result = tmp_path / "session", tmp_path / "logits.npy"
    with model.session(scheme=scheme) as session:
        session.feed(ids[:333])
        session.save(saved)
        session.feed(ids[333:])
        expected, chosen = session.logits, session.selected()
    program = f"""
import numpy as np
from longheads import Model
session = Model({str(tiny_path)!r}, **{OPTIONS!r}).session(scheme={scheme!r})
session.load({str(saved)!r})
assert session.position == 333
session.feed(np.load({str(tmp_path / "rest.npy")!r}))
np.savez({str(result)!r}, logits=session.logits, chosen=session.selected())
"""
    np.save(tmp_path / "rest.npy", ids[333:])
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    with np.load(f"{result}.npz") as got:
        assert np.abs(got["logits"] - expected).max() < ROUNDING
        assert (got["chosen"] == chosen).all()


def test_load_then_read(model, ids, tmp_path):
    """A loaded session knows what it has read: only what is new is fed."""
    with model.session() as session:
        session.feed(ids[:50])
        session.save(tmp_path / "a")
    with model.session() as session:
        session.load(tmp_path / "a")
        assert (session.ids == ids[:50]).all()
        assert session.read(ids[:60]) == 10
        with model.session() as other:
            other.feed(ids[:60])
            assert np.abs(session.logits - other.logits).max() < ROUNDING


def test_load_into_another_ctx(model, ids, tmp_path):
    """What was saved below the budget goes on past it."""
    path = tmp_path / "session.bin"
    small, large = model.budget // 2, 2 * model.budget + 50
    with model.session(ctx=small) as session:
        session.feed(ids[:small])
        session.save(path)
    with model.session(ctx=large) as session, model.session(ctx=large) as other:
        session.load(path)
        session.feed(ids[small:large])
        other.feed(ids[:large])
        assert np.abs(session.logits - other.logits).max() < ROUNDING
        assert (session.selected() == other.selected()).all()


def test_load_refuses_and_changes_nothing(model, plain_path, ids, tmp_path):
    good, bad = tmp_path / "good", tmp_path / "bad"
    with model.session() as session:
        session.feed(ids[:100])
        session.save(good)
        session.feed(ids[100:120])
        logits = session.logits

        def refuses(path, kind=longheads.LongHeadsError) -> None:
            with pytest.raises(kind):
                session.load(path)
            assert session.position == 120
            assert (session.logits == logits).all()

        refuses(tmp_path / "nowhere", longheads.FileError)
        refuses(tmp_path, longheads.FileError)
        os.mkfifo(tmp_path / "fifo")
        refuses(tmp_path / "fifo", longheads.FileError)
        data = good.read_bytes()
        for damaged in (b"", data[: len(data) // 2], data[:-1], b"x" + data[1:], data + b"x"):
            bad.write_bytes(damaged)
            refuses(bad)
        with model.session(chunk=32, budget=128, window=192) as other:
            other.feed(ids[:100])
            other.save(bad)
            refuses(bad)
        with Model(plain_path, **OPTIONS) as another, another.session() as other:
            other.feed(ids[:100])
            other.save(bad)
            refuses(bad)
        session.load(good)
        assert session.position == 100


def test_load_refuses_the_text_of_a_model_of_the_same_shape(tmp_path):
    paths = [make_model(tmp_path / f"{seed}.gguf", seed=seed) for seed in (1, 2)]
    with Model(paths[0], **OPTIONS) as one, Model(paths[1], **OPTIONS) as other:
        with one.session() as session:
            session.feed([5, 6, 7])
            session.save(tmp_path / "kept")
        with other.session() as session, pytest.raises(longheads.ArgumentError, match="was saved from another model"):
            session.load(tmp_path / "kept")


PLAIN = {}
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0}


@pytest.mark.parametrize("common, change", [
    (PLAIN, {"rope.dimension_count": 4}),
    (PLAIN, {"attention.head_count": 2, "attention.head_count_kv": 1}),
    (PLAIN, {"attention.layer_norm_rms_epsilon": 1e-3}),
    (PLAIN, {"rope.freq_base": 20000.0}),
    (YARN, {"rope.scaling.original_context_length": 64}),
    (YARN, {"rope.scaling.attn_factor": 2.0}),
    (YARN, {"rope.scaling.yarn_ext_factor": 0.5}),
    (YARN, {"rope.scaling.yarn_beta_fast": 16.0}),
    (YARN, {"rope.scaling.yarn_beta_slow": 2.0}),
], ids=lambda keys: " ".join(keys))  # fmt: skip
def test_load_refuses_the_text_of_equal_tensors_under_other_numbers(tmp_path, common, change):
    def with_session_of(name, keys, use) -> None:
        kinds = {str: Value.STRING, int: Value.UINT32, float: Value.FLOAT32}
        typed = {f"llama.{key}": (value, kinds[type(value)]) for key, value in keys.items()}
        path = write_model(tmp_path / name, change=typed)
        with Model(path, ctx=128, keep_all=True) as model, model.session() as session:
            use(session)

    def save(session) -> None:
        session.feed([5, 6, 7])
        session.save(tmp_path / "kept")

    def refuse(session) -> None:
        with pytest.raises(longheads.ArgumentError, match="was saved from another model"):
            session.load(tmp_path / "kept")

    with_session_of("one.gguf", common, save)
    with_session_of("same.gguf", common, lambda session: session.load(tmp_path / "kept"))
    with_session_of("other.gguf", common | change, refuse)


@pytest.mark.parametrize("option, value", [
    ("chunk", 8), ("budget", 160), ("near_budget", 96), ("window", 176), ("local", 3), ("dense_until", 144),
    ("far_heads", 2), ("far_bias", 1.5), ("scheme", "bounds"), ("select_per", "head"), ("attention", "dense"),
    ("kv_type", "f16"), ("rope_scale", 2),
])  # fmt: skip
def test_load_names_the_option_that_differs(model, ids, tmp_path, option, value):
    """keep_all, so that what is kept is as large."""
    options = {"keep_all": True, "far_heads": 3, "far_bias": 0.5}
    with model.session(**options) as session:
        session.feed(ids[:10])
        session.save(tmp_path / "kept")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", longheads.LongHeadsWarning)
        other = model.session(**options | {option: value})
    with other, pytest.raises(longheads.ArgumentError, match=f"saved with {option} "):
        other.load(tmp_path / "kept")


def test_a_full_disk_loses_nothing(model, ids, tmp_path):
    with model.session() as session:
        session.feed(ids[:100])
        session.save(tmp_path / "kept")
        before = (tmp_path / "kept").read_bytes()
        session.feed(ids[100:200])
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, limits[1]))
        try:
            with pytest.raises(longheads.FileError, match="kept"):
                session.save(tmp_path / "kept")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "kept").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


SESSION_HEADER = 112  # bytes; session_file.c


@pytest.mark.parametrize("part", ["header", "ids", "logits", "cache", "checksum"])
def test_load_refuses_a_flipped_bit(model, ids, tmp_path, part):
    """Wherever it is: in a number, in what is checked before it is used, or in what only the checksum guards."""
    good, bad = tmp_path / "good", tmp_path / "bad"
    with model.session() as session:
        session.feed(ids[:100])
        session.save(good)
        session.feed(ids[100:103])
        logits = session.logits
        data = good.read_bytes()
        after_ids = SESSION_HEADER + 100 * 4
        after_logits = after_ids + model.n_vocab * 4
        begin, end = {
            "header": (0, SESSION_HEADER), "ids": (SESSION_HEADER, after_ids), "logits": (after_ids, after_logits),
            "cache": (after_logits, len(data) - 8), "checksum": (len(data) - 8, len(data)),
        }[part]  # fmt: skip
        for at in range(begin, end, max(1, (end - begin) // 112)):
            bad.write_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :])
            with pytest.raises(longheads.LongHeadsError):
                session.load(bad)
        assert session.position == 103 and (session.logits == logits).all()
        session.load(good)


def test_saving_keeps_a_file_s_rights(session, ids, tmp_path):
    session.feed(ids[:10])
    session.save(tmp_path / "new")
    (tmp_path / "any").touch()
    assert (tmp_path / "new").stat().st_mode == (tmp_path / "any").stat().st_mode
    (tmp_path / "new").chmod(0o600)
    session.save(tmp_path / "new")
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["any", "new"]
    # A link stays one, and nothing but a file is replaced.
    (tmp_path / "link").symlink_to("target")
    (tmp_path / "target").touch()
    session.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "target").stat().st_size > 1000
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(longheads.FileError, match="not a regular file"):
        session.save(tmp_path / "fifo")


def test_save_where_one_cannot(session, ids, tmp_path):
    session.feed(ids[:10])
    with pytest.raises(longheads.FileError):
        session.save(tmp_path / "no such folder" / "file")
    assert session.position == 10


def test_the_model_is_freed_last():
    """Whoever is collected first: a collected cycle has no order."""
    from longheads._handle import Shared

    freed = []
    shared = Shared(lambda: freed.append("model"))
    model, first, second = shared.hold(), shared.hold(), shared.hold()
    first()
    model()
    assert not freed
    second()
    second()
    assert freed == ["model"]

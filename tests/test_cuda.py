"""The CUDA backend through the public API, against the CPU backend: on the emulator everywhere, and on a real GPU where
there is one."""

from __future__ import annotations

import contextlib
import gc
import json
import re
import subprocess
import threading
import warnings

import cuda_builds
import native
import numpy as np
import pytest
from helpers import make_model
from make_model import TYPES
from walk import walk

pytest.importorskip("gguf", reason="the gguf package, which writes test models, is not installed")

# relative_error of logits. Both backends round: the CPU activations to 8 bits where weights are quantised (1.6% after
# two layers, see test_longheads), the GPU both factors to halves where it reads many tokens (0.03% a product).
QUANTISED_ERROR = 0.025
HALF_ERROR = 0.01
FLOAT_ERROR = 0.004
# One token at a time with float weights: floats all the way, added up in another order.
DECODE_ERROR = 1e-4
# A prompt's rounding may tip the choice of a chunk, which moves logits by what that chunk says.
CHOICE_ERROR = 0.05
# The settings of sessions: small chunks, so that a short text has many.
OPTIONS = dict(ctx=512, chunk=16, budget=96, window=160, local=2, kv_type="f32")
SCHEMES = ["peak", "bounds", "paper"]


def relative_error(found, expected) -> float:
    """Root mean square error over the standard deviation of what was expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


@pytest.fixture(scope="module")
def emulated():
    package = cuda_builds.emulated()
    yield package
    package.emulator.lh_emulator_order(0)


@pytest.fixture(scope="module", params=["emulated", "real"])
def gpu(request, tiny_path):
    """The package, with a GPU that is the emulator or a real one."""
    return cuda_builds.emulated() if request.param == "emulated" else cuda_builds.real(tiny_path)


@pytest.fixture(scope="module")
def models(gpu, tmp_path_factory):
    """models(**spec): the same random model on the GPU and on the CPU, with OPTIONS."""
    folder, opened = tmp_path_factory.mktemp("models"), {}

    with contextlib.ExitStack() as stack:

        def pair(**spec):
            key = json.dumps(spec, sort_keys=True)
            if key not in opened:
                path = make_model(folder / f"{len(opened)}.gguf", **{"n_head_kv": 2, "n_vocab": 600, **spec})
                opened[key] = [stack.enter_context(gpu.Model(path, device=d, **OPTIONS)) for d in ("cuda", "cpu")]
            return opened[key]

        yield pair


@pytest.fixture(scope="module")
def ids():
    return np.random.default_rng(0).integers(3, 600, 400, dtype=np.int32)


# --- the same numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TYPES)
def test_logits_of_every_type(models, ids, kind):
    """A prompt on tensor cores, then tokens one by one."""
    on_gpu, on_cpu = models(type=kind, n_embd=256, n_ff=512)
    tolerance = {"f32": FLOAT_ERROR, "f16": HALF_ERROR, "bf16": HALF_ERROR}.get(kind, QUANTISED_ERROR)
    with on_gpu.session() as a, on_cpu.session() as b:
        for piece in (ids[:40], *ids[40:43, None]):
            a.feed(piece)
            b.feed(piece)
            assert relative_error(a.logits, b.logits) < tolerance


def same_share(a: list[np.ndarray], b: list[np.ndarray]) -> float:
    """The share of chosen chunks that agree, token by token."""
    return float(np.mean([np.mean(x == y) for x, y in zip(a, b, strict=True)]))


@pytest.mark.parametrize("select_per", ["head", "kv_head"])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_same_chunks_and_logits(models, ids, scheme, select_per):
    """Token by token past the budget, with keys and values as floats: what can differ is the order of sums."""
    on_gpu, on_cpu = models()
    options = dict(scheme=scheme, select_per=select_per)
    with on_gpu.session(**options) as a, on_cpu.session(**options) as b:
        found, chosen = walk(a, ids[:130])
        expected, chosen_there = walk(b, ids[:130])
    assert same_share(chosen, chosen_there) > 0.999
    assert relative_error(found, expected) < DECODE_ERROR


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("kv_type", ["f16", "q8_0", "bf16"])
def test_prompt_with_narrow_caches(models, ids, scheme, kv_type):
    on_gpu, on_cpu = models()
    options = dict(scheme=scheme, kv_type=kv_type)
    with on_gpu.session(**options) as a, on_cpu.session(**options) as b:
        for piece in (ids[:300], ids[300:303]):
            a.feed(piece)
            b.feed(piece)
        assert same_share([a.selected()], [b.selected()]) > 0.9
        assert relative_error(a.logits, b.logits) < CHOICE_ERROR


@pytest.mark.parametrize("spec", [
    dict(n_head=6, n_head_kv=3, head_dim=48, n_embd=96, bias=True),
    dict(n_head=4, n_head_kv=1, head_dim=64, tied=True),
    dict(n_head=2, n_head_kv=2, head_dim=128, rope_dim=64, rope_scaling="llama3"),
    dict(n_head=4, n_head_kv=2, n_embd=90, head_dim=22, n_ff=131),
], ids=["biases", "tied", "wide heads", "odd sizes"])
def test_shapes_of_models(models, ids, spec):
    on_gpu, on_cpu = models(**spec)
    with on_gpu.session(scheme="bounds") as a, on_cpu.session(scheme="bounds") as b:
        for piece in (ids[:130], *ids[130:133, None], ids[133:140]):
            a.feed(piece)
            b.feed(piece)
            assert (a.selected() == b.selected()).all()
            assert relative_error(a.logits, b.logits) < FLOAT_ERROR


@pytest.mark.filterwarnings("ignore:dense attention past the trained context")
def test_dense_attention(models, ids):
    on_gpu, on_cpu = models()
    with on_gpu.session(attention="dense") as a, on_cpu.session(attention="dense") as b:
        for piece in (ids[:200], *ids[200:203, None]):
            a.feed(piece)
            b.feed(piece)
            assert relative_error(a.logits, b.logits) < FLOAT_ERROR
        assert (a.selected() == b.selected()).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_pieces_agree(models, ids, scheme):
    """However a text is fed: at once, in uneven pieces, one by one."""
    on_gpu, _ = models()
    results = []
    for sizes in ([140], [1, 37, 70, 3, 29], [1] * 140):
        with on_gpu.session(scheme=scheme) as session:
            at = 0
            for size in sizes:
                session.feed(ids[at : at + size])
                at += size
            results.append((session.logits, session.selected()))
    for logits, selected in results[1:]:
        assert relative_error(logits, results[0][0]) < CHOICE_ERROR
        assert same_share([selected], [results[0][1]]) > 0.9


def test_scores(models, ids):
    """Logits of all rows, of a text in which no two chunks are nearly as good: rounding would choose between them."""
    on_gpu, on_cpu = models()
    text = ids[100:200]
    with on_gpu.session() as a, on_cpu.session() as b:
        np.testing.assert_allclose(a.score(text)[1:], b.score(text)[1:], atol=0.05)


def test_rewind_save_and_load(models, ids, tmp_path):
    on_gpu, on_cpu = models()
    for scheme in SCHEMES:
        with on_gpu.session(scheme=scheme) as a, on_gpu.session(scheme=scheme) as b, on_cpu.session(scheme=scheme) as c:
            a.feed(ids[:180])
            before = a.logits
            a.save(tmp_path / "session")
            a.feed(ids[200:250])
            a.rewind(50)
            assert relative_error(a.logits, before) < FLOAT_ERROR
            for other in (b, c):  # a file made on a GPU is one for the CPU, too
                other.load(tmp_path / "session")
                other.feed(ids[180:190])
            assert relative_error(b.logits, c.logits) < FLOAT_ERROR


def test_same_text_of_a_real_model(gpu):
    path = native.data("models/stories260K.gguf")
    texts = []
    for device in ("cuda", "cpu"):
        with gpu.Model(path, device=device, ctx=256, chunk=16, budget=96, window=128, local=2) as model:
            texts.append(model.generate("Once upon a time", max_tokens=100, temperature=0))
    assert texts[0] == texts[1]


def test_probe(gpu, models):
    on_gpu, _ = models()
    core = gpu._core
    out = core.ffi.new("lh_ceilings *")
    assert core.lib.lh_model_probe(on_gpu._pointer, 0.002, out) == 0
    assert min(out.fp32, out.int8, out.float16, out.read) > 0


# --- sessions ----------------------------------------------------------------------------------------------------


def test_sessions_take_turns(models, ids):
    """Two sessions over one copy of the weights, in turns and from two threads, are each what it is alone."""
    on_gpu, _ = models()
    texts = [ids[:104], ids[104:208]]

    def alone(text):
        with on_gpu.session() as session:
            return walk(session, text)[0]

    expected = [alone(text) for text in texts]
    with on_gpu.session() as a, on_gpu.session() as b:
        for i in range(104):
            a.feed(texts[0][i : i + 1])
            b.feed(texts[1][i : i + 1])
        assert (a.logits == expected[0][-1]).all() and (b.logits == expected[1][-1]).all()
    found = [None, None]

    def run(i):
        found[i] = alone(texts[i])

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(2):
        assert (found[i] == expected[i]).all()


def test_graphs_change_nothing(gpu, tiny_path, ids, monkeypatch, capfd):
    """Bit for bit, across completed chunks and from dense to sparse."""
    results = []
    for wanted in ("1", "0"):
        monkeypatch.setenv("LH_CUDA_GRAPHS", wanted)
        before = gpu.emulator.lh_emulator_replays() if hasattr(gpu, "emulator") else 0
        with gpu.Model(tiny_path, device="cuda", **OPTIONS) as model, model.session() as session:
            results.append(walk(session, ids[:110]))
        if hasattr(gpu, "emulator"):
            # Dense tokens and sparse ones have a list each, which runs once before it is a graph.
            assert gpu.emulator.lh_emulator_replays() - before == (108 if wanted == "1" else 0)
        assert "no CUDA graph" not in capfd.readouterr().err
    assert (results[0][0] == results[1][0]).all()
    assert all((a == b).all() for a, b in zip(results[0][1], results[1][1], strict=True))


# --- on the emulator alone ---------------------------------------------------------------------------------------


def test_a_refused_graph_is_told(emulated, tiny_path, ids, capfd):
    """Once, and nothing else changes."""
    results = []
    for refuse in (0, 1):
        emulated.emulator.lh_emulator_refuse(refuse)
        before = emulated.emulator.lh_emulator_replays()
        try:
            with emulated.Model(tiny_path, device="cuda", **OPTIONS) as model, model.session() as session:
                results.append(walk(session, ids[:110]))
        finally:
            emulated.emulator.lh_emulator_refuse(0)
        assert (emulated.emulator.lh_emulator_replays() == before) == bool(refuse)
        assert capfd.readouterr().err.count("no CUDA graph could be made") == refuse
    assert (results[0][0] == results[1][0]).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_scheduling_changes_nothing(emulated, tiny_path, ids, scheme):
    """Whatever the order of threads and blocks: a barrier that is missing anywhere would show."""
    results = []
    for order in range(3):
        emulated.emulator.lh_emulator_order(order)
        with emulated.Model(tiny_path, device="cuda", **OPTIONS) as model, model.session(scheme=scheme) as session:
            session.feed(ids[:180])
            session.feed(ids[180:181])
            session.feed(ids[181:182])
            results.append((session.logits, session.selected()))
    emulated.emulator.lh_emulator_order(0)
    for logits, selected in results[1:]:
        assert (logits == results[0][0]).all() and (selected == results[0][1]).all()


@contextlib.contextmanager
def limited(emulated, more: int):
    """`more` bytes of device memory beside what is in use."""
    emulated.emulator.lh_emulator_limit(emulated.emulator.lh_emulator_allocated() + more)
    try:
        yield
    finally:
        emulated.emulator.lh_emulator_limit(8 << 30)


@pytest.fixture
def gives_back(emulated):
    """Of the device's memory nothing stays in use. What a test opens goes with its last reference."""
    gc.collect()
    before = emulated.emulator.lh_emulator_allocated()
    yield
    gc.collect()
    assert emulated.emulator.lh_emulator_allocated() == before


def test_out_of_memory(gives_back, emulated, tiny_path, ids):
    no_memory = pytest.raises(emulated.OutOfMemoryError, match="of GPU memory are needed, .* free")
    with limited(emulated, 100_000), no_memory:
        emulated.Model(tiny_path, device="cuda")
    with emulated.Model(tiny_path, device="cuda", **OPTIONS) as model, model.session() as session:
        session.feed(ids[:20])
        with limited(emulated, 50_000), pytest.raises(emulated.OutOfMemoryError, match="lower ctx"):
            model.session()
        # Wherever in the middle of a session's memory it ends, and where only scratch is missing.
        outcomes = []
        for more in range(60_000, 2_400_000, 40_000):
            with limited(emulated, more):
                try:
                    with model.session() as other:
                        other.feed(ids[:200])
                    outcomes.append("enough")
                except emulated.OutOfMemoryError as error:
                    outcomes.append("scratch" if "batch or ctx" in str(error) else "session")
            gc.collect()
        assert outcomes == sorted(outcomes, key=["session", "scratch", "enough"].index)
        assert {*outcomes} == {"session", "scratch", "enough"}
        session.feed(ids[20:21])
        with model.session() as fresh:
            fresh.feed(ids[:20])
            fresh.feed(ids[20:21])
            assert relative_error(session.logits, fresh.logits) < DECODE_ERROR


def lose(emulated, path, ids, launches: int) -> None:
    """A model whose device fails after so many kernels: the same sentence for every call, for good."""
    with emulated.Model(path, device="cuda", **OPTIONS) as model, model.session() as session:
        session.feed(ids[:10])
        emulated.emulator.lh_emulator_break(launches)
        sentences = set()
        try:
            for _ in range(3):
                with pytest.raises(emulated.BackendError, match="GPU 0 failed .*cannot be opened again") as caught:
                    for token in ids[10:14, None]:
                        session.feed(token)
                sentences.add(str(caught.value))
            with pytest.raises(emulated.BackendError):
                model.session()
        finally:
            emulated.emulator.lh_emulator_break(-1)
        with pytest.raises(emulated.BackendError) as caught:
            session.feed(ids[:1])
        assert sentences == {str(caught.value)}


def test_a_lost_device(gives_back, emulated, tiny_path, ids):
    with emulated.Model(tiny_path, device="cpu", **OPTIONS) as other, other.session() as elsewhere:
        for launches in (0, 1, 7, 40, 65):
            lose(emulated, tiny_path, ids, launches)
            elsewhere.feed(ids[:5])
        elsewhere.rewind(elsewhere.position)
        elsewhere.feed(ids[:20])
        with emulated.Model(tiny_path, device="cuda", **OPTIONS) as model, model.session() as session:
            session.feed(ids[:20])
            assert relative_error(session.logits, elsewhere.logits) < FLOAT_ERROR


NO_GPU = 'no GPU that can be used .*: use "cpu"'


@pytest.mark.parametrize(("count", "why", "told"), [
    (0, NO_GPU, False), (-1, NO_GPU, False),
    (-2, r'the driver knows CUDA 11\.8 and this build needs 12\.4: .* use "cpu"', True),
    (-4, r'there is no GPU that can be used \(.*\): use "cpu"', True),
    (-3, r'GPU 0 .* has compute capability 7\.0, expected 8\.0 or later: use "cpu"', True),
], ids=["no device", "no driver", "an old driver", "a broken device", "an old device"])  # fmt: skip
def test_without_a_gpu(emulated, tiny_path, count, why, told):
    """A machine without one is nothing to tell of; one that cannot be used is."""
    emulated.emulator.lh_emulator_devices(count)
    try:
        with warnings.catch_warnings(record=True) as notes:
            warnings.simplefilter("always")
            with emulated.Model(tiny_path) as model:
                assert model.device.startswith("cpu")
        assert [bool(re.search(f"^the GPU is not used: {why}", str(note.message))) for note in notes] == [True] * told
        with pytest.raises(emulated.BackendError if told else emulated.UnsupportedError, match=why):
            emulated.Model(tiny_path, device="cuda")
    finally:
        emulated.emulator.lh_emulator_devices(1)


def test_which_device(emulated, tiny_path):
    for device in ("auto", "cuda", "cuda:0"):
        with emulated.Model(tiny_path, device=device) as model:
            assert model.device == "cuda:0 (Emulator)"
    with pytest.raises(emulated.ArgumentError, match='"cuda:1" was asked for, but there is one GPU: use "cuda:0"'):
        emulated.Model(tiny_path, device="cuda:1")
    for device in ("cuda:", "cuda:-1", "cuda:x", "cuda0", "gpu"):
        with pytest.raises(emulated.ArgumentError, match="is not known"):
            emulated.Model(tiny_path, device=device)


# --- matrix products ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "arguments"), [
    ("emulated", ["all", "0"]), ("emulated", ["few", "1"]), ("emulated", ["few", "2"]), ("real", ["all"]),
], ids=["ascending", "descending", "odd first", "real"])
def test_products_of_every_type(device, arguments):
    """Against double; the tolerances are in the program. Threads and blocks of the emulator run in three orders."""
    sources = ["tests/c/test_cuda_matmul.c", "runtime/base.c", "runtime/quant.c"]
    program = cuda_builds.program(device, "test_cuda_matmul", sources)
    done = subprocess.run([program, *arguments], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stdout + done.stderr

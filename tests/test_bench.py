"""The benchmark: `python -m longheads.bench`, and the random models of well-known shapes that it makes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")
gguf = pytest.importorskip("gguf", reason="the gguf package, which writes test models, is not installed")

from helpers import ModelSpec, make_model, runner  # noqa: E402, I001  (it puts the tools on the path)
import make_shape  # noqa: E402
import native  # noqa: E402

from longheads.bench import cost, measure, report, shapes  # noqa: E402
from longheads.bench.command import depths, main  # noqa: E402

OPTIONS = ["--chunk", 16, "--budget", 64, "--window", 128, "--local", 2]
QUICK = ["-p", 24, "-n", 4, "-r", 2, *OPTIONS]
TINY = ModelSpec(n_embd=256, n_ff=512, n_vocab=400)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(cost, "PROBE_SECONDS", 0.01)
    monkeypatch.setattr(make_shape, "POOL", 1 << 18)


@pytest.fixture
def bench(capsys):
    return runner(main, capsys)


def cells(out: str) -> list[list[str]]:
    """The table's rows, without the header."""
    lines = [line for line in out.splitlines() if line.startswith("|")]
    assert len({len(line) for line in lines}) == 1  # it is a table without being rendered
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines][2:]


# --- the command -------------------------------------------------------------------------------------------------


def test_table_and_json(bench, tiny_path, tmp_path):
    out = bench(tiny_path, "-d", "300,0,64", *QUICK, "--json", tmp_path / "out.json")
    result = json.loads((tmp_path / "out.json").read_text())
    tests = [(row["depth"], row["test"], row["tokens"]) for row in result["rows"]]
    assert tests == [(d, test, n) for d in (0, 64, 300) for test, n in (("prompt", 24), ("decode", 4))]
    for row, shown in zip(result["rows"], cells(out), strict=True):
        ours, share = row["longheads"], row["share"]
        assert len(ours["rounds"]) == 2 and 0 < ours["min"] <= ours["median"] <= ours["max"]
        assert row["llama.cpp"] is row["ratio"] is None and share > 0
        assert row["ceiling"] == ("read" if row["test"] == "decode" else "fp32")
        assert shown[:2] == [str(row["depth"]), f"{row['test']} {row['tokens']}"]
        assert shown[2].startswith(report._number(ours["median"]))
        first = next(other for other in result["rows"] if other["test"] == row["test"])["longheads"]["rounds"]
        assert row["kept"] == pytest.approx(np.median(np.divide(ours["rounds"], first)))
        assert shown[3:] == [f"{share:.0%} of {row['ceiling']}", f"{row['kept']:.2f}"]
    assert result["options"]["ctx"] == 324 and result["options"]["depths"] == "filled"
    assert result["options"]["budget"] == 64 and result["options"]["kv_type"] == "f16"
    assert all(result["ceilings"][name] > 1e8 for name in ("fp32", "int8", "read"))
    assert result["memory"]["kv"] == 2 * 2 * 2 * 16 * 336 * 2 and result["memory"]["peak_rss"] > 1e6
    for words in ("filled with random keys and values", "median of 2", "chunk 16, budget 64", "peak RSS", "GFLOP/s"):
        assert words in out


def test_rope_scaling_is_told(bench, tiny_path):
    told = bench(tiny_path, "-d", "0", *QUICK, "--rope-scaling", "yarn", "--rope-scale", 2)
    assert "rope yarn x 2, kv f16" in told and "rope" not in bench(tiny_path, "-d", "0", *QUICK)


def test_read_and_whole(bench, tiny_path, monkeypatch):
    filled = []
    fill = longheads.Session.fill
    monkeypatch.setattr(longheads.Session, "fill", lambda self, n, **_: filled.append(n) or fill(self, n))
    assert "\ndepths    read\n" in bench(tiny_path, "-d", "64", *QUICK, "--read")
    out = bench(tiny_path, "-d", "0,64,128", *QUICK, "--whole")
    assert "\ndepths    read\n" in out and not filled
    assert [row[1] for row in cells(out)] == ["prompt 24", "decode 4"] + [
        test for d in (64, 128) for test in (f"whole {d}", "prompt 24", "decode 4")
    ]
    bench(tiny_path, "-d", "0,64,128", *QUICK)
    assert filled == [64, 128]


def test_a_prompt_longer_than_can_be_forgotten(bench, tiny_path, monkeypatch):
    """Then the depth is reached anew for every round."""
    filled = []
    fill = longheads.Session.fill
    monkeypatch.setattr(longheads.Session, "fill", lambda self, n, **_: filled.append(n) or fill(self, n))
    out = bench(tiny_path, "-d", "64", *QUICK, "-p", "9000")
    assert [row[1] for row in cells(out)] == ["prompt 9000", "decode 4"]
    assert filled == [64] * 3
    filled.clear()
    bench(tiny_path, "-d", "64", *QUICK, "-p", "9000", "--keep-all")
    assert filled == [64]


def test_a_read_depth_is_reached_anew(tiny_path):
    """Where what lies behind it cannot be forgotten alone."""
    text = np.arange(9100, dtype=np.int32) % 300
    with longheads.Model(tiny_path, ctx=9100) as model, model.session() as session:
        engine = measure.LongHeads(session, text, fill=False)
        engine.read(text)
        assert session.oldest > 64
        engine.rewind(64)
        assert session.position == 64


def test_sessions_of_depths_are_quiet(tiny_path, capfd):
    """What is to be said of options is said once, and only what the last depth needs goes by --ctx."""
    main([str(a) for a in (tiny_path, "-d", "0,64,300", *QUICK, "--kv-offload", "--ctx", 512)])
    shown = capfd.readouterr()
    assert shown.err.count("kv_offload has no effect") == 1
    assert "for ctx 512" in shown.out and "(all depths)" in shown.out and "| to 0 |" in shown.out


def test_plot(bench, tiny_path, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    model = tmp_path / "$\\x$.gguf"  # which is no formula
    model.symlink_to(tiny_path)
    bench(model, "-d", "0,64,300", *QUICK, "--plot", tmp_path / "speed.png")
    picture = (tmp_path / "speed.png").read_bytes()
    assert picture.startswith(b"\x89PNG") and len(picture) > 10_000
    assert "longheads: " in bench(tiny_path, *QUICK, "--plot", tmp_path / "speed.doc", status=1)


def test_beside_llama_cpp(bench, tiny_path, tmp_path):
    pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    arguments = ["-d", "0,64,128", *QUICK, "--whole", "--vs", "llama-cpp-python", "--vs-depth", 64]
    out = bench(tiny_path, *arguments, "--json", tmp_path / "out.json", "--plot", tmp_path / "speed.svg")
    rows = json.loads((tmp_path / "out.json").read_text())["rows"]
    for row, shown in zip(rows, cells(out), strict=True):
        if row["depth"] > 64:
            assert row["llama.cpp"] is None and shown[4:] == ["-", "-"]
        else:
            assert row["ratio"] == pytest.approx(row["longheads"]["median"] / row["llama.cpp"]["median"])
            assert shown[5] == f"{row['ratio']:.2f}"
    assert "llama-cpp-python" in out and "flash attention on" in out and "CPU" in out
    arguments = [tiny_path, "-d", 64, *QUICK, "--vs", "llama-cpp-python"]
    assert "llama.cpp reads" in bench(*arguments, "--vs-flash-attn", "off")
    assert "raise --vs-depth" in bench(*arguments, "--vs-depth", 63, status=1)


def test_llama_cpp_reads_what_it_is_given(tiny_path):
    """In pieces and after going back its logits are those of the same tokens at once; and they are ours."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    from longheads.bench.peer import LlamaCpp

    text = np.random.default_rng(0).integers(3, 600, 100, dtype=np.int32)
    peer = LlamaCpp(tiny_path, n_ctx=128, threads=1, flash_attention=True)

    def logits():
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(peer._context, -1), (600,)).copy()

    peer.read(text)
    expected = logits()
    peer.rewind(40)
    peer.read(text[40:99])
    peer.read(text[99:])
    assert np.abs(logits() - expected).max() < 0.05
    peer.close()
    with longheads.Model(tiny_path, ctx=128, attention="dense") as model, model.session() as session:
        session.feed(text)
        assert np.corrcoef(session.logits, expected)[0, 1] > 0.999


def test_rounds_take_turns(monkeypatch):
    """A B A B, each from the same position; going back and settling are not timed."""
    log, clock = [], [0.0]

    class Fake:
        def __init__(self, name):
            self.name = name

        def rewind(self, position):
            clock[0] += 100
            log.append((self.name, position))

    def run(engine, place):
        clock[0] += 1 if engine.name == "a" else 2
        return 10

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=lambda: clock[0], sleep=lambda s: None))
    plan = measure.Plan(depths=[0], prompt=1, decode=1, repeat=3, whole=False, vs_depth=0)
    work = SimpleNamespace(finished=lambda n: None)
    places = [measure.Place(5, Fake("a"), Fake("b")), measure.Place(7, Fake("c"))]
    (ours, theirs), (deeper,) = measure._rounds(places, plan, work, run)
    assert log == [("a", 5), ("b", 5), ("c", 7)] * 3
    assert ours.rounds == [10.0] * 3 and theirs.rounds == deeper.rounds == [5.0] * 3
    log.clear()
    measure._rounds(places, plan, work, run, whole=True)
    assert log == [("a", 0), ("b", 0), ("c", 0)] * 3
    assert measure.Speed([1.0, 9.0, 2.0]).median == 2.0


def test_what_is_timed(tiny_path, monkeypatch):
    """A prompt is read at once and an answer token by token, both from the depth on."""
    log = []

    class Logged(measure.LongHeads):
        def read(self, ids, progress=None):
            log.append((self.session.position, len(ids)))
            super().read(ids, progress)

    monkeypatch.setattr(measure, "time", SimpleNamespace(perf_counter=time.perf_counter, sleep=lambda s: None))
    plan = measure.Plan(depths=[50], prompt=24, decode=3, repeat=2, whole=True, vs_depth=0)
    with longheads.Model(tiny_path, ctx=128) as model, model.session() as session:
        text = np.arange(3, 103, dtype=np.int32)
        rows = measure.measure(model, [measure.Place(50, Logged(session, text, fill=False))], text, plan)
    assert log == [(0, 50)] * 2 + [(50, 24)] * 2 + [(50, 1), (51, 1), (52, 1)] * 2
    assert [(row.test, row.tokens, row.depth) for row in rows] == [("whole", 50, 50), ("prompt", 24, 50), ("decode", 3, 50)]


# --- costs -------------------------------------------------------------------------------------------------------


def test_prompt_operations(tiny_path):
    """Two for every weight of the layers and token, and for the output matrix once."""
    sizes = {t.name: int(np.prod(t.shape)) for t in gguf.GGUFReader(tiny_path).tensors if len(t.shape) == 2}
    layers = sum(n for name, n in sizes.items() if name.startswith("blk."))
    with longheads.Model(tiny_path) as model:
        assert cost.prompt_operations(model, 7) == 2 * (7 * layers + sizes["output.weight"])
        assert cost.arithmetic(model) == "fp32"


def test_an_embedding_that_is_the_output_is_read(tmp_path):
    with longheads.Model(make_model(tmp_path / "tied.gguf", tied=True)) as model:
        assert model._info.active_bytes == model.weight_bytes


@pytest.mark.filterwarnings("ignore:dense attention past the trained context")
@pytest.mark.parametrize("select_per", ["head", "kv_head"])
@pytest.mark.parametrize("attention", ["longheads", "dense"])
@pytest.mark.parametrize(("scheme", "size"), [
    ("bounds", 34),                             # two vectors of 16 values, as a block of q8_0
    ("peak", -(-(16 * 32 // 2 + 4) // 16) * 16),  # 4 bits of 16 components of 16 keys, filled up to 32, and a step
])  # fmt: skip
def test_token_bytes(tiny_path, attention, select_per, scheme, size):
    weights = sum(t.n_bytes for t in gguf.GGUFReader(tiny_path).tensors if t.name != "token_embd.weight")
    options = dict(ctx=512, chunk=16, budget=64, near_budget=64, window=128, local=2, attention=attention,
                   select_per=select_per, scheme=scheme)  # fmt: skip
    with longheads.Model(tiny_path, **options) as model, model.session() as session:
        session.fill(300)
        session.feed([5])
        rows = 0
        for layer in session.selected():
            for group in layer.reshape(2, 2, -1):  # KV heads of two query heads each
                chunks = set(group.ravel().tolist()) - {-1}
                rows += sum(min(16, 301 - 16 * chunk) for chunk in chunks)
        assert rows == 4 * 301 if attention == "dense" else 4 * 60 < rows < 4 * 128
        # 18 complete chunks, for each KV head that chooses
        summaries = 0 if attention == "dense" else (1 if scheme == "peak" else 4) * 18 * size
        row_of_embedding = 64 * 4
        assert cost.token_bytes(model, session) == weights + row_of_embedding + rows * 2 * 16 * 2 + summaries


def test_ceilings(tiny_path):
    with longheads.Model(tiny_path, threads=1) as model:
        ceilings = cost.measure_ceilings(model)
        assert (ceilings.float16 > ceilings.fp32) == model.device.startswith("cpu (amx")  # or tensor cores
    assert 1e8 < ceilings.fp32 < 1e13 and 1e8 < ceilings.int8 < 1e14 and 1e8 < ceilings.read < 1e12


# --- shapes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_name", ["Q4_0", "q8_0", "Q4_K", "q6_k", "F16", "bf16"])
def test_shape_is_a_model(tmp_path, type_name):
    seen = []
    path = make_shape.make_shape(
        tmp_path / "deep" / "x.gguf", TINY, type_name, progress=lambda done, total: seen.append((done, total))
    )
    assert [p.name for p in path.parent.iterdir()] == ["x.gguf"]  # nothing is left lying about
    assert [done for done, _ in seen] == sorted({done for done, _ in seen}) and seen[-1][0] == seen[-1][1]
    with longheads.Model(path) as model, model.session() as session:
        session.feed(np.arange(50))
        assert np.isfinite(session.logits).all() and 1 < session.logits.std() < 4
    tensors = {t.name: t for t in gguf.GGUFReader(path).tensors}
    assert tensors["blk.1.ffn_up.weight"].tensor_type.name == type_name.upper()
    rows = gguf.quants.dequantize(tensors["blk.1.ffn_up.weight"].data, tensors["blk.1.ffn_up.weight"].tensor_type)
    assert rows.shape == (512, 256) and abs(rows.std() * 16 - 1) < 0.1 and abs(rows.mean()) < 0.01
    assert len(np.unique(rows, axis=0)) == 512
    assert np.abs(np.corrcoef(rows[:64]) - np.eye(64)).max() < 0.8


def test_a_matrix_larger_than_its_pool(monkeypatch):
    """Rows that repeat would be one row to the model: they must begin at other places of the pool."""
    monkeypatch.setattr(make_shape, "POOL", 1 << 14)
    made = make_shape.pooled_matrices()(np.random.default_rng(0), (400, 512), gguf.GGMLQuantizationType.Q8_0, 1.0)
    rows = made.reshape(400, -1)
    assert rows.nbytes == 400 * 512 // 32 * 34 and len(np.unique(rows, axis=0)) == 400


def test_known_shapes():
    """Parameters of the real ones, in millions."""
    expected = {"llama2-7b": 6738, "llama3-8b": 8030, "tinyllama-1.1b": 1100, "llama3.2-1b": 1236, "llama3.2-3b": 3213,
                "smollm2-135m": 134.5, "smollm2-360m": 361.8}  # fmt: skip
    for name, spec in make_shape.SHAPES.items():
        n = sum(np.prod(t.shape) for t in make_shape.weights(spec.resolved()))
        assert n / 1e6 == pytest.approx(expected.pop(name), rel=1e-3), name
    assert not expected


def test_shape_on_the_command_line(bench, tmp_path, monkeypatch):
    monkeypatch.setitem(make_shape.SHAPES, "tiny", TINY)
    command = ["--shape", "Tiny", "--type", "Q4_K", "--shape-dir", tmp_path / "kept", "-d", "0", "-p", 8, "-n", 2]
    out = bench(*command)
    file = tmp_path / "kept" / "tiny-q4_k.gguf"
    ceiling = "float16" if native.FLAGS_OF["amx"] <= native.cpu_flags() else "int8"
    assert "tiny-q4_k.gguf" in out and f"of {ceiling}" in out
    made = file.stat().st_mtime_ns
    bench(*command)
    assert file.stat().st_mtime_ns == made


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_shapes_that_cannot_be(bench, tmp_path, monkeypatch):
    folder = ["--shape-dir", tmp_path]
    message = bench("--shape", "llama9", *folder, status=1)
    assert "llama9" in message and "llama2-7b" in message
    assert "q9_9" in bench("--shape", "llama2-7b", "--type", "Q9_9", *folder, status=1)
    assert "not whole Q6_K blocks" in bench("--shape", "smollm2-135m", "--type", "q6_k", *folder, status=1)
    monkeypatch.setattr(make_shape.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    message = bench("--shape", "llama2-7b", *folder, status=1)
    assert "needs 3.8 GB" in message and "1.0 GB are free" in message
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(shapes, "BESIDE", tmp_path)
    monkeypatch.chdir(tmp_path)
    assert "checkout" in bench("--shape", "llama2-7b", *folder, status=1)


def test_what_is_not_installed(bench, tiny_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "llama_cpp", None)
    assert "pip install llama-cpp-python" in bench(tiny_path, "--vs", "llama-cpp-python", status=1)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "pip install matplotlib" in bench(tiny_path, "--plot", "x.png", status=1)


def test_values_that_cannot_be(bench, tiny_path, tmp_path):
    assert "nowhere.gguf" in bench("nowhere.gguf", status=1)
    message = bench(tiny_path, "-d", "0,1k", "-p", 100, "--ctx", 1024, status=1)
    assert "1124" in message and "raise ctx" in message
    assert "no folder" in bench(tiny_path, "--json", tmp_path / "no" / "x.json", status=1)
    assert "budget" in bench(tiny_path, "--chunk", 32, "--budget", 100, status=1)


def test_a_depth_that_memory_cannot_hold(bench, tiny_path):
    if os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >= 30 << 30:
        pytest.skip("what is asked for, 36 GiB, could be had here, and would be filled")
    assert "GiB" in bench(tiny_path, "-d", "250000k", "--kv-type", "f32", status=1)


@pytest.mark.parametrize(
    "arguments", [[], ["x.gguf", "--shape", "llama2-7b"], ["x", "-d", "1,b"], ["x", "-d", ""], ["x", "-n", "0"]]
)
def test_usage(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2 and "usage: longheads.bench" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "other"),
    [
        (["x.gguf", "--type", "Q8_0"], "shape"),
        (["x.gguf", "--shape-dir", "x"], "shape"),
        (["x.gguf", "--vs-depth", "64"], "vs"),
        (["--shape", "x", "--vs-flash-attn", "on"], "vs"),
    ],
)
def test_options_that_say_more_about_another(arguments, other, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    told = f"{arguments[-2]} means nothing without --{other}\n"
    assert stopped.value.code == 2 and capsys.readouterr().err.endswith(told)


def test_a_busy_machine_is_told(bench, tiny_path, monkeypatch):
    """Engines suffer unequally from what else runs."""
    for others, told in ((1.5, True), (0.1, False), (None, False)):
        monkeypatch.setattr(report.Others, "processors", lambda self, others=others: others)
        assert ("others kept 1.5 processors busy" in bench(tiny_path, "-d", 0, *QUICK)) == told


def test_others_are_not_this_process():
    others, until = report.Others(), time.process_time() + 0.5
    while time.process_time() < until:
        pass
    assert others._busy is None or 0 <= others.processors() <= os.cpu_count()
    others._own -= 1000  # as if this process had done far more than was seen
    assert others._busy is None or others.processors() == 0


def test_depths():
    assert depths("32k, 0,4096,4k") == [0, 4096, 32768]


def test_as_a_module(tiny_path):
    command = [sys.executable, "-m", "longheads.bench", str(tiny_path), "-d", "0", *map(str, QUICK)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parent)
    assert done.returncode == 0 and done.stderr == "" and "| decode 4 " in done.stdout

"""python tools/convert on GGUF files: types of tensors, splits, what is exact, and what stops it half way.

    python tests/test_convert_gguf.py     # records anew which types llama.cpp gives
"""

import ctypes
import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from native import ROOT

gguf = pytest.importorskip("gguf", reason="the converter reads GGUF files with the package gguf")

sys.path.insert(0, str(ROOT / "tools"))

from convert import command, container, recipes  # noqa: E402
from gguf_files import Value, write_model  # noqa: E402
from helpers import make_model  # noqa: E402

from longheads import Model  # noqa: E402

Type = gguf.GGMLQuantizationType
CONVERT = [sys.executable, str(ROOT / "tools" / "convert")]
RECORD = Path(__file__).with_name("types_llama_cpp.json")
# Rows of `wide` are divided by blocks of 256, except those of ffn_down; with so many layers the rules differ.
MODELS = {
    "wide": dict(n_layer=16, n_embd=256, n_ff=288, n_head=4, n_head_kv=1, type="f32"),
    "tied": dict(n_layer=10, n_embd=256, n_ff=512, n_head=4, n_head_kv=2, type="f32", tied=True),
}


def convert(*arguments) -> int:
    return command.main([str(a) for a in arguments])


def types_of(path) -> dict[str, Type]:
    return {t.name: t.tensor_type for t in gguf.GGUFReader(path).tensors}


def values_of(path) -> dict[str, np.ndarray]:
    return {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(path).tensors}


def left_behind(folder) -> list[str]:
    return [p.name for p in folder.iterdir() if "partial" in p.name]


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("convert") / "wide.gguf", **MODELS["wide"])


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    return make_model(tmp_path_factory.mktemp("convert") / "tied.gguf", **MODELS["tied"])


# --- types ---------------------------------------------------------------------------------------------------------


def by_type(path) -> dict[str, list[str] | int]:
    """The matrices of each type; of the most common one their number."""
    groups: dict[str, list[str] | int] = {}
    for name, type_ in sorted(types_of(path).items()):
        if "norm" not in name:
            groups.setdefault(type_.name, []).append(name)
    most = max(groups, key=lambda type_: len(groups[type_]))
    return groups | {most: len(groups[most])}


def quantize_with_llama_cpp(source, out, file_type):
    import llama_cpp

    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = file_type, 1
    assert llama_cpp.llama_model_quantize(str(source).encode(), str(out).encode(), ctypes.byref(params)) == 0


def ask_llama_cpp(source, folder, name) -> dict[str, list[str] | int]:
    quantize_with_llama_cpp(source, folder / "theirs.gguf", recipes.RECIPES[name].file_type)
    return by_type(folder / "theirs.gguf")


@pytest.mark.parametrize("peer", ["recorded", "installed"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("name", recipes.RECIPES)
def test_types_are_llama_cpp_s(request, tmp_path, name, model, peer):
    if peer == "installed":
        pytest.importorskip("llama_cpp", reason="llama-cpp-python, whose rules these are, is not installed")
    source = request.getfixturevalue(model)
    assert convert(source, "-o", tmp_path / "ours.gguf", "--type", name) == 0
    theirs = json.loads(RECORD.read_text())[model][name] if peer == "recorded" else ask_llama_cpp(source, tmp_path, name)
    assert by_type(tmp_path / "ours.gguf") == theirs


def test_mixed_types(wide, tmp_path, capsys):
    """Which tensors get more bits, spelled out for one type; and a notice for rows of 288."""
    assert convert(wide, "-o", tmp_path / "out.gguf", "--type", "q4_k") == 0
    kinds = types_of(tmp_path / "out.gguf")
    more = {0, 1, 4, 7, 10, 13, 14, 15}
    for i in range(16):
        assert kinds[f"blk.{i}.attn_v.weight"] == (Type.Q6_K if i in more else Type.Q4_K)
        assert kinds[f"blk.{i}.ffn_down.weight"] == (Type.Q8_0 if i in more else Type.Q5_0)
        assert kinds[f"blk.{i}.attn_q.weight"] == Type.Q4_K
        assert kinds[f"blk.{i}.attn_norm.weight"] == Type.F32
    assert (kinds["output.weight"], kinds["token_embd.weight"]) == (Type.Q6_K, Type.Q4_K)
    said = capsys.readouterr().err
    assert "8 tensors have rows of 288 values, which blocks of Q4_K do not divide; they are Q5_0" in said
    assert "which blocks of Q6_K do not divide; they are Q8_0" in said


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_type_is_near_and_runs(tied, tmp_path, name):
    out = tmp_path / "out.gguf"
    assert convert(tied, "-o", out, "--type", name) == 0
    reader = gguf.GGUFReader(out)
    assert reader.get_field("general.file_type").contents() == recipes.RECIPES[name].file_type
    before, after = values_of(tied), values_of(out)
    worst = {"f": 1e-3, "b": 4e-3, "q8": 6e-3, "q6": 0.025, "q5": 0.05, "q4": 0.1, "iq": 0.1, "q3": 0.2, "q2": 0.35}
    limit = next(limit for start, limit in worst.items() if name.startswith(start))
    for key, x in before.items():
        assert (
            np.sqrt(np.mean((after[key] - x) ** 2)) <= limit * x.std() if x.ndim > 1 else np.array_equal(after[key], x)
        )
    with Model(out, ctx=64) as a, a.session() as session:
        session.feed([1, 2, 3])
        assert np.isfinite(session.logits).all()


def test_floats_are_exact_where_the_type_allows(tmp_path):
    source = make_model(tmp_path / "bf16.gguf", type="bf16")
    for name in ("f32", "bf16"):
        assert convert(source, "-o", tmp_path / "out.gguf", "--type", name) == 0
        before, after = values_of(source), values_of(tmp_path / "out.gguf")
        assert all(np.array_equal(before[key], after[key]) for key in before)
    assert convert(source, "-o", tmp_path / "same.gguf") == 0  # no --type: as they are
    assert set(types_of(tmp_path / "same.gguf").values()) == {Type.BF16, Type.F32}


def test_metadata_survives(tmp_path):
    odd = {
        "test.bytes": ([b"\xff\xfe", b""], Value.STRING),
        "test.i64": (-5, Value.INT64),
        "test.flag": (True, Value.BOOL),
    }
    source = write_model(tmp_path / "in.gguf", change=odd)
    assert convert(source, "-o", tmp_path / "out.gguf", "--type", "f16") == 0
    before, after = gguf.GGUFReader(source).fields, gguf.GGUFReader(tmp_path / "out.gguf").fields
    for key, field in before.items():
        if not key.startswith("GGUF."):
            assert [p.tobytes() for p in field.parts[1:]] == [p.tobytes() for p in after[key].parts[1:]], key


# --- splits --------------------------------------------------------------------------------------------------------


def test_splits(tied, tmp_path, capsys):
    whole, out = tmp_path / "whole.gguf", tmp_path / "out.gguf"
    assert convert(tied, "-o", whole, "--type", "q8_0") == 0
    assert convert(tied, "-o", out, "--type", "q8_0", "--split-size", "2M", "--sha256") == 0
    lines = capsys.readouterr().out.splitlines()
    parts = sorted(tmp_path.glob("out-*.gguf"))
    assert len(parts) > 2 and parts[0].name == f"out-00001-of-{len(parts):05d}.gguf" and not out.exists()
    assert lines == [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p}" for p in parts]
    for i, part in enumerate(parts):
        reader = gguf.GGUFReader(part)
        assert sum(t.n_bytes for t in reader.tensors) <= 2_000_000
        assert [reader.get_field(f"split.{key}").contents() for key in ("no", "count")] == [i, len(parts)]
    ids = [1, 5, 9]
    with Model(whole, ctx=64) as a, Model(parts[0], ctx=64) as b, a.session() as s, b.session() as t:
        s.feed(ids)
        t.feed(ids)
        assert np.array_equal(s.logits, t.logits)
    assert convert(parts[1], "-o", out, "--type", "q8_0") == 1
    assert f"open the first part, {parts[0]}" in capsys.readouterr().err
    # And back: a split is a source, too; and what a link leads to is what is written.
    (tmp_path / "joined.gguf").symlink_to(tmp_path / "target.gguf")
    assert convert(parts[0], "-o", tmp_path / "joined.gguf", "--type", "q8_0") == 0
    assert (tmp_path / "joined.gguf").is_symlink()
    assert (tmp_path / "target.gguf").read_bytes() == whole.read_bytes()
    parts[1].unlink()
    assert convert(parts[0], "-o", out, "--type", "q8_0") == 1
    assert f"{parts[1]}: cannot be opened: No such file" in capsys.readouterr().err


def test_llama_cpp_reads_splits(tied, tmp_path):
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python is not installed")
    assert convert(tied, "-o", tmp_path / "out.gguf", "--type", "f32", "--split-size", "4M") == 0
    first = next(tmp_path.glob("out-00001-*.gguf"))
    peer = llama_cpp.Llama(str(first), n_ctx=64, logits_all=True, verbose=False, n_threads=1)
    peer.eval([1, 5, 9])
    theirs = np.array(peer.scores[2])
    with Model(first, ctx=64) as model, model.session() as session:
        session.feed([1, 5, 9])
        assert np.abs(session.logits - theirs).max() < 2e-2  # it computes with a cache of halves


# --- what people type ----------------------------------------------------------------------------------------------


def test_dry_run_writes_nothing(tied, tmp_path, capsys):
    assert convert(tied, "-o", tmp_path / "out.gguf", "--type", "q6_k", "--dry-run") == 0
    out = capsys.readouterr().out
    assert "token_embd.weight" in out and "Q6_K" in out and "bits a weight" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda f: f / "none.gguf", "does not exist"),
        (lambda f: f / "cut.gguf", "the file is truncated or damaged"),
        (lambda f: f / "text.gguf", "it is not a GGUF model"),
        (lambda f: f / "latin.gguf", "the package gguf cannot read"),
        (lambda f: f / "other.gguf", "'falcon', expected 'llama'"),
        (
            lambda f: f / "nan.gguf",
            "the tensor blk.1.ffn_up.weight is damaged or does not suit this type: it holds NaN",
        ),
        (lambda f: f / "huge.gguf", "it holds 70000, which is more than F16 can keep"),
        (lambda f: f / "number.gguf", "has the architecture 7, expected 'llama'"),
        (lambda f: f / "heads.gguf", "llama.attention.head_count is b'two', expected an integer"),
    ],
)
def test_bad_sources(tmp_path, capsys, change, sentence):
    source = write_model(tmp_path / "good.gguf")
    (tmp_path / "cut.gguf").write_bytes(source.read_bytes()[:-9000])
    (tmp_path / "text.gguf").write_bytes(b"a text")
    (tmp_path / "latin.gguf").write_bytes(source.read_bytes().replace(b"general.name", b"general.n\xe4me"))
    write_model(tmp_path / "other.gguf", change={"general.architecture": ("falcon", Value.STRING)})
    write_model(tmp_path / "number.gguf", change={"general.architecture": (7, Value.UINT32)})
    write_model(tmp_path / "heads.gguf", change={"llama.attention.head_count": ("two", Value.STRING)})
    for name, bad in (("nan", np.nan), ("huge", 70000)):
        values = np.zeros((64, 32), np.float32)
        values[40, 7] = bad
        write_model(
            tmp_path / f"{name}.gguf", values={"blk.1.ffn_up.weight": values}, types={"ffn_up.weight": Type.F32}
        )
    before = sorted(tmp_path.iterdir())
    assert convert(change(tmp_path), "-o", tmp_path / "out.gguf", "--type", "f16") == 1
    said = capsys.readouterr().err
    assert sentence in said and "Traceback" not in said and len(said.splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_big_endian(tmp_path, capsys):
    writer = gguf.GGUFWriter(tmp_path / "big.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert convert(tmp_path / "big.gguf", "-o", tmp_path / "out.gguf", "--type", "f16") == 1
    assert "is a big-endian GGUF" in capsys.readouterr().err


@pytest.mark.parametrize("later", [False, True], ids=["one file", "later part"])
def test_damaged_length(tmp_path, later):
    """An array that claims 2^56 elements is refused at once, by the runtime; the package gguf would count them."""
    source = damaged = write_model(tmp_path / "model.gguf", parts=2 if later else 0)
    if later:
        damaged = source.with_name(source.name.replace("00001-of", "00002-of"))
        keys = {"split.no": (1, Value.UINT16), "split.count": (2, Value.UINT16), "test": ([1, 2, 3], Value.UINT32)}
        damaged.write_bytes(container.header(keys, []))
    raw = bytearray(damaged.read_bytes())
    key = b"test" if later else b"tokenizer.ggml.scores"
    raw[raw.index(key) + len(key) + 4 + 4 + 7] = 1  # behind the types: the length, of which this is the highest byte
    damaged.write_bytes(raw)
    limit = lambda: resource.setrlimit(resource.RLIMIT_CPU, (20, 20))  # noqa: E731
    command_line = [*CONVERT, source, "-o", tmp_path / "out.gguf", "--type", "f16"]
    done = subprocess.run(command_line, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1
    assert str(damaged) in done.stderr and f"the value of '{key.decode()}'" in done.stderr and "are left" in done.stderr


def test_without_gguf():
    code = "import sys; sys.modules['gguf'] = None; sys.path.insert(0, sys.argv[1]); import convert.command"
    done = subprocess.run([sys.executable, "-c", code, ROOT / "tools"], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "longheads: the converter needs the package gguf: pip install gguf\n"


def test_bad_requests(tmp_path, capsys):
    source = write_model(tmp_path / "q8_0.gguf")
    for arguments, sentence in [
        ([source, "-o", tmp_path / "out.gguf"], "quantised already (q8_0); say with --type"),
        ([source, "-o", source, "--type", "q4_0"], "is what is being read"),
        ([source, "-o", tmp_path, "--type", "q4_0"], "is a folder"),
        ([source, "-o", tmp_path / "none" / "out.gguf", "--type", "q4_0"], "a folder that does not exist"),
    ]:
        assert convert(*arguments) == 1
        assert sentence in capsys.readouterr().err
    os.mkfifo(tmp_path / "fifo")
    for more, sentence in (["-o", tmp_path / "fifo"], "is not a regular file"), (["-o", tmp_path / "x", "--pre", "a"], "--pre"):
        assert convert(source, "--type", "q4_0", *more) == 1
        assert sentence in capsys.readouterr().err
    for arguments in (["--type", "q9"], ["--split-size", "0"], ["--threads", "0"]):
        with pytest.raises(SystemExit) as stop:
            convert(source, "-o", tmp_path / "out.gguf", *arguments)
        assert stop.value.code == 2


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """100 MB, some seconds of work."""
    path = tmp_path_factory.mktemp("convert") / "large.gguf"
    return make_model(path, n_layer=4, n_embd=1024, n_ff=4096, n_head=8, n_vocab=2000, type="bf16")


@pytest.mark.parametrize("how, background", [(signal.SIGINT, False), (signal.SIGTERM, False), (signal.SIGTERM, True)])
def test_interrupted(large, tmp_path, how, background):
    """Shells have what runs in the background ignore SIGINT; SIGTERM stops it all the same."""

    def start_in_background() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    command_line = [*CONVERT, large, "-o", tmp_path / "out.gguf", "--type", "q5_k", "-t", "1"]
    begin = start_in_background if background else None
    with subprocess.Popen(command_line, stderr=subprocess.PIPE, text=True, preexec_fn=begin) as process:
        while process.poll() is None and not left_behind(tmp_path):
            time.sleep(0.01)
        assert left_behind(tmp_path), "it was over before it could be stopped"
        process.send_signal(how)
        said = process.stderr.read()
    assert process.returncode == -how and "Traceback" not in said
    assert list(tmp_path.iterdir()) == []


def test_full_disk(large, tmp_path):
    """A limit on the size of files stands in for it: writes fail the same way."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 22, 1 << 22))  # noqa: E731
    command_line = [*CONVERT, large, "-o", tmp_path / "out.gguf", "--type", "q8_0"]
    done = subprocess.run(command_line, capture_output=True, text=True, preexec_fn=limit)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert f"cannot write {tmp_path / 'out.gguf'}: File too large; nothing was kept" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_memory(large, tmp_path):
    """Less than twice the largest tensor on top of what Python itself takes: the model is far larger."""
    code = ("import resource, sys; sys.path.insert(0, sys.argv.pop(1)); from convert.command import main; "
            "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10; before = peak(); "
            "status = main(sys.argv[1:]); print(peak() - before); sys.exit(status)")  # fmt: skip
    arguments = [ROOT / "tools", large, "-o", tmp_path / "out.gguf", "--type", "f32", "-t", "2"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    largest = max(int(np.prod(t.shape)) * 4 for t in gguf.GGUFReader(tmp_path / "out.gguf").tensors)
    assert (tmp_path / "out.gguf").stat().st_size > 10 * largest
    assert int(done.stdout) < max(2 * largest, 64 << 20)


def record() -> None:
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        sources = {model: make_model(folder / f"{model}.gguf", **spec) for model, spec in MODELS.items()}
        told = {model: {name: ask_llama_cpp(source, folder, name) for name in recipes.RECIPES}
                for model, source in sources.items()}  # fmt: skip
    RECORD.write_text(json.dumps(told, indent=0, separators=(",", ":")).replace(',\n"blk', ',"blk') + "\n")


if __name__ == "__main__":
    record()

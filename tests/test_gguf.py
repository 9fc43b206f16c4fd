"""The native GGUF loader against an independent one (the package gguf), and the sentences of what it refuses."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import native
import numpy as np
import pytest
from gguf_files import (
    ALL_VALUES, CTX, HEAD_DIM, N_EMBD, N_FF, N_LAYER, N_VOCAB, Type, Value, gguf, write_bpe_model, write_model,
    write_rich_model,
)
from helpers import smollm2


@pytest.fixture(scope="module")
def dump_program() -> Path:
    return native.build("dump_gguf", ["tests/c/dump_gguf.c", *native.GGUF])


@pytest.fixture
def dump(dump_program: Path):
    """Call with a path: what the loader sees."""

    def run(path: Path) -> dict[str, Any]:
        done = subprocess.run([dump_program, path], capture_output=True, check=True)
        return json.loads(done.stdout)

    return run


def text(hexadecimal: str) -> str:
    return bytes.fromhex(hexadecimal).decode()


def error(result: dict[str, Any], step: str) -> str:
    assert step in result, f"no error from {step}: {list(result)}"
    return text(result[step]["error"])


def checksum(data: np.ndarray) -> int:
    """Sum of each byte times its place, counted from 1, modulo 2^64."""
    flat = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
    total = 0
    for start in range(0, flat.size, 1 << 20):
        piece = flat[start : start + (1 << 20)].astype(np.uint64)
        total += int((piece * np.arange(start + 1, start + 1 + piece.size, dtype=np.uint64)).sum(dtype=np.uint64))
    return total % 2**64


# --- against the package gguf ------------------------------------------------------------------------------------


def value_bytes(field: Any) -> bytes:
    """A metadata value as the file holds it: scalars and strings bare, strings of an array with their lengths."""
    kinds = field.types
    if kinds[0] == Value.STRING:
        return bytes(field.parts[-1])
    if kinds[0] != Value.ARRAY:
        return field.parts[-1].tobytes()
    if kinds[1] == Value.STRING:
        items = [bytes(field.parts[i]) for i in field.data]
        return b"".join(struct.pack("<Q", len(item)) + item for item in items)
    return b"".join(field.parts[i].tobytes() for i in field.data)


def assert_same_containers(result: dict[str, Any], readers: list[Any]) -> None:
    fields = {k: f for k, f in readers[0].fields.items() if not k.startswith("GGUF.")}
    assert [text(m["key"]) for m in result["metadata"]] == list(fields)
    for found, (key, field) in zip(result["metadata"], fields.items(), strict=True):
        assert found["found"], key
        assert found["type"] == field.types[0], key
        assert found["elem_type"] == field.types[-1], key
        assert found["count"] == (len(field.data) if field.types[0] == Value.ARRAY else 1), key
        assert bytes.fromhex(found["data"]) == value_bytes(field), key
    tensors = [t for r in readers for t in r.tensors]
    assert [text(t["name"]) for t in result["tensors"]] == [t.name for t in tensors]
    for found, tensor in zip(result["tensors"], tensors, strict=True):
        assert found["found"], tensor.name
        assert found["type"] == tensor.tensor_type.name, tensor.name
        assert found["shape"] == tensor.shape.tolist(), tensor.name
        assert found["size"] == tensor.n_bytes, tensor.name
        assert found["checksum"] == checksum(tensor.data), tensor.name


def assert_same_weights(result: dict[str, Any], readers: list[Any]) -> None:
    """Every tensor of the file arrives in its place: matrices as they are, vectors as float."""
    tensors = {t.name: t for r in readers for t in r.tensors}
    weights = result["weights"]
    assert weights["tied"] == ("output.weight" not in tensors)
    assert weights["n_params"] == sum(int(t.n_elements) for t in tensors.values())
    assert weights["bytes"] == sum(int(t.n_bytes) for t in tensors.values())
    places = {name: value for name, value in weights.items() if name.endswith(".weight")}
    if weights["tied"]:
        assert places.pop("output.weight") == places["token_embd.weight"]
    for i, layer in enumerate(weights["layers"]):
        places |= {f"blk.{i}.{name}": value for name, value in layer.items()}
    assert {name for name, value in places.items() if value is not None} == set(tensors)
    for name, tensor in tensors.items():
        found = places[name]
        if tensor.shape.size == 2:
            assert (found["n_cols"], found["n_rows"]) == tuple(tensor.shape), name
            assert found["type"] == tensor.tensor_type.name
            assert found["checksum"] == checksum(tensor.data), name
        else:
            values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            assert found == checksum(values.astype("<f4")), name


def assert_same(result: dict[str, Any], *paths: Path) -> None:
    readers = [gguf.GGUFReader(path) for path in paths]
    assert_same_containers(result, readers)
    assert_same_weights(result, readers)


@pytest.mark.parametrize("n_head_kv", [4, 2, 1], ids=["mha", "gqa", "mqa"])
@pytest.mark.parametrize("tied", [False, True], ids=["own-output", "tied"])
def test_models(dump, tmp_path: Path, n_head_kv: int, tied: bool) -> None:
    path = write_model(tmp_path / "m.gguf", n_head_kv=n_head_kv, tied=tied)
    result = dump(path)
    assert_same(result, path)
    assert result["config"] == pytest.approx({
        "n_vocab": N_VOCAB, "n_layer": N_LAYER, "n_head": 4, "n_head_kv": n_head_kv, "head_dim": HEAD_DIM,
        "n_embd": N_EMBD, "n_ff": N_FF, "trained_ctx": CTX, "norm_eps": 1e-5, "rope_dim": HEAD_DIM, "rope_base": 10000,
        "rope_scaling": 1, "rope_factor": 1, "rope_original_ctx": 0, "rope_attn_factor": 1, "yarn_ext_factor": 1,
        "yarn_beta_fast": 32, "yarn_beta_slow": 1,
    })


def test_every_value_type_and_optional_tensor(dump, tmp_path: Path) -> None:
    path = write_rich_model(tmp_path / "m.gguf")
    result = dump(path)
    assert_same(result, path)
    assert set(ALL_VALUES) <= {text(m["key"]) for m in result["metadata"]}


def test_bpe_vocabulary(dump, tmp_path: Path) -> None:
    path = write_bpe_model(tmp_path / "m.gguf")
    assert_same(dump(path), path)


def test_version_2(dump, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf")
    data = bytearray(path.read_bytes())
    assert data[4] == 3
    data[4] = 2
    path.write_bytes(data)
    assert_same(dump(path), path)


@pytest.mark.parametrize("alignment", [8, 64, 4096])
def test_alignment(dump, tmp_path: Path, alignment: int) -> None:
    path = write_model(tmp_path / "m.gguf", alignment=alignment)
    assert_same(dump(path), path)


def test_real_model(dump) -> None:
    path = native.data("models/stories260K.gguf")
    assert_same(dump(path), path)


@pytest.mark.parametrize(("name", "n_tokens", "expected"), [
    ("llama-spm", 32000, "only a vocabulary"),
    ("llama-bpe", 128256, "only a vocabulary"),
    ("gpt-2", 50257, "the architecture 'gpt2' is not supported"),
])
def test_vocabulary_files(dump, name: str, n_tokens: int, expected: str) -> None:
    path = native.data(f"vocab/ggml-vocab-{name}.gguf")
    result = dump(path)
    assert expected in error(result, "config")
    counts = {text(m["key"]): m["count"] for m in result["metadata"]}
    assert counts["tokenizer.ggml.tokens"] == n_tokens
    if name == "llama-spm":  # the package takes half a minute for the others
        assert_same_containers(result, [gguf.GGUFReader(path)])


def test_smollm2(dump) -> None:
    path = smollm2()
    result = dump(path)
    assert_same(result, path)
    config = result["config"]
    assert (config["n_layer"], config["n_head"], config["n_head_kv"], config["trained_ctx"]) == (30, 9, 3, 8192)
    assert config["rope_base"] == 100000


# --- split files -------------------------------------------------------------------------------------------------


def parts_of(first: Path, n: int) -> list[Path]:
    return [Path(str(first).replace("-00001-of-", f"-{i:05d}-of-")) for i in range(1, n + 1)]


def test_split(dump, tmp_path: Path) -> None:
    first = write_model(tmp_path / "m.gguf", parts=3)
    paths = parts_of(first, 3)
    assert all(p.exists() for p in paths)
    assert_same(dump(first), *paths)


def test_split_refusals(dump, tmp_path: Path) -> None:
    first = write_model(tmp_path / "m.gguf", parts=3)
    _, second, third = parts_of(first, 3)
    assert f"part 2 of 3 of a split model; open the first part, {first}" in error(dump(second), "open")

    renamed = tmp_path / "renamed.gguf"
    shutil.copy(first, renamed)
    assert "does not end in -00001-of-00003.gguf" in error(dump(renamed), "open")

    third.rename(tmp_path / "away")
    assert f"part 3 of 3, {third}: cannot be opened: No such file" in error(dump(first), "open")

    shutil.copy(second, third)
    assert "says it is part 2 of 3, expected part 3 of 3" in error(dump(first), "open")

    other = write_model(tmp_path / "other.gguf", parts=3, tied=True)
    shutil.copy(parts_of(other, 3)[2], third)
    assert "belongs to a model of 20 tensors, expected 21" in error(dump(first), "open")


def patch_int(path: Path, key: str, value: int) -> None:
    """Change a number in the metadata of a file, in place."""
    reader = gguf.GGUFReader(path, "r+")
    reader.fields[key].parts[-1][0] = value
    reader.data.flush()


def test_split_with_the_same_tensor_twice(dump, tmp_path: Path) -> None:
    first = write_model(tmp_path / "m.gguf", parts=3)
    _, second, third = parts_of(first, 3)
    shutil.copy(second, third)
    patch_int(third, "split.no", 2)
    assert "occurs twice" in error(dump(first), "open")


def test_split_with_a_wrong_total(dump, tmp_path: Path) -> None:
    first = write_model(tmp_path / "m.gguf", parts=3)
    for path in parts_of(first, 3):
        patch_int(path, "split.tensors.count", 99)
    assert "the 3 parts hold 21 tensors, expected 99" in error(dump(first), "open")


# --- what is no model --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "expected"), [
    (b"", "is empty"),
    (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git lfs pull"),
    (b"\n <!DOCTYPE html>\n<html><head></head></html>", "an HTML page"),
    (b'{"error": "Repository not found"}' + b" " * 40, "a JSON document"),
    (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "an XML document"),
    (struct.pack("<Q", 100) + b'{"model.embed_tokens.weight":{"dtype":"F32"}}', "safetensors"),
    (struct.pack("<Q", ord("{")) + b'{"model.embed_tokens.weight":{"dtype":"F32"}}', "safetensors"),
    (b"PK\x03\x04" + bytes(60), "PyTorch checkpoint"),
    (b"\x1f\x8b" + bytes(60), "gzip"),
    (b"tjgg" + bytes(60), "GGJT"),
    (bytes(100), "unfinished download"),
    (b"\x1b[31m!" + bytes(60), r"begins with '\x1b[31'"),
    (b"GGUF" + struct.pack("<IQQ", 1, 0, 0), "GGUF version 1"),
    (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "big-endian"),
    (b"GGUF" + struct.pack("<IQQ", 4, 0, 0), "GGUF version 4 is unknown"),
    (b"GGUF\x03\0\0", "only 7 bytes"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_what_people_open_by_mistake(dump, tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    message = error(dump(path), "open")
    assert message.startswith(f"{path}: ") and expected in message


def test_no_file_and_no_regular_file(dump, tmp_path: Path) -> None:
    assert "No such file" in error(dump(tmp_path / "absent.gguf"), "open")
    assert "is a folder" in error(dump(tmp_path), "open")
    assert "not a regular file" in error(dump(Path("/dev/null")), "open")


# --- damaged containers ------------------------------------------------------------------------------------------


def string(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def entry(key: bytes, kind: int, payload: bytes) -> bytes:
    return string(key) + struct.pack("<I", kind) + payload


def tensor(name: bytes, shape: list[int], kind: int = Type.F32, offset: int = 0, n_dims: int | None = None) -> bytes:
    dims = len(shape) if n_dims is None else n_dims
    return string(name) + struct.pack(f"<I{len(shape)}QIQ", dims, *shape, kind, offset)


def container(entries: Sequence[bytes], tensors: Sequence[bytes] = (), data: bytes = b"",
              n_entries: int | None = None, n_tensors: int | None = None) -> bytes:
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors) if n_tensors is None else n_tensors,
                                 len(entries) if n_entries is None else n_entries)
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32) + data


U32, BOOL, STRING, ARRAY = Value.UINT32, Value.BOOL, Value.STRING, Value.ARRAY
ONE = entry(b"a.b", U32, struct.pack("<I", 7))
DATA = bytes(1024)


@pytest.mark.parametrize(("content", "expected"), [
    (container([ONE], n_entries=2**60), "announces 1152921504606846976 metadata entries"),
    (container([ONE], n_tensors=2**63), "announces 9223372036854775808 tensors"),
    (container([ONE, ONE]), "the key 'a.b' occurs twice"),
    (container([entry(b"", U32, bytes(4))]), "0 bytes, expected 1 to 65535"),
    (container([entry(b"a\0b", U32, bytes(4))]), r"'a\x00b' holds a NUL byte"),
    (container([entry(b"k", 13, bytes(4))]), "value type 13 is unknown"),
    (container([entry(b"k", BOOL, b"\x02")]), "a bool is 2"),
    (container([entry(b"k", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(64))]), "arrays of arrays"),
    (container([entry(b"k", ARRAY, struct.pack("<IQ", U32, 2**62))]), "takes 18446744073709551615 bytes"),
    (container([entry(b"k", ARRAY, struct.pack("<IQ", STRING, 2**64 - 1))]), "the file is truncated or damaged"),
    (container([entry(b"k", STRING, struct.pack("<Q", 2**64 - 8))]), "takes 18446744073709551608 bytes"),
    (container([entry(b"general.alignment", U32, struct.pack("<I", 24))]), "general.alignment is 24"),
    (container([entry(b"general.alignment", U32, struct.pack("<I", 0))]), "general.alignment is 0"),
    (container([entry(b"general.alignment", STRING, string(b"32"))]), "is string, expected an integer"),
    (container([], [tensor(b"t", [8]), tensor(b"t", [8])], DATA), "the tensor 't' occurs twice"),
    (container([], [tensor(b"t", [])], DATA), "0 dimensions"),
    (container([], [tensor(b"t", [1] * 5)], DATA), "5 dimensions"),
    (container([], [tensor(b"t", [8, 0])], DATA), "dimension 1 is 0"),
    (container([], [tensor(b"t", [2**32, 2**32])], DATA), "dimension 1 is 4294967296"),
    (container([], [tensor(b"t", [2**62])], DATA), "more than 2^64 bytes"),
    (container([], [tensor(b"t", [257], Type.F32)], DATA), "takes 1028 bytes at offset 0 of only 1024"),
    (container([], [tensor(b"t", [8], offset=1024)], DATA), "takes 32 bytes at offset 1024 of only 1024"),
    (container([], [tensor(b"t", [8], offset=2**64 - 32)], DATA), "takes 32 bytes at offset 18446744073709551584"),
    (container([], [tensor(b"t", [256]), tensor(b"u", [8])], DATA), "the tensor 'u' lies where others do"),
    (container([], [tensor(b"t", [8], offset=4)], DATA), "offset 4 is not a multiple of the alignment 32"),
    (container([], [tensor(b"t", [33], Type.Q8_0)], DATA), "rows of 33 values are not whole blocks of Q8_0"),
    (container([], [tensor(b"t", [256], Type.IQ2_XXS)], DATA), "type IQ2_XXS is not supported"),
    (container([], [tensor(b"t", [256], Type.I32)], DATA), "type I32 is not supported"),
    (container([], [tensor(b"t", [256], 99)], DATA), "type 99"),
    (container([], [tensor(b"\x1b[2J\xff", [256], 99)], DATA), r"'\x1b[2J\xff'"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_damaged_containers(dump, tmp_path: Path, content: bytes, expected: str) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(content)
    assert expected in error(dump(path), "open")


def test_tensors_may_end_with_the_file(dump, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(container([], [tensor(b"a", [128]), tensor(b"b", [128], offset=512)], DATA))
    assert [text(t["name"]) for t in dump(path)["tensors"]] == ["a", "b"]


# --- configurations ----------------------------------------------------------------------------------------------


def u32(value: int) -> tuple[int, Any]:
    return value, Value.UINT32


def f32(value: float) -> tuple[float, Any]:
    return value, Value.FLOAT32


@pytest.mark.parametrize(("change", "expected"), [
    ({"general.architecture": None}, "the key general.architecture is missing"),
    ({"general.architecture": ("qwen2", Value.STRING)}, "the architecture 'qwen2' is not supported"),
    ({"general.type": ("adapter", Value.STRING)}, "of the type 'adapter'"),
    ({"llama.expert_count": u32(8)}, "mixtures of experts"),
    ({"llama.block_count": None}, "the key llama.block_count is missing"),
    ({"llama.block_count": u32(0)}, "llama.block_count is 0, expected 1 to 4096"),
    ({"llama.block_count": f32(2)}, "is f32, expected an integer"),
    ({"llama.context_length": (2**63, Value.UINT64)}, "is 9223372036854775808, expected a number below 2^63"),
    ({"llama.context_length": (-5, Value.INT32)}, "llama.context_length is -5"),
    ({"llama.embedding_length": u32(2**31)}, "llama.embedding_length is 2147483648"),
    ({"llama.embedding_length": u32(30)}, "expected a multiple of the 4 heads"),
    ({"llama.feed_forward_length": ([64, 96], Value.INT32)}, "feed_forward_length is 64 in layer 0 and 96 in layer 1"),
    ({"llama.attention.head_count": ([4], Value.INT32)}, "is an array of 1 values"),
    ({"llama.attention.head_count": u32(0)}, "llama.attention.head_count is 0"),
    ({"llama.attention.head_count_kv": u32(3)}, "expected a multiple of head_count_kv, which is 3"),
    ({"llama.attention.key_length": u32(17)}, "heads of 17 dimensions"),
    ({"llama.attention.key_length": u32(1024)}, "heads of 1024 dimensions"),
    ({"llama.attention.value_length": u32(16)}, "key_length is 8 and value_length is 16"),
    ({"llama.attention.layer_norm_rms_epsilon": f32(float("nan"))}, "layer_norm_rms_epsilon is nan"),
    ({"llama.rope.dimension_count": u32(10)}, "llama.rope.dimension_count is 10, expected 2 to 8"),
    ({"llama.rope.dimension_count": u32(7)}, "llama.rope.dimension_count is 7, expected an even number"),
    ({"llama.rope.freq_base": f32(0)}, "llama.rope.freq_base is 0"),
    ({"llama.rope.freq_base": f32(float("inf"))}, "llama.rope.freq_base is inf"),
    ({"llama.rope.freq_base": (1e300, Value.FLOAT64)}, "expected a number that fits in 32 bits"),
    ({"llama.rope.scaling.type": ("longrope", Value.STRING)}, "llama.rope.scaling.type is 'longrope'"),
    ({"llama.rope.scaling.factor": f32(-2)}, "llama.rope.scaling.factor is -2"),
    ({"tokenizer.ggml.tokens": None, "llama.vocab_size": u32(0)}, "llama.vocab_size is 0"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_refused_configurations(dump, tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    assert expected in error(dump(write_model(tmp_path / "m.gguf", change=change)), "config")


@pytest.mark.parametrize(("change", "expected"), [
    ({"llama.attention.head_count_kv": None}, {"n_head_kv": 4}),
    ({"llama.attention.head_count_kv": ([2, 2], Value.INT32)}, {"n_head_kv": 2}),
    ({"llama.block_count": (2, Value.INT64)}, {"n_layer": 2}),
    ({"llama.rope.dimension_count": None}, {"rope_dim": HEAD_DIM}),
    ({"llama.rope.dimension_count": u32(6)}, {"rope_dim": 6}),
    ({"llama.rope.freq_base": None}, {"rope_base": 10000}),
    ({"llama.rope.freq_base": (5e5, Value.FLOAT64)}, {"rope_base": 500000}),
    ({"llama.vocab_size": u32(12345)}, {"n_vocab": N_VOCAB}),
    ({"tokenizer.ggml.tokens": None}, {"n_vocab": N_VOCAB}),
    ({"tokenizer.ggml.tokens": None, "llama.vocab_size": u32(N_VOCAB)}, {"n_vocab": N_VOCAB}),
    ({"llama.rope.scaling.factor": f32(4)}, {"rope_scaling": 2, "rope_factor": 4}),
    ({"llama.rope.scale_linear": f32(2)}, {"rope_scaling": 2, "rope_factor": 2}),
    ({"llama.rope.scaling.factor": f32(0)}, {"rope_scaling": 1, "rope_factor": 1}),
    ({"llama.rope.scaling.type": ("none", Value.STRING), "llama.rope.scaling.factor": f32(4)},
     {"rope_scaling": 1, "rope_factor": 1}),
    ({"llama.rope.scaling.type": ("yarn", Value.STRING), "llama.rope.scaling.factor": f32(8),
      "llama.rope.scaling.original_context_length": u32(64), "llama.rope.scaling.attn_factor": f32(1.25),
      "llama.rope.scaling.yarn_beta_fast": f32(16), "llama.rope.scaling.yarn_ext_factor": f32(-1)},
     {"rope_scaling": 3, "rope_factor": 8, "rope_original_ctx": 64, "rope_attn_factor": 1.25, "yarn_beta_fast": 16,
      "yarn_beta_slow": 1, "yarn_ext_factor": 1}),
], ids=lambda v: ",".join(v))
def test_configurations(dump, tmp_path: Path, change: dict[str, Any], expected: dict[str, float]) -> None:
    result = dump(write_model(tmp_path / "m.gguf", change=change))
    assert {key: result["config"][key] for key in expected} == pytest.approx(expected)


def test_heads_wider_than_the_model(dump, tmp_path: Path) -> None:
    change = {"llama.attention.key_length": u32(32), "llama.attention.value_length": u32(32),
              "llama.rope.dimension_count": u32(32)}
    path = write_model(tmp_path / "m.gguf", head_dim=32, change=change)
    result = dump(path)
    assert result["config"]["head_dim"] == 32
    assert_same(result, path)


# --- weights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "expected"), [
    ({"shapes": {"token_embd.weight": None}}, "the tensor 'token_embd.weight' is missing"),
    ({"shapes": {"blk.1.ffn_up.weight": None}}, "the tensor 'blk.1.ffn_up.weight' is missing"),
    ({"shapes": {"output_norm.weight": None}}, "the tensor 'output_norm.weight' is missing"),
    ({"shapes": {"token_embd.weight": (41, N_EMBD)}}, "'token_embd.weight' has the shape 32 x 41, expected 32 x 40"),
    ({"shapes": {"blk.0.attn_q.weight": (N_EMBD, N_EMBD, 1, 2)}}, "has the shape 2 x 1 x 32 x 32, expected 32 x 32"),
    ({"shapes": {"blk.0.attn_norm.weight": (N_EMBD - 1,)}}, "has the shape 31, expected 32"),
    ({"types": {"attn_norm.weight": Type.Q8_0}}, "'blk.0.attn_norm.weight' is of type Q8_0, expected F32, F16 or BF16"),
    ({"shapes": {"blk.0.ffn_gate_inp.weight": (8, N_EMBD)}}, "the tensor 'blk.0.ffn_gate_inp.weight' is not part of"),
    ({"shapes": {"blk.0.ffn_up.bias": (N_FF,)}}, "the tensor 'blk.0.ffn_up.bias' is not part of"),
    ({"shapes": {"blk.00.attn_q.weight": (N_EMBD, N_EMBD)}}, "the tensor 'blk.00.attn_q.weight' is not part of"),
    ({"shapes": {"blk.-1.attn_q.weight": (N_EMBD, N_EMBD)}}, "the tensor 'blk.-1.attn_q.weight' is not part of"),
    ({"shapes": {"blk.2.attn_q.weight": (N_EMBD, N_EMBD)}}, "'blk.2.attn_q.weight' is of a layer past"),
    ({"shapes": {"\x1b[2J\u20ac": (32,)}}, r"the tensor '\x1b[2J\xe2\x82\xac' is not part of"),
    ({"shapes": {"rope_freqs.weight": (4,)}, "values": {"rope_freqs.weight": np.zeros(4, np.float32)}},
     "'rope_freqs.weight' holds 0"),
    ({"shapes": {"rope_freqs.weight": (4,)}, "values": {"rope_freqs.weight": np.full(4, np.nan, np.float32)}},
     "'rope_freqs.weight' holds nan"),
], ids=lambda v: v if isinstance(v, str) else "")
def test_refused_weights(dump, tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    assert expected in error(dump(write_model(tmp_path / "m.gguf", **options)), "weights")


def test_old_rotation_tables_are_ignored(dump, tmp_path: Path) -> None:
    shapes = {f"blk.{i}.attn_rot_embd": (8,) for i in range(N_LAYER)}
    assert dump(write_model(tmp_path / "m.gguf", shapes=shapes))["weights"]["tied"] is False

"""Small GGUF files with everything in them that the loader knows, for the tests of the loader.

    python tests/gguf_files.py FOLDER     writes them there, as seeds for the fuzzer (tests/c/fuzz_gguf.c)
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="these tests write GGUF files with the package gguf")

Type = gguf.GGMLQuantizationType
Value = gguf.GGUFValueType

N_LAYER, N_EMBD, N_FF, N_VOCAB, CTX = 2, 32, 64, 40, 128
HEAD_DIM = N_EMBD // 4
TOKENS = ["<unk>", "<s>", "</s>"] + [chr(ord("a") + i) for i in range(26)]
TOKENS += ["\u2581", "\u2581a", "th", "he", "the", "in", "er", "an", "\u2581t", "\u2581the", "\u20ac"]
TOKEN_TYPES = [2, 3, 3] + [1] * (N_VOCAB - 3)


def tensor_shapes(n_head: int, n_head_kv: int, *, tied: bool, head_dim: int) -> dict[str, tuple[int, ...]]:
    """Names and NumPy shapes (rows, columns) of a whole model."""
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (N_VOCAB, N_EMBD), "output_norm.weight": (N_EMBD,)}
    if not tied:
        shapes["output.weight"] = (N_VOCAB, N_EMBD)
    for i in range(N_LAYER):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in {
            "attn_norm.weight": (N_EMBD,),
            "attn_q.weight": (n_head * head_dim, N_EMBD),
            "attn_k.weight": (n_head_kv * head_dim, N_EMBD),
            "attn_v.weight": (n_head_kv * head_dim, N_EMBD),
            "attn_output.weight": (N_EMBD, n_head * head_dim),
            "ffn_norm.weight": (N_EMBD,),
            "ffn_gate.weight": (N_FF, N_EMBD),
            "ffn_up.weight": (N_FF, N_EMBD),
            "ffn_down.weight": (N_EMBD, N_FF),
        }.items()}
    return shapes


def metadata(n_head: int, n_head_kv: int) -> dict[str, tuple[Any, Any]]:
    """Key -> (value, type). A list is an array of the type."""
    return {
        "general.architecture": ("llama", Value.STRING),
        "general.name": ("tiny \u20ac", Value.STRING),
        "llama.block_count": (N_LAYER, Value.UINT32),
        "llama.context_length": (CTX, Value.UINT32),
        "llama.embedding_length": (N_EMBD, Value.UINT32),
        "llama.feed_forward_length": (N_FF, Value.UINT32),
        "llama.attention.head_count": (n_head, Value.UINT32),
        "llama.attention.head_count_kv": (n_head_kv, Value.UINT32),
        "llama.attention.layer_norm_rms_epsilon": (1e-5, Value.FLOAT32),
        "llama.rope.dimension_count": (N_EMBD // n_head, Value.UINT32),
        "llama.rope.freq_base": (10000.0, Value.FLOAT32),
        "tokenizer.ggml.model": ("llama", Value.STRING),
        "tokenizer.ggml.tokens": (TOKENS, Value.STRING),
        "tokenizer.ggml.scores": ([-float(i) for i in range(N_VOCAB)], Value.FLOAT32),
        "tokenizer.ggml.token_type": (TOKEN_TYPES, Value.INT32),
        "tokenizer.ggml.bos_token_id": (1, Value.UINT32),
        "tokenizer.ggml.eos_token_id": (2, Value.UINT32),
        "tokenizer.ggml.unknown_token_id": (0, Value.UINT32),
    }


# One of each type of value.
ALL_VALUES: dict[str, tuple[Any, Any]] = {
    "test.u8": (200, Value.UINT8), "test.i8": (-100, Value.INT8),
    "test.u16": (60000, Value.UINT16), "test.i16": (-30000, Value.INT16),
    "test.u32": (4000000000, Value.UINT32), "test.i32": (-2000000000, Value.INT32),
    "test.u64": (2**64 - 1, Value.UINT64), "test.i64": (-(2**63), Value.INT64),
    "test.f32": (1.5, Value.FLOAT32), "test.f64": (1e300, Value.FLOAT64),
    "test.bool": (True, Value.BOOL), "test.empty": ("", Value.STRING),
    "test.u8s": ([1, 2, 3], Value.UINT8), "test.f64s": ([0.5, -1e-300], Value.FLOAT64),
    "test.bools": ([True, False, True], Value.BOOL), "test.i16s": ([-1, 1], Value.INT16),
    "test.strings": (["", "a", "b" * 300], Value.STRING),
}


def write_model(
    path: Path,
    *,
    n_head: int = 4,
    n_head_kv: int = 2,
    tied: bool = False,
    head_dim: int = HEAD_DIM,
    change: Mapping[str, tuple[Any, Any] | None] | None = None,
    shapes: Mapping[str, tuple[int, ...] | None] | None = None,
    types: Mapping[str, Any] | None = None,
    values: Mapping[str, np.ndarray] | None = None,
    parts: int = 0,
    alignment: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a model of two layers with random weights and return its path (of the first part of a split).

    `change` adds metadata or replaces it, None takes it out. `shapes` does the same to tensors, `types` sets types of
    tensors by the end of their names, `values` their values. Matrices are Q8_0 and the rest F32 unless told otherwise.
    `parts` > 0 splits the file.
    """
    keys = metadata(n_head, n_head_kv) | dict(change or {})
    tensors = tensor_shapes(n_head, n_head_kv, tied=tied, head_dim=head_dim) | dict(shapes or {})
    tensors = {name: shape for name, shape in tensors.items() if shape is not None}
    rng = np.random.default_rng(seed)
    options = {"split_max_tensors": -(-len(tensors) // parts)} if parts else {}
    writer = gguf.GGUFWriter(path, "llama", **options)
    writer.kv_data[0].clear()  # it writes the architecture by itself
    if alignment is not None:
        writer.add_custom_alignment(alignment)
    for key, pair in keys.items():
        if pair is None:
            continue
        value, kind = pair
        if isinstance(value, list):
            writer.add_key_value(key, value, Value.ARRAY, sub_type=kind)
        else:
            writer.add_key_value(key, value, kind)
    for name, shape in tensors.items():
        default = Type.Q8_0 if len(shape) == 2 and shape[-1] % 32 == 0 else Type.F32
        kind = next((t for end, t in (types or {}).items() if name.endswith(end)), default)
        data = values[name] if values and name in values else rng.standard_normal(shape).astype(np.float32)
        raw = gguf.quants.quantize(data, kind)
        writer.add_tensor(name, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path if not parts else path.with_name(f"{path.stem}-00001-of-{parts:05d}.gguf")


def write_bpe_model(path: Path, pre: str = "llama-bpe") -> Path:
    """A model with a byte-level BPE vocabulary."""
    merges = ["t h", "th e", "h e", "i n", "e r", "a n"]
    return write_model(path, tied=True, change={
        "tokenizer.ggml.model": ("gpt2", Value.STRING),
        "tokenizer.ggml.pre": (pre, Value.STRING),
        "tokenizer.ggml.merges": (merges, Value.STRING),
        "tokenizer.ggml.scores": None,
        "tokenizer.ggml.unknown_token_id": None,
        "tokenizer.ggml.add_bos_token": (True, Value.BOOL),
    })


def write_rich_model(path: Path) -> Path:
    """A model with every kind of value, every kind of tensor that the loader knows, and vectors that it converts."""
    q, kv = N_EMBD, N_EMBD // 2
    extra: dict[str, tuple[int, ...] | None] = {"rope_freqs.weight": (HEAD_DIM // 2,)}
    for i in range(N_LAYER):
        extra |= {f"blk.{i}.attn_q.bias": (q,), f"blk.{i}.attn_k.bias": (kv,), f"blk.{i}.attn_v.bias": (kv,),
                  f"blk.{i}.attn_output.bias": (N_EMBD,)}
    types = {
        "attn_norm.weight": Type.F16, "ffn_norm.weight": Type.BF16, "attn_q.bias": Type.F16, "attn_v.bias": Type.BF16,
        "attn_q.weight": Type.Q4_0, "attn_k.weight": Type.F16, "ffn_up.weight": Type.BF16, "ffn_down.weight": Type.Q5_1,
    }
    yarn = {"llama.rope.scaling.type": ("yarn", Value.STRING), "llama.rope.scaling.factor": (4.0, Value.FLOAT32),
            "llama.rope.scaling.original_context_length": (32, Value.UINT32)}
    freqs = np.linspace(1, 4, HEAD_DIM // 2, dtype=np.float32)
    return write_model(path, change=ALL_VALUES | yarn, shapes=extra, types=types, values={"rope_freqs.weight": freqs})


def write_seeds(folder: Path) -> None:
    """Files that together reach every branch of the loader that a valid file, or nearly valid one, can reach."""
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "plain.gguf")
    write_rich_model(folder / "rich.gguf")
    write_model(folder / "split.gguf", parts=2)
    for name in ["default", "gpt-2", "llama-bpe", "smollm", "qwen2", "deepseek-llm"]:
        write_bpe_model(folder / f"bpe-{name}.gguf", pre=name)
    write_model(folder / "arrays.gguf", change={
        "llama.feed_forward_length": ([N_FF] * N_LAYER, Value.UINT32),
        "llama.attention.head_count": ([4] * N_LAYER, Value.INT32),
        "llama.attention.head_count_kv": ([2] * N_LAYER, Value.INT32),
    })
    write_model(folder / "keys.gguf", alignment=64, change={
        "general.type": ("model", Value.STRING),
        "llama.expert_count": (0, Value.UINT32),
        "llama.vocab_size": (N_VOCAB, Value.UINT32),
        "llama.attention.key_length": (HEAD_DIM, Value.UINT32),
        "llama.attention.value_length": (HEAD_DIM, Value.UINT32),
        "llama.rope.scaling.type": ("linear", Value.STRING),
        "llama.rope.scaling.factor": (2.0, Value.FLOAT32),
        "tokenizer.ggml.add_bos_token": (True, Value.BOOL),
        "tokenizer.ggml.add_space_prefix": (False, Value.BOOL),
    })
    (folder / "lfs").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    (folder / "safetensors").write_bytes(b"\x40" + bytes(7) + b'{"model.embed_tokens.weight":{"dtype":"F32"}}')


if __name__ == "__main__":
    write_seeds(Path(sys.argv[1]))

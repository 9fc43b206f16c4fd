"""Small Hugging Face folders with random weights, and the model that they describe computed in float64 in the
conventions of Hugging Face: heads in half-split order, as `modeling_llama` of transformers has them. Nothing here
knows of GGUF.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

CTX = 256
_DTYPES = {"F32": np.float32, "F16": np.float16}


def make_config(n_vocab: int, **change: Any) -> dict[str, Any]:
    """config.json of a model of two layers. None takes a key out."""
    config = {
        "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": CTX, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "vocab_size": n_vocab, "tie_word_embeddings": False, "hidden_act": "silu",
        "model_type": "llama", "bos_token_id": 1, "eos_token_id": 2,
    } | change  # fmt: skip
    return {key: value for key, value in config.items() if value is not None}


def make_tensors(config: dict[str, Any], dtype: str = "F32", seed: int = 0) -> dict[str, np.ndarray]:
    """All tensors as float32, with values that dtype holds exactly."""
    rng = np.random.default_rng(seed)
    e, f, d = config["hidden_size"], config["intermediate_size"], head_dim(config)
    q, kv = config["num_attention_heads"] * d, config["num_key_value_heads"] * d
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (config["vocab_size"], e),
        "model.norm.weight": (e,),
    }
    if not config["tie_word_embeddings"]:
        shapes["lm_head.weight"] = (config["vocab_size"], e)
    for i in range(config["num_hidden_layers"]):
        layer = {"input_layernorm": (e,), "post_attention_layernorm": (e,), "self_attn.q_proj": (q, e),
                 "self_attn.k_proj": (kv, e), "self_attn.v_proj": (kv, e), "self_attn.o_proj": (e, q),
                 "mlp.gate_proj": (f, e), "mlp.up_proj": (f, e), "mlp.down_proj": (e, f)}  # fmt: skip
        shapes |= {f"model.layers.{i}.{name}.weight": shape for name, shape in layer.items()}
        if config.get("attention_bias"):
            shapes |= {
                f"model.layers.{i}.{name}.bias": layer[name][:1] for name in layer if name.startswith("self_attn")
            }
    tensors = {}
    for name, shape in shapes.items():
        scale = 1.5 / math.sqrt(shape[-1]) if len(shape) > 1 else 0.3
        x = rng.normal(0, scale, shape).astype(np.float32) + (1 if "norm" in name else 0)
        tensors[name] = rounded(x, dtype)
    return tensors


def rounded(x: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "F16":
        return x.astype(np.float16).astype(np.float32)
    return (x.view(np.uint32) & 0xFFFF0000).view(np.float32) if dtype == "BF16" else x.astype(np.float32)


def save(path: Path, tensors: dict[str, np.ndarray], dtype: str | None = None) -> None:
    """A safetensors file, by the package; BF16, which NumPy does not have, goes through it as 16-bit integers whose
    name in the header is then put right. dtype None: as the arrays are."""
    numpy = pytest.importorskip(
        "safetensors.numpy", reason="the package safetensors, which writes test models, is missing"
    )
    if dtype == "BF16":
        tensors = {
            name: (np.ascontiguousarray(x).view(np.uint32) >> 16).astype(np.uint16) for name, x in tensors.items()
        }
    elif dtype:
        tensors = {name: x.astype(_DTYPES[dtype]) for name, x in tensors.items()}
    numpy.save_file(tensors, path)
    if dtype == "BF16":
        raw = path.read_bytes()
        length = int.from_bytes(raw[:8], "little")
        header = raw[8 : 8 + length].replace(b'"U16"', b'"BF16"').rstrip()
        header += b" " * (-len(header) % 8)
        path.write_bytes(len(header).to_bytes(8, "little") + header + raw[8 + length :])


def write_folder(folder: Path, config: dict[str, Any], tensors: dict[str, np.ndarray], dtype: str = "F32",
                 shards: int = 1) -> Path:  # fmt: skip
    """config.json and safetensors, in one file or dealt out to several with an index."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    if shards == 1:
        save(folder / "model.safetensors", tensors, dtype)
        return folder
    where = {name: f"model-{i % shards + 1:05d}-of-{shards:05d}.safetensors" for i, name in enumerate(tensors)}
    for file in set(where.values()):
        save(folder / file, {name: x for name, x in tensors.items() if where[name] == file}, dtype)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder


# --- the model in float64 ------------------------------------------------------------------------------------------


def head_dim(config: dict[str, Any]) -> int:
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def frequencies(config: dict[str, Any]) -> tuple[np.ndarray, float]:
    """Radians a token (head_dim / 2,), and the factor of cosines and sines; after modeling_rope_utils."""
    d, base, scaling = head_dim(config), config["rope_theta"], config.get("rope_scaling") or {}
    inverse = 1.0 / base ** (np.arange(0, d, 2) / d)
    kind = scaling.get("rope_type", scaling.get("type"))
    if kind == "linear":
        return inverse / scaling["factor"], 1.0
    if kind == "llama3":
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        trained = scaling["original_max_position_embeddings"]
        out = []
        for f in inverse:
            wavelength = 2 * math.pi / f
            if wavelength < trained / high:
                out.append(f)
            elif wavelength > trained / low:
                out.append(f / scaling["factor"])
            else:
                smooth = (trained / wavelength - low) / (high - low)
                out.append((1 - smooth) * f / scaling["factor"] + smooth * f)
        return np.array(out), 1.0
    if kind == "yarn":
        trained, factor = scaling["original_max_position_embeddings"], scaling["factor"]

        def correction(turns: float) -> float:
            return d * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(base))

        low = max(math.floor(correction(scaling.get("beta_fast", 32))), 0)
        high = min(math.ceil(correction(scaling.get("beta_slow", 1))), d - 1)
        ramp = np.clip((np.arange(d // 2) - low) / max(high - low, 0.001), 0, 1)
        return inverse / factor * ramp + inverse * (1 - ramp), scaling.get("attention_factor") or 0.1 * math.log(
            factor
        ) + 1
    return inverse, 1.0


def forward(config: dict[str, Any], tensors: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """Logits (n, n_vocab) in float64."""
    w = {name: x.astype(np.float64) for name, x in tensors.items()}
    n, d, n_head, n_kv = len(ids), head_dim(config), config["num_attention_heads"], config["num_key_value_heads"]
    inverse, factor = frequencies(config)
    angle = np.outer(np.arange(n), np.concatenate([inverse, inverse]))[:, None]
    cos, sin = np.cos(angle) * factor, np.sin(angle) * factor

    def linear(x: np.ndarray, name: str) -> np.ndarray:
        return x @ w[f"{name}.weight"].T + w.get(f"{name}.bias", 0.0)

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * w[f"{name}.weight"]

    def rotate(x: np.ndarray) -> np.ndarray:
        return x * cos + np.concatenate([-x[..., d // 2 :], x[..., : d // 2]], -1) * sin

    x = w["model.embed_tokens.weight"][ids]
    for i in range(config["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        h = norm(x, f"{layer}.input_layernorm")
        q = rotate(linear(h, f"{layer}.self_attn.q_proj").reshape(n, n_head, d))
        k = rotate(linear(h, f"{layer}.self_attn.k_proj").reshape(n, n_kv, d)).repeat(n_head // n_kv, 1)
        v = linear(h, f"{layer}.self_attn.v_proj").reshape(n, n_kv, d).repeat(n_head // n_kv, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) / math.sqrt(d)
        scores[:, np.triu(np.ones((n, n), bool), 1)] = -np.inf
        p = np.exp(scores - scores.max(-1, keepdims=True))
        attended = np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v).reshape(n, -1)
        x = x + linear(attended, f"{layer}.self_attn.o_proj")
        h = norm(x, f"{layer}.post_attention_layernorm")
        gate = linear(h, f"{layer}.mlp.gate_proj")
        x = x + linear(gate / (1 + np.exp(-gate)) * linear(h, f"{layer}.mlp.up_proj"), f"{layer}.mlp.down_proj")
    out = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"
    return linear(norm(x, "model.norm"), out)

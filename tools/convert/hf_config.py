"""config.json of a Hugging Face folder: the model's numbers as GGUF keys, and how its rotations are scaled."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFValueType as Value

from longheads.errors import FileError, FormatError, UnsupportedError

from .source import Metadata

# Classes with the graph of LLaMA: RMS norms, rotary positions on whole heads, a gated SiLU feed-forward.
ARCHITECTURES = ("LlamaForCausalLM", "LLaMAForCausalLM", "MistralForCausalLM")


def read_json(path: Path, *, required: bool = False) -> dict[str, Any]:
    """An object of JSON; empty where the file is absent. Raises FormatError where it is something else."""
    if not path.exists():
        if required:
            raise FileError(f"{path} is missing: a Hugging Face model folder has one; give the model's folder")
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path} is not JSON ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise FormatError(f"{path} is not a JSON object; fetch it again")
    return found


# The largest numbers that a GGUF key for them holds and its readers take.
_MOST = {int: 2**31 - 1, float: float(np.finfo(np.float32).max)}


def _positive(value: Any, what: str, kind: type = float) -> Any:
    """The value as a number. Raises FormatError, which says what it is of, where it is none that a model can have."""
    good = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value <= _MOST[kind]
    if not good or (kind is int and value != int(value)):
        found = "missing" if value is None else repr(value)
        raise FormatError(f"{what} is {found}, expected a positive number; fetch the file again")
    return kind(value)


def _object(raw: dict[str, Any], key: str, path: Path) -> dict[str, Any]:
    """An object inside another one; empty where there is none, or null."""
    found = raw.get(key)
    if found is not None and not isinstance(found, dict):
        raise FormatError(f"{key} in {path} is {found!r}, expected an object; fetch the file again")
    return found or {}


@dataclass(frozen=True)
class Config:
    """Numbers of a model."""

    raw: dict[str, Any]
    n_layer: int
    n_embd: int
    n_ff: int
    n_head: int
    n_head_kv: int
    head_dim: int
    n_vocab: int
    ctx: int
    norm_eps: float
    rope_base: float
    tied: bool
    scaling: dict[str, Any]  # of rope; empty: none


def read_config(folder: Path) -> Config:
    """Raises UnsupportedError for another graph, FormatError for numbers that are missing or cannot be."""
    path = folder / "config.json"
    raw = read_json(path, required=True)
    names = raw.get("architectures") or "none"
    architecture = names[0] if isinstance(names, list) else names
    if architecture not in ARCHITECTURES:
        raise UnsupportedError(f"{path} says the architecture is {architecture}, expected one of "
                               + ", ".join(ARCHITECTURES))  # fmt: skip
    if quantised := _object(raw, "quantization_config", path):
        method = quantised.get("quant_method", "unknown")
        raise UnsupportedError(f"{folder} holds weights quantised by {method}; give the folder of the original weights")
    if raw.get("hidden_act", "silu") != "silu":
        raise UnsupportedError(f"hidden_act in {path} is {raw['hidden_act']}, expected silu")
    if raw.get("mlp_bias"):
        raise UnsupportedError(f"mlp_bias in {path} is true: biases in the feed-forward are not supported")
    if raw.get("partial_rotary_factor", 1) != 1:
        raise UnsupportedError(f"partial_rotary_factor in {path} is {raw['partial_rotary_factor']}, expected 1")

    def number(key: str, default: Any = None, kind: type = int) -> Any:
        value = raw.get(key)
        return _positive(default if value is None else value, f"{key} in {path}", kind)

    n_embd, n_head = number("hidden_size"), number("num_attention_heads")
    # Newer files keep all about rotary positions in one object.
    rope = _object(raw, "rope_parameters", path)
    scaling = _object(raw, "rope_scaling", path) or rope
    config = Config(
        raw=raw,
        n_layer=number("num_hidden_layers"),
        n_embd=n_embd,
        n_ff=number("intermediate_size"),
        n_head=n_head,
        n_head_kv=number("num_key_value_heads", n_head),
        head_dim=number("head_dim", n_embd // n_head),
        n_vocab=number("vocab_size"),
        ctx=number("max_position_embeddings", 2048),
        norm_eps=number("rms_norm_eps", 1e-6, float),
        rope_base=number("rope_theta", rope.get("rope_theta", 10000.0), float),
        tied=bool(raw.get("tie_word_embeddings", False)),
        scaling={} if scaling.get("rope_type", scaling.get("type", "default")) == "default" else scaling,
    )
    if config.head_dim % 2 or config.n_head % config.n_head_kv:
        raise FormatError(
            f"{path} says {config.n_head} heads of {config.head_dim} dimensions on {config.n_head_kv} KV heads; "
            "expected even dimensions, and a multiple of the KV heads"
        )
    return config


def _llama3_divisors(config: Config, scaling: dict[str, float]) -> np.ndarray:
    """What every frequency is divided by: (head_dim / 2,) float32. Slow ones by the factor, fast ones by 1, a ramp
    between."""
    frequency = config.rope_base ** (-np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim)
    turns = scaling["original_max_position_embeddings"] * frequency / (2 * math.pi)  # within the context trained first
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    keep = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - keep) / scaling["factor"] + keep)).astype(np.float32)


def rope_keys(config: Config) -> tuple[Metadata, np.ndarray | None, list[str]]:
    """Keys of the scaling, divisors of the frequencies where it has some, and notes."""
    scaling = config.scaling
    if not scaling:
        return {}, None, []
    kind = scaling.get("rope_type", scaling.get("type"))

    def number(key: str, default: float | None = None, as_: type = float) -> Any:
        value = scaling.get(key)
        what = f"{key} of the rope scaling {kind} in config.json"
        return _positive(default if value is None else value, what, as_)

    def magnitude(factor: float, scale: float = 1) -> float:
        return 0.1 * scale * math.log(max(factor, 1)) + 1

    prefix = "llama.rope.scaling"
    if kind == "linear":
        return (
            {f"{prefix}.type": ("linear", Value.STRING), f"{prefix}.factor": (number("factor"), Value.FLOAT32)},
            None,
            [],
        )
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        values = {name: number(name) for name in names}
        if values["high_freq_factor"] <= values["low_freq_factor"]:
            raise FormatError("high_freq_factor of the rope scaling llama3 must be more than low_freq_factor")
        return {}, _llama3_divisors(config, values), []
    if kind == "yarn":
        factor = number("factor")
        attention = None
        if scaling.get("attention_factor") is not None:
            attention = number("attention_factor")
        elif scaling.get("mscale") and scaling.get("mscale_all_dim"):
            attention = magnitude(factor, number("mscale")) / magnitude(factor, number("mscale_all_dim"))
        original = number("original_max_position_embeddings", config.ctx, int)
        keys: Metadata = {
            f"{prefix}.type": ("yarn", Value.STRING),
            f"{prefix}.factor": (factor, Value.FLOAT32),
            f"{prefix}.original_context_length": (original, Value.UINT32),
        }
        if attention is not None:
            # Readers multiply what they take by themselves by it.
            keys[f"{prefix}.attn_factor"] = (attention / magnitude(factor), Value.FLOAT32)
        for name in ("beta_fast", "beta_slow"):
            if scaling.get(name) is not None:
                keys[f"{prefix}.yarn_{name}"] = (number(name), Value.FLOAT32)
        return keys, None, []
    if kind == "dynamic":
        return {}, None, ["the rope scaling 'dynamic' changes nothing inside the trained context and is left out"]
    raise UnsupportedError(f"the rope scaling in config.json is {kind}, expected linear, yarn, llama3 or dynamic")


def config_keys(config: Config) -> Metadata:
    """The model's numbers as GGUF keys, without the scaling of rope."""
    whole = {
        "block_count": config.n_layer,
        "context_length": config.ctx,
        "embedding_length": config.n_embd,
        "feed_forward_length": config.n_ff,
        "attention.head_count": config.n_head,
        "attention.head_count_kv": config.n_head_kv,
        "attention.key_length": config.head_dim,
        "attention.value_length": config.head_dim,
        "rope.dimension_count": config.head_dim,
        "vocab_size": config.n_vocab,
    }
    real = {"attention.layer_norm_rms_epsilon": config.norm_eps, "rope.freq_base": config.rope_base}
    return {f"llama.{key}": (value, Value.UINT32) for key, value in whole.items()} | {
        f"llama.{key}": (value, Value.FLOAT32) for key, value in real.items()
    }

"""A Hugging Face folder as a source: tensors under GGUF's names, q and k in GGUF's order, vocabulary and card."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from gguf import GGMLQuantizationType as Type
from gguf import GGUFValueType as Value

from longheads.errors import FormatError, UnsupportedError

from .hf_config import Config, config_keys, read_config, rope_keys
from .safetensors_file import DTYPES, Stored, read_folder
from .source import Metadata, Source, Tensor
from .vocab import read_vocab

# Per layer: GGUF's name -> the folder's.
_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def _shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Of a layer's matrices and norms, by GGUF's names."""
    q, kv = config.n_head * config.head_dim, config.n_head_kv * config.head_dim
    e, f = config.n_embd, config.n_ff
    return {"attn_norm": (e,), "attn_q": (q, e), "attn_k": (kv, e), "attn_v": (kv, e), "attn_output": (e, q),
            "ffn_norm": (e,), "ffn_gate": (f, e), "ffn_up": (f, e), "ffn_down": (e, f)}  # fmt: skip


def _expected(config: Config, stored: dict[str, Stored]) -> Iterator[tuple[str, str, tuple[int, ...], int]]:
    """(GGUF's name, the folder's, shape, head_dim where rows are to be reordered), in the order to write them."""
    e = config.n_embd
    yield "token_embd.weight", "model.embed_tokens.weight", (config.n_vocab, e), 0
    for i in range(config.n_layer):
        for name, shape in _shapes(config).items():
            origin, head_dim = (
                f"model.layers.{i}.{_LAYER[name]}",
                config.head_dim if name in ("attn_q", "attn_k") else 0,
            )
            yield f"blk.{i}.{name}.weight", f"{origin}.weight", shape, head_dim
            if f"{origin}.bias" in stored and name in ("attn_q", "attn_k", "attn_v", "attn_output"):
                yield f"blk.{i}.{name}.bias", f"{origin}.bias", shape[:1], head_dim
    yield "output_norm.weight", "model.norm.weight", (e,), 0
    if not config.tied:
        yield "output.weight", "lm_head.weight", (config.n_vocab, e), 0


def _tensors(config: Config, stored: dict[str, Stored], folder: Path) -> list[Tensor]:
    """Raises FormatError where one is missing or has another shape, UnsupportedError for one that nobody would read."""
    tensors = []
    for name, origin, shape, head_dim in _expected(config, stored):
        if origin not in stored:
            raise FormatError(
                f"the tensor {origin} is missing in {folder}, though config.json asks for it; fetch the folder again"
            )
        t = stored[origin]
        if t.shape != shape:
            raise FormatError(
                f"the tensor {origin} has the shape {' x '.join(map(str, t.shape))}, expected "
                f"{' x '.join(map(str, shape))} by config.json: they belong to different models"
            )
        if t.dtype not in DTYPES:
            raise UnsupportedError(f"the tensor {origin} is stored in {t.dtype}, expected {', '.join(DTYPES)}; "
                                   "give the folder of the original weights")  # fmt: skip
        tensors.append(Tensor(name, shape, DTYPES[t.dtype], t.path, t.offset, origin, head_dim))
    # The frequencies that some files carry follow from config.json, and a tied output is the embedding.
    needless = {t.origin for t in tensors} | ({"lm_head.weight"} if config.tied else set())
    extra = [name for name in stored if name not in needless and not name.endswith("rotary_emb.inv_freq")]
    if extra:
        raise UnsupportedError(
            f"the tensor {sorted(extra)[0]} in {folder} is not part of a dense LLaMA; this variant is not supported"
        )
    return tensors


def _card(folder: Path, config: Config) -> Metadata:
    """Facts about the model that people look for: its name, and licence and language from the head of README.md."""
    name = str(config.raw.get("_name_or_path") or "").rstrip("/").rsplit("/", 1)[-1]
    name = name or folder.resolve().name  # of a folder it need not be UTF-8
    facts: Metadata = {"general.name": (name.encode(errors="replace"), Value.STRING)}
    readme = folder / "README.md"
    text = readme.read_text(encoding="utf-8", errors="replace") if readme.exists() else ""
    head = re.match(r"---\r?\n(.*?)\r?\n---", text, re.DOTALL)
    if head and (licence := re.search(r"^license:\s*[\"']?([\w.+-]+)", head[1], re.MULTILINE)):
        facts["general.license"] = (licence[1], Value.STRING)
    if head and (one := re.search(r"^language:[ \t]*[\"']?([\w-]+)[\"']?[ \t]*$", head[1], re.MULTILINE)):
        facts["general.languages"] = ([one[1]], Value.STRING)
    elif head and (many := re.search(r"^language:[ \t]*\r?\n((?:[ \t]*-[ \t]*.+(?:\r?\n|$))+)", head[1], re.MULTILINE)):
        facts["general.languages"] = (re.findall(r"-[ \t]*[\"']?([\w-]+)", many[1]), Value.STRING)
    return facts


def open_folder(folder: Path, pre: str | None = None) -> Source:
    """pre: the pre-tokenizer's name, where tokenizer.json's is not one that is known."""
    config = read_config(folder)
    stored = read_folder(folder)
    keys, divisors, notes = rope_keys(config)
    window = config.raw.get("sliding_window")
    used = isinstance(window, int) and config.raw.get("use_sliding_window", True)
    if used and 0 < window < config.ctx:
        notes.append(f"sliding_window {window} is left out: readers of GGUF attend to all that came before")
    metadata: Metadata = {"general.architecture": ("llama", Value.STRING), "general.type": ("model", Value.STRING)}
    metadata |= _card(folder, config) | config_keys(config) | keys
    tensors = _tensors(config, stored, folder)  # before the vocabulary is filled up to what config.json says
    vocab, more = read_vocab(folder, config, pre)
    if divisors is not None:
        tensors.insert(
            1, Tensor("rope_freqs.weight", divisors.shape, Type.F32, folder, 0, "rope_freqs", values=divisors)
        )
    return Source(metadata | vocab, tensors, notes + more)

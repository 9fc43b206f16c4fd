"""Types of files: which type each tensor of a model gets.

The mixed types give more bits to tensors that need them most, by the rules that files of these names have followed
since llama.cpp introduced them, so that a name means the same bits everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import gguf
from gguf import GGMLQuantizationType as Type


@dataclass(frozen=True)
class Recipe:
    """A type of file."""

    base: Type  # of most matrices
    file_type: int  # general.file_type


RECIPES = {
    "f32": Recipe(Type.F32, 0),
    "f16": Recipe(Type.F16, 1),
    "bf16": Recipe(Type.BF16, 32),
    "q8_0": Recipe(Type.Q8_0, 7),
    "q4_0": Recipe(Type.Q4_0, 2),
    "q4_1": Recipe(Type.Q4_1, 3),
    "q5_0": Recipe(Type.Q5_0, 8),
    "q5_1": Recipe(Type.Q5_1, 9),
    "q2_k": Recipe(Type.Q2_K, 10),
    "q3_k_s": Recipe(Type.Q3_K, 11),
    "q3_k_m": Recipe(Type.Q3_K, 12),
    "q3_k_l": Recipe(Type.Q3_K, 13),
    "q4_k_s": Recipe(Type.Q4_K, 14),
    "q4_k_m": Recipe(Type.Q4_K, 15),
    "q5_k_s": Recipe(Type.Q5_K, 16),
    "q5_k_m": Recipe(Type.Q5_K, 17),
    "q6_k": Recipe(Type.Q6_K, 18),
    "iq4_nl": Recipe(Type.IQ4_NL, 25),
    "iq4_xs": Recipe(Type.IQ4_XS, 30),
}
ALIASES = {"q3_k": "q3_k_m", "q4_k": "q4_k_m", "q5_k": "q5_k_m"}

FLOATS = (Type.F32, Type.F16, Type.BF16)

# Where a block does not divide a row: a type of about as many bits with blocks of 32.
_SMALLER_BLOCKS = {Type.Q2_K: Type.Q4_0, Type.Q3_K: Type.Q4_0, Type.IQ4_XS: Type.IQ4_NL, Type.Q4_K: Type.Q5_0,
                   Type.Q5_K: Type.Q5_1, Type.Q6_K: Type.Q8_0}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """What the rules ask of a model."""

    n_layer: int
    n_group: int  # query heads to a KV head
    tied: bool  # the embedding is the output, too


def fitting(kind: Type, n_cols: int) -> Type:
    """The type itself, or what stands in for it where its block does not divide n_cols."""
    while n_cols % gguf.GGML_QUANT_SIZES[kind][0]:
        kind = _SMALLER_BLOCKS.get(kind, Type.F16)
    return kind


def _more_bits(layer: int, n: int) -> bool:
    """The first and last eighth of the layers, and every third between."""
    return layer < n // 8 or layer >= 7 * n // 8 or (layer - n // 8) % 3 == 2


def _of_layer(name: str, part: str, layer: int, model: Model, base: Type) -> Type:
    n = model.n_layer
    more = _more_bits(layer, n)
    if part == "attn_v":
        kind = {
            "q2_k": Type.Q4_K if model.n_group >= 4 else Type.Q3_K,
            "q3_k_m": Type.Q5_K if layer < 2 else Type.Q4_K,
            "q3_k_l": Type.Q5_K,
            "q4_k_s": Type.Q5_K if layer < 4 else base,
            "q4_k_m": Type.Q6_K if more else base,
            "q5_k_m": Type.Q6_K if more else base,
            "iq4_nl": Type.Q5_K if model.n_group >= 4 else base,
            "iq4_xs": Type.Q5_K if model.n_group >= 4 else base,
        }.get(name, base)
        # 70B models share values among eight heads: a few bits more cost little there.
        return Type.Q5_K if n == 80 and model.n_group == 8 and kind in (Type.Q3_K, Type.Q4_K) else kind
    early = layer < n // 8
    if part == "ffn_down":
        return {
            "q2_k": Type.Q3_K,
            "q3_k_m": Type.Q5_K if layer < n // 16 else Type.Q4_K,
            "q3_k_l": Type.Q5_K,
            "q4_k_s": Type.Q5_K if early else base,
            "q4_k_m": Type.Q6_K if more else base,
            "q5_k_m": Type.Q6_K if more else base,
            "iq4_nl": Type.Q5_K if early else base,
            "iq4_xs": Type.Q5_K if early else base,
        }.get(name, base)
    if part == "attn_output":
        return {"q2_k": Type.Q3_K, "q3_k_m": Type.Q4_K, "q3_k_l": Type.Q5_K}.get(name, base)
    return base


def choose(name: str, tensor: str, shape: tuple[int, ...], model: Model) -> tuple[Type, Type]:
    """The type of a tensor in a file of type `name`, and what it would be if its block divided every row."""
    recipe = RECIPES[name]
    if len(shape) < 2 or not tensor.endswith(".weight"):
        return Type.F32, Type.F32
    wanted = recipe.base
    if wanted not in FLOATS:
        if tensor == ("token_embd.weight" if model.tied else "output.weight"):
            # The output's errors reach every logit.
            wanted = Type.Q8_0 if wanted == Type.Q8_0 or shape[-1] % 256 else Type.Q6_K
        elif match := re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", tensor):
            wanted = _of_layer(name, match[2], int(match[1]), model, wanted)
    return fitting(wanted, shape[-1]), wanted

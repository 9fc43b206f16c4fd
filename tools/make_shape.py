"""Write a model of a well-known shape with random weights as GGUF, for benchmarks.

    python tools/make_shape.py llama2-7b --type q4_0 -o llama2-7b-q4_0.gguf

Speed depends on shapes and types, not on what the weights say: the file is as large and as fast as the real model's,
and is there in seconds, because every matrix is cut from a few million random weights. Its numbers behave as those of
make_model.py. `python -m longheads.bench --shape` makes and keeps such files.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from make_model import TYPES, ModelSpec, make_model, matrix, weights

_LLAMA2 = dict(n_vocab=32000)
_LLAMA3 = dict(n_vocab=128256, tokenizer="gpt2", pre="llama-bpe", rope_base=500000.0)
_LLAMA32 = dict(_LLAMA3, tied=True, trained_ctx=131072, rope_scaling="llama3", rope_factor=32.0, rope_original_ctx=8192)
_SMOLLM2 = dict(n_vocab=49152, tokenizer="gpt2", pre="smollm", tied=True, trained_ctx=8192, rope_base=100000.0)

# fmt: off
SHAPES: dict[str, ModelSpec] = {
    "smollm2-135m": ModelSpec(n_embd=576, n_layer=30, n_ff=1536, n_head=9, n_head_kv=3, **_SMOLLM2),
    "smollm2-360m": ModelSpec(n_embd=960, n_layer=32, n_ff=2560, n_head=15, n_head_kv=5, **_SMOLLM2),
    "tinyllama-1.1b": ModelSpec(n_embd=2048, n_layer=22, n_ff=5632, n_head=32, n_head_kv=4, trained_ctx=2048,
                                **_LLAMA2),
    "llama3.2-1b": ModelSpec(n_embd=2048, n_layer=16, n_ff=8192, n_head=32, n_head_kv=8, **_LLAMA32),
    "llama3.2-3b": ModelSpec(n_embd=3072, n_layer=28, n_ff=8192, n_head=24, n_head_kv=8, **_LLAMA32),
    "llama2-7b": ModelSpec(n_embd=4096, n_layer=32, n_ff=11008, n_head=32, trained_ctx=4096, **_LLAMA2),
    "llama3-8b": ModelSpec(n_embd=4096, n_layer=32, n_ff=14336, n_head=32, n_head_kv=8, trained_ctx=8192, **_LLAMA3),
}
# fmt: on

# Weights that are drawn, of each type and deviation. The number of blocks is a prime, so that every row of a matrix
# begins elsewhere and no two are alike.
POOL = 1 << 22
OVERHEAD = 16 << 20  # bytes of a file beside its weights, at most


def largest_prime(n: int) -> int:
    """The largest prime that is at most n."""
    while any(n % d == 0 for d in range(2, math.isqrt(n) + 1)):
        n -= 1
    return n


def pooled_matrices() -> Callable[[np.random.Generator, tuple[int, int], Type, float], np.ndarray]:
    """make_model's `matrix`, but cut from pools that are drawn once."""

    @cache
    def pool(kind: Type, std: float) -> np.ndarray:
        block_len = gguf.GGML_QUANT_SIZES[kind][0]
        n = largest_prime(POOL // block_len)
        return matrix(np.random.default_rng(0), (1, n * block_len), kind, std).reshape(n, -1)

    def pooled(rng: np.random.Generator, shape: tuple[int, int], kind: Type, std: float) -> np.ndarray:
        blocks = pool(kind, std)
        n = math.prod(shape) // gguf.GGML_QUANT_SIZES[kind][0]
        return np.resize(np.roll(blocks, -int(rng.integers(len(blocks))), axis=0), (n, blocks.shape[1]))

    return pooled


def make_shape(
    path: str | Path, spec: ModelSpec, type_name: str, *, progress: Callable[[int, int], object] | None = None
) -> Path:
    """Write the file, whole or not at all, and return its path.

    Raises ValueError for a type that is not known or does not fit the shape, OSError where the disk has no room for it.
    """
    path = Path(path)
    spec = ModelSpec(**{**vars(spec), "type": type_name.lower()}).resolved()
    size = sum(tensor.nbytes for tensor in weights(spec)) + OVERHEAD
    path.parent.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(path.parent).free) < size:
        raise OSError(
            f"{path.name} needs {size / 1e9:.1f} GB in {path.parent}, where {free / 1e9:.1f} GB are free: "
            "name another folder"
        )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        make_model(partial, spec, matrices=pooled_matrices(), progress=progress)
        return partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a random model of a well-known shape as GGUF.")
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("--type", choices=TYPES, type=str.lower, default="q4_0", help="of the weights (default: q4_0)")
    parser.add_argument("-o", "--out", type=Path, help="default: SHAPE-TYPE.gguf")
    arguments = parser.parse_args()
    out = arguments.out or Path(f"{arguments.shape}-{arguments.type}.gguf")
    try:
        print(make_shape(out, SHAPES[arguments.shape], arguments.type))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

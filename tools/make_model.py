"""Write a small LLaMA model with random weights as GGUF, for tests and benchmarks.

    python tools/make_model.py out.gguf --n-layer 2 --n-head 8 --n-head-kv 2 --type q8_0 --seed 0

The text that such a model writes is noise, but its numbers behave: attention is neither flat nor one-hot, the residual
stream keeps its size from layer to layer, and logits spread over a few units. Needs the packages gguf and numpy.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type

# Types that gguf cannot quantise get random blocks: where the half-precision scale of a block lies, and that of its
# minimum (bytes from the start of the block).
RANDOM_BLOCKS: dict[Type, tuple[int, int | None]] = {
    Type.Q2_K: (80, 82),
    Type.Q3_K: (108, None),
    Type.Q4_K: (0, 2),
    Type.Q5_K: (0, 2),
    Type.Q6_K: (208, None),
    Type.IQ4_NL: (0, None),
    Type.IQ4_XS: (0, None),
}
TYPES = ["f32", "f16", "bf16", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"] + [t.name.lower() for t in RANDOM_BLOCKS]

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

# Enough English for a vocabulary with real merges.
CORPUS = """There is a small harbour at the end of the road, and every morning the boats go out before the sun has
come up over the hills. When the weather is good they are back by noon, and the people who live there walk down to
the water to see what they have brought. In the winter nobody is in a hurry; the nets are mended, the children read
what they like, and the old woman who kept the light for thirty years tells her stories again. "What would you have
done?" she asks them, and they answer that they would have gone out with the others, or that they would have stayed.
The road itself was made by hand, stone upon stone, long before anybody thought of counting the days it took. Its
numbers are on the milestones: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, and then they begin again. Write them down, please;
thank you!"""


@dataclass(frozen=True)
class ModelSpec:
    """What to write. Lengths in tokens or elements; 0 or None where a value follows from the others."""

    n_layer: int = 2
    n_head: int = 4
    n_head_kv: int = 0           # 0: n_head
    head_dim: int = 0            # 0: n_embd / n_head
    n_embd: int = 64
    n_ff: int = 160
    n_vocab: int = 400
    trained_ctx: int = 256
    tied: bool = False           # no output.weight: the embedding is read twice
    bias: bool = False           # biases on q, k, v and o
    type: str = "f32"            # of the matrices, see TYPES
    embd_type: str | None = None    # of token_embd; None: type
    output_type: str | None = None  # of output; None: type
    sharpness: float = 2.0       # standard deviation of q.k / sqrt(head_dim)
    norm_eps: float = 1e-5
    rope_dim: int = 0            # rotated dimensions of a head; 0: head_dim
    rope_base: float = 10000.0
    rope_scaling: str = "none"   # none, linear, yarn, llama3
    rope_factor: float = 4.0     # of linear, yarn and llama3
    rope_original_ctx: int = 0   # of yarn and llama3; 0: trained_ctx / rope_factor
    rope_attn_factor: float | None = None  # of yarn; None: the key is not written
    tokenizer: str = "llama"     # llama (SentencePiece BPE) or gpt2 (byte-level BPE)
    pre: str = "gpt-2"           # pre-tokenizer of gpt2
    add_bos: bool = True
    add_space_prefix: bool = True
    chat_template: str | None = None  # "chatml", or the template itself
    seed: int = 0

    def resolved(self) -> ModelSpec:
        """The same with every 0 and None filled in. Raises ValueError where a shape cannot be."""
        head_dim = self.head_dim or self.n_embd // self.n_head
        spec = dataclasses.replace(
            self,
            n_head_kv=self.n_head_kv or self.n_head,
            head_dim=head_dim,
            rope_dim=self.rope_dim or head_dim,
            rope_original_ctx=self.rope_original_ctx or max(1, int(self.trained_ctx / self.rope_factor)),
            embd_type=self.embd_type or self.type,
            output_type=self.output_type or self.type,
            chat_template=CHATML if self.chat_template == "chatml" else self.chat_template,
        )
        if spec.n_head % spec.n_head_kv:
            raise ValueError(f"n_head is {spec.n_head}, which n_head_kv = {spec.n_head_kv} must divide")
        if spec.rope_dim % 2 or not 0 < spec.rope_dim <= head_dim:
            raise ValueError(f"rope_dim is {spec.rope_dim}; it must be even and at most head_dim = {head_dim}")
        return spec


# --- weights -------------------------------------------------------------------------------------------------------


def random_blocks(rng: np.random.Generator, shape: tuple[int, int], kind: Type, std: float) -> np.ndarray:
    """Random bytes that decode to values with mean about 0 and the given standard deviation: (rows, row bytes) uint8.

    Every bit pattern of quants and sub-block scales occurs, which no quantiser would give.
    """
    block_len, block_size = gguf.GGML_QUANT_SIZES[kind]
    n = shape[0] * shape[1] // block_len
    blocks = rng.integers(0, 256, (n, block_size), dtype=np.uint8)
    scale_at, min_at = RANDOM_BLOCKS[kind]

    def put(at: int, value: np.ndarray | float) -> None:
        blocks[:, at : at + 2] = np.broadcast_to(value, n).astype(np.float16).view(np.uint8).reshape(n, 2)

    def decode() -> np.ndarray:
        return gguf.quants.dequantize(blocks, kind)

    offset = 0.0
    if min_at is not None:  # choose the minimum so that it cancels the mean
        put(scale_at, 0), put(min_at, 1)
        mean_of_min = float(decode().mean())
        put(scale_at, 1), put(min_at, 0)
        offset = -float(decode().mean()) / mean_of_min
        put(min_at, offset)
    else:
        put(scale_at, 1)
    scale = std / float(decode().std()) * rng.uniform(0.6, 1.4, n)
    put(scale_at, scale)
    if min_at is not None:
        put(min_at, scale * offset)
    return blocks.reshape(shape[0], -1)


def matrix(rng: np.random.Generator, shape: tuple[int, int], kind: Type, std: float) -> np.ndarray:
    """A random matrix as its file stores it: (rows, row bytes) uint8, or (rows, cols) of a NumPy type."""
    if kind in RANDOM_BLOCKS:
        return random_blocks(rng, shape, kind, std)
    return gguf.quants.quantize(rng.standard_normal(shape, dtype=np.float32) * np.float32(std), kind)


@dataclass(frozen=True)
class Tensor:
    """One tensor of the file, made only when it is written."""

    name: str
    shape: tuple[int, ...]
    kind: Type
    make: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        block_len, block_size = gguf.GGML_QUANT_SIZES[self.kind]
        return math.prod(self.shape) // block_len * block_size


Matrices = Callable[[np.random.Generator, tuple[int, int], Type, float], np.ndarray]


def llama3_divisors(spec: ModelSpec) -> np.ndarray:
    """rope_freqs.weight of Llama-3 scaling (low_freq_factor 1, high_freq_factor 4): (rope_dim / 2,) float32."""
    inv_freq = spec.rope_base ** (-np.arange(0, spec.rope_dim, 2) / spec.rope_dim)
    turns = spec.rope_original_ctx * inv_freq / (2 * math.pi)  # turns inside the original context
    keep = np.clip((turns - 1) / (4 - 1), 0, 1)
    return (1 / ((1 - keep) / spec.rope_factor + keep)).astype(np.float32)


def weights(spec: ModelSpec, matrices: Matrices = matrix) -> Iterator[Tensor]:
    """The tensors of a resolved spec in the order of the file, which is the order to make them in.

    Raises ValueError for a type that is not known or a row that is not whole blocks.
    """
    rng = np.random.default_rng(spec.seed)
    n_q, n_kv = spec.n_head * spec.head_dim, spec.n_head_kv * spec.head_dim

    def add(name: str, rows: int, cols: int, std: float, type_name: str | None = None) -> Tensor:
        type_name = type_name or spec.type
        if type_name not in TYPES:
            raise ValueError(f"type is {type_name!r}; expected one of {', '.join(TYPES)}")
        kind = Type[type_name.upper()]
        if cols % gguf.GGML_QUANT_SIZES[kind][0]:
            raise ValueError(
                f"a row of {cols} values is not whole {kind.name} blocks of {gguf.GGML_QUANT_SIZES[kind][0]}"
            )
        return Tensor(name, (rows, cols), kind, lambda: matrices(rng, (rows, cols), kind, std))

    def vector(name: str, n: int, mean: float, std: float) -> Tensor:
        return Tensor(name, (n,), Type.F32, lambda: (mean + std * rng.standard_normal(n)).astype(np.float32))

    # RMS norms make every input of a matrix a unit-size vector: 1 / sqrt(cols) then gives unit-size outputs.
    unit = 1 / math.sqrt(spec.n_embd)
    qk = unit * math.sqrt(spec.sharpness)
    yield add("token_embd.weight", spec.n_vocab, spec.n_embd, 1.0 if not spec.tied else 2 * unit, spec.embd_type)
    yield vector("output_norm.weight", spec.n_embd, 1, 0.1)
    if not spec.tied:
        yield add("output.weight", spec.n_vocab, spec.n_embd, 2 * unit, spec.output_type)
    if spec.rope_scaling == "llama3":
        yield Tensor("rope_freqs.weight", (spec.rope_dim // 2,), Type.F32, lambda: llama3_divisors(spec))
    residual = 1.0 if not spec.tied else 2 * unit
    for i in range(spec.n_layer):
        yield vector(f"blk.{i}.attn_norm.weight", spec.n_embd, 1, 0.1)
        yield add(f"blk.{i}.attn_q.weight", n_q, spec.n_embd, qk)
        yield add(f"blk.{i}.attn_k.weight", n_kv, spec.n_embd, qk)
        yield add(f"blk.{i}.attn_v.weight", n_kv, spec.n_embd, unit)
        yield add(f"blk.{i}.attn_output.weight", spec.n_embd, n_q, residual / math.sqrt(n_q))
        if spec.bias:
            for name, n in (("q", n_q), ("k", n_kv), ("v", n_kv), ("output", spec.n_embd)):
                yield vector(f"blk.{i}.attn_{name}.bias", n, 0, 0.3)
        yield vector(f"blk.{i}.ffn_norm.weight", spec.n_embd, 1, 0.1)
        yield add(f"blk.{i}.ffn_gate.weight", spec.n_ff, spec.n_embd, unit)
        yield add(f"blk.{i}.ffn_up.weight", spec.n_ff, spec.n_embd, unit)
        yield add(f"blk.{i}.ffn_down.weight", spec.n_embd, spec.n_ff, residual / math.sqrt(spec.n_ff))


# --- vocabulary ----------------------------------------------------------------------------------------------------


def learn_merges(words: Counter[tuple[str, ...]], n: int) -> list[tuple[str, str]]:
    """Byte-pair encoding: at most n merges, most frequent first, ties to the alphabetically first."""
    merges: list[tuple[str, str]] = []
    while len(merges) < n:
        pairs: Counter[tuple[str, str]] = Counter()
        for word, count in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += count
        if not pairs:
            break
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        merged: Counter[tuple[str, ...]] = Counter()
        for word, count in words.items():
            parts: list[str] = []
            for part in word:
                if parts and (parts[-1], part) == best:
                    parts[-1] += part
                else:
                    parts.append(part)
            merged[tuple(parts)] += count
        words = merged
    return merges


def byte_letters() -> list[str]:
    """The letter that byte-level BPE writes for each of the 256 bytes."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) if b in printable else chr(0x100 + others.index(b)) for b in range(256)]


def add_vocabulary(writer: gguf.GGUFWriter, spec: ModelSpec) -> None:
    normal, unknown, control, unused, byte = 1, 2, 3, 5, 6
    chat = ["<|im_start|>", "<|im_end|>"]
    if spec.tokenizer == "llama":
        fixed = [("<unk>", unknown), ("<s>", control), ("</s>", control)] + [(f"<0x{b:02X}>", byte) for b in range(256)]
        fixed += [(t, control) for t in chat]
        words = Counter(tuple("▁" + word) for word in CORPUS.split())
        letters = sorted({c for word in words for c in word})
    elif spec.tokenizer == "gpt2":
        fixed = [("<|endoftext|>", control)] + [(t, control) for t in chat]
        letters = byte_letters()
        words = Counter(tuple(letters[b] for b in (" " + word).encode()) for word in CORPUS.split())
    else:
        raise ValueError(f"tokenizer is {spec.tokenizer!r}; expected 'llama' or 'gpt2'")

    room = spec.n_vocab - len(fixed) - len(letters)
    if room < 0:
        raise ValueError(f"n_vocab is {spec.n_vocab}; a {spec.tokenizer} vocabulary has at least {spec.n_vocab - room}")
    # Two merges can make the same piece; each piece is listed once.
    merges: list[tuple[str, str]] = []
    pieces: dict[str, None] = {}
    for left, right in learn_merges(words, 2 * room):
        if len(pieces) < room or left + right in pieces:
            merges.append((left, right))
            pieces[left + right] = None
    filler = [f"<unused_{i}>" for i in range(room - len(pieces))]

    tokens = [t for t, _ in fixed] + letters + list(pieces) + filler
    types = [k for _, k in fixed] + [normal] * (len(letters) + len(pieces)) + [unused] * len(filler)
    writer.add_tokenizer_model(spec.tokenizer)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    if spec.tokenizer == "llama":
        # SentencePiece merges the pair with the highest score first; single letters score lowest.
        n_fixed, n_piece = len(fixed), len(pieces)
        scores = [0.0] * n_fixed + [-float(n_piece + 1 + i) for i in range(len(letters))]
        scores += [-float(1 + i) for i in range(n_piece)] + [-1e4] * len(filler)
        writer.add_token_scores(scores)
        writer.add_tokenizer_pre("default")
        writer.add_unk_token_id(0), writer.add_bos_token_id(1), writer.add_eos_token_id(2)
        writer.add_add_space_prefix(spec.add_space_prefix)
    else:
        writer.add_token_merges([f"{left} {right}" for left, right in merges])
        writer.add_tokenizer_pre(spec.pre)
        writer.add_bos_token_id(0), writer.add_eos_token_id(0)
    writer.add_add_bos_token(spec.add_bos)
    if spec.chat_template is not None:
        writer.add_chat_template(spec.chat_template)


# --- the file ------------------------------------------------------------------------------------------------------


def make_model(
    path: str | Path,
    spec: ModelSpec | None = None,
    *,
    split_max_tensors: int = 0,
    matrices: Matrices = matrix,
    progress: Callable[[int, int], object] | None = None,
    **changes,
) -> Path:
    """Write a model and return its path; `changes` are fields of ModelSpec.

    matrices: what makes the matrices. progress: called as progress(done, total) in bytes of weights. No more than one
    tensor is in memory at a time. With split_max_tensors the file is split and the first part's path is returned.
    Raises ValueError for a shape that cannot be or a row that is not whole blocks of its type.
    """
    spec = dataclasses.replace(spec or ModelSpec(), **changes).resolved()
    path = Path(path)
    writer = gguf.GGUFWriter(path, "llama", split_max_tensors=split_max_tensors)
    writer.add_name(f"random, seed {spec.seed}")
    writer.add_context_length(spec.trained_ctx)
    writer.add_embedding_length(spec.n_embd)
    writer.add_feed_forward_length(spec.n_ff)
    writer.add_block_count(spec.n_layer)
    writer.add_head_count(spec.n_head)
    writer.add_head_count_kv(spec.n_head_kv)
    if spec.head_dim * spec.n_head != spec.n_embd:
        writer.add_key_length(spec.head_dim)
        writer.add_value_length(spec.head_dim)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_vocab_size(spec.n_vocab)
    writer.add_rope_dimension_count(spec.rope_dim)
    writer.add_rope_freq_base(spec.rope_base)
    if spec.rope_scaling in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(spec.rope_scaling))
        writer.add_rope_scaling_factor(spec.rope_factor)
        if spec.rope_scaling == "yarn":
            writer.add_rope_scaling_orig_ctx_len(spec.rope_original_ctx)
            if spec.rope_attn_factor is not None:
                writer.add_rope_scaling_attn_factors(spec.rope_attn_factor)
    elif spec.rope_scaling not in ("none", "llama3"):
        raise ValueError(f"rope_scaling is {spec.rope_scaling!r}; expected none, linear, yarn or llama3")
    add_vocabulary(writer, spec)
    tensors = list(weights(spec, matrices))
    for t in tensors:
        writer.add_tensor_info(t.name, t.shape, np.dtype(np.float32), t.nbytes, raw_dtype=t.kind)
    n_parts = len(writer.tensors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    done, total = 0, sum(t.nbytes for t in tensors)
    for t in tensors:
        writer.write_tensor_data(t.make())
        done += t.nbytes
        if progress:
            progress(done, total)
    writer.close()
    return path if n_parts == 1 else path.with_name(f"{path.stem}-00001-of-{n_parts:05d}{path.suffix}")


def main() -> None:
    parser = argparse.ArgumentParser(description="Write a small random LLaMA model as GGUF.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--split-max-tensors", type=int, default=0, help="write several files of at most N tensors")
    for field in dataclasses.fields(ModelSpec):
        name = "--" + field.name.replace("_", "-")
        if isinstance(field.default, bool):
            parser.add_argument(name, action=argparse.BooleanOptionalAction, default=field.default)
        else:
            kind = {"rope_attn_factor": float}.get(field.name, str if field.default is None else type(field.default))
            choices = TYPES if field.name.endswith("type") else None
            parser.add_argument(name, type=kind, default=field.default, choices=choices)
    arguments = vars(parser.parse_args())
    out, split = arguments.pop("out"), arguments.pop("split_max_tensors")
    try:
        print(make_model(out, split_max_tensors=split, **arguments))
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()

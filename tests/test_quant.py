"""Block formats against the `gguf` package: names, sizes, and the value of every weight, bit for bit."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import native
import numpy as np
import pytest

gguf = pytest.importorskip("gguf", reason="the gguf package is the oracle of block formats")

TYPES = [
    "F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS",
]  # fmt: skip
# Where the halves of a block lie: scale, and min.
HALVES = {
    "F16": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "Q2_K": [80, 82], "Q3_K": [108],
    "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0],
}  # fmt: skip


@pytest.fixture(scope="module")
def quant():
    """Run dump_quant with arguments and standard input; returns standard output.

    Sanitized where that is possible: hostile blocks must not reach undefined behaviour.
    """
    sources = ["tests/c/dump_quant.c", "runtime/base.c", "runtime/quant.c", "runtime/quant_encode.c",
               "runtime/quant_encode_k.c"]  # fmt: skip
    sanitized = native.supports(tuple(native.SANITIZED))
    program = (native.build_sanitized if sanitized else native.build)("dump_quant", sources)

    def run(*args: str, data: bytes = b"") -> bytes:
        return subprocess.run([program, *args], input=data, stdout=subprocess.PIPE, check=True).stdout

    return run


def number(name: str) -> int:
    return int(gguf.GGMLQuantizationType[name])


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Equal bit for bit, except that any NaN equals any other."""
    return bool(np.all((a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))))


def test_supported_types(quant):
    rows = [line.split() for line in quant("types").decode().splitlines()]
    assert [name for _, name, _, _ in rows] == sorted(TYPES, key=number)
    for type_number, name, block_len, block_size in rows:
        assert int(type_number) == number(name)
        assert gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]] == (int(block_len), int(block_size))


def test_names_of_all_types(quant):
    for kind in gguf.GGMLQuantizationType:
        assert quant("name", str(int(kind))).decode().strip() in (kind.name, f"type {int(kind)}")
    assert quant("name", "19").decode().strip() == "IQ1_S"
    assert quant("name", "4294967295").decode().strip() == "type 4294967295"
    assert quant("name", "-1").decode().strip() == "type -1"


def blocks_of(name: str, kind: str, rng: np.random.Generator) -> np.ndarray:
    """(n, block_size) blocks: random bits everywhere, or with halves that are ordinary, or zero, tiny or infinite."""
    n = 257
    size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]
    blocks = rng.integers(0, 256, (n, size), dtype=np.uint8)
    for at in HALVES.get(name, []):
        if kind == "ordinary":
            blocks[:, at : at + 2] = rng.normal(0, 0.1, n).astype(np.float16).view(np.uint8).reshape(n, 2)
        elif kind == "special":
            special = np.array([0, 0x8000, 1, 0x03FF, 0x83FF, 0x0400, 0x7BFF, 0x7C00, 0xFC00, 0x7E00], dtype=np.uint16)
            blocks[:, at : at + 2] = rng.choice(special, n).view(np.uint8).reshape(n, 2)
    return blocks


@pytest.mark.parametrize("kind", ["random", "ordinary", "special"])
@pytest.mark.parametrize("name", TYPES)
def test_decode(quant, name, kind):
    blocks = blocks_of(name, kind, np.random.default_rng(TYPES.index(name)))
    with np.errstate(all="ignore"):
        expected = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype(np.float32).ravel()
    got = np.frombuffer(quant("decode", str(number(name)), data=blocks.tobytes()), dtype=np.float32)
    assert got.shape == expected.shape
    assert same_bits(got, expected)
    if name not in ("F32", "F16", "BF16"):
        unpacked = np.frombuffer(quant("unpack", str(number(name)), data=blocks.tobytes()), dtype=np.float32)
        assert same_bits(unpacked, expected)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_decode_of_quantised_numbers(quant, name):
    """Round trip through the package's quantisation: near the numbers that went in, so both cannot be wrong alike."""
    steps = {"Q4_0": 8, "Q4_1": 15, "Q5_0": 16, "Q5_1": 31, "Q8_0": 127}[name]
    x = np.random.default_rng(7).normal(size=(8, 256)).astype(np.float32)
    blocks = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
    got = np.frombuffer(quant("decode", str(number(name)), data=blocks.tobytes()), dtype=np.float32).reshape(-1, 32)
    span = np.ptp(x.reshape(-1, 32), axis=1) if name.endswith("_1") else np.abs(x.reshape(-1, 32)).max(axis=1)
    assert np.all(np.abs(got - x.reshape(-1, 32)) <= 1.05 * span[:, None] / steps)


def test_all_halves(quant):
    halves = np.arange(65536, dtype=np.uint16)
    with np.errstate(all="ignore"):
        f16 = halves.view(np.float16).astype(np.float32)
    assert same_bits(np.frombuffer(quant("f16", data=halves.tobytes()), dtype=np.float32), f16)
    bf16 = (halves.astype(np.uint32) << 16).view(np.float32)
    assert same_bits(np.frombuffer(quant("bf16", data=halves.tobytes()), dtype=np.float32), bf16)


def test_float_to_half(quant):
    """Rounding to nearest even, at every tie, beside it, and at random."""
    rng = np.random.default_rng(3)
    exact = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float64)
    ties = ((exact[:-1] + exact[1:]) / 2).astype(np.float32)
    below, above = np.nextafter(ties, np.float32(0)), np.nextafter(ties, np.float32(1e9))
    around = np.concatenate([ties, below, above, exact.astype(np.float32)])
    edges = np.array([65519.996, 65520, 65536, 3e38, np.inf, np.nan, 1e-45, 2.9802322e-08, 2.9802326e-08], np.float32)
    bits = rng.integers(0, 2**32, 100000, dtype=np.uint32).view(np.float32)
    x = np.concatenate([around, edges, bits])
    x = np.concatenate([x, -x])
    with np.errstate(all="ignore"):
        expected = x.astype(np.float16)
    got = np.frombuffer(quant("f16_from", data=x.tobytes()), dtype=np.uint16)
    same = got == expected.view(np.uint16)
    assert np.all(same | (np.isnan(x) & np.isnan(got.view(np.float16))))


# --- encoding ------------------------------------------------------------------------------------------------------

EXACT = ["F32", "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
SEARCHED = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
# Largest error of what a search finds, as a share of the values' deviation, for normal values: what the formats' own
# quantiser in ggml reaches, and 2% for chance.
REACHED = {"Q2_K": 0.303, "Q3_K": 0.148, "Q4_K": 0.0728, "Q5_K": 0.0369, "Q6_K": 0.0182, "IQ4_NL": 0.0777,
           "IQ4_XS": 0.0783}  # fmt: skip


def hostile_rows() -> dict[str, np.ndarray]:
    """(256, 256) float32 each."""
    rng = np.random.default_rng(11)
    normal = rng.normal(size=(256, 256)).astype(np.float32)
    sparse = np.where(rng.random(normal.shape) < 0.02, normal, np.float32(0))
    powers = (normal * np.exp2(rng.integers(-30, 14, (256, 1)))).astype(np.float32)
    return {
        "normal": normal, "sparse": sparse, "powers": powers, "zero": np.zeros_like(normal), "minus": -np.abs(normal),
        "constant": np.repeat(normal[:, :1], 256, axis=1), "plus": np.abs(normal),
        "halves": (np.round(normal * 2) / 2).astype(np.float32),  # many ties
        "outlier": np.where(np.arange(256) == 100, np.float32(1000), normal * np.float32(0.01)),
        "alternating": np.where(np.arange(256) % 2, normal[:, :1], -normal[:, :1]),
    }  # fmt: skip


def encode(quant, name: str, x: np.ndarray) -> np.ndarray:
    """Blocks as bytes: (rows, row bytes)."""
    return np.frombuffer(quant("encode", str(number(name)), data=x.tobytes()), np.uint8).reshape(len(x), -1)


@pytest.mark.parametrize("rows", hostile_rows())
@pytest.mark.parametrize("name", EXACT)
def test_encode_is_exact(quant, name, rows):
    x = hostile_rows()[rows]
    with np.errstate(all="ignore"):
        expected = gguf.quants.quantize(x, gguf.GGMLQuantizationType[name])
    assert np.array_equal(encode(quant, name, x), expected.view(np.uint8).reshape(len(x), -1))


@pytest.mark.parametrize("name", EXACT)
def test_encode_tiny_and_large(quant, name):
    """Where scales leave the range of a half: values up to the largest half, and small ones. Of those that are
    subnormal as floats the inverse of the scale overflows, and levels, times a scale of zero, mean nothing: only values
    are compared."""
    rng = np.random.default_rng(2)
    x = rng.normal(size=(64, 256)).astype(np.float32)
    large = (x / np.abs(x).max() * 65504).astype(np.float32)
    tiny = (x * np.exp2(rng.integers(-110, -20, (64, 1)))).astype(np.float32)
    subnormal = (x * np.exp2(rng.integers(-148, -110, (64, 1)))).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    for values in (large, tiny, subnormal):
        with np.errstate(all="ignore"):
            expected = gguf.quants.quantize(values, kind)
        got = encode(quant, name, values)
        if values is subnormal:
            values_of = gguf.quants.dequantize
            assert np.array_equal(values_of(got, kind), values_of(expected.view(np.uint8), kind))
        else:
            assert np.array_equal(got, expected.view(np.uint8).reshape(64, -1))


@pytest.mark.parametrize("name", SEARCHED)
def test_search_reaches(quant, name):
    x = np.random.default_rng(5).normal(0, 0.02, (256, 1024)).astype(np.float32)
    blocks = encode(quant, name, x)
    error = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]) - x
    assert np.sqrt(np.mean(error**2)) < REACHED[name] * x.std()


@pytest.mark.parametrize("rows", hostile_rows())
@pytest.mark.parametrize("name", SEARCHED)
def test_search_is_never_lost(quant, name, rows):
    """Whatever the values, the error is less than a step of the coarsest grid that makes sense, one for all 256."""
    x = hostile_rows()[rows].astype(np.float64)
    blocks = encode(quant, name, x.astype(np.float32))
    got = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType[name]).astype(np.float64)
    assert np.isfinite(got).all()
    steps = {"Q2_K": 3, "Q3_K": 6, "Q4_K": 15, "Q5_K": 31, "Q6_K": 62}.get(name, 14)
    # A block's scale is a half, of which 2^-24 is the least; the runs' scales and the levels multiply what it is off.
    floor = 2.0**-25 * 128 * 32
    assert np.all(np.sqrt(np.mean((got - x) ** 2, axis=1)) <= 2 * np.abs(x).max(axis=1) / steps + floor)
    if rows == "zero":
        assert not got.any()


@pytest.mark.parametrize("name", TYPES)
def test_encode_of_anything(quant, name):
    """Any bits, NaN and infinity among them: no undefined behaviour, which the sanitizers watch for."""
    rng = np.random.default_rng(1)
    x = rng.integers(0, 2**32, (64, 256), dtype=np.uint32).view(np.float32).copy()
    x[0] = np.nan
    x[1] = np.inf
    x[2] = -np.inf
    x[3] = 3e38
    x[4, ::2] = -3e38
    x[5] = 1e-45
    assert encode(quant, name, x).shape[0] == 64


@pytest.mark.parametrize("name", SEARCHED)
def test_search_beats_ggml(quant, name):
    """Not worse than the quantiser of llama.cpp by more than 3%, on weights with heavy tails, as real ones have."""
    llama_cpp = pytest.importorskip("llama_cpp", reason="llama-cpp-python, to compare with, is not installed")
    [library] = list(Path(llama_cpp.__file__).parent.glob("lib/libggml-base.so"))
    ggml = ctypes.CDLL(str(library))
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, *[ctypes.c_int64] * 3,
                                         ctypes.c_void_p]  # fmt: skip
    x = (np.random.default_rng(6).standard_t(4, (128, 1024)) * 0.02).astype(np.float32)
    kind = gguf.GGMLQuantizationType[name]
    ours = encode(quant, name, x)
    theirs = np.empty_like(ours)
    assert ggml.ggml_quantize_chunk(int(kind), x.ctypes.data, theirs.ctypes.data, 0, *x.shape, None) == theirs.nbytes

    def error(blocks: np.ndarray) -> float:
        return float(np.sqrt(np.mean((gguf.quants.dequantize(blocks, kind) - x) ** 2)))

    assert error(ours) < 1.03 * error(theirs)

"""Damaged files under AddressSanitizer and UBSan: never a crash, always a sentence."""

from __future__ import annotations

import json
import os
import struct
import subprocess
from pathlib import Path
from typing import Any

import native
import pytest
from gguf_files import write_bpe_model, write_model, write_rich_model

MUTATIONS = 20_000  # files per model and seed
PARSE_SECONDS = 20  # for 200,000 keys or tensors; comparing each with each would take many minutes


@pytest.fixture(scope="module")
def hostile() -> Path:
    return native.build_sanitized("hostile_gguf", ["tests/c/hostile_gguf.c", *native.GGUF, *native.TOKENIZER])


@pytest.fixture(scope="module", params=[write_model, write_bpe_model, write_rich_model],
                ids=["plain", "bpe", "rich"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return request.param(tmp_path_factory.mktemp("hostile") / "model.gguf")


def run(program: Path, *arguments: Any) -> dict[str, Any]:
    # A sanitizer's finding or a broken promise ends the program with a signal or an exit status.
    options = {"ASAN_OPTIONS": "detect_leaks=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
    done = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, env=os.environ | options)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_truncations(hostile: Path, model: Path) -> None:
    assert run(hostile, "truncate", model)["truncations"] > 2000  # every length of the header, at least


@pytest.mark.parametrize("seed", [1, 10**9])
def test_mutations(hostile: Path, model: Path, seed: int) -> None:
    counts = run(hostile, "mutate", model, seed, MUTATIONS)
    assert sum(counts[key] for key in ["refused", "parsed", "configured", "loaded"]) == MUTATIONS
    # Mutations that nothing notices, or that all fail at the first check, would test nothing.
    assert counts["refused"] > MUTATIONS / 20
    assert counts["parsed"] + counts["configured"] + counts["loaded"] > MUTATIONS / 20
    assert counts["tokenizers"] > MUTATIONS / 20


def test_truncated_parts(tmp_path: Path) -> None:
    dump = native.build_sanitized("dump_gguf", ["tests/c/dump_gguf.c", *native.GGUF])
    first = write_model(tmp_path / "m.gguf", parts=2)
    second = Path(str(first).replace("-00001-of-", "-00002-of-"))
    assert "weights" in run(dump, first)
    for part in [first, second]:
        whole = part.read_bytes()
        for n in [0, 3, 24, *range(25, len(whole) - 1, len(whole) // 30), len(whole) - 1]:
            part.write_bytes(whole[:n])
            assert len(run(dump, first)["open"]["error"]) > 10, (part.name, n)
        part.write_bytes(whole)


def test_real_model(hostile: Path) -> None:
    stories = native.data("models/stories260K.gguf")
    result = run(hostile, "load", stories)
    assert result["level"] == 3 and result["tokenizer"]
    run(hostile, "mutate", stories, 7, 200)


def test_no_quadratic_work(hostile: Path, tmp_path: Path) -> None:
    n = 200_000
    names = [b"a name that begins like all others " + str(i).encode() for i in range(n)]
    keys = b"".join(struct.pack("<Q", len(k)) + k + struct.pack("<IB", 0, 1) for k in names)
    tensors = b"".join(struct.pack("<Q", len(k)) + k + struct.pack("<IQIQ", 1, 8, 0, 32 * i) for i, k in enumerate(names))
    for name, content in {
        "keys": struct.pack("<IQQ", 3, 0, n) + keys,
        "tensors": struct.pack("<IQQ", 3, n, 0) + tensors + bytes(32 * n + 32),
    }.items():
        path = tmp_path / f"{name}.gguf"
        path.write_bytes(b"GGUF" + content)
        result = run(hostile, "load", path)
        assert result["level"] == 1
        assert result["parse_seconds"] < PARSE_SECONDS

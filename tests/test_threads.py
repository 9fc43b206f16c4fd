"""The thread pool under ThreadSanitizer: every piece once, nothing seen too early or too late."""

from __future__ import annotations

import subprocess

import native
import pytest

FLAGS = ["-O1", "-g", "-fsanitize=thread", "-Wno-error"]  # -Wno-error: gcc notes that it does not model fences


def test_every_piece_runs_once_without_a_race() -> None:
    if not native.supports(tuple(FLAGS)):
        pytest.skip(f"{native.compiler()} cannot build or run a program with {' '.join(FLAGS)}")
    if subprocess.run(["setarch", "-R", "true"], capture_output=True).returncode != 0:
        pytest.skip("setarch -R is not allowed here, and ThreadSanitizer may not run without it")
    sources = ["tests/c/test_threads.c", "runtime/base.c", "runtime/resources.c", "runtime/cpu/threads.c"]
    program = native.build("test_threads", sources, FLAGS)
    # The sanitizer wants memory where the kernel would put it without randomisation.
    result = subprocess.run(["setarch", "-R", program], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr

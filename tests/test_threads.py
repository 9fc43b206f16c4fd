"""The thread pool: under ThreadSanitizer every piece once, nothing seen too early or too late; and after a fork."""

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


def test_threads_of_a_forked_child_that_compute_at_once() -> None:
    """The first to find the fork renews the locks, and none of the others may hold one of them by then."""
    program = native.build("test_fork", ["tests/c/test_fork.c", *native.cpu_sources()])
    result = subprocess.run([program], capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stdout + result.stderr

"""Matrix products of the CPU backend: the native test, as users' builds compile it and under sanitizers."""

from __future__ import annotations

import subprocess

import native
import pytest

SOURCES = ["tests/c/test_matmul.c", *native.cpu_sources()]


@pytest.mark.parametrize("sanitized", [False, True], ids=["optimised", "sanitized"])
def test_project_and_embed(sanitized):
    """Every kernel table of this machine against double (tolerances: tests/c/test_matmul.c)."""
    build = native.build_sanitized if sanitized else native.build
    program = build("test_matmul", SOURCES)
    done = subprocess.run([program, "few" if sanitized else "all"], env={}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tested generic" in done.stdout
    for level in native.FLAGS_OF:
        if native.FLAGS_OF[level] <= native.cpu_flags():
            assert f"tested {level}" in done.stdout

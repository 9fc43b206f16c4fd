"""Attention of the CUDA backend against the CPU's generic kernels: cache, summaries, choices and results of random and
hostile shapes. On the emulator (tests/emulator), and on a real GPU where there is one and nvcc to compile for it."""

from __future__ import annotations

import os
import subprocess

import cuda_builds
import native
import pytest

PROGRAM = "tests/c/test_cuda_attention.c"
CORE = ["runtime/rope.c", *native.cpu_sources()]


@pytest.fixture(scope="module", params=["emulated", "real"])
def program(request):
    return cuda_builds.program(request.param, "test_cuda_attention", [PROGRAM, *CORE])


@pytest.mark.parametrize("group", ["schemes", "types", "shapes", "some choose", "ties", "large", "offload", "budget"])
def test_it_does_what_the_cpu_does(program, group):
    environment = {**os.environ, "LH_CPU": "generic"}
    done = subprocess.run([program, group], capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 failures\n")

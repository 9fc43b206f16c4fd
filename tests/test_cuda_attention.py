"""Attention of the CUDA backend against the CPU's generic kernels: cache, summaries, choices and results of random and
hostile shapes. The kernels run on the emulator (tests/emulator)."""

from __future__ import annotations

import os
import subprocess

import native
import pytest

CPU = ["runtime/base.c", "runtime/quant.c", "runtime/rope.c", *native.CPU]


@pytest.fixture(scope="module")
def program():
    return native.build("test_cuda_attention", ["tests/c/test_cuda_attention.c", *CPU, *native.CUDA, *native.EMULATOR],
                        [*native.EMULATED, *native.CXX_WARNINGS])


@pytest.mark.parametrize("group", ["schemes", "types", "shapes", "ties", "large", "budget"])
def test_it_does_what_the_cpu_does(program, group):
    environment = {**os.environ, "LH_CPU": "generic"}
    done = subprocess.run([program, group], capture_output=True, text=True, timeout=600, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 failures\n")

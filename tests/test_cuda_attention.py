"""Attention of the CUDA backend against the CPU's generic kernels: cache, summaries, choices and results of random and
hostile shapes. On the emulator (tests/emulator), and on a real GPU where there is one and nvcc to compile for it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import native
import pytest

PROGRAM = "tests/c/test_cuda_attention.c"
CPU = [path for path in native.runtime_sources() if path.startswith("runtime/cpu/")]
CORE = ["runtime/base.c", "runtime/quant.c", "runtime/rope.c", *CPU]


def _emulated(_folder: Path) -> Path:
    return native.build_mixed("test_cuda_attention", [PROGRAM, *CORE, *native.cuda_sources(), *native.EMULATOR],
                              [*native.OPTIMISED, *native.WARNINGS], [*native.EMULATED, *native.CXX_WARNINGS])


def _real(folder: Path) -> Path:
    if not Path("/dev/nvidia0").exists():
        pytest.skip("no GPU: there is no /dev/nvidia0")
    nvcc = shutil.which("nvcc") or pytest.skip("no nvcc, which compiles for a real GPU")
    # For whatever card there is: the test program asks for no speed.
    command = [nvcc, "-O2", "-arch=native", "-Iruntime", "-Iruntime/cuda"]
    for source in native.cuda_sources():
        subprocess.run([*command, "-std=c++17", "-c", source, "-o", folder / f"{Path(source).stem}.cu.o"],
                       cwd=native.ROOT, check=True)
    objects = [native._object(source, [*native.OPTIMISED, *native.WARNINGS]) for source in [PROGRAM, *CORE]]
    program = folder / "test_cuda_attention"
    subprocess.run([nvcc, *folder.glob("*.cu.o"), *objects, "-o", program, "-lm", "-lpthread", "-ldl"], check=True)
    return program


@pytest.fixture(scope="module", params=["emulated", "real"])
def program(request, tmp_path_factory):
    return {"emulated": _emulated, "real": _real}[request.param](tmp_path_factory.mktemp("program"))


@pytest.mark.parametrize("group", ["schemes", "types", "shapes", "ties", "large", "offload", "budget"])
def test_it_does_what_the_cpu_does(program, group):
    environment = {**os.environ, "LH_CPU": "generic"}
    done = subprocess.run([program, group], capture_output=True, text=True, timeout=900, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(" 0 failures\n")

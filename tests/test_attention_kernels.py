"""The attention kernels of every instruction set this machine has, side by side with their generic twins."""

from __future__ import annotations

import platform
import subprocess

import native

SOURCES = ["tests/c/test_attention_kernels.c", "runtime/base.c", "runtime/quant.c", "runtime/cpu/features.c",
           "runtime/cpu/kernels_attention_generic.c"]
OWN = {"x86_64": ["avx2", "avx512", "amx"], "aarch64": ["neon"]}


def test_every_table_agrees_with_its_generic_twin() -> None:
    isas = OWN.get(platform.machine(), [])
    kernels = [f"runtime/cpu/kernels_attention_{isa}.c" for isa in isas]
    program = native.build_sanitized("test_attention_kernels", [*SOURCES, *kernels])
    result = subprocess.run([program], env={}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    able = 1 + sum(native.FLAGS_OF[isa] <= native.cpu_flags() for isa in isas)
    assert f"{able} tables, 0 failures" in result.stdout

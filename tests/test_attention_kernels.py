"""The attention kernels of every instruction set this machine has, side by side with their generic twins."""

from __future__ import annotations

import subprocess

import native

SOURCES = ["tests/c/test_attention_kernels.c", "runtime/base.c", "runtime/quant.c", "runtime/cpu/features.c",
           "runtime/cpu/kernels_attention_generic.c"]
NAME = "runtime/cpu/kernels_attention_{}.c"


def test_every_table_agrees_with_its_generic_twin() -> None:
    isas = [isa for isa in ("avx2", "avx512", "avx512vnni", "amx", "neon") if NAME.format(isa) in native.cpu_sources()]
    kernels = [NAME.format(isa) for isa in isas]
    program = native.build_sanitized("test_attention_kernels", [*SOURCES, *kernels])
    result = subprocess.run([program], env={}, capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stdout + result.stderr
    able = 1 + sum(native.FLAGS_OF[isa] <= native.cpu_flags() for isa in isas)
    assert f"{able} tables, 0 failures" in result.stdout

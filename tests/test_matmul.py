"""Matrix products of the CPU backend: the native test, as users' builds compile it and under sanitizers."""

from __future__ import annotations

import platform
import subprocess

import native
import pytest

_X86 = platform.machine() in ("x86_64", "AMD64")


def _sources() -> list[str]:
    """The CPU backend, without the files of other processors."""
    others = ("_neon.c", "_dotprod.c") if _X86 else ("_avx2.c", "_avx512.c", "_avx512vnni.c")
    cpu = sorted(str(path.relative_to(native.ROOT)) for path in native.ROOT.glob("runtime/cpu/*.c"))
    cpu = [path for path in cpu if not path.endswith(others)]
    return ["tests/c/test_matmul.c", "runtime/base.c", "runtime/quant.c", *cpu]


@pytest.mark.parametrize("sanitized", [False, True], ids=["optimised", "sanitized"])
def test_project_and_embed(sanitized):
    """Every kernel table of this machine against double (tolerances: tests/c/test_matmul.c)."""
    build = native.build_sanitized if sanitized else native.build
    program = build("test_matmul", _sources())
    done = subprocess.run([program, "few" if sanitized else "all"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "tested generic" in done.stdout

"""The package on a GPU, twice: on a real one, and on the emulator that runs the same kernels on the CPU.

The emulated package is a second copy of `longheads` over a second build of the core; both live in one process. Objects
of one are nothing to the other.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import native
import pytest

EMULATOR_H = """
void lh_emulator_order(int order);
void lh_emulator_limit(size_t bytes);
size_t lh_emulator_allocated();
void lh_emulator_break(int launches);
void lh_emulator_devices(int count);
int64_t lh_emulator_launches();
int64_t lh_emulator_replays();
void lh_emulator_refuse(int yes);
"""


def _declarations() -> str:
    path = native.ROOT / "longheads" / "_native_build.py"
    spec = importlib.util.spec_from_file_location("longheads_native_build", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.declarations((native.ROOT / "runtime/include/longheads.h").read_text(encoding="utf-8"))


@functools.cache
def _emulated_native() -> ModuleType:
    """What stands for longheads._native: the whole core, its CUDA sources as C++ on the emulator."""
    cffi = pytest.importorskip("cffi")
    sources = [*native.runtime_sources(), *native.cuda_sources(), *native.EMULATOR]
    flags = [*native.OPTIMISED, *native.WARNINGS, "-fPIC", "-DLONGHEADS_CUDA", '-DLH_VERSION="emulated"']
    library = native.build_mixed("liblongheads-emulated.so", sources, flags, [*native.EMULATED, *native.CXX_WARNINGS],
                                 ["-shared", "-Wl,--no-undefined"])
    module = ModuleType("longheads._native")
    module.ffi = cffi.FFI()
    module.ffi.cdef(_declarations() + EMULATOR_H)
    module.lib = module.ffi.dlopen(str(library))

    def def_extern(name: str, onerror: Any) -> Any:
        """As what is built ahead has it: Python's part of the library."""

        def define(function: Any) -> Any:
            # Found there before the library is asked, and kept.
            vars(module.lib)[name] = module.ffi.callback("bool(void *, uint64_t, uint64_t)", function, onerror=onerror)
            return function

        return define

    module.ffi.def_extern = def_extern
    # Functions are looked up under a lock, which must not happen while objects are collected: look them all up now.
    for name in dir(module.lib):
        getattr(module.lib, name)
    return module


@functools.cache
def emulated() -> ModuleType:
    """The package over the emulator; `.emulator` has the functions of EMULATOR_H."""
    pytest.importorskip("longheads", reason="longheads is not installed")

    def of_package(name: str) -> bool:
        return name == "longheads" or name.startswith("longheads.")

    kept = {name: sys.modules.pop(name) for name in [*sys.modules] if of_package(name)}
    try:
        sys.modules["longheads._native"] = _emulated_native()
        package: Any = importlib.import_module("longheads")
    finally:
        for name in [name for name in sys.modules if of_package(name)]:
            del sys.modules[name]
        sys.modules.update(kept)
    package.emulator = _emulated_native().lib
    return package


def real(path: str) -> ModuleType:
    """The installed package where it finds a GPU, and a skip with the reason elsewhere. `path`: any model, to try it."""
    package = pytest.importorskip("longheads", reason="longheads is not installed")
    try:
        package.Model(path, device="cuda").close()
    except (package.BackendError, package.UnsupportedError) as error:
        pytest.skip(f"no GPU: {error}")
    return package


@functools.cache
def _real_objects() -> list[Path]:
    """The CUDA sources as nvcc compiles them, for whatever card there is."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("no GPU: there is no /dev/nvidia0, nor another one")
    nvcc = shutil.which("nvcc") or pytest.skip("no nvcc, which compiles for a real GPU")
    folder = Path(tempfile.mkdtemp(prefix="longheads-cuda-"))
    objects = [folder / f"{Path(source).stem}.o" for source in native.cuda_sources()]
    command = [nvcc, "-std=c++17", "-O2", "-arch=native", "-Iruntime", "-Iruntime/cuda", "-c"]
    for source, output in zip(native.cuda_sources(), objects, strict=True):
        subprocess.run([*command, source, "-o", output], cwd=native.ROOT, check=True)
    return objects


def program(device: str, name: str, sources: Sequence[str]) -> Path:
    """A test program of `sources` in C and the CUDA backend, for the "emulated" device or a "real" one."""
    flags = [*native.OPTIMISED, *native.WARNINGS]
    if device == "emulated":
        return native.build_mixed(name, [*sources, *native.cuda_sources(), *native.EMULATOR], flags,
                                  [*native.EMULATED, *native.CXX_WARNINGS])
    cuda = _real_objects()
    output = cuda[0].parent / name
    own = native._objects(sources, lambda source: flags)
    subprocess.run([shutil.which("nvcc"), *cuda, *own, "-o", output, "-lm", "-lpthread", "-ldl"], check=True)
    return output

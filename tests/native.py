"""Compile C test programs straight from the sources of the repository, so that tests can reach the native core without
the Python extension and with flags of their own (sanitizers).

    program = native.build("dump_gguf", ["tests/c/dump_gguf.c", *native.GGUF])
    subprocess.run([program, path])

Objects and programs are kept by content under the temporary directory: a second build of the same thing is a look-up,
and one object serves many programs. Where there is no compiler the test is skipped, with the reason; a source that does
not compile fails it.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("LONGHEADS_DATA", ROOT.parent / "shared" / "data"))

WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wpointer-arith", "-Werror"]
CXX_WARNINGS = ["-Wall", "-Wextra", "-Wshadow", "-Wno-unknown-pragmas", "-Werror"]
OPTIMISED = ["-O2", "-g"]
SANITIZED = ["-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"]

# Sources of the loader and what it stands on.
GGUF = ["runtime/base.c", "runtime/resources.c", "runtime/quant.c", "runtime/gguf.c", "runtime/gguf_open.c",
        "runtime/gguf_values.c", "runtime/config.c", "runtime/weights.c"]
# What turns text into tokens; needs GGUF.
TOKENIZER = [str(p.relative_to(ROOT)) for name in ("tokenizer*.c", "unicode*.c") for p in ROOT.glob(f"runtime/{name}")]

# What runs kernels on the CPU (tests/emulator/cuda_runtime.h says how).
EMULATOR = ["tests/emulator/threads.cpp", "tests/emulator/runtime.cpp"]
# Misaligned accesses trap, as they do on a device; fibers change stacks under the sanitizers' feet.
EMULATED = ["-O2", "-g", "-fPIC", "-U_FORTIFY_SOURCE", "-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"]
CXX = {".cu", ".cpp"}


def runtime_sources() -> list[str]:
    """The C core with its CPU backend, without the files of other processors."""
    intel = ("_avx2", "_avx512", "_avx512vnni", "_amx")
    others = ("_neon", "_dotprod") if platform.machine() in ("x86_64", "AMD64") else intel
    if NO_AMX in definitions():
        others += ("_amx",)
    paths = sorted([*ROOT.glob("runtime/*.c"), *ROOT.glob("runtime/cpu/*.c")])
    return [str(p.relative_to(ROOT)) for p in paths if not p.stem.endswith(others)]


def cpu_sources() -> list[str]:
    """The CPU backend alone, and what it stands on."""
    own = [path for path in runtime_sources() if path.startswith("runtime/cpu/")]
    return ["runtime/base.c", "runtime/quant.c", "runtime/resources.c", *own]


def cuda_sources() -> list[str]:
    """The CUDA backend."""
    return sorted(str(p.relative_to(ROOT)) for p in ROOT.glob("runtime/cuda/*.cu"))


# What CMake gives the files of one instruction set, by the end of their names.
_AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma", "-mf16c"]
ISA_FLAGS = {
    "_avx2": ["-mavx2", "-mfma", "-mf16c"],
    "_avx512": _AVX512,
    "_avx512vnni": [*_AVX512, "-mavx512vnni"],
    "_amx": [*_AVX512, "-mavx512vnni", "-mavx512bf16", "-mamx-tile", "-mamx-bf16", "-mamx-int8"],
}


NO_AMX = "-DLH_NO_AMX"


@functools.cache
def definitions() -> list[str]:
    """What CMake defines where the compiler is too old."""
    body = "#include <immintrin.h>\nint main(void) { if (0) { _tile_dpbf16ps(0, 1, 2); _tile_dpbssd(0, 1, 2); } return 0; }\n"
    old = platform.machine() in ("x86_64", "AMD64") and not supports(("-mamx-tile", "-mamx-bf16", "-mamx-int8"), body)
    return [NO_AMX] if old else []


@functools.cache
def compiler() -> str:
    """The C compiler: $CC, or the first of cc, gcc and clang. Skips the test where there is none."""
    for name in filter(None, [os.environ.get("CC"), "cc", "gcc", "clang"]):
        if found := shutil.which(name):
            return found
    pytest.skip("no C compiler (tried $CC, cc, gcc, clang)")


@functools.cache
def cxx_compiler() -> str:
    """The C++ compiler, likewise: $CXX, or the first of c++, g++ and clang++."""
    for name in filter(None, [os.environ.get("CXX"), "c++", "g++", "clang++"]):
        if found := shutil.which(name):
            return found
    pytest.skip("no C++ compiler (tried $CXX, c++, g++, clang++)")


@functools.cache
def _cache() -> Path:
    folder = Path(tempfile.gettempdir()) / f"longheads-tests-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    info = folder.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():  # someone else's: programs in it are not ours
        return Path(tempfile.mkdtemp(prefix="longheads-tests-"))
    return folder


@functools.cache
def _environment() -> str:
    """What every object depends on beside its own source: the compiler and all headers."""
    version = subprocess.run([compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256((compiler() + version + platform.machine()).encode())
    patterns = ["runtime/**/*.h", "runtime/**/*.cuh", "runtime/**/*.inc", "tests/c/*.h", "tests/emulator/*.h"]
    for header in sorted(path for pattern in patterns for path in ROOT.glob(pattern)):
        digest.update(str(header.relative_to(ROOT)).encode() + b"\0" + header.read_bytes() + b"\0")
    return digest.hexdigest()


def _run(command: list[str], output: Path) -> None:
    """Run a compiler that writes to `output`, which appears whole or not at all: tests may run side by side."""
    handle, partial = tempfile.mkstemp(dir=output.parent, prefix=output.name)
    os.close(handle)
    try:
        done = subprocess.run([*command, "-o", partial], capture_output=True, text=True, cwd=ROOT)
        if done.returncode != 0:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        os.replace(partial, output)
    finally:
        Path(partial).unlink(missing_ok=True)


def _object(source: str, flags: Sequence[str]) -> Path:
    path = ROOT / source
    flags = [*flags, *next((f for isa, f in ISA_FLAGS.items() if path.stem.endswith(isa)), [])]
    digest = hashlib.sha256("\0".join([_environment(), source, *flags]).encode() + path.read_bytes()).hexdigest()[:24]
    output = _cache() / f"{path.stem}-{digest}.o"
    if not output.exists():
        # -iquote: cpu/features.h must not hide the system's header of that name.
        include = ["-Iruntime", "-iquote", "runtime/cpu"]
        language = [compiler(), "-std=c11"]
        if path.suffix in CXX:  # CUDA runs on the emulator
            include += ["-Itests/emulator", "-iquote", "runtime/cuda"]
            language = [cxx_compiler(), "-std=c++17", "-x", "c++"]
        _run([*language, "-ffp-contract=off", *definitions(), *flags, *include, "-c", source], output)
    return output


def _objects(sources: Sequence[str], flags: Callable[[str], Sequence[str]]) -> list[Path]:
    """The objects of `sources`, compiled side by side."""
    _environment()  # once, and not by all at the same time
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(lambda source: _object(source, flags(source)), sources))


def build(name: str, sources: Sequence[str], flags: Sequence[str] = (*OPTIMISED, *WARNINGS)) -> Path:
    """Compile `sources` (paths relative to the repository) into the program `name` and return its path.

    `flags` go to the compiler and to the linker. Files named for an instruction set (_avx2, ...) get its flags too.
    Raises RuntimeError with the compiler's words where it refuses; skips where there is no compiler.
    """
    objects = _objects(sources, lambda source: flags)
    digest = hashlib.sha256("\0".join([*map(str, objects), *flags]).encode()).hexdigest()[:24]
    program = _cache() / f"{name}-{digest}"
    if not program.exists():
        linker = cxx_compiler() if any(Path(source).suffix in CXX for source in sources) else compiler()
        _run([linker, *flags, *map(str, objects), "-lm", "-lpthread", "-ldl"], program)
        program.chmod(0o700)
    return program


def build_mixed(name: str, sources: Sequence[str], flags: Sequence[str], cxx_flags: Sequence[str],
                link: Sequence[str] = ()) -> Path:
    """As build, where `sources` in C get `flags`, and those in C++ or CUDA, for the emulator, `cxx_flags`."""
    objects = _objects(sources, lambda source: cxx_flags if Path(source).suffix in CXX else flags)
    digest = hashlib.sha256("\0".join([*map(str, objects), *link]).encode()).hexdigest()[:24]
    program = _cache() / f"{name}-{digest}"
    if not program.exists():
        _run([cxx_compiler(), *link, *map(str, objects), "-lm", "-lpthread", "-ldl"], program)
        program.chmod(0o700)
    return program


@functools.cache
def supports(flags: tuple[str, ...], body: str = "int main(void) { return 0; }\n") -> bool:
    """Can a program be built with `flags` here, and does it run? Sanitizers need libraries that may be missing."""
    with tempfile.TemporaryDirectory() as folder:
        source, program = Path(folder, "empty.c"), Path(folder, "empty")
        source.write_text(body)
        command = [compiler(), *flags, str(source), "-o", str(program)]
        if subprocess.run(command, capture_output=True).returncode != 0:
            return False
        return subprocess.run([program], capture_output=True).returncode == 0


def build_sanitized(name: str, sources: Sequence[str]) -> Path:
    """As build, under AddressSanitizer and UBSan; skips where the compiler has no sanitizers."""
    if not supports(tuple(SANITIZED)):
        pytest.skip(f"{compiler()} cannot build or run a program with {' '.join(SANITIZED)}")
    return build(name, sources, [*SANITIZED, *WARNINGS])


#: What the levels of LH_CPU ask of a processor, as /proc/cpuinfo calls it.
FLAGS_OF: dict[str, set[str]] = {
    "generic": set(),
    "avx2": {"avx2", "fma", "f16c"},
    "avx512": {"avx512f", "avx512bw", "avx512dq", "avx512vl"},
    "avx512vnni": {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"},
    "amx": {"avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8"},
    "neon": {"asimd"},
}


def cpu_flags() -> set[str]:
    """What this processor can do, by those who do not detect it for the runtime."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2] for line in lines if line.startswith(("flags", "Features")))
    flags = set(next(named, "").split())
    return flags - {"amx_tile"} if NO_AMX in definitions() else flags


def data(path: str) -> Path:
    """A file under the shared data folder; skips where it is absent."""
    found = DATA / path
    if not found.exists():
        pytest.skip(f"no {found} (the data folder is $LONGHEADS_DATA, else ../shared/data)")
    return found

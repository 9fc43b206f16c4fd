"""Build time only: writes the C source of longheads._native from the public header.

    python longheads/_native_build.py runtime/include/longheads.h OUT.c

The declarations are those of longheads.h itself, less what is meant for the preprocessor, so that there is one copy of
them; the C compiler checks the generated file against the real header.
"""

import re
import sys
from pathlib import Path

from cffi import FFI


def declarations(header: str) -> str:
    """What cffi's parser can read of the public header."""
    header = re.sub(r"#ifdef __cplusplus\n.*?#endif\n", "", header, flags=re.DOTALL)
    header = re.sub(r"^#.*\n", "", header, flags=re.MULTILINE)
    return re.sub(r"\bLH_API\b", "", header)


def main() -> None:
    header, out = sys.argv[1:]
    ffi = FFI()
    ffi.cdef(declarations(Path(header).read_text(encoding="utf-8")))
    ffi.cdef('extern "Python" bool lh_report_to_python(void *arg, uint64_t done, uint64_t total);')
    ffi.set_source("longheads._native", '#include "include/longheads.h"')
    ffi.emit_c_code(out)


if __name__ == "__main__":
    main()

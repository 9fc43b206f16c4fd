"""LLaMA models in GGUF files that read far past the context they were trained on.

from longheads import Model
model = Model("model.gguf", ctx=131072)
print(model.generate(open("book.txt").read() + "\\n\\nWho is Ahab?"))
"""

import sys
from importlib.machinery import PathFinder
from pathlib import Path

if not list(Path(__file__).parent.glob("_native*.so")):
    # This is the source tree, standing in front of the installed package because Python was started beside it.
    # Everything else comes from the package that was installed, which has the native module.
    _elsewhere = [entry for entry in sys.path if Path(entry or ".").resolve() != Path(__file__).parent.parent.resolve()]
    _installed = PathFinder.find_spec("longheads", _elsewhere)
    if _installed and _installed.origin:
        __path__[:] = _installed.submodule_search_locations or []

try:
    from longheads._native import ffi as _ffi
    from longheads._native import lib as _lib
except ModuleNotFoundError:
    raise ModuleNotFoundError(
        "longheads is not built here: run `pip install .` in its source tree", name=__name__
    ) from None
from longheads.errors import (
    ArgumentError,
    BackendError,
    BusyError,
    ContextError,
    FileError,
    FormatError,
    LongHeadsError,
    LongHeadsWarning,
    OutOfMemoryError,
    StateError,
    TemplateError,
    UnsupportedError,
)
from longheads.generate import Piece, Sampling
from longheads.model import Model
from longheads.session import Session
from longheads.tokenizer import Tokenizer

__version__: str = _ffi.string(_lib.lh_version()).decode()

__all__ = [
    "ArgumentError",
    "BackendError",
    "BusyError",
    "ContextError",
    "FileError",
    "FormatError",
    "LongHeadsError",
    "LongHeadsWarning",
    "Model",
    "OutOfMemoryError",
    "Piece",
    "Sampling",
    "Session",
    "StateError",
    "TemplateError",
    "Tokenizer",
    "UnsupportedError",
    "__version__",
]

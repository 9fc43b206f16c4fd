"""longheads.eval perplexity: windows, buckets, and numbers that the oracle agrees with."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from helpers import make_model  # noqa: E402
from reference import Plan, Reference  # noqa: E402
from test_eval_retrieval import evaluate, without  # noqa: E402, F401

from longheads.eval import perplexity  # noqa: E402

CTX = 96
RULE = "scheme=bounds,select_per=head,chunk=8,budget=32,window=64,local=2,kv_type=f32"


def numbers(out: str) -> dict[str, list[float]]:
    rows = [line.strip("|").split("|") for line in out.splitlines() if line.startswith("|")]
    return {row[0].strip(): [float(x) for x in row[1:]] for row in rows[2:]}


@pytest.mark.parametrize("bos", [True, False])
def test_as_the_oracle_computes_it(evaluate, tmp_path, bos):  # noqa: F811
    path = make_model(tmp_path / "model.gguf", n_head_kv=2, add_bos=bos)
    text = "".join(np.random.default_rng(3).choice(list("abcdefghij \n"), 800))
    (tmp_path / "text.txt").write_text(text)
    settings = ["--setting", f"sparse: {RULE}", "--setting", f"dense: {RULE},attention=dense"]
    options = ["--ctx", CTX, "--windows", 2, "--buckets", "16,64", "-t", 1, "--json", tmp_path / "out.jsonl"]
    out = evaluate("perplexity", path, tmp_path / "text.txt", *options, *settings)
    assert "| setting | 0..16 | 16..64 | 64..96 |" in " ".join(out.split())

    with longheads.Model(path) as model:
        ids = model.tokenize(text, bos=False)
        start = [model.tokenizer.bos] if bos else []
    each = CTX - len(start)
    reference = Reference(path)
    for name, plan in {"sparse": Plan(8, 32, 64, 2), "dense": Plan(8, 32, 64, 2, attention="dense")}.items():
        scores: list[list[float]] = [[], [], []]
        for at in 0, each:
            window = [*start, *ids[at : at + each]]
            log_probs = reference.run(window, plan).log_probs()
            for p in range(1, CTX):
                scores[0 if p < 16 else 1 if p < 64 else 2].append(log_probs[p - 1, window[p]])
        expected = [math.exp(-np.mean(part)) for part in (*scores, sum(scores, []))]
        assert numbers(out)[name] == pytest.approx(expected, rel=1e-3)
    assert numbers(out)["sparse"] != numbers(out)["dense"]

    records = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert len(records) == 4 and all(record["result"]["n"] == [15, 48, 32] for record in records)
    # One more window: the others are not read again.
    options[3] = 3
    more = evaluate("perplexity", path, tmp_path / "text.txt", *options, *settings)
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 6 and more != out
    options[3] = 2
    assert evaluate("perplexity", path, tmp_path / "text.txt", *options, *settings) == out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 6
    without(tmp_path / "out.jsonl", "n")  # then the two windows are
    assert evaluate("perplexity", path, tmp_path / "text.txt", *options, *settings) == out
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 10


def test_pieces(evaluate, plain_path, tmp_path):  # noqa: F811
    """The row of pieces is what the pieces say when each is read by itself."""
    text = "".join(np.random.default_rng(3).choice(list("abcdefghij \n"), 600))
    (tmp_path / "text.txt").write_text(text)
    out = evaluate("perplexity", plain_path, tmp_path / "text.txt", "--ctx", 96, "--buckets", "32", "--pieces", 40,
                   "-t", 1, "--json", tmp_path / "out.jsonl")  # fmt: skip
    assert list(numbers(out)) == ["pieces of 40", "defaults"]
    with longheads.Model(plain_path, attention="dense", threads=1) as model, model.session() as session:
        window = [model.tokenizer.bos, *model.tokenize(text, bos=False)[:95]]
        scores: list[float] = []
        for at in 0, 40, 80:
            session.rewind(session.position)
            scores += session.score(window[at : at + 40]).tolist()
    expected = [math.exp(-np.nanmean(part)) for part in (scores[:32], scores[32:], scores)]
    assert numbers(out)["pieces of 40"] == pytest.approx(expected, rel=1e-3)
    first = json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])
    assert first["result"]["n"] == [31, 62]


def test_yarn_beside_the_others(evaluate, plain_path, tmp_path):  # noqa: F811
    """Dense attention past the trained context, with and without scaling, warns only where it must."""
    (tmp_path / "text.txt").write_text("abc " * 400)
    yarn = "yarn: attention=dense,rope_scaling=yarn,rope_scale=2"
    found = numbers(evaluate("perplexity", plain_path, tmp_path / "text.txt", "--ctx", 400, "--setting", yarn,
                             "--setting", "bare: attention=dense", "-t", 1))  # fmt: skip
    assert found["yarn"] != found["bare"] and all(math.isfinite(x) for row in found.values() for x in row)


@pytest.mark.parametrize(
    ("ctx", "inner", "bounds"),
    [
        (131072, None, [0, *(1024 << i for i in range(8))]),
        (4096, None, [0, 256, 512, 1024, 2048, 4096]),
        (100, None, [0, 4, 8, 16, 32, 64, 100]),
        (1, None, [0, 1]),
        (3, None, [0, 1, 2, 3]),
        (100, [10, 100, 1000], [0, 10, 100]),
    ],
)
def test_bounds(ctx, inner, bounds):
    assert perplexity.bounds_of(ctx, inner) == bounds


def test_a_text_that_is_too_short(evaluate, plain_path, tmp_path):  # noqa: F811
    (tmp_path / "text.txt").write_text("abc")
    told = evaluate("perplexity", plain_path, tmp_path / "text.txt", "--ctx", 64, "--windows", 2, status=1)
    assert "tokens, but 2 x 63 are wanted: take a longer text" in told
    assert "cannot be read" in evaluate("perplexity", plain_path, tmp_path / "none.txt", status=1)


def test_plot(evaluate, plain_path, tmp_path):  # noqa: F811
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    text, plot = tmp_path / "$\\x$.txt", ["--plot", tmp_path / "curve.svg"]  # which is no formula
    text.write_text("abc " * 400)
    evaluate("perplexity", plain_path, text, "--ctx", "64,400", "--setting", "$\\y$", *plot)
    picture = (tmp_path / "curve.svg").read_text()
    assert picture.startswith("<?xml") and len(picture) > 10_000

"""longheads.eval: cases that share what they have in common, runs that resume, tables and pictures of hits."""

from __future__ import annotations

import argparse
import itertools
import json
import re

import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from eval_fakes import Reader, Words  # noqa: E402
from helpers import runner  # noqa: E402

from longheads.eval import passkey, picture, retrieval  # noqa: E402
from longheads.eval.command import main  # noqa: E402
from longheads.eval.prompts import CLASSIC_FILLER, Encoder, Prompt  # noqa: E402
from longheads.eval.results import Case, Results  # noqa: E402
from longheads.eval.settings import Setting, follow, parse_setting, rule_of  # noqa: E402


def find_key(text: str) -> str:
    [pair] = re.findall(r"The pass key is (\d{5})\. Remember it\. (\d{5}) is the pass key\.", text)
    assert pair[0] == pair[1]
    return f" {pair[0]}"


def passkey_questions(words: Words, seeds: int, tokens: int):
    p = argparse.ArgumentParser()
    passkey.add_options(p)
    arguments = p.parse_args(["--lengths", str(tokens), "--seeds", str(seeds)])
    questions = list(passkey.questions(arguments, Encoder(words, None)))
    return [questions[i] for i in retrieval.reading_order(questions)]


def test_cases_share_their_beginnings_and_resume(tmp_path):
    words, file = Words(), tmp_path / "results.jsonl"
    questions = passkey_questions(words, 8, 1500)
    work = [(retrieval.case_of("passkey", "m", {"chunk": 64}, q), q.prompt) for q in questions]

    retrieval.measure_all(Reader(words, find_key), work[:3], Results(file), "")
    reader = Reader(words, find_key)
    retrieval.measure_all(reader, work, Results(file), "")
    assert len(file.read_text().splitlines()) == len(work)

    found = [Results(file).get(case) for case, _ in work]
    for result, (_, prompt) in zip(found, work, strict=True):
        assert result["hit"] and result["logprob"] == -1 and result["key"] == prompt.key
    shared = [retrieval.common_prefix(a.prompt.ids, b.prompt.ids) for a, b in itertools.pairwise(questions)]
    for result, keep, question in zip(found[4:], shared[3:], questions[4:], strict=True):
        assert result["n_fed"] == len(question.prompt.ids) - keep
    # No other order of the same prompts reads less.
    least = retrieval.n_to_read([q.prompt for q in questions])
    for order in ([*questions[1:], questions[0]], questions[::2] + questions[1::2], questions[::-1]):
        assert retrieval.n_to_read([q.prompt for q in order]) >= least
    retrieval.measure_all(None, work, Results(file), "")  # nothing is left to ask a session

    lines = file.read_text().splitlines()
    earlier = json.loads(lines[2])
    del earlier["result"]["begins"]  # as an earlier version wrote it
    file.write_text("\n".join([*lines[:2], json.dumps(earlier), *lines[3:], ""]))
    retrieval.measure_all(reader, work, Results(file), "")
    assert Results(file).get(work[2][0])["begins"] == found[2]["begins"] == 0
    assert len(file.read_text().splitlines()) == len(work) + 1


def test_a_miss_is_a_miss():
    words = Words()
    encoder = Encoder(words, None)
    right, wrong = (encoder.prompt(passkey.text_of(CLASSIC_FILLER, key, 40, 0.5)) for key in ("12345", "54321"))
    result = retrieval.measure(Reader(words, find_key), Prompt(wrong.ids, right.answer, "12345", 0))
    assert not result["hit"] and "54321" in result["answer"]


def test_a_part_of_a_number_is_no_hit():
    assert retrieval.names("is <241>", "241") and retrieval.names("241", "241") and retrieval.names(" 241.", "241")
    assert not retrieval.names("2413", "241") and not retrieval.names("1241", "241") and not retrieval.names("", "241")


def test_another_text_is_another_case():
    words = Words()
    encoder = Encoder(words, None)
    a, b = (encoder.prompt(passkey.text_of(filler, "12345", 9, 0.5)) for filler in (CLASSIC_FILLER, ["Another one."]))
    cases = [retrieval.case_of("passkey", "m", {}, retrieval.Question("1k", 0.5, p, {"seed": 1})) for p in (a, b)]
    assert cases[0].identity != cases[1].identity


@pytest.mark.parametrize("line", ['{"case": 1}', "x", "[]", '{"case": {"task": "t"}, "result": {}}', '{"case": {"task": 1}, "result": {}}', "\x00"])
def test_a_damaged_file_is_refused(tmp_path, line):
    file = tmp_path / "results.jsonl"
    Results(file).add(Case("t", "m", {}, {}), {"hit": True})
    file.write_text(file.read_text() + line + "\n")
    for end in "\n", "":
        before = file.read_text().rstrip("\n") + end
        file.write_text(before)
        with pytest.raises(longheads.FormatError, match="line 2 of .* is not a result of longheads.eval: delete that"):
            Results(file)
        assert file.read_text() == before


def test_a_last_line_that_was_cut_short(tmp_path):
    """A run that was interrupted goes on, wherever that was."""
    file, cases = tmp_path / "results.jsonl", [Case("t", "m", {}, {"n": n}) for n in range(3)]
    for case in cases[:2]:
        Results(file).add(case, {"hit": True})
    whole = file.read_text()
    first = whole.index("\n") + 1
    for n in 1, 10, 40, len(whole) - first - 2:
        file.write_text(whole[: first + n])
        with pytest.warns(longheads.LongHeadsWarning, match="the last line of .* was cut short"):
            results = Results(file)
        assert [results.get(case) for case in cases] == [{"hit": True}, None, None]
        results.add(cases[1], {"hit": True})
        assert file.read_text() == whole
    file.write_text(whole[:-1])  # but for its end the line is whole
    results = Results(file)
    results.add(cases[2], {"hit": True})
    results.add(cases[0], {"hit": False})
    assert [Results(file).get(case) for case in cases] == [{"hit": False}, {"hit": True}, {"hit": True}]
    assert len(file.read_text().splitlines()) == 4


def without(file, *names: str) -> None:
    """Take these out of every result."""
    records = [json.loads(line) for line in file.read_text().splitlines()]
    kept = [r | {"result": {k: v for k, v in r["result"].items() if k not in names}} for r in records]
    file.write_text("".join(json.dumps(record) + "\n" for record in kept))


def test_settings():
    setting = parse_setting("paper: chunk=256, scheme=paper,local=2,rope_scale=2.5,rope_scaling=yarn")
    options = {"chunk": 256, "scheme": "paper", "local": 2, "rope_scale": 2.5, "rope_scaling": "yarn"}
    assert setting == Setting("paper", options)
    assert parse_setting("defaults") == Setting("defaults", {})
    for wrong in "x: chunk=big", "x: size=3", ": chunk=64", "x: chunk", "x: ctx=3", "x: rope_scale=-1", "chunk=64,local=2":
        with pytest.raises(argparse.ArgumentTypeError):
            parse_setting(wrong)


def test_every_option_of_a_session_can_be_said(tiny_path):
    """But for those that change no result."""
    with longheads.Model(tiny_path, rope_scaling="yarn", rope_scale=2, budget=256) as model:
        said = {name: value for name, value in rule_of(model.session()).items() if name != "kv_offload"}
        setting = parse_setting("all: " + ",".join(f"{name}={value}" for name, value in said.items()))
        assert setting.options == said
        with model.session(budget=128) as session:
            follow(session, setting)
            assert rule_of(session) == said | {"kv_offload": False}


def test_rows_of_a_map():
    assert picture.depth_rows([0, 0.5, 1, 0, 0.5, 1]) == (["0%", "50%", "100%"], [0, 1, 2, 0, 1, 2])
    names, rows = picture.depth_rows([0.05, 0.21, 0.999, 1.0])
    assert names == ["0-20%", "20-40%", "40-60%", "60-80%", "80-100%"] and rows == [0, 1, 4, 4]


# --- the command -------------------------------------------------------------------------------------------------


@pytest.fixture
def evaluate(capsys):
    return runner(main, capsys)


SMALL = [
    "--setting",
    "small: chunk=8,budget=64,window=128,local=2",
    "--setting",
    "all: attention=dense,chunk=8",
    "-t",
    1,
]


@pytest.mark.parametrize(
    "task",
    [
        ["passkey", "--lengths", "220,250", "--seeds", 2],
        ["passkey", "--lengths", "250,220", "--seeds", 2],
        ["needles", "--lengths", "250", "--seeds", 1, "--needles", 2, "--depths", "0,100", "--no-chat"],
        ["kv", "--lengths", "220", "--seeds", 2, "--chat"],
    ],
    ids=lambda task: f"{task[0]}_{task[2]}",
)
def test_the_command(evaluate, tiny_path, tmp_path, task):
    name, *options = task
    file = tmp_path / "results.jsonl"
    out = evaluate(name, tiny_path, *options, *SMALL, "--json", file)
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in out.splitlines() if line.startswith("|")]
    assert rows[0][0] == "setting" and [row[0] for row in rows[2:]] == ["small", "all"]
    assert rows[0][1:] == task[2].split(",")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(records) == 2 * 2 * (2 if name == "passkey" else 1)
    for column, cells in zip(rows[0][1:], list(zip(*rows[2:]))[1:]):
        for setting, shown in zip(("bounds", "dense"), cells):
            mine = [
                r["result"] for r in records
                if str(r["case"]["parameters"]["tokens"]) == column
                and (r["case"]["options"]["attention"] == "dense") == (setting == "dense")
            ]  # fmt: skip
            assert len(mine) == 2 and shown.startswith(f"{sum(r['hit'] for r in mine)}/2 (")
            begins, logprob = (sum(r[name] for r in mine) / 2 for name in ("begins", "logprob"))
            assert f"({begins:.2f}, {logprob:.2f}, " in shown
    assert re.search("seeds? 0", out) and tiny_path.name in out
    assert all(r["case"]["options"]["window"] == 128 for r in records if r["case"]["options"]["attention"] != "dense")

    written = file.read_text()
    again = evaluate(name, tiny_path, *options, *SMALL, "--json", file)
    assert again == out and file.read_text() == written
    without(file, "hit")  # then it is measured again
    evaluate(name, tiny_path, *options, *SMALL, "--json", file)
    assert len(file.read_text().splitlines()) == 2 * len(records)


@pytest.mark.parametrize("scheme", ["peak", "paper"])
def test_read_with(evaluate, tiny_path, tmp_path, monkeypatch, scheme):
    """Read under a setting and asked under the same, a case comes out as always; every document is read once."""
    rule = f"chunk=8,budget=64,window=128,local=2,kv_type=f32,scheme={scheme}"
    settings = [
        "--setting",
        f"a: {rule}",
        "--setting",
        f"b: {rule},budget=32",
        "--setting",
        f"d: {rule},attention=dense",
    ]
    task = ["needles", tiny_path, "--lengths", 250, "--seeds", 2, "--needles", 3, "--depths", "0,100", "-t", 1]
    read = []
    whole = longheads.Session.read
    monkeypatch.setattr(longheads.Session, "read", lambda s, ids, **k: read.append(whole(s, ids, **k)) or read[-1])

    def results(name: str, *more) -> dict[tuple, dict]:
        file = tmp_path / name
        out = evaluate(*task, *settings, *more, "--json", file)
        assert ("documents read with" in out) == ("--read-with" in more)
        records = [json.loads(line) for line in file.read_text().splitlines()]
        assert len(records) == 12
        n_before = file.stat().st_size
        assert evaluate(*task, *settings, *more, "--json", file) == out and file.stat().st_size == n_before
        key = lambda o, p: ("d" if o["attention"] == "dense" else o["budget"], p["seed"], p["needle"])  # noqa: E731
        return {key(r["case"]["options"], r["case"]["parameters"]): r["result"] for r in records}

    alone = results("alone")
    read.clear()
    for name, same in ("a", 64), ("b", 32), ("d", "d"):
        reading = next(text for text in settings if text.startswith(f"{name}:")).replace(f"{name}:", "reading:")
        found = results(name, "--read-with", reading)
        assert all(result["n_fed"] < 70 for result in found.values())
        differences = [abs(found[key]["logprob"] - alone[key]["logprob"]) for key in found if key[0] == same]
        # Rounding differs between a chunk's beginning that is read again and one that is not. Scheme paper chooses by
        # floats, and of four questions one may have two chunks that are nearly as good.
        assert sorted(differences)[2 if scheme == "paper" else 3] < 2e-3 and max(differences) < 0.05
        assert max(abs(found[k]["logprob"] - alone[k]["logprob"]) for k in found if k[0] != same) > 0.01
    assert len([n for n in read if n > 100]) == 3 * 2  # a text for each seed

    told = evaluate(*task, *settings, "--read-with", "x: chunk=16", status=1)
    assert "'a' cannot take turns with the other settings: chunk shapes what a session stores" in told


def test_ctrl_c(tiny_path, tmp_path, monkeypatch, capsys):
    """What was measured is kept, and the next run measures the rest only."""
    command = ["passkey", str(tiny_path), "--lengths", "200", "--seeds", "3", "--json", str(tmp_path / "r.jsonl")]
    measure, asked = retrieval.measure, []

    def interrupted(*arguments):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr(retrieval, "measure", interrupted)
    assert main(command) == 130
    shown = capsys.readouterr()
    assert shown.out == "" and f"interrupted: what was measured is in {tmp_path / 'r.jsonl'}" in shown.err
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 2
    assert main(command) == 0 and len(asked) == 4
    assert len((tmp_path / "r.jsonl").read_text().splitlines()) == 3


def test_lines_and_plot(evaluate, tiny_path, tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    from test_eval_prompts import CASE

    cases = tmp_path / "cases $\\x$.jsonl"  # which is no formula
    cases.write_text(json.dumps(CASE) + "\n")
    model = tmp_path / "$\\y$.gguf"
    model.symlink_to(tiny_path)
    more = ["--setting", "$\\z$: attention=dense,chunk=8", "--plot", tmp_path / "map.png"]
    out = evaluate("lines", model, cases, *SMALL, *more)
    assert "| setting |" in out and " cases $\\x$ |" in out
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_another_model_of_the_same_name(evaluate, tiny_path, plain_path, tmp_path):
    """Results belong to a file, not to what it is called."""
    file = tmp_path / "results.jsonl"
    tables = []
    for folder, path in ("a", tiny_path), ("b", plain_path), ("c", tiny_path):
        model = tmp_path / folder / "m.gguf"
        model.parent.mkdir()
        model.write_bytes(path.read_bytes())
        tables.append(
            evaluate("passkey", model, "--lengths", 200, "--seeds", 1, "--no-chat", *SMALL, "--json", file).splitlines()
        )
    assert len(file.read_text().splitlines()) == 4
    assert tables[0][-2:] == tables[2][-2:] != tables[1][-2:]


def test_mistakes(evaluate, tiny_path, plain_path, tmp_path, capsys):
    def fails(*arguments) -> str:
        return evaluate(*arguments, status=1)

    assert "too few" in fails("passkey", tiny_path, "--lengths", 8)
    assert "no folder" in fails("passkey", tiny_path, "--json", tmp_path / "no" / "x.jsonl")
    assert "it is a folder" in fails("passkey", tiny_path, "--json", tmp_path)
    assert "cannot be read" in fails("passkey", tiny_path, "--filler", tmp_path / "none")
    assert "has no chat template" in fails("kv", plain_path, "--chat")
    assert "scheme is 'best'" in fails(
        "passkey", tiny_path, "--lengths", 200, "--seeds", 1, "--setting", "x: scheme=best"
    )
    assert "cannot be opened" in fails("passkey", tmp_path / "none.gguf")
    for wrong in (["--setting", "a", "--setting", "a"], ["--lengths", "x"], ["--depths", "200"], ["--seeds", "0"]):
        with pytest.raises(SystemExit) as caught:
            main(["passkey", str(tiny_path), *wrong])
        assert caught.value.code == 2
    capsys.readouterr()

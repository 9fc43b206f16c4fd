"""Questions about what was read, asked under every rule.

A case is a hit where the greedy continuation of the prompt names the answer. Beside it stand two log-probabilities,
which tell near misses from far ones: of the first token, so that the answer begins at all, and of what it then says.

Prompts are asked in the order of their tokens, and each keeps what it has in common with the one before it:
Session.read rewinds to there and feeds the rest. That order makes what is read in all the least. Up to rounding no
result changes: after a rewind a session goes on as if what it forgot had never been there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from longheads.errors import ArgumentError
from longheads.eval.prompts import Prompt
from longheads.eval.results import Case, Result, Results, digest
from longheads.eval.settings import Setting, follow, rule_of
from longheads.model import Model
from longheads.progress import token_bar, within
from longheads.prompt import common_prefix
from longheads.session import Progress, Session

EXTRA_TOKENS = 4  # of the continuation: an answer may begin with a word or two before what is asked for


@dataclass(frozen=True)
class Question:
    """A prompt, and where it belongs. column: of the table; depth: share of the document before the answer."""

    column: str
    depth: float
    prompt: Prompt
    parameters: dict[str, Any]  # of the task: whatever names the case, such as its seed


@dataclass(frozen=True)
class Row:
    """A setting's results, one for each question."""

    name: str
    results: list[Result]


def continue_greedily(session: Session, n: int) -> str:
    """The text of the n likeliest next tokens, one after the other; fewer where the model ends it."""
    ids: list[int] = []
    while len(ids) < n:
        token = int(np.argmax(session.logits))
        if session.tokenizer.is_end(token):
            break
        ids.append(token)
        session.feed([token])
    return session.tokenizer.decode(ids)


def names(text: str, key: str) -> bool:
    """Is the key in the text, and not only as a part of a longer number or word?"""
    return re.search(rf"(?<![0-9A-Za-z]){re.escape(key)}(?![0-9A-Za-z])", text) is not None


def measure(session: Session, prompt: Prompt, progress: Progress | None = None) -> Result:
    """Ask one question. The session may hold another prompt: what both begin with is kept.

    Gives: n_tokens of the prompt; n_fed of these, which the prompt before did not share; answer; hit; begins, the
    log-probability of the answer's first token, often a space; logprob, the mean over its tokens but for white space;
    seconds for reading n_fed tokens and answering.
    """
    began = time.monotonic()
    n_fed = session.read(prompt.ids, progress=progress)
    answer = continue_greedily(session, len(prompt.answer) + EXTRA_TOKENS)
    session.read(prompt.ids)  # back to the end of the question
    logprobs = session.score(prompt.answer)
    said = [bool(session.tokenizer.token_bytes(id_).strip()) for id_ in prompt.answer]
    return {
        "key": prompt.key,
        "n_tokens": len(prompt.ids),
        "n_fed": n_fed,
        "answer": answer,
        "hit": names(answer, prompt.key),
        "begins": round(float(logprobs[0]), 4),
        "logprob": round(float(logprobs[said].mean()), 4),
        "seconds": round(time.monotonic() - began, 2),
    }


def case_of(task: str, model: str, rule: dict[str, Any], question: Question) -> Case:
    prompt = question.prompt
    return Case(task, model, rule, question.parameters | {"digest": digest(prompt.ids, prompt.answer)})


def known(results: Results, case: Case) -> Result | None:
    return results.get(case, "hit", "begins", "logprob", "seconds")  # what tables and pictures need


def n_to_read(prompts: Sequence[Prompt]) -> int:
    """Tokens that are read when every prompt keeps what it shares with the one before it."""
    before = [[], *(prompt.ids for prompt in prompts)]
    return sum(len(prompt.ids) - common_prefix(prompt.ids, last) for prompt, last in zip(prompts, before))


def measure_all(session: Session, work: Sequence[tuple[Case, Prompt]], results: Results, label: str) -> None:
    """Measure what results do not hold yet, behind one progress bar that counts tokens."""
    work = [(case, prompt) for case, prompt in work if known(results, case) is None]
    total = n_to_read([prompt for _, prompt in work])
    with token_bar(total, label) as bar:
        hits = 0
        for done, (case, prompt) in enumerate(work, start=1):
            result = measure(session, prompt, within(bar))
            results.add(case, result)
            hits += result["hit"]
            bar.set_postfix_str(f"{hits} of {done} hit, last {result['logprob']:.2f}")


def reading_order(questions: Sequence[Question]) -> list[int]:
    """Indices of the questions, so that neighbours share the most."""
    return sorted(range(len(questions)), key=lambda i: questions[i].prompt.ids)


def ask_all(
    task: str, model: Model, name: str, questions: Sequence[Question], settings: Sequence[Setting], results: Results
) -> list[Row]:
    """Read and ask every question under every rule; name: of the model."""
    order = reading_order(questions)
    rows = []
    for setting in settings:
        with model.session(ctx=_room(questions), keep_all=True, **setting.options) as session:
            rule = rule_of(session)
            cases = [case_of(task, name, rule, question) for question in questions]
            work = [(cases[i], questions[i].prompt) for i in order]
            measure_all(session, work, results, f"{task}, {setting.name}")
        rows.append(Row(setting.name, [_measured(results, case) for case in cases]))
    return rows


def _room(questions: Sequence[Question]) -> int:
    return max(len(q.prompt.ids) + len(q.prompt.answer) for q in questions) + EXTRA_TOKENS


def _shape(reading: Setting, settings: Sequence[Setting]) -> Setting:
    """A setting whose session can follow all of them: a dense one has no summaries, so it is made like the first that
    needs some."""
    if reading.options.get("attention") != "dense":
        return reading
    return next((setting for setting in settings if setting.options.get("attention") != "dense"), reading)


def ask_over(
    task: str,
    model: Model,
    name: str,
    questions: Sequence[Question],
    settings: Sequence[Setting],
    results: Results,
    reading: Setting,
) -> list[Row]:
    """Read every document under one rule, then ask its question under every rule over what that left in the cache.

    Only what shapes the cache must be the same in all settings (see Session.set_options).
    """
    with model.session(ctx=_room(questions), keep_all=True, **_shape(reading, settings).options) as session:
        rules = []
        for setting in (reading, *settings):
            try:
                follow(session, setting)
            except ArgumentError as error:
                raise ArgumentError(f"{setting.name!r} cannot take turns with the other settings: {error}") from None
            rules.append(rule_of(session))
        read_rule, *rules = rules
        cases = {
            setting.name: [case_of(task, name, rule | {"read_with": read_rule}, question) for question in questions]
            for setting, rule in zip(settings, rules)
        }
        work = [
            (questions[i].prompt, [(s, cases[s.name][i]) for s in settings if known(results, cases[s.name][i]) is None])
            for i in reading_order(questions)
        ]
        work = [(prompt, missing) for prompt, missing in work if missing]
        total = n_to_read([prompt for prompt, _ in work])
        with token_bar(total, f"{task}, read with {reading.name}") as bar:
            follow(session, reading)
            for prompt, missing in work:
                session.read(prompt.ids[: prompt.n_document], progress=within(bar))
                for setting, case in missing:
                    follow(session, setting)
                    results.add(case, measure(session, prompt))
                    follow(session, reading)  # a rewind may have to read the end of the document again
                    session.rewind(session.position - prompt.n_document)
                bar.update(len(prompt.ids) - prompt.n_document)
    return [Row(setting.name, [_measured(results, case) for case in cases[setting.name]]) for setting in settings]


def _measured(results: Results, case: Case) -> Result:
    result = known(results, case)
    assert result is not None  # it was measured, or there was an error
    return result

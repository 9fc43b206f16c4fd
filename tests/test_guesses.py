"""Guesses from the text itself: they change how fast a stream is, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

from longheads import Model  # noqa: E402


@pytest.fixture(scope="module")
def model(tiny_path):
    with Model(tiny_path) as model:
        yield model


def guessing(model, prompt, n, **more):
    """Token 77 again and again, with guesses: the session, its calls of feed_logits, and the stream."""
    session = model.session()
    session.feed(prompt)
    calls, feed_logits = [], session.feed_logits
    session.feed_logits = lambda ids: (calls.append(list(ids)), feed_logits(ids))[1]
    return session, calls, session.stream(max_tokens=n, logit_bias={77: 1000.0}, prompt_lookup_num_tokens=7, **more)


def test_guesses_that_are_right_are_read_at_once(model):
    prompt = [10, 77, 77, 77, 77, 11, 12, 77, 77]
    session, calls, stream = guessing(model, prompt, 24)
    assert [piece.token for piece in stream] == [77] * 24
    assert session.ids.tolist() == prompt + [77] * 24
    assert calls[0] == [77, 11, 12, 77]
    assert max(map(len, calls)) == 8 and len(calls) < 12


def test_guesses_that_are_wrong_are_taken_back(model):
    """What is written is what is written without them, and so is what the model makes of it."""
    prompt = [20, 77, 77, 77, 30, 31, 32, 40, 77, 77]
    session, calls, stream = guessing(model, prompt, 3, logprobs=2)
    pieces = list(stream)
    assert calls[0] == [77, 30, 31, 32] and session.ids.tolist() == prompt + [77] * 3
    plain = model.session()
    plain.feed(prompt)
    expected = list(plain.stream(max_tokens=3, logit_bias={77: 1000.0}, logprobs=2))
    assert [p.token for p in pieces] == [p.token for p in expected]
    np.testing.assert_allclose([p.logprob for p in pieces], [p.logprob for p in expected], atol=0.05)
    assert [[t for t, _ in p.top_logprobs] for p in pieces] == [[t for t, _ in p.top_logprobs] for p in expected]


def test_a_stream_with_guesses_that_is_left_early(model):
    prompt = [10, 77, 77, 77, 77, 77, 77, 77]
    for n in range(1, 9):
        session, calls, stream = guessing(model, prompt, 20)
        for _ in range(n):
            next(stream)
        assert session.position == len(prompt) + n - 1
        if n % 2:
            stream.close()
        assert session.ids.tolist() == prompt + [77] * (n - 1)
        session.feed([5])
        assert session.ids.tolist() == prompt + [77] * (n - 1) + [5]
        session, calls, stream = guessing(model, prompt, n)
        assert len(list(stream)) == n and session.ids.tolist() == prompt + [77] * n


def test_guesses_while_the_session_is_looked_at(model):
    """Nobody sees a guess, and the stream goes on."""
    prompt = [10] + [77] * 9
    session, calls, stream = guessing(model, prompt, 20)
    for n, _ in enumerate(stream):
        assert session.ids.tolist() == prompt + [77] * n and session.position == len(prompt) + n
    assert session.ids.tolist() == prompt + [77] * 20
    right, tried = session.lookups
    assert right == 0 < tried
    session, calls, stream = guessing(model, prompt, 20)
    list(stream)
    assert session.lookups[0] >= 10


def test_guesses_up_to_a_full_context(tiny_path):
    with Model(tiny_path, ctx=40) as model:
        session, calls, stream = guessing(model, [77] * 10, -1)
        assert len(list(stream)) == 30 and session.position == 40 and calls


def test_a_session_that_is_closed_among_guesses(model):
    session, calls, stream = guessing(model, [77] * 10, 20)
    for _ in range(3):
        next(stream)
    session.close()
    with pytest.raises(longheads.StateError, match="closed"):
        list(stream)

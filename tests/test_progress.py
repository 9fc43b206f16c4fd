"""Long calls of the core: what they tell on their way, and how they stop."""

from __future__ import annotations

import os
import signal
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import smollm2

from longheads import Model


class Enough(Exception):
    pass


class Reports:
    """Keeps what it is told; raises `error` at report number `last`."""

    def __init__(self, last: int | None = None, error: BaseException | None = None) -> None:
        self.last, self.error = last, error or Enough()
        self.told: list[tuple[int, int]] = []

    def __call__(self, done: int, total: int) -> None:
        self.told.append((done, total))
        if len(self.told) == self.last:
            raise self.error

    def check(self) -> None:
        """Whole, and never backwards."""
        assert {total for _, total in self.told} == {self.told[-1][0]}
        assert all(a[0] <= b[0] for a, b in pairwise(self.told))


@pytest.fixture(scope="module")
def model(tiny_path):
    with Model(tiny_path) as model:
        yield model


@pytest.fixture
def session(model):
    with model.session() as session:
        session.feed(np.arange(100))
        yield session


@pytest.mark.parametrize("mmap", [False, True])
def test_loading_a_model_tells_of_its_bytes(tiny_path, mmap):
    reports = Reports()
    with Model(tiny_path, mmap=mmap, progress=reports) as model:
        assert len(reports.told) > model.n_layer
        assert 0 < reports.told[-1][1] <= model.weight_bytes
    reports.check()


@pytest.mark.parametrize("last", [1, 5])
def test_loading_a_model_stops(tiny_path, last):
    reports = Reports(last)
    with pytest.raises(Enough) as raised:
        Model(tiny_path, progress=reports)
    assert raised.value is reports.error
    assert len(reports.told) == last
    Model(tiny_path).close()


def test_ctrl_c_is_noticed_while_a_model_is_loaded(tiny_path):
    told = []

    def interrupt(done: int, total: int) -> None:
        told.append(done)
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        Model(tiny_path, progress=interrupt)
    assert len(told) == 1


def test_saving_and_loading_a_session_tell_of_its_bytes(session, tmp_path):
    saving, loading = Reports(), Reports()
    session.save(tmp_path / "a", progress=saving)
    saving.check()
    assert saving.told[-1][1] == (tmp_path / "a").stat().st_size
    session.load(tmp_path / "a", progress=loading)
    loading.check()
    assert loading.told[-1][1] == 2 * saving.told[-1][1]


def test_saving_stops_and_leaves_the_old_file(session, tmp_path: Path):
    session.save(tmp_path / "a")
    before = (tmp_path / "a").read_bytes()
    session.feed([1, 2, 3])
    with pytest.raises(Enough):
        session.save(tmp_path / "a", progress=Reports(3))
    assert (tmp_path / "a").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert session.position == 103


def test_other_sessions_are_free_meanwhile(model, session, tmp_path):
    read = []

    def use(done: int, total: int) -> None:
        with model.session() as other:
            other.feed([1, 2])
            read.append(other.position)

    session.save(tmp_path / "a", progress=use)
    session.load(tmp_path / "a", progress=use)
    assert set(read) == {2}


def test_loading_stops_at_any_place(model, session, tmp_path):
    session.save(tmp_path / "a")
    reports = Reports()
    session.load(tmp_path / "a", progress=reports)
    for last in range(1, len(reports.told) + 1):
        with model.session() as other:
            other.feed([7, 8])
            with pytest.raises(Enough):
                other.load(tmp_path / "a", progress=Reports(last))
            checked = reports.told[last - 1][0] > reports.told[-1][1] // 2
            assert other.position == (0 if checked else 2)
            other.load(tmp_path / "a")
            assert (other.logits == session.logits).all()


def test_a_file_that_changes_once_it_was_checked_is_refused(session, tmp_path):
    session.save(tmp_path / "a")
    half = 0

    def change(done: int, total: int) -> None:
        nonlocal half
        if done > total // 2 and not half:
            half = done
            with open(tmp_path / "a", "r+b") as file:
                file.seek(-100, os.SEEK_END)
                byte = file.read(1)[0]
                file.seek(-100, os.SEEK_END)
                file.write(bytes([byte ^ 1]))

    # As much as a buffer holds was read before; so the text is longer than that.
    with pytest.raises(ValueError, match="checksum"):
        session.load(tmp_path / "a", progress=change)
    assert half and session.position == 0


def test_reading_tells_and_stops_within_a_batch():
    """A batch of a large model takes a minute."""
    ids = np.arange(2000) % 900 + 100
    with Model(smollm2(), batch=2000, ctx=2048, device="cpu", threads=1) as model, model.session() as session:
        reports = Reports()
        session.feed(ids, progress=reports)
        reports.check()
        assert reports.told[0] == (0, 2000) and len(reports.told) > 3
        expected = session.logits
        session.rewind(2000)
        with pytest.raises(Enough):
            session.feed(ids, progress=Reports(3))
        assert session.position == 0
        session.feed(ids)
        assert (session.logits == expected).all()


@pytest.mark.parametrize("how", ["feed", "score", "fill"])
def test_reading_stops_between_batches(tiny_path, how):
    with Model(tiny_path, batch=64) as model, model.session() as session:
        what = 200 if how == "fill" else np.arange(200)
        with pytest.raises(Enough):
            getattr(session, how)(what, progress=Reports(3))
        assert session.position == 128
        reports = Reports()
        session.feed(np.arange(72), progress=reports)
        assert reports.told == [(0, 72), (64, 72), (72, 72)]

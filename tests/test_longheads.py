"""The runtime against the float64 oracle on random models, and against itself: however a text is fed, and wherever the
timeline is rewound, saved or split, selections and logits are the same."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import native
import numpy as np
import pytest
from helpers import ROOT, make_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from make_model import TYPES
from reference import Plan, Reference, Run
from walk import walk

longheads = pytest.importorskip("longheads", reason="longheads is not installed")

# Logits of the random models have a standard deviation of 2.
F32_LOGITS = 1e-4
# A chunk that float32 chooses may lose to the best one by this much (scores are of the size of 10).
F32_TIE = 1e-4
# Scheme peak chooses on components rounded to few levels, as the oracle does; what lies half way between two may go to
# either, which moves a score by up to a step, and with far_bias the weight of chosen chunks. Logits of most positions
# are as near as elsewhere. Found: one position of 5000 off by 0.01, with far_bias 0.5.
PEAK_TIE = 0.1
PEAK_LOGITS = 0.1  # times far_bias
# Keys and values kept in fewer bits: what a choice may lose by, and how far logits may be off. They carry a relative
# error of 2^-12 (f16) or 2^-9 (bf16), or one of 1/254 of a block's largest value (q8_0); the model amplifies it.
# Summaries beside all of them are q8_0, and so are the queries that choose.
NARROW = {"f16": (4e-1, 3e-2), "bf16": (4e-1, 3e-1), "q8_0": (4e-1, 3e-1)}

# relative_error of logits. Where weights are quantised, activations are rounded to 8 bits with one scale per block of
# 32: a step is the block's largest value / 127, so the error of a value is about 2.3 / 127 / sqrt(12) = 0.5% of the
# block's deviation, and of a sum of products the same. Some ten such matrices in a row (two layers) add up to 1.6%;
# found: 0.9% to 1.6%. F16 and BF16 weights may meet activations rounded to BF16, which is 2^-9 / sqrt(3) = 0.1% each.
QUANTISED_ERROR = 0.025
HALF_ERROR = 0.01
# A chunk chosen on such scores, which are of the size of 100 here, may be this much worse than the best.
QUANTISED_TIE = 1.5


def relative_error(found: np.ndarray, expected: np.ndarray) -> float:
    """Root mean square error over the standard deviation of what was expected."""
    return float(np.sqrt(np.mean((found - expected) ** 2)) / expected.std())


@dataclass(frozen=True)
class Case:
    """A random model, the settings it is run with, and n tokens for it."""

    name: str
    plan: Plan
    n: int = 150
    spec: dict = field(default_factory=dict)
    distinct: bool = False  # no id occurs twice
    seed: int = 0           # of the ids; the text must have no near-ties where it is compared exactly

    @property
    def ids(self) -> list[int]:
        rng = np.random.default_rng(self.seed)
        if self.distinct:
            return (3 + rng.permutation(390)[: self.n]).tolist()
        return rng.integers(3, 393, self.n).tolist()

    def make(self, folder: Path) -> Path:
        return make_model(folder / f"{self.name}.gguf", **{"trained_ctx": 512, **self.spec})

    def options(self, **changes: object) -> dict:
        p = self.plan.resolved()
        return {"ctx": self.n, "kv_type": "f32", "threads": 1, **dataclasses.asdict(p), **changes}


CASES = [
    Case("mha_bounds", Plan(8, 32, local=2), seed=1),
    Case("mha_paper", Plan(8, 40, local=2, scheme="paper")),
    Case("gqa_bounds_wide_per_kv_head", Plan(16, 64, 128, 1, 96, "bounds", "kv_head"), 260, {"n_head_kv": 2}),
    Case("gqa_paper_wide_per_kv_head", Plan(8, 48, 96, 3, 64, "paper", "kv_head"), 170, {"n_head_kv": 2}),
    Case("gqa_paper_biased", Plan(12, 60, 96, 2, scheme="paper"), 200, {"n_head": 6, "n_head_kv": 2, "bias": True, "norm_eps": 0.1}),
    Case("mqa_bounds_odd_chunk", Plan(5, 20, 60, 1, 25), 130, {"n_head_kv": 1, "head_dim": 24, "tied": True}),
    Case("paper_part_rotated", Plan(8, 40, 64, 2, scheme="paper"), 150, {"rope_dim": 8, "n_head_kv": 2}),
    Case("paper_yarn", Plan(8, 40, 64, 2, scheme="paper"), 150, {"rope_scaling": "yarn", "n_head_kv": 2}),
    Case("bounds_linear", Plan(8, 40, 64, 3), 150, {"rope_scaling": "linear", "n_head": 2, "rope_base": 1e5}),
    Case("bounds_llama3", Plan(7, 42, 84, 3), 150, {"rope_scaling": "llama3", "head_dim": 64, "n_head_kv": 2}),
    Case("nothing_to_choose", Plan(8, 24, local=2), 100),
    Case("one_token_a_chunk", Plan(1, 9, 30, 3), 90, {"n_head_kv": 2}, distinct=True),
    Case("many_chunks", Plan(4, 96, 120, 5, 100), 400, {"n_layer": 1, "n_head_kv": 2, "head_dim": 128}),
    Case("mha_peak", Plan(8, 32, local=2, scheme="peak")),
    Case("gqa_peak_wide_per_kv_head", Plan(16, 64, 128, 1, 96, "peak", "kv_head"), 260, {"n_head_kv": 2}),
    Case("mqa_peak_odd_chunk", Plan(5, 20, 60, 1, 25, "peak"), 130, {"n_head_kv": 1, "head_dim": 24, "tied": True}),
    Case("peak_long_chunk", Plan(40, 200, 280, 2, scheme="peak"), 500, {"n_layer": 1, "n_head_kv": 2, "head_dim": 128}),
    Case("peak_part_rotated", Plan(8, 40, 64, 2, scheme="peak"), 150, {"rope_dim": 8, "n_head_kv": 2}),
    Case("peak_far_bias", Plan(8, 40, 64, 2, scheme="peak", far_bias=0.5), 300, {"n_head_kv": 2}),
    Case("bounds_far_bias", Plan(8, 48, 56, 3, far_bias=2.0), 200, {"n_head_kv": 1}),
    Case("far_heads", Plan(8, 40, 64, 2, scheme="peak", far_heads=3, far_bias=1.0), 200,
         {"n_layer": 5, "n_head_kv": 2, "seed": 3}),
    Case("paper_far_heads", Plan(8, 40, 64, 2, scheme="paper", far_heads=3, near_budget=56), 150, {"n_head_kv": 2}),
    Case("bounds_far_heads_per_kv_head", Plan(8, 40, 64, 1, None, "bounds", "kv_head", far_heads=2, far_bias=1.0), 150,
         {"n_head_kv": 2}),
    Case("far_head_of_wide_ones", Plan(8, 32, 48, 1, far_heads=1, near_budget=16), 120, {"n_layer": 3, "head_dim": 80}),
    Case("near_heads", Plan(8, 48, 72, 2, 56, "peak", "kv_head", far_heads=3, near_budget=24), 200,
         {"n_layer": 5, "n_head_kv": 2, "seed": 3}),
    # More keys in a chunk than a tile has.
    *(Case(f"{scheme}_longer_than_tiles", Plan(100, 400, 600, 2, scheme=scheme), 850,
           {"n_layer": 1, "n_head": 2, "n_head_kv": 1, "trained_ctx": 1024}) for scheme in ("bounds", "paper", "peak")),
    Case("dense", Plan(8, 32, attention="dense"), 150, {"n_head_kv": 2, "n_layer": 3}),
]
SPARSE = [case for case in CASES if case.plan.attention == "longheads"]
EXPECTED: dict[str, tuple[Path, Run]] = {}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    EXPECTED.clear()
    return tmp_path_factory.mktemp("models")


def tie_of(plan: Plan) -> float:
    return PEAK_TIE if plan.scheme == "peak" else F32_TIE


def most_off(plan: Plan) -> float:
    """How far a logit may be off."""
    return F32_LOGITS + (PEAK_LOGITS * plan.far_bias if plan.scheme == "peak" else 0)


def assert_near(found: np.ndarray, expected: np.ndarray, plan: Plan) -> None:
    """Logits (n, n_vocab) or log-probabilities (n)."""
    off = np.abs(found - expected).reshape(len(expected), -1).max(axis=1)
    assert off.max() < most_off(plan)
    assert np.quantile(off, 0.8, method="lower") < F32_LOGITS


def expected_of(case: Case, folder: Path) -> tuple[Path, Run]:
    """The model's file and what the oracle computes, once per case: by choices of its own, without near-ties, or, where
    the runtime chooses on rounded scores, along those of the runtime, which are the oracle's but for near-ties."""
    if case.name not in EXPECTED:
        path = case.make(folder)
        if case.plan.scheme == "peak":
            with longheads.Model(path, **case.options()) as model, model.session() as session:
                logits, selected = walk(session, case.ids)
            run = assert_follows_oracle(path, case, logits, selected, PEAK_TIE)
        else:
            run = Reference(path).run(case.ids, case.plan)
            assert run.margin.min() > F32_TIE, "choose another seed: exact comparison needs a text without near-ties"
        EXPECTED[case.name] = path, run
    return EXPECTED[case.name]


def as_chosen(selected: list[np.ndarray], plan: Plan) -> np.ndarray:
    """What a walk saw, shaped like Run.chosen. Tokens that attend densely must have said so."""
    plan = plan.resolved()
    k = plan.width
    chosen = np.full((*selected[0].shape[:2], len(selected), k), -1, dtype=np.int64)
    for p, chunks in enumerate(selected):
        if plan.attention == "dense" or p < plan.dense_until:
            c = p // plan.chunk
            assert (chunks[..., : c + 1] == np.arange(c + 1)).all() and (chunks[..., c + 1 :] == -1).all()
        else:
            chosen[:, :, p] = chunks[..., :k]
    return chosen


def selected_at(run: Run, p: int, plan: Plan) -> np.ndarray:
    """What a session says after position p: (n_layer, n_head, width)."""
    chunks = run.chosen[:, :, p]
    if (chunks[..., 0] >= 0).all():
        return chunks
    c, k = p // plan.chunk, chunks.shape[-1]
    every = np.where(np.arange(max(k, c + 1)) <= c, np.arange(max(k, c + 1)), -1)
    return np.broadcast_to(every, (*chunks.shape[:2], len(every)))


def assert_at(session, run: Run, p: int, plan: Plan) -> None:
    """The session has just read position p."""
    assert session.position == p + 1
    assert np.abs(session.logits - run.logits[p]).max() < most_off(plan)
    assert (session.selected() == selected_at(run, p, plan)).all()


def assert_follows_oracle(path: Path, case: Case, logits: np.ndarray, selected: list[np.ndarray], tie: float) -> Run:
    """Each choice is the oracle's up to a tie, given the choices before it. Returns the oracle's run along them."""
    run = Reference(path).run(case.ids, case.plan, follow=as_chosen(selected, case.plan))
    assert run.margin.min() > -tie
    return run


# --- the oracle ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_one_at_a_time(case, folder):
    path, run = expected_of(case, folder)
    with longheads.Model(path, **case.options()) as model, model.session() as session:
        logits, selected = walk(session, case.ids)
    assert (as_chosen(selected, case.plan) == run.chosen).all()
    assert_near(logits, run.logits, case.plan)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_scored_whole(case, folder):
    """Log-probabilities of a whole text read at once, all positions of it."""
    path, run = expected_of(case, folder)
    expected = run.log_probs()[np.arange(case.n - 1), case.ids[1:]]
    with longheads.Model(path, **case.options()) as model:
        with model.session() as session:
            scores = session.score(case.ids)
            assert_at(session, run, case.n - 1, case.plan)
        assert np.isnan(scores[0]) and scores.dtype == np.float32
        assert_near(scores[1:], expected, case.plan)
        with model.session() as session:  # in two pieces, after one that was only fed
            session.feed(case.ids[:10])
            scores = np.concatenate([session.score(case.ids[10:33]), session.score(case.ids[33:])])
        assert_near(scores, expected[9:], case.plan)


@pytest.mark.parametrize("scheme", ["bounds", "paper", "peak"])
def test_longer_than_a_batch(scheme, folder):
    """The runtime computes at most 1024 tokens at once; a text may be fed in one call all the same."""
    case = Case(f"long_{scheme}", Plan(16, 128, 192, 2, scheme=scheme), 1200, {"n_head": 2, "n_head_kv": 1}, seed=1)
    path, run = expected_of(case, folder)
    with longheads.Model(path, **case.options()) as model, model.session() as session:
        session.feed(case.ids)
        assert_at(session, run, case.n - 1, case.plan)


@pytest.mark.parametrize("scheme", ["bounds", "paper", "peak"])
def test_ties_go_to_the_lower_chunk(scheme, folder):
    """One id over and over: in the first layer all keys are equal, and so are the scores of all chunks."""
    case = Case(f"ties_{scheme}", Plan(8, 40, 64, 2, scheme=scheme), 120, {"n_layer": 1})
    with longheads.Model(case.make(folder), **case.options()) as model, model.session() as session:
        for p in range(case.n):
            session.feed([7])
            c = p // 8
            if p >= 40:
                assert (session.selected() == [0, 1, 2, c - 1, c]).all()


@pytest.mark.parametrize("kv_type", NARROW)
def test_narrow_cache(kv_type, folder):
    tie, most = NARROW[kv_type]
    for case in [*CASES[:4], *(case for case in CASES if case.name in ("near_heads", "mha_peak"))]:
        path = expected_of(case, folder)[0]
        with longheads.Model(path, **case.options(kv_type=kv_type)) as model, model.session() as session:
            logits, selected = walk(session, case.ids)
        run = assert_follows_oracle(path, case, logits, selected, tie)
        assert most / 100 < np.abs(logits - run.logits).max() < most


# --- random settings -----------------------------------------------------------------------------------------------


@st.composite
def cases(draw) -> Case:
    chunk, window = draw(st.integers(1, 12)), draw(st.integers(2, 12))
    k, near = draw(st.integers(2, window)), draw(st.integers(2, window))
    plan = Plan(
        chunk=chunk,
        budget=k * chunk,
        window=window * chunk,
        local=draw(st.integers(1, max(k - 2, 1))),  # or there is nothing to choose
        dense_until=draw(st.integers(max(k, near), window)) * chunk,
        scheme=draw(st.sampled_from(["bounds", "paper", "peak"])),
        select_per=draw(st.sampled_from(["head", "kv_head"])),
        far_heads=draw(st.sampled_from([1, 2, 3, 1000])),
        far_bias=draw(st.sampled_from([0.0, 0.5, 3.0])),
        near_budget=near * chunk,
    )
    n_head_kv = draw(st.sampled_from([1, 2, 4]))
    head_dim = draw(st.sampled_from([8, 16, 24, 40, 64]))
    spec = {
        "n_layer": draw(st.integers(1, 3)),
        "n_head": n_head_kv * draw(st.integers(1, 3)),
        "n_head_kv": n_head_kv,
        "head_dim": head_dim,
        "n_embd": draw(st.sampled_from([32, 48, 64])),
        "n_ff": draw(st.sampled_from([33, 96])),
        "tied": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "rope_scaling": draw(st.sampled_from(["none", "linear", "yarn", "llama3"])),
        "seed": draw(st.integers(0, 9)),
    }
    n = draw(st.integers(1, min(180, (window + 9) * chunk)))
    return Case("random", plan, n, spec, seed=draw(st.integers(0, 99)))


RELAXED = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]


@settings(max_examples=30, deadline=None, suppress_health_check=RELAXED, print_blob=True)
@given(case=cases(), batch=st.sampled_from([None, 3, 16, 50]), threads=st.integers(1, 3), piece_seed=st.integers(0, 99))
def test_random_models(case, batch, threads, piece_seed, folder):
    """batch: the most tokens that the runtime computes at once."""
    path = case.make(folder)
    with longheads.Model(path, **case.options(batch=batch, threads=threads)) as model:
        with model.session() as session:
            logits, selected = walk(session, case.ids)
        run = assert_follows_oracle(path, case, logits, selected, tie_of(case.plan))
        assert_near(logits, run.logits, case.plan)

        # From the first near-tie on, another way of feeding may rightly choose otherwise.
        near_tie = np.flatnonzero(run.margin.min(axis=(0, 1)) < tie_of(case.plan))
        clean = near_tie[0] if len(near_tie) else case.n
        rng = np.random.default_rng(piece_seed)
        with model.session() as session:
            while session.position < clean:
                size = int(rng.integers(1, case.n + 1))
                session.feed(case.ids[session.position : min(session.position + size, clean)])
                assert_at(session, run, session.position - 1, case.plan)
            if clean:
                target = int(rng.integers(0, clean))
                session.rewind(clean - target)
                session.feed(rng.integers(3, 393, int(rng.integers(0, clean - target + 1))))
                session.rewind(session.position - target)
                session.feed(case.ids[target:clean])
                assert_at(session, run, clean - 1, case.plan)


# --- any way of feeding --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", SPARSE, ids=lambda case: case.name)
def test_pieces(case, folder):
    path, run = expected_of(case, folder)
    rng = np.random.default_rng(5)
    with longheads.Model(path, **case.options()) as model:
        for longest in (case.n, 3 * case.plan.chunk, 7):
            with model.session() as session:
                while session.position < case.n:
                    size = int(rng.integers(1, longest + 1))
                    session.feed(case.ids[session.position : session.position + size])
                    assert_at(session, run, session.position - 1, case.plan)


@pytest.mark.parametrize("case", SPARSE, ids=lambda case: case.name)
def test_rewind(case, folder):
    """Back to inside a chunk, to a boundary, across chunks, to the start; other text in between leaves no trace."""
    path, run = expected_of(case, folder)
    l, n = case.plan.chunk, case.n
    tail = n - n % l  # where the last chunk begins
    other = case.ids[::-1]
    with longheads.Model(path, **case.options()) as model, model.session() as session:
        session.feed(case.ids)
        for target in (n - 1, tail, tail - 1, tail - l // 2, tail - 3 * l, tail - 5 * l + l // 3, n // 3, 1, 0):
            session.rewind(session.position - target)
            assert session.position == target
            session.feed(other[target:])
            session.rewind(n - target)
            session.feed(case.ids[target:])
            assert_at(session, run, n - 1, case.plan)


@pytest.mark.parametrize("scheme", ["bounds", "paper", "peak"])
def test_rewind_by_every_length(scheme, folder):
    """Every pair of offsets that a rewind can connect, the next token read each time."""
    case = next(c for c in SPARSE if c.name == f"mha_{scheme}")
    path, run = expected_of(case, folder)
    with longheads.Model(path, **case.options()) as model, model.session() as session:
        for length in range(1, 3 * case.plan.chunk):
            for end in (case.n - case.n % case.plan.chunk, case.n - 3):
                session.feed(case.ids[session.position : end])
                session.rewind(length)
                session.feed([case.ids[end - length]])
                assert_at(session, run, end - length, case.plan)
                session.feed(case.ids[session.position : end])
                assert_at(session, run, end - 1, case.plan)
                session.rewind(session.position - 60)


@pytest.mark.parametrize("case", SPARSE[:4], ids=lambda case: case.name)
@pytest.mark.parametrize("offset", [0, 3])
def test_saved_and_loaded_elsewhere(case, offset, folder, tmp_path):
    """Another process goes on from a saved session with the very numbers that this one has."""
    path, run = expected_of(case, folder)
    cut = (case.n // 2) // case.plan.chunk * case.plan.chunk + offset
    with longheads.Model(path, **case.options()) as model, model.session() as session:
        session.feed(case.ids[:cut])
        session.save(tmp_path / "session")
        logits, selected = walk(session, case.ids[cut:])
    request = {"load": str(tmp_path / "session"), "ids": case.ids[cut:]}
    there = walk_elsewhere(tmp_path, path, case, request)
    assert (there["logits"] == logits).all()
    assert (there["selected"][-1] == selected[-1]).all() and (selected[-1] == run.chosen[:, :, -1]).all()


def test_load_replaces_what_was_read(folder, tmp_path):
    case = CASES[1]
    path, run = expected_of(case, folder)
    with longheads.Model(path, **case.options()) as model, model.session() as session:
        session.feed(case.ids[:77])
        session.save(tmp_path / "session")
        session.feed(case.ids[::-1][:70])
        session.load(tmp_path / "session")
        assert session.position == 77
        session.feed(case.ids[77:])
        assert_at(session, run, case.n - 1, case.plan)


# --- any machine ---------------------------------------------------------------------------------------------------


def skip_without(level: str) -> None:
    missing = native.FLAGS_OF[level] - native.cpu_flags()
    if missing:
        pytest.skip(f"this processor has no {', '.join(sorted(missing))}")


def walk_elsewhere(folder: Path, path: Path, case: Case, request: dict, **environment: str) -> dict[str, np.ndarray]:
    request = {"model": str(path), "options": case.options(), "ids": case.ids, **request}
    (folder / "request.json").write_text(json.dumps(request))
    command = [sys.executable, str(ROOT / "tests" / "walk.py"), str(folder / "request.json"), str(folder / "out.npz")]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return dict(np.load(folder / "out.npz"))


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512", "avx512vnni", "amx"])
@pytest.mark.parametrize("case", CASES[2:4], ids=lambda case: case.name)
def test_every_instruction_set(case, level, folder, tmp_path):
    """LH_CPU lowers what the processor has."""
    skip_without(level)
    path, run = expected_of(case, folder)
    there = walk_elsewhere(tmp_path, path, case, {}, LH_CPU=level)
    assert str(there["device"]).replace("+", "").startswith(f"cpu ({level},")
    assert np.abs(there["logits"] - run.logits).max() < F32_LOGITS
    assert (as_chosen(list(there["selected"]), case.plan) == run.chosen).all()


@pytest.mark.parametrize("level", ["generic", "avx2", "avx512", "avx512vnni", "amx"])
def test_every_instruction_set_with_quantised_weights(level, folder, tmp_path):
    skip_without(level)
    types = {"type": "q4_k", "embd_type": "q8_0", "output_type": "q6_k"}
    spec = {"n_embd": 256, "n_ff": 512, "n_head_kv": 2, "head_dim": 64, **types}
    case = Case("quantised", Plan(8, 32, 48, 2), 72, spec)
    path = case.make(folder)
    there = walk_elsewhere(tmp_path, path, case, {}, LH_CPU=level)
    assert str(there["device"]).replace("+", "").startswith(f"cpu ({level},")
    run = assert_follows_oracle(path, case, there["logits"], list(there["selected"]), QUANTISED_TIE)
    assert relative_error(there["logits"], run.logits) < QUANTISED_ERROR


def test_threads_agree(folder):
    """Work is cut alike for any number of them, so that they agree to the last bit."""
    for case in CASES[2:4]:
        path, run = expected_of(case, folder)
        alone = None
        for threads in (1, 2, 3):
            with longheads.Model(path, **case.options(threads=threads)) as model, model.session() as session:
                session.feed(case.ids)
                assert_at(session, run, case.n - 1, case.plan)
                alone = session.logits if alone is None else alone
                assert (session.logits == alone).all()
                session.rewind(20)
                walk(session, case.ids[-20:])
                assert_at(session, run, case.n - 1, case.plan)


def test_a_trained_model_reads_on_past_its_context():
    """Stories of its own, eight times as many tokens as it was trained on: the last are as easy as the first."""
    path = native.data("models/stories260K.gguf")  # trained at 512 tokens, whatever it says
    with longheads.Model(path, threads=1, chunk=32, window=384, budget=256) as model:
        ids = [1]
        for seed in range(100):
            ids += [p.token for p in model.stream([1], seed=seed, max_tokens=300) if p.token not in (1, 2)]
        with model.session(ctx=4096) as session:
            loss = -session.score(ids[:4096])
    assert len(ids) > 4096
    assert loss[2048:].mean() < loss[256:1024].mean() + 0.15


@pytest.mark.parametrize("type_name", [t for t in TYPES if t != "f32"])
def test_weight_types(type_name, folder):
    """Against the oracle on the very weights that the file decodes to."""
    spec = {"n_embd": 256, "n_ff": 512, "n_head_kv": 2, "type": type_name, "head_dim": 64}
    case = Case(f"type_{type_name}", Plan(8, 32, 48, 2), 72, spec)
    path = case.make(folder)
    with longheads.Model(path, **case.options()) as model, model.session() as session:
        logits, selected = walk(session, case.ids)
        run = assert_follows_oracle(path, case, logits, selected, QUANTISED_TIE)
        assert relative_error(logits, run.logits) < (HALF_ERROR if type_name in ("f16", "bf16") else QUANTISED_ERROR)
        # Many tokens at once go through other kernels.
        session.rewind(case.n)
        scores = session.score(case.ids[:32])
    expected = run.log_probs()[np.arange(31), case.ids[1:32]]
    assert np.sqrt(np.mean((scores[1:] - expected) ** 2)) < 0.1

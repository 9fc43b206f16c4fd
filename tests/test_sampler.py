"""The native sampler against an oracle in NumPy float64 that sorts where the runtime selects.

Draws are checked one by one: the oracle knows the generator's stream, so it says which token each draw must give, and a
wrong candidate, a wrong probability or a wrong order shifts the intervals and shows at once.
"""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from longheads._native import ffi, lib

LOGPROB_TOLERANCE = 2e-6  # float32 result of a double sum, relative to max(1, |logprob|)
TIE = 1e-9  # a sum of probabilities nearer than this to where it decides is not compared: rounding may decide it
RANK_TIE = 1e-5  # the same for the ranks of typical_p, which the runtime compares in float32; relative
CHI_SQUARE_Z = 5.0  # standard deviations of a normal; seeds are fixed, so this is no matter of luck


@dataclass
class Options:
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repeat_penalty: float = 1.0
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    penalty_last_n: int = 64
    seed: int = 0
    logit_bias: dict[int, float] = field(default_factory=dict)


# --- the runtime's side ------------------------------------------------------------------------------------------


class NativeError(Exception):
    def __init__(self, status):
        super().__init__(ffi.string(lib.lh_last_error()).decode())
        self.status = status


def check(status):
    if status != lib.LH_OK:
        raise NativeError(status)


class Sampler:
    def __init__(self, options: Options, n_vocab: int):
        native = ffi.new("lh_sampler_options *", lib.lh_sampler_default_options())
        for name, value in vars(options).items():
            if name != "logit_bias":
                setattr(native, name, value)
        bias = ffi.new("lh_logit_bias[]", [{"id": i, "bias": b} for i, b in options.logit_bias.items()])
        native.logit_bias = bias
        native.n_logit_bias = len(bias)
        out = ffi.new("lh_sampler **")
        check(lib.lh_sampler_new(native, n_vocab, out))
        self._native = ffi.gc(out[0], lib.lh_sampler_free)
        self._id = ffi.new("int32_t *")
        self._logprob = ffi.new("float *")

    def accept(self, *tokens: int):
        check(lib.lh_sampler_accept(self._native, ffi.new("int32_t[]", tokens), len(tokens)))

    def sample_with_logprob(self, logits) -> tuple[int, float]:
        logits = np.ascontiguousarray(logits, dtype=np.float32)
        check(lib.lh_sampler_sample(self._native, ffi.from_buffer("float[]", logits), self._id, self._logprob))
        return self._id[0], self._logprob[0]

    def sample(self, logits) -> int:
        logits = np.ascontiguousarray(logits, dtype=np.float32)
        check(lib.lh_sampler_sample(self._native, ffi.from_buffer("float[]", logits), self._id, ffi.NULL))
        return self._id[0]


# --- the oracle --------------------------------------------------------------------------------------------------

MASK = (1 << 64) - 1


def splitmix64(seed):
    while True:
        seed = (seed + 0x9E3779B97F4A7C15) & MASK
        z = seed
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        yield z ^ (z >> 31)


def xoshiro256ss(state):
    def rotl(x, k):
        return ((x << k) | (x >> (64 - k))) & MASK

    s = list(state)
    while True:
        yield rotl(s[1] * 5 & MASK, 7) * 9 & MASK
        t = s[1] << 17 & MASK
        s[2] ^= s[0]
        s[3] ^= s[1]
        s[1] ^= s[2]
        s[0] ^= s[3]
        s[2] ^= t
        s[3] = rotl(s[3], 45)


def uniforms(seed):
    """The numbers in [0, 1) that a sampler of this seed draws with."""
    mix = splitmix64(seed)
    return (x / 2**53 for x in (word >> 11 for word in xoshiro256ss([next(mix) for _ in range(4)])))


def softmax(x):
    """float64 probabilities of logits without NaN; infinities share everything."""
    top = x.max()
    with np.errstate(invalid="ignore"):
        w = np.where(x == top, 1.0, np.exp(x - top))
    return w / w.sum()


def adjusted(logits, o: Options, history):
    x = np.where(np.isnan(logits), -np.inf, logits).astype(np.float64)
    for i, b in o.logit_bias.items():
        x[i] = -np.inf if b == -np.inf else np.float32(np.float32(x[i]) + np.float32(b))
    window = history if o.penalty_last_n < 0 else history[len(history) - min(len(history), o.penalty_last_n) :]
    for i in set(window):
        penalties = np.float32([o.repeat_penalty, o.frequency_penalty, o.presence_penalty])
        repeat, frequency, presence = penalties.tolist()
        y = x[i] / repeat if x[i] > 0 else x[i] * repeat
        with np.errstate(over="ignore"):
            x[i] = np.float32(y - window.count(i) * frequency - presence)
    return x


def keep_until(order, weights, target):
    """The first of `order` whose weights reach target, and how far the sum is from deciding otherwise."""
    total = np.cumsum(weights[order])
    m = min(int(np.searchsorted(total, target)) + 1, len(order))
    return order[:m], order[m:], np.abs(total - target).min()


def distribution(logits, o: Options, history=()):
    """ids that stay (ascending), their probabilities, and the margin of the closest decision."""
    x = adjusted(logits, o, list(history))
    ids = np.flatnonzero(x > -np.inf)
    margin = math.inf
    if 0 < o.top_k < len(ids):
        ids = np.sort(ids[np.lexsort((ids, -x[ids]))][: o.top_k])
    if o.typical_p < 1:
        p = softmax(x[ids])
        with np.errstate(divide="ignore", invalid="ignore"):
            entropy = -np.sum(np.where(p > 0, p * np.log(p), 0))
            far = np.abs(-np.log(p) - entropy)
        kept, dropped, slack = keep_until(np.lexsort((ids, far)), p, np.float32(o.typical_p))
        # Equal logits are told apart by their ids, but different ones may rank the same in float32.
        if len(dropped) and 0 < far[dropped[0]] - far[kept[-1]] <= RANK_TIE * max(far[dropped[0]], RANK_TIE):
            slack = 0
        ids, margin = ids[np.sort(kept)], min(margin, slack)
    if o.top_p < 1:
        p = softmax(x[ids])
        kept, _, slack = keep_until(np.lexsort((ids, -x[ids])), p, np.float32(o.top_p))
        ids, margin = ids[np.sort(kept)], min(margin, slack)
    if o.min_p > 0:
        p = softmax(x[ids])
        ratio = p / p.max()
        margin = min([margin] + [abs(r - o.min_p) for r in ratio if r < 1])
        ids = ids[ratio >= np.float32(o.min_p)]
    top = x[ids].max()
    with np.errstate(invalid="ignore"):
        cooled = np.where(x[ids] == top, 0.0, (x[ids] - top) / np.float32(o.temperature))
    return ids, softmax(cooled), margin


def test_oracle_generators_give_the_published_streams():
    mix = splitmix64(1234567)
    assert [next(mix) for _ in range(3)] == [6457827717110365317, 3203168211198807973, 9817491932198370423]
    words = xoshiro256ss([1, 2, 3, 4])
    assert [next(words) for _ in range(4)] == [11520, 0, 1509978240, 1215971899390074240]


# --- filters and draws -------------------------------------------------------------------------------------------


def assert_draws_follow(logits, options, history=(), draws=25):
    logits = np.asarray(logits, dtype=np.float32)
    ids, p, margin = distribution(logits, options, history)
    assert margin > TIE
    sampler = Sampler(options, len(logits))
    for token in history:
        sampler.accept(token)
    edges = np.cumsum(p)
    for u, _ in zip(uniforms(options.seed), range(draws), strict=False):
        token = sampler.sample(logits)
        if np.abs(edges - u).min() > TIE:
            assert token == ids[np.searchsorted(edges, u)]
        else:
            assert token in ids


def logits_strategy(n):
    def build(seed, scale, kind, holes):
        rng = np.random.default_rng(seed)
        x = rng.normal(size=n) * scale
        if kind == "integers":  # many ties
            x = np.round(x)
        elif kind == "equal":
            x[:] = scale
        elif kind == "negative zeros":
            x = np.where(rng.random(n) < 0.5, -0.0, 0.0)
        for value in holes:
            x[rng.integers(n)] = value
        return x.astype(np.float32)

    return st.builds(
        build,
        st.integers(0, 2**32 - 1),
        st.sampled_from([0.01, 1.0, 4.0, 30.0, 1e5]),
        st.sampled_from(["normal", "normal", "integers", "equal", "negative zeros"]),
        st.lists(st.sampled_from([math.nan, -math.inf, math.inf, 3e38, -3e38]), max_size=2),
    )


@st.composite
def cases(draw):
    n = draw(st.integers(1, 300))
    ids = st.integers(0, n - 1)
    unit = st.floats(0.01, 0.999).map(lambda x: float(np.float32(x)))
    options = Options(
        temperature=draw(st.sampled_from([1.0, 0.3, 0.01, 2.0, 1e4])),
        top_k=draw(st.one_of(st.just(0), st.integers(1, n + 1))),
        top_p=draw(st.one_of(st.just(1.0), unit)),
        min_p=draw(st.one_of(st.just(0.0), unit)),
        typical_p=draw(st.one_of(st.just(1.0), unit)),
        repeat_penalty=draw(st.sampled_from([1.0, 1.0, 1.1, 3.0, 0.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.0, 0.25, -1.0])),
        presence_penalty=draw(st.sampled_from([0.0, 0.0, 0.5, -2.0])),
        penalty_last_n=draw(st.sampled_from([64, -1, 0, 1, 3])),
        seed=draw(st.integers(0, MASK)),
        logit_bias=draw(st.dictionaries(ids, st.sampled_from([1.5, -2.0, -math.inf, 100.0]), max_size=3)),
    )
    return draw(logits_strategy(n)), options, draw(st.lists(ids, max_size=12))


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow])
@given(cases())
def test_every_draw_is_the_oracles(case):
    logits, options, history = case
    assume((adjusted(logits, options, history) > -np.inf).any())
    assume(distribution(logits, options, history)[2] > TIE)
    assert_draws_follow(logits, options, history)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 100_000},
        {"top_p": 0.95},
        {"top_p": 0.001},
        {"min_p": 0.05},
        {"typical_p": 0.7},
        {"top_k": 1000, "typical_p": 0.9, "top_p": 0.9, "min_p": 0.01, "temperature": 1.5},
    ],
    ids=str,
)
@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_large_vocabulary(change, scale):
    logits = np.random.default_rng(7).normal(size=128_256) * scale
    assert_draws_follow(logits, Options(seed=3, **change), draws=50)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"temperature": 0.5},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.1},
        {"typical_p": 0.6},
        {"top_k": 20, "typical_p": 0.95, "top_p": 0.95, "min_p": 0.02, "temperature": 1.3},
        {"repeat_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.1},
    ],
    ids=str,
)
def test_frequencies(change):
    """Pearson's chi-square of 20000 draws; knows nothing of the generator."""
    logits = np.random.default_rng(11).normal(size=40).astype(np.float32) * 2
    history = [3, 3, 5, 17]
    options = Options(seed=12345, **change)
    ids, p, _ = distribution(logits, options, history)
    sampler = Sampler(options, len(logits))
    for token in history:
        sampler.accept(token)
    n = 20_000
    counts = np.bincount([sampler.sample(logits) for _ in range(n)], minlength=len(logits))
    assert counts.sum() == counts[ids].sum()
    observed, expected = counts[ids], p * n
    rare = expected < 10  # pooled: chi-square is no approximation for rare ones
    if rare.any():
        observed = np.append(observed[~rare], observed[rare].sum())
        expected = np.append(expected[~rare], expected[rare].sum())
    freedom = len(observed) - 1
    assert freedom >= 2
    statistic = np.sum((observed - expected) ** 2 / expected)
    # Wilson-Hilferty: the cube root of chi-square over its freedom is nearly normal.
    z = ((statistic / freedom) ** (1 / 3) - (1 - 2 / (9 * freedom))) / math.sqrt(2 / (9 * freedom))
    assert z < CHI_SQUARE_Z


def test_same_seed_same_tokens():
    logits = np.arange(500) % 7

    def text(seed):
        sampler = Sampler(Options(seed=seed, top_p=0.9), 500)
        return [sampler.sample(logits) for _ in range(50)]

    assert text(42) == text(42)
    assert text(42) != text(43)
    # Pinned, so that a seed written down today gives this text on every platform and in every later version.
    assert text(42)[:8] == [41, 181, 335, 461, 496, 377, 355, 419]


def test_one_number_is_drawn_per_token():
    """Also where only one candidate is left: the stream depends on the count of tokens alone."""
    flat, peaked = np.zeros(100), np.full(100, -np.inf)
    peaked[7] = 0
    a, b = Sampler(Options(seed=5), 100), Sampler(Options(seed=5), 100)
    for _ in range(10):
        a.sample(flat)
        assert b.sample(peaked) == 7
    assert [a.sample(flat) for _ in range(10)] == [b.sample(flat) for _ in range(10)]


# --- greedy, penalties, bias -------------------------------------------------------------------------------------

GREEDY = Options(temperature=0)


def test_greedy_is_the_lowest_id_of_the_maximum():
    assert Sampler(GREEDY, 5).sample([1, 3, 2, 3, 0]) == 1
    assert Sampler(Options(temperature=-1.0), 5).sample([1, 3, 2, 4, 0]) == 3


def test_defaults_are_greedy():
    out = ffi.new("lh_sampler **")
    check(lib.lh_sampler_new(ffi.NULL, 3, out))
    sampler = ffi.gc(out[0], lib.lh_sampler_free)
    token = ffi.new("int32_t *")
    check(lib.lh_sampler_sample(sampler, ffi.new("float[]", [1, 0, 2]), token, ffi.NULL))
    assert token[0] == 2
    assert lib.lh_sampler_default_options().temperature <= 0


def test_not_a_number_and_infinities():
    nan, inf = math.nan, math.inf
    for options in GREEDY, Options():
        assert Sampler(options, 4).sample([nan, nan, -5, -inf]) == 2
        assert Sampler(options, 4).sample([3e38, 1, inf, nan]) == 2
    assert Sampler(GREEDY, 3).sample([1, inf, inf]) == 1
    sampler = Sampler(Options(top_p=0.9, min_p=0.5), 3)
    assert {sampler.sample([1, inf, inf]) for _ in range(50)} == {1, 2}


@pytest.mark.parametrize("options", [GREEDY, Options()], ids=["greedy", "draw"])
@pytest.mark.parametrize("value", [math.nan, -math.inf])
def test_nothing_to_choose_from(options, value):
    with pytest.raises(NativeError, match="no token can be chosen"):
        Sampler(options, 4).sample([value] * 4)


def test_bias():
    assert Sampler(Options(temperature=0, logit_bias={2: 10.0}), 4).sample([5, 1, 0, 1]) == 2
    banned = Options(temperature=0, logit_bias={0: -math.inf})
    assert Sampler(banned, 3).sample([5, 1, 0]) == 1
    for temperature in 0.0, 1.0:  # a ban is stronger than infinity
        options = Options(temperature=temperature, top_p=0.5, logit_bias={0: -math.inf})
        assert Sampler(options, 3).sample([math.inf, 50, 0]) == 1
    with pytest.raises(NativeError, match="logit_bias"):
        Sampler(banned, 1).sample([1])


def test_repeat_penalty_divides_positive_and_multiplies_negative():
    options = Options(temperature=0, repeat_penalty=2)
    for logits, expected in ([4, 2.1, 0], 1), ([4, 1.9, 0], 0), ([-1, -1.9, -9], 1), ([-1, -2.1, -9], 0):
        sampler = Sampler(options, 3)
        sampler.accept(0)
        assert sampler.sample(logits) == expected


@pytest.mark.parametrize("last_n", [-1, 0, 1, 2, 63, 64, 65, 200])
def test_penalty_window(last_n):
    """With a presence penalty above every difference, greedy gives the lowest id outside the window."""
    n = 300
    logits = np.zeros(n)
    sampler = Sampler(Options(temperature=0, presence_penalty=1.0, penalty_last_n=last_n), n)
    rng = np.random.default_rng(last_n + 1)
    history = []
    for _ in range(600):
        window = set(history if last_n < 0 else history[len(history) - min(last_n, len(history)) :])
        token = sampler.sample(logits)
        assert token == min(set(range(n)) - window or range(n))
        accepted = token if rng.random() < 0.7 else int(rng.integers(n))
        sampler.accept(accepted)
        history.append(accepted)


def test_frequency_penalty_counts():
    sampler = Sampler(Options(temperature=0, frequency_penalty=1.0, penalty_last_n=-1), 2)
    tokens = []
    for _ in range(8):
        tokens.append(sampler.sample([3.5, 0]))
        sampler.accept(tokens[-1])
    assert tokens == [0, 0, 0, 0, 1, 0, 1, 0]


# --- log-probabilities -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 1000, 128_256])
@pytest.mark.parametrize("scale", [0.0, 1.0, 50.0])
def test_logprob_is_of_the_untouched_logits(n, scale):
    logits = (np.random.default_rng(n).normal(size=n) * scale).astype(np.float32)
    if n > 2:
        logits[1] = math.nan
    sampler = Sampler(Options(temperature=2.0, top_k=50, presence_penalty=1.0, logit_bias={0: 3.0}), n)
    x = np.where(np.isnan(logits), -np.inf, logits).astype(np.float64)
    expected = x - x.max() - np.log(np.exp(x - x.max()).sum())
    for _ in range(20):
        token, logprob = sampler.sample_with_logprob(logits)
        assert abs(logprob - expected[token]) <= LOGPROB_TOLERANCE * max(1, abs(expected[token]))
        sampler.accept(token)


def test_logprob_of_infinities():
    sampler = Sampler(GREEDY, 3)
    assert sampler.sample_with_logprob([0, math.inf, math.inf]) == (1, pytest.approx(-math.log(2)))
    sampler = Sampler(Options(temperature=0, logit_bias={1: -math.inf}), 2)
    assert sampler.sample_with_logprob([0, math.inf]) == (0, -math.inf)


# --- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"temperature": math.nan}, "temperature is nan; it must be a finite number"),
        ({"temperature": math.inf}, "temperature is inf"),
        ({"top_p": 0.0}, "top_p is 0; it must be above 0 and at most 1"),
        ({"top_p": 1.01}, "top_p is 1.01"),
        ({"top_p": math.nan}, "top_p is"),
        ({"min_p": -0.1}, "min_p is -0.1; it must be at least 0 and at most 1"),
        ({"min_p": 2.0}, "min_p is 2"),
        ({"min_p": math.nan}, "min_p is"),
        ({"typical_p": 0.0}, "typical_p is 0"),
        ({"typical_p": 1.5}, "typical_p is 1.5"),
        ({"repeat_penalty": 0.0}, "repeat_penalty is 0; it must be above 0"),
        ({"repeat_penalty": -1.0}, "repeat_penalty is -1"),
        ({"repeat_penalty": math.inf}, "repeat_penalty is inf"),
        ({"frequency_penalty": math.nan}, "frequency_penalty is"),
        ({"presence_penalty": math.inf}, "presence_penalty is inf"),
        ({"penalty_last_n": -2}, "penalty_last_n is -2; give a number of tokens, 0 for none or -1 for all"),
        ({"logit_bias": {10: 1.0}}, "an id in logit_bias is 10; ids of this vocabulary are 0 to 9"),
        ({"logit_bias": {-1: 1.0}}, "an id in logit_bias is -1"),
        ({"logit_bias": {3: math.nan}}, "the logit_bias of id 3 is"),
        ({"logit_bias": {3: math.inf}}, "the logit_bias of id 3 is inf"),
    ],
    ids=str,
)
def test_bad_options_are_refused_with_a_sentence(change, sentence):
    with pytest.raises(NativeError) as error:
        Sampler(Options(**change), 10)
    assert error.value.status == lib.LH_ERR_ARGUMENT
    assert sentence in str(error.value)


def test_bad_vocabulary_and_token():
    with pytest.raises(NativeError, match="a vocabulary of 0 tokens"):
        Sampler(GREEDY, 0)
    for options in GREEDY, Options(repeat_penalty=1.1):
        for token in -1, 4:
            with pytest.raises(NativeError, match=f"an accepted token is {token}; ids of this vocabulary are 0 to 3"):
                Sampler(options, 4).accept(token)


def test_free_accepts_null():
    lib.lh_sampler_free(ffi.NULL)


# --- the likeliest -----------------------------------------------------------------------------------------------


def likeliest(logits, k: int) -> list[tuple[int, float]]:
    logits = np.ascontiguousarray(logits, dtype=np.float32)
    ids, logprobs = ffi.new("int32_t[]", k), ffi.new("float[]", k)
    check(lib.lh_top_logprobs(ffi.from_buffer("float[]", logits), len(logits), k, ids, logprobs))
    return list(zip(ids, logprobs))


@pytest.mark.parametrize("n", [1, 7, 255, 256, 300, 5000])
@pytest.mark.parametrize("values", [None, 3])
def test_the_likeliest(n, values):
    """Against doubles; `values`: there are so few that most are ties, which go to the lower id."""
    rng = np.random.default_rng(n)
    logits = (rng.normal(size=n) * 4 if values is None else rng.integers(0, values, n)).astype(np.float32)
    logits[rng.random(n) < 0.1] = math.nan
    logits[rng.random(n) < 0.1] = -math.inf
    logits[n // 2] = 9
    known = np.where(np.isnan(logits), -np.inf, logits).astype(np.float64)
    expected = known - known.max() - np.log(np.exp(known - known.max()).sum())
    order = np.lexsort((np.arange(n), -known))
    for k in {1, min(5, n), min(64, n), min(65, n), n}:
        found = likeliest(logits, k)
        assert [token for token, _ in found] == order[:k].tolist()
        for token, logprob in found:
            assert logprob == expected[token] or abs(logprob - expected[token]) <= LOGPROB_TOLERANCE * max(
                1, abs(expected[token])
            )


def test_the_likeliest_of_infinities():
    half = pytest.approx(-math.log(2))
    assert likeliest([0, math.inf, math.nan, math.inf], 4) == [(1, half), (3, half), (0, -math.inf), (2, -math.inf)]
    assert likeliest([0, 1], 0) == []
    with pytest.raises(NativeError, match="the 3 likeliest of 2 tokens"):
        likeliest([0, 1], 3)


@pytest.mark.parametrize("last_n", [-1, 0, 1, 5, 64, 1000])
def test_a_text_is_accepted_as_its_tokens_are(last_n):
    options = Options(repeat_penalty=1.3, frequency_penalty=0.2, penalty_last_n=last_n, temperature=1, seed=3)
    tokens = np.random.default_rng(1).integers(0, 50, 300).tolist()
    at_once, in_turn = Sampler(options, 50), Sampler(options, 50)
    at_once.accept(*tokens)
    for token in tokens:
        in_turn.accept(token)
    logits = np.random.default_rng(2).normal(size=50)
    assert [at_once.sample(logits) for _ in range(40)] == [in_turn.sample(logits) for _ in range(40)]


def test_more_candidates_than_are_looked_at():
    """The best of a large vocabulary are found by groups: what is drawn is what it would be from all of them."""
    logits = np.random.default_rng(5).normal(size=5000).astype(np.float32) * 3
    for k in 1, 40, 64, 65, 200:
        cut = np.sort(logits)[-k]
        few, all_ = Options(temperature=1, seed=k, top_k=k), Options(temperature=1, seed=k)
        banned = np.where(logits >= cut, logits, -np.inf)
        one, other = Sampler(few, 5000), Sampler(all_, 5000)
        assert [one.sample(logits) for _ in range(50)] == [other.sample(banned) for _ in range(50)]

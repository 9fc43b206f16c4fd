"""The loop that writes: sample, decode, watch for the end, feed back."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import TYPE_CHECKING, Any, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from longheads._core import ffi, ids_array, ids_pointer, lib, set_number
from longheads.errors import ArgumentError, ContextError, StateError, check
from longheads.tokenizer import Detokenizer

if TYPE_CHECKING:
    from longheads.session import Session

#: Tokens written where the caller names no number.
DEFAULT_MAX_TOKENS = 512


class Sampling(TypedDict, total=False):
    """How text is written: the keywords that generate, stream and chat share.

    Defaults are llama.cpp's, but for max_tokens. All filters work together.

    max_tokens: Most tokens to write. Default None: 512, or fewer where the context has less room; 0: none, the prompt is
        read only; negative: what fits.
    temperature: Divides the logits: higher is more varied. Default 0.8; 0 always takes the likeliest token.
    top_k: Keep the k likeliest tokens. Default 40; 0 is off.
    top_p: Keep the likeliest tokens that together reach this probability. Default 0.95; 1 is off.
    min_p: Keep tokens that are at least this fraction as likely as the likeliest. Default 0.05; 0 is off.
    typical_p: Keep the most typical tokens that together reach this probability. Default 1: off.
    repeat_penalty: Divides (or multiplies) the logit of a recent token. Default 1: off.
    frequency_penalty: Subtracted from a recent token's logit for each time it occurred. Default 0: off.
    presence_penalty: Subtracted from a recent token's logit once. Default 0: off.
    penalty_last_n: How many tokens count as recent, the prompt's included. Default 64; 0 is none, -1 all.
    logit_bias: Added to the logits of tokens, by id. Default none.
    seed: The same calls with the same seed give the same text, whether or not what was read is still there; a prompt that
        only begins like the one before it goes on from that, and numbers are rounded otherwise than in a new session.
        Default None, or -1: another one each time.
    stop: Texts that end the writing and are not part of it; the name of a control token stands for the token. Default
        none.
    logprobs: Give each piece the n likeliest tokens as top_logprobs. Default 0.
    prompt_lookup_num_tokens: Where the last three tokens occurred before, guess that up to so many follow as they did there,
        and check them at once: an answer that repeats what was read comes faster. Each token is chosen as without it, but from
        numbers that are rounded otherwise. Default 0: off.
    """

    max_tokens: int | None
    temperature: float
    top_k: int
    top_p: float
    min_p: float
    typical_p: float
    repeat_penalty: float
    frequency_penalty: float
    presence_penalty: float
    penalty_last_n: int
    logit_bias: Mapping[int, float] | None
    seed: int | None
    stop: str | Sequence[str] | None
    logprobs: int | None
    prompt_lookup_num_tokens: int | None


DEFAULTS = Sampling(
    max_tokens=None,
    temperature=0.8,
    top_k=40,
    top_p=0.95,
    min_p=0.05,
    typical_p=1.0,
    repeat_penalty=1.0,
    frequency_penalty=0.0,
    presence_penalty=0.0,
    penalty_last_n=64,
    logit_bias=None,
    seed=None,
    stop=(),
    logprobs=0,
    prompt_lookup_num_tokens=0,
)


@dataclass(frozen=True, slots=True)
class Piece:
    """One generated token.

    text: what became whole with it; often a word, "" inside a character or a possible stop text.
    token: its id.
    logprob: ln of the model's own probability of the token, before temperature and filters.
    top_logprobs: (token, logprob) of the likeliest ones, where asked for.
    finish_reason: on the last piece: "stop" (end token or stop text) or "length" (max_tokens, or a full context).
    """

    text: str
    token: int
    logprob: float
    top_logprobs: list[tuple[int, float]] | None = None
    finish_reason: str | None = None


def with_defaults(sampling: Sampling) -> Sampling:
    """All settings; TypeError for a name that is none, ArgumentError for a value that cannot be."""
    if unknown := sampling.keys() - DEFAULTS.keys():
        raise TypeError(f"unknown keyword {min(unknown)!r}; known are {', '.join(DEFAULTS)}")
    settings = cast(Sampling, DEFAULTS | {name: value for name, value in sampling.items() if value is not None})
    for name in ("max_tokens", "logprobs", "prompt_lookup_num_tokens"):
        value = settings[name]
        if not isinstance(value, Integral | None) or isinstance(value, bool):
            raise TypeError(f"{name} is {value!r}, expected a whole number")
        if value is not None and value < 0 and name != "max_tokens":
            raise ArgumentError(f"{name} is {value}, expected 0 or more")
    stop = settings["stop"] or ()
    if not isinstance(stop, Iterable):
        raise TypeError(f"stop is {stop!r}, expected a text or a list of them")
    settings["stop"] = (stop,) if isinstance(stop, str) else tuple(stop)
    if not all(isinstance(text, str) and text for text in settings["stop"]):
        raise ArgumentError("a stop text is empty or no text")
    bias = settings["logit_bias"] or {}
    if not isinstance(bias, Mapping):
        raise TypeError(f"logit_bias is {bias!r:.80}, expected a mapping of token ids to numbers")
    settings["logit_bias"] = bias
    return settings


def check_room(n_prompt: int, max_tokens: int | None, ctx: int) -> None:
    """Raise ContextError where a prompt, and the number of tokens asked for, exceed the context."""
    wanted = max_tokens if max_tokens is not None and max_tokens >= 0 else 1
    excess = n_prompt + wanted - ctx
    if excess > 0:
        raise ContextError(
            f"the prompt of {n_prompt} tokens and {wanted} to generate exceed the context of {ctx} by {excess}: "
            f"raise ctx to {n_prompt + wanted} or shorten the prompt"
        )


class StopFilter:
    """Lets text through up to the first stop text, holding back an end that may become one."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""
        self.stopped = False

    def push(self, text: str) -> str:
        """The text that is now certain to be no part of a stop text."""
        self._held += text
        found = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if found:
            self.stopped = True
            self._held = self._held[: min(found)]
            return self.flush()
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        cut = len(self._held) - keep
        out, self._held = self._held[:cut], self._held[cut:]
        return out

    def flush(self) -> str:
        """What was held back."""
        out, self._held = self._held, ""
        return out


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of text that begins stop."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)


class Sampler:
    """Logits to a token."""

    def __init__(self, settings: Sampling, n_vocab: int) -> None:
        bias = settings["logit_bias"] or {}
        seed = settings["seed"]
        options = ffi.new("lh_sampler_options *", lib.lh_sampler_default_options())
        for name in (
            "temperature",
            "top_k",
            "top_p",
            "min_p",
            "typical_p",
            "repeat_penalty",
            "frequency_penalty",
            "presence_penalty",
            "penalty_last_n",
        ):
            set_number(options, name, settings[name])
        set_number(options, "seed", secrets.randbits(64) if seed in (None, -1) else seed)
        biases = ffi.new("lh_logit_bias[]", len(bias))
        for entry, (token, value) in zip(biases, bias.items()):
            set_number(entry, "id", token, "a token of logit_bias")
            set_number(entry, "bias", value, "a bias of logit_bias")
        options.logit_bias, options.n_logit_bias = biases, len(bias)
        out = ffi.new("lh_sampler **")
        check(lib.lh_sampler_new(options, n_vocab, out))
        self._handle: Any = ffi.gc(out[0], lib.lh_sampler_free)
        self._id, self._logprob = ffi.new("int32_t *"), ffi.new("float *")

    def accept(self, ids: NDArray[np.int32]) -> None:
        """Tell the penalties what was read, or written."""
        check(lib.lh_sampler_accept(self._handle, ids_pointer(ids), len(ids)))

    def sample(self, logits: Any) -> tuple[int, float]:
        """logits: the core's pointer, (n_vocab,). Returns the token and its log-probability."""
        check(lib.lh_sampler_sample(self._handle, logits, self._id, self._logprob))
        return self._id[0], self._logprob[0]


def top_logprobs(logits: Any, n_vocab: int, n: int) -> list[tuple[int, float]]:
    """The n likeliest tokens with their log-probabilities, ties to the lower id. logits: the core's pointer, (n_vocab,)."""
    n = min(n, n_vocab)
    ids, logprobs = ffi.new("int32_t[]", n), ffi.new("float[]", n)
    check(lib.lh_top_logprobs(logits, n_vocab, n, ids, logprobs))
    return list(zip(ids, logprobs))


class Reader:
    """A session that is written on, which reads along what is guessed to follow."""

    FEWEST = 3  # guesses: with the token before them as many as are read for little more than one

    def __init__(self, session: Session, most: int) -> None:
        """most: guesses at a time; 0: none."""
        self._session, self._most = session, most
        self._next = self.FEWEST  # guesses
        self._guesses: list[int] = []  # read, and not yet confirmed
        self._rows: NDArray[np.float32] | None = None  # logits that follow the last token, and its guesses

    def sample(self, sampler: Sampler, n_top: int) -> tuple[int, float, list[tuple[int, float]] | None]:
        """The next token, its log-probability, and those of the n_top likeliest."""
        if self._rows is None:
            return self._session._sample(sampler, n_top)
        logits = ffi.cast("float *", self._rows.ctypes.data)
        token, logprob = sampler.sample(logits)
        return token, logprob, top_logprobs(logits, self._rows.shape[1], n_top) if n_top else None

    def feed(self, token: int) -> None:
        """Read a token, which may have been guessed."""
        session = self._session
        if session._guesses < len(self._guesses):  # somebody used the session meanwhile
            self._guesses = []
        right, tried = session._lookups
        if self._guesses and self._guesses[0] == token:
            del self._guesses[0]
            session._guesses -= 1
            session._lookups = right + 1, tried
            self._rows = cast(NDArray[np.float32], self._rows)[1:]
            return
        if self._guesses:
            self._next = self.FEWEST
        elif self._rows is not None:  # all were right
            self._next = 2 * self._next + 1
        guesses = self._guess(token) if self._most else []
        if guesses:
            self._rows = session.feed_logits([token, *guesses])
            session._guesses, session._lookups = len(guesses), (right, tried + len(guesses))
        else:
            session.feed([token])
            self._rows = None
        self._guesses = guesses

    def _guess(self, token: int) -> list[int]:
        """What followed the last two tokens and this one where they occurred last; again and again, where that reaches the
        end."""
        ids = np.append(self._session.ids, np.int32(token))  # asking takes back what was guessed before
        most, end = min(self._next, self._most, self._session.ctx - len(ids)), ids[-3:]
        if most < 1 or len(ids) < 4:
            return []
        places = np.flatnonzero(ids[2:-1] == end[2])
        places = places[(ids[places + 1] == end[1]) & (ids[places] == end[0])]
        return np.resize(ids[places[-1] + 3 :], most).tolist() if len(places) else []


def write(
    session: Session, settings: Sampling, sampler: Sampler, *, go_on: bool = False
) -> Generator[Piece, None, None]:
    """Yield pieces from where the session stands. Each token is fed when the next one is asked for.

    go_on: the last one, too, where the text could have gone on behind it.
    """
    tokenizer = session.tokenizer
    known = session.ids
    sampler.accept(known)
    # A character that the prompt's last tokens left unfinished, a byte each, is completed here; what they say themselves
    # was read, not written.
    detokenizer = Detokenizer(tokenizer)
    for token in known[-3:].tolist():
        detokenizer.push(token)
    stops = StopFilter(settings["stop"])
    last = {tokenizer.control_tokens.get(text) for text in settings["stop"]}  # these have no text to be found in

    position = session.position
    room, limit = session.ctx - position, settings["max_tokens"]
    if room < 1 and limit != 0:
        raise ContextError(f"the context of {session.ctx} tokens is full: nothing more can be written, raise ctx")
    limit = min(DEFAULT_MAX_TOKENS if limit is None else limit if limit >= 0 else room, room)

    reader = Reader(session, settings["prompt_lookup_num_tokens"] or 0)
    for n in range(1, limit + 1):
        token, logprob, top = reader.sample(sampler, settings["logprobs"] or 0)
        ended = token in last or tokenizer.is_end(token)
        text = stops.push(detokenizer.flush() if ended else detokenizer.push(token))
        if not stops.stopped and (ended or n == limit):
            text += stops.push(detokenizer.flush())
        finish = "stop" if ended or stops.stopped else "length" if n == limit else None
        if finish and not stops.stopped:
            text += stops.flush()
        yield Piece(text, token, logprob, top, finish)
        if finish == "stop" or (finish and not go_on):
            return
        sampler.accept(ids_array([token]))
        if session.position != position:
            raise StateError("the session was used elsewhere while it was writing: give each stream its own session")
        reader.feed(token)
        position += 1

"""One timeline: what was read so far, and what comes next."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict, Unpack, cast

import numpy as np
from numpy.typing import NDArray

from longheads._core import (
    Ids,
    Progress,
    Reporting,
    StrPath,
    ffi,
    ids_array,
    ids_pointer,
    lib,
    path_bytes,
    set_number,
    whole,
)
from longheads._handle import Handle
from longheads.errors import ArgumentError, BusyError, LongHeadsWarning, StateError, check
from longheads.generate import Piece, Sampler, Sampling, check_room, top_logprobs, with_defaults, write
from longheads.prompt import common_prefix

if TYPE_CHECKING:
    from longheads.model import Model
    from longheads.tokenizer import Tokenizer

KVType: TypeAlias = Literal["f16", "bf16", "q8_0", "f32"]
RopeScaling: TypeAlias = Literal["none", "linear", "yarn"]


class SessionOptions(TypedDict, total=False):
    """The keywords of Model that each of its sessions may set anew; see Model. None is the default of Model there."""

    ctx: int | None
    chunk: int | None
    budget: int | None
    near_budget: int | None
    window: int | None
    local: int | None
    dense_until: int | None
    far_heads: int | None
    far_bias: float | None
    batch: int | None
    scheme: Literal["peak", "bounds", "paper"] | None
    select_per: Literal["head", "kv_head"] | None
    attention: Literal["longheads", "dense"] | None
    kv_type: KVType | None
    keep_all: bool | None
    kv_offload: bool | None
    rope_scaling: RopeScaling | None
    rope_scale: float | None


_NAMED: dict[str, dict[str, int]] = {
    "scheme": {"peak": lib.LH_SCHEME_PEAK, "bounds": lib.LH_SCHEME_BOUNDS, "paper": lib.LH_SCHEME_PAPER},
    "select_per": {"head": lib.LH_PER_HEAD, "kv_head": lib.LH_PER_KV_HEAD},
    "attention": {"longheads": lib.LH_ATTENTION_LONGHEADS, "dense": lib.LH_ATTENTION_DENSE},
    "kv_type": {
        "f16": lib.LH_KV_F16,
        "f32": lib.LH_KV_F32,
        "bf16": lib.LH_KV_BF16,
        "q8_0": lib.LH_KV_Q8_0,
    },
    "rope_scaling": {"none": lib.LH_ROPE_NONE, "linear": lib.LH_ROPE_LINEAR, "yarn": lib.LH_ROPE_YARN},
}


_RANGES = {"rope_scale": "1 to 65536", "far_bias": "0 to 100"}


def resolved_values(resolved: Any) -> dict[str, Any]:
    """The core's resolved options as keywords, SessionOptions without a None."""
    values: dict[str, Any] = {}
    for name in SessionOptions.__annotations__:
        value = getattr(resolved, name)
        if name in _NAMED:
            value = next(word for word, n in _NAMED[name].items() if n == value)
        elif name == "far_bias":
            value = max(value, 0.0)
        values[name] = value
    return values


def resolve_options(model_handle: Any, options: SessionOptions) -> Any:
    """The core's lh_session_options with everything filled in; warns of what had to be capped."""
    out = ffi.new("lh_session_options *")
    for name, value in cast(dict[str, Any], options).items():
        if name not in SessionOptions.__annotations__:
            raise TypeError(f"unknown keyword {name!r}; known are {', '.join(SessionOptions.__annotations__)}")
        if value is None:
            continue  # the core's default, or from the model
        if name in _NAMED:
            if not isinstance(value, str) or value not in _NAMED[name]:
                raise ArgumentError(f"{name} is {value!r}, expected {' or '.join(map(repr, _NAMED[name]))}")
            setattr(out, name, _NAMED[name][value])
        elif name in ("keep_all", "kv_offload"):
            setattr(out, name, bool(value))
        elif name == "far_bias" and value == 0:
            out.far_bias = -1  # 0 is the core's "from the model"
        else:
            if not isinstance(value, Real) or isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}, expected {_expected(name)}")
            if value < (0 if name == "far_bias" else 1):
                raise ArgumentError(f"{name} is {value}, expected {_expected(name)}")
            set_number(out, name, cast(float, value))
    notes = ffi.new("char[]", 2048)
    check(lib.lh_session_options_resolve(model_handle, out, notes, len(notes)))
    for note in ffi.string(notes).decode("utf-8", "replace").splitlines():
        warnings.warn(note, LongHeadsWarning, stacklevel=3)
    return out


def _expected(name: str) -> str:
    if name in _RANGES:
        return _RANGES[name]
    units = {"local": "chunks", "far_heads": "KV heads"}
    return f"a positive number of {units.get(name, 'tokens')}"


class Session(Handle):
    """What a model has read: keys and values, summaries, position and logits. Made by Model.session.

    A session does one thing at a time; a call from a second thread meanwhile raises BusyError. Many sessions of one
    model may be used from many threads. A session keeps what it needs of its model, which may be closed before it.
    """

    _closed = "the session is closed: make a new one"

    def __init__(self, model: Model, asked: SessionOptions, options: Any) -> None:
        model_handle = model._pointer
        self._model: Any = model_handle
        self._asked = asked  # what was named, by whoever made the model or the session
        self._options = options  # the core's, resolved
        out = ffi.new("lh_session **")
        check(lib.lh_session_new(model_handle, self._options, out))
        # The model outlives its sessions.
        release = model._shared.hold()

        def free(pointer: Any, _keep: Any = model_handle) -> None:
            lib.lh_session_free(pointer)
            release()

        self._handle = ffi.gc(out[0], free)
        self._turn_lock = threading.Lock()
        self._guesses = 0  # tokens at the end that a stream has read and not confirmed: whoever comes next takes them back
        self._lookups = (0, 0)
        self._tokenizer: Tokenizer | None = model.tokenizer
        self.n_vocab: int = model.n_vocab
        self._shape = (model.n_layer, model.n_head)

    def close(self) -> None:
        """Free the memory, the model's, too, where that is closed and has no other session. Closing twice is fine; a call
        that runs on another thread ends first."""
        super().close()
        self._model = self._tokenizer = None

    # --- state ---------------------------------------------------------------------------------------------------

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        if (tokenizer := self._tokenizer) is None:
            raise StateError(self._closed)
        return tokenizer

    @contextmanager
    def _turn(self) -> Iterator[Any]:
        """Hold the session for a call; gives the core's pointer."""
        if self._turn_lock.locked():
            raise BusyError(
                "the session is in use, on another thread or by the call that reports its progress: wait for it, or make "
                "a session for each thread"
            )
        # Ctrl-C cannot come between the two halves of `with`, as it can between acquire() and try. Where two threads
        # both found it free, one waits.
        with self._turn_lock:
            pointer = self._pointer
            if self._guesses:
                guesses, self._guesses = self._guesses, 0
                check(lib.lh_session_rewind(pointer, guesses))
            yield pointer

    @property
    def ctx(self) -> int:
        """Most tokens the session holds."""
        return self._options.ctx

    @property
    def options(self) -> dict[str, Any]:
        """All SessionOptions, with what the model makes of those that were left open."""
        return resolved_values(self._options)

    def set_options(self, **options: Unpack[SessionOptions]) -> None:
        """Go on under other options; those that are not named stay as they were asked for, or follow from the new ones.
        What was read stays as it was read.

        budget, near_budget, window, local, dense_until, far_heads, far_bias, select_per and attention may change;
        None is "from the model". Logits and selected chunks are those of the last token under the new options: it is
        read again when they are asked for.
        Raises ArgumentError for a change of what shapes the cache: ctx, batch, chunk, scheme, kv_type, keep_all,
        kv_offload, rope_scaling, rope_scale; for longheads attention in a session that was made dense; and, without
        keep_all, for what would need more of the text than heads kept that do not read far.

        One thing is read anew under the options that hold then: with scheme paper, the beginning of the chunk that a
        rewind ends in, because its summary needs the queries.
        """
        with self._turn() as pointer:
            asked = self._asked | options
            resolved = resolve_options(self._model, asked)
            check(lib.lh_session_set_options(pointer, resolved))
            self._asked, self._options = asked, resolved

    @property
    def position(self) -> int:
        """Tokens read so far."""
        return lib.lh_session_position(self._pointer) - self._guesses

    @property
    def oldest(self) -> int:
        """The lowest position, but 0, that rewind can go back to; 0 where it can go to any."""
        return lib.lh_session_oldest(self._pointer)

    @property
    def stats(self) -> dict[str, int]:
        """Bytes reserved for the whole context: `kv`, `summaries` and `buffers`; `cache`: under kv_offload, where `kv` is
        in memory of the host but for heads that keep the last chunks only, the GPU's copies of chunks."""
        out = self._stats()
        return {"kv": out.kv_bytes, "summaries": out.summary_bytes, "buffers": out.buffer_bytes,
                "cache": out.copy_bytes}  # fmt: skip

    @property
    def chunk_hits(self) -> tuple[int, int]:
        """Of the chunks that tokens written one by one attended under kv_offload, in KV heads that keep the whole text: how
        many the GPU had a copy of, and how many it had to fetch."""
        out = self._stats()
        return out.cache_hits, out.cache_misses

    @property
    def lookups(self) -> tuple[int, int]:
        """Of the tokens that prompt_lookup_num_tokens guessed: how many were right, and how many there were."""
        return self._lookups

    def _stats(self) -> Any:
        out = ffi.new("lh_session_stats *")
        lib.lh_session_get_stats(self._pointer, out)
        return out

    @property
    def ids(self) -> NDArray[np.int32]:
        """The token ids read so far: (position,) int32, a copy."""
        with self._turn() as pointer:
            return self._ids(pointer).copy()

    def _ids(self, pointer: Any) -> NDArray[np.int32]:
        n = lib.lh_session_position(pointer)
        return np.frombuffer(ffi.buffer(lib.lh_session_ids(pointer), 4 * n), np.int32)

    # --- reading -------------------------------------------------------------------------------------------------

    def _check_ids(self, ids: NDArray[np.int32]) -> None:
        if len(ids) and ids.max() >= self.n_vocab:
            raise ArgumentError(f"id {ids.max()} is outside the vocabulary of {self.n_vocab}")

    def feed(self, ids: Ids, *, progress: Progress | None = None) -> None:
        """Read token ids at the current position.

        progress: called as progress(done, total), first with 0, last with both alike; it may raise to stop reading.
        After Ctrl-C, an exception of progress or a failure on the way, the session is valid: `position` tells how far
        it got, in whole batches.
        Raises ContextError where they do not fit, ArgumentError for an id outside the vocabulary; nothing is read then.
        """
        array_ = ids_array(ids)
        with self._turn() as pointer:
            self._feed(pointer, array_, progress)

    def _feed(self, pointer: Any, ids: NDArray[np.int32], progress: Progress | None) -> None:
        if len(ids) == 1 and not progress:  # done before anybody would stop it
            check(lib.lh_session_feed(pointer, ids_pointer(ids), 1, ffi.NULL))
            return
        reporting = Reporting(progress)
        reporting.check(lib.lh_session_feed(pointer, ids_pointer(ids), len(ids), reporting.pointer))

    def feed_logits(self, ids: Ids, *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Read token ids as feed does, and give the logits that follow each: (n, n_vocab) float32."""
        array_, reporting = ids_array(ids), Reporting(progress)
        logits = np.empty((len(array_), self.n_vocab), np.float32)
        out = ffi.cast("float *", logits.ctypes.data)
        with self._turn() as pointer:
            reporting.check(lib.lh_session_feed_logits(pointer, ids_pointer(array_), len(array_), out, reporting.pointer))
        return logits

    def score(self, ids: Ids, *, progress: Progress | None = None) -> NDArray[np.float32]:
        """Read token ids as feed does, and say how likely each was.

        Returns (n,) float32: ln p(ids[i] | all before it, this session's past included); NaN for the first id of an
        empty session.
        """
        array_, reporting = ids_array(ids), Reporting(progress)
        logprobs = np.empty(len(array_), np.float32)
        out = ffi.cast("float *", logprobs.ctypes.data)
        with self._turn() as pointer:
            reporting.check(lib.lh_session_score(pointer, ids_pointer(array_), len(array_), out, reporting.pointer))
        return logprobs

    def fill(self, n: int, *, seed: int = 0, progress: Progress | None = None) -> None:
        """For benchmarks: go on as if n tokens had been read, in seconds.

        Their keys and values are random. Their ids are 0, as which they are read where they must be read again (see
        rewind). The same seed gives the same state, in whatever pieces. Raises as feed.
        """
        if whole(n, "n") < 0:
            raise ArgumentError(f"{n} tokens cannot be filled in: expected 0 or more")
        reporting = Reporting(progress)
        with self._turn() as pointer:
            reporting.check(lib.lh_session_fill(pointer, n, whole(seed, "seed") & (2**64 - 1), reporting.pointer))

    def read(self, ids: Ids, *, cache_prompt: bool = True, progress: Progress | None = None) -> int:
        """Make the session hold exactly these ids: what it has in common with them is kept, the rest forgotten or fed.

        Without keep_all all are fed where the difference is too far back to rewind to.
        cache_prompt: False feeds all of them in any case, as into a new session.
        Returns how many ids were fed. Raises as feed.
        """
        wanted = ids_array(ids)
        if not len(wanted):
            raise ArgumentError("there is nothing to read: the prompt has no tokens")
        if len(wanted) > self.ctx:
            check_room(len(wanted), None, self.ctx)
        with self._turn() as pointer:
            self._check_ids(wanted)
            known = self._ids(pointer)
            keep = common_prefix(known, wanted) if cache_prompt else 0
            if keep < lib.lh_session_oldest(pointer):
                keep = 0  # what came before it is not there any more
            check(lib.lh_session_rewind(pointer, len(known) - keep))
            self._feed(pointer, wanted[keep:], progress)
        return len(wanted) - keep

    def rewind(self, n: int) -> None:
        """Forget the last n tokens, 0 <= n <= position.

        Without keep_all that is n <= 4096, counted from the farthest position that was ever read and under the options that
        the session was made with, or n == position; ArgumentError says how many.
        Logits and selected chunks are those of the token that is last then: it is read again when they are asked for. But
        the logits at the end of the text that was read last, more than a token at once, come back as they were.
        """
        with self._turn() as pointer:
            check(lib.lh_session_rewind(pointer, whole(n, "n")))

    # --- what follows --------------------------------------------------------------------------------------------

    @property
    def logits(self) -> NDArray[np.float32]:
        """Scores of every token as the next: (n_vocab,) float32, a copy. Raises StateError where nothing was fed."""
        with self._turn() as pointer:
            return np.frombuffer(ffi.buffer(self._logits(pointer), 4 * self.n_vocab), np.float32).copy()

    def _logits(self, pointer: Any) -> Any:
        out = ffi.new("const float **")
        check(lib.lh_session_logits(pointer, out))
        return out[0]

    def _sample(self, sampler: Sampler, n_top: int) -> tuple[int, float, list[tuple[int, float]] | None]:
        with self._turn() as pointer:
            raw = self._logits(pointer)
            token, logprob = sampler.sample(raw)
            return token, logprob, top_logprobs(raw, self.n_vocab, n_top) if n_top else None

    def stream(self, **sampling: Unpack[Sampling]) -> Generator[Piece, None, None]:
        """Write on from where the session stands, a token at a time; see Sampling for the keywords.

        Every token that was yielded is part of the session afterwards, so that another call writes on; but not the last one
        where it ends the text, nor of a stream that is left early.
        """
        settings = with_defaults(sampling)
        check_room(self.position, settings["max_tokens"], self.ctx)
        return write(self, settings, Sampler(settings, self.n_vocab), go_on=True)

    def selected(self) -> NDArray[np.int32]:
        """Chunks attended by the last token: (n_layer, n_head, k) int32, ascending, -1 where unused."""
        with self._turn() as pointer:
            k = ffi.new("int32_t *")
            check(lib.lh_session_selected(pointer, ffi.NULL, 0, k))
            out = np.empty((*self._shape, k[0]), np.int32)
            check(lib.lh_session_selected(pointer, ffi.cast("int32_t *", out.ctypes.data), out.size, k))
            return out

    # --- files ---------------------------------------------------------------------------------------------------

    def save(self, path: StrPath, *, progress: Progress | None = None) -> None:
        """Write the session to a file, for the same model and version.

        progress: called with bytes written and bytes in all. What it raises, or Ctrl-C, stops the writing, and a file that
        was there stays as it was. Raises FileError where writing fails.
        """
        name, reporting = path_bytes(path), Reporting(progress)
        with self._turn() as pointer:
            reporting.check(lib.lh_session_save(pointer, name, reporting.pointer))

    def load(self, path: StrPath, *, progress: Progress | None = None) -> None:
        """Go on from a saved session.

        progress: called with bytes read and bytes in all, twice the file's. What it raises, or Ctrl-C, stops the reading.

        A file of another model or other settings, or a damaged one, is refused (LongHeadsError says which) and leaves
        this session as it was, as does stopping in the first half; in the second half the session becomes empty.
        """
        name, reporting = path_bytes(path), Reporting(progress)
        with self._turn() as pointer:
            reporting.check(lib.lh_session_load(pointer, name, reporting.pointer))

    def __repr__(self) -> str:
        if self._handle is None:
            return "<longheads.Session, closed>"
        return f"<longheads.Session at {self.position} of {self.ctx} tokens>"

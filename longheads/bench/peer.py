"""llama.cpp through llama-cpp-python, by its C functions: what its Python classes cost is not to our credit."""

from __future__ import annotations

import importlib.metadata
import os
from functools import cache
from types import ModuleType

import numpy as np

from longheads._core import StrPath
from longheads.bench.engines import Text
from longheads.errors import BackendError, FileError, UnsupportedError
from longheads.session import Progress

N_BATCH, N_UBATCH = 2048, 512  # llama.cpp's own defaults


def load() -> ModuleType:
    """llama_cpp, silenced. Raises UnsupportedError where it is not installed."""
    try:
        import llama_cpp
    except ImportError:
        raise UnsupportedError(
            "llama-cpp-python is not installed: get it with `pip install llama-cpp-python`, which builds it"
        ) from None
    llama_cpp.llama_log_set(_silence(llama_cpp), None)
    return llama_cpp


@cache  # C keeps the pointer, so that the object must stay
def _silence(llama_cpp: ModuleType) -> object:
    return llama_cpp.llama_log_callback(lambda level, text, data: None)


class LlamaCpp:
    """A context of its own over the same file. It has no synthetic depth: it reads."""

    name = "llama.cpp"

    def __init__(self, path: StrPath, *, n_ctx: int, threads: int, flash_attention: bool, gpu: bool = False) -> None:
        self._c = c = load()
        self._model = self._context = self._batch = None
        c.llama_backend_init()
        settings = c.llama_model_default_params()
        if gpu and not c.llama_supports_gpu_offload():
            raise BackendError(
                "this llama-cpp-python knows no GPU, and a GPU against a CPU says nothing: add --device cpu, or install "
                "one that was built with CMAKE_ARGS=-DGGML_CUDA=on"
            )
        settings.n_gpu_layers = -1 if gpu else 0
        self._model = c.llama_model_load_from_file(os.fsencode(path), settings)
        if not self._model:
            raise FileError(f"llama.cpp cannot open {os.fsdecode(path)}")
        settings = c.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = n_ctx, N_BATCH, N_UBATCH
        settings.n_threads = settings.n_threads_batch = threads
        settings.flash_attn_type = (
            c.LLAMA_FLASH_ATTN_TYPE_ENABLED if flash_attention else c.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        self._context = c.llama_init_from_model(self._model, settings)
        if not self._context:
            self.close()
            raise BackendError(f"llama.cpp cannot make a context of {n_ctx} tokens")
        self._memory = c.llama_get_memory(self._context)
        self._batch = c.llama_batch_init(N_BATCH, 0, 1)
        # The batch's arrays as NumPy's: (N_BATCH,)
        self._token, self._pos, self._wanted = (
            np.ctypeslib.as_array(array, (N_BATCH,))
            for array in (self._batch.token, self._batch.pos, self._batch.logits)
        )
        np.ctypeslib.as_array(self._batch.n_seq_id, (N_BATCH,))[:] = 1
        for i in range(N_BATCH):
            self._batch.seq_id[i][0] = 0
        self._position = 0

    @property
    def description(self) -> str:
        """Version, and the instruction sets it was built with."""
        version = importlib.metadata.version("llama-cpp-python")
        return f"llama-cpp-python {version}, {self._c.llama_print_system_info().decode().strip(' |')}"

    def deepen(self, text: Text, depth: int, progress: Progress) -> None:
        self.read(text[self._position : depth], progress)

    def read(self, ids: Text, progress: Progress | None = None) -> None:
        for begin in range(0, len(ids), N_BATCH):
            piece = ids[begin : begin + N_BATCH]
            n, last = len(piece), begin + len(piece) == len(ids)
            self._token[:n] = piece
            self._pos[:n] = np.arange(self._position, self._position + n)
            self._wanted[:n] = 0
            self._wanted[n - 1] = last
            self._batch.n_tokens = n
            if status := self._c.llama_decode(self._context, self._batch):
                raise BackendError(f"llama.cpp fails to read {n} tokens at position {self._position}: status {status}")
            self._position += n
            if progress:
                progress(begin + n, len(ids))
        self._c.llama_synchronize(self._context)

    def rewind(self, position: int) -> None:
        if not self._c.llama_memory_seq_rm(self._memory, 0, position, -1):
            raise BackendError(f"llama.cpp cannot go back to position {position}")
        self._position = position

    def close(self) -> None:
        if self._batch is not None:
            self._c.llama_batch_free(self._batch)
        if self._context:
            self._c.llama_free(self._context)
        if self._model:
            self._c.llama_model_free(self._model)
        self._batch = self._context = self._model = None

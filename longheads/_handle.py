"""What the wrappers of the core's objects share: a life that ends with `close`, `with`, or the last reference."""

from __future__ import annotations

from types import TracebackType
from typing import Any, ClassVar, Self

from longheads.errors import StateError


class Handle:
    """Holds one of the core's objects, made with ffi.gc: it goes when its last reference does, so that closing waits for
    calls on other threads, and what needs the object keeps it."""

    _closed: ClassVar[str]  #: the sentence of a use after close
    _handle: Any = None

    @property
    def _pointer(self) -> Any:
        handle = self._handle
        if handle is None:
            raise StateError(self._closed)
        return handle

    def close(self) -> None:
        """Free the memory. Closing twice is fine; a call that runs on another thread ends first."""
        self._handle = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

"""What the wrappers of the core's objects share: a life that ends with `close`, `with`, or the last reference."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, ClassVar, Self

from longheads.errors import StateError


class Shared:
    """What others need even while they are freed, and so is freed after the last of them. References alone do not see to
    that: when a cycle that holds them all is collected (the frames of a traceback make one), the order is any."""

    def __init__(self, free: Callable[[], None]) -> None:
        self._free = [free]
        self._users: set[object] = set()

    def hold(self) -> Callable[[], None]:
        """One more user; gives what it calls when it is done. Without locks: collecting may happen inside of them."""
        user = object()
        self._users.add(user)

        def release() -> None:
            self._users.discard(user)
            if not self._users:
                with suppress(IndexError):  # another thread was quicker
                    self._free.pop()()

        return release


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

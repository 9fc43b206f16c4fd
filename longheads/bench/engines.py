"""What is measured: something that reads token ids and can go back."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from longheads.session import Progress, Session

Text = NDArray[np.int32]  #: token ids, one for every position


class Engine(Protocol):
    name: str

    def deepen(self, text: Text, depth: int, progress: Progress | None) -> None:
        """Go on from where it stands to a depth, by whatever means; text: (depth,) or more."""

    def read(self, ids: Text, progress: Progress | None = None) -> None:
        """Read ids as one prompt; the logits that follow the last are there afterwards."""

    def rewind(self, position: int) -> None:
        """Forget what was read from this position on."""


class LongHeads:
    """A session that reads `text`. With fill, depths are random keys and values; otherwise they are read."""

    name = "longheads"

    def __init__(self, session: Session, text: Text, fill: bool) -> None:
        self.session, self._text, self._fill = session, text, fill

    def deepen(self, text: Text, depth: int, progress: Progress | None) -> None:
        at = self.session.position
        if self._fill:
            self.session.fill(depth - at, progress=progress)
        else:
            self.session.feed(text[at:depth], progress=progress)

    def read(self, ids: Text, progress: Progress | None = None) -> None:
        self.session.feed(ids, progress=progress)

    def rewind(self, position: int) -> None:
        if 0 < position < self.session.oldest:  # without keep_all it goes back so far only by beginning anew
            self.session.rewind(self.session.position)
            self.deepen(self._text, position, None)
        else:
            self.session.rewind(self.session.position - position)

"""Streams that block or fail, for the tests of what writes to them."""

from __future__ import annotations

import io
import threading


class Stuck(io.StringIO):
    """A stream that takes nothing until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.let_go = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.let_go.wait(10)
        return super().write(text)


class Broken(io.StringIO):
    """A stream whose reader has gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tried = 0

    def write(self, text: str) -> int:
        self.tried += 1
        raise self.error

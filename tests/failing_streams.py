"""Streams that block or fail, for tests of code that writes to them."""

from __future__ import annotations

import io
import threading


class Stuck(io.StringIO):
    """A stream whose `write` blocks until `let_go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.release = threading.Event()

    def write(self, text: str) -> int:
        self.reached.set()
        assert self.release.wait(10)
        return super().write(text)


class Broken(io.StringIO):
    """A stream whose `write` raises *error*, as after its reader has gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.tried = 0

    def write(self, text: str) -> int:
        self.tried += 1
        raise self.error

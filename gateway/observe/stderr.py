"""edge. The gateway's own messages on standard error, written by a thread."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
from collections.abc import Iterator

from gateway.observe.streams import LineWriter, unbuffered

_QUEUE_MESSAGES = 1000
"""Messages queued for the writer; further ones are dropped and counted."""


class Messages(logging.Handler):
    """Writes log messages to standard error, from a thread that may block.

    If the pipe isn't read, messages are lost, but the event loop isn't blocked.
    """

    def __init__(self, stream: LineWriter | None = None, *, who: str = "") -> None:
        """*who* is put before each line, as several processes may share a stream."""
        super().__init__(logging.WARNING)
        self._who = who
        self._stream = stream or unbuffered(sys.stderr)
        self._queue: queue.Queue[str | None] = queue.Queue(_QUEUE_MESSAGES)
        self._lost = 0
        self._thread = threading.Thread(
            target=self._write, name="messages", daemon=True
        )
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the message for the writer; called by `logging`."""
        try:
            self._queue.put_nowait(f"{self._who}{self.format(record)}\n")
        except queue.Full:
            self._lost += 1

    def finish(self, timeout_s: float = 2.0) -> None:
        """Write the rest, waiting at most *timeout_s* for a blocked stream."""
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)

    def _write(self) -> None:
        while (text := self._queue.get()) is not None:
            if self._lost:
                lost, self._lost = self._lost, 0
                text += (
                    f"{self._who}messages lost here, because nobody read them: {lost}\n"
                )
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()


@contextlib.contextmanager
def messages(who: str = "") -> Iterator[None]:
    """Make `Messages` the handler of last resort, used if no other is configured."""
    before = logging.lastResort
    handler = logging.lastResort = Messages(who=who)
    try:
        yield
    finally:
        logging.lastResort = before
        handler.finish()
        handler.close()

"""edge. The gateway's own messages on standard error, written by a thread."""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from gateway.events import ONCE, Fact, RuntimeEvent, Severity, is_written
from gateway.observe.runtime import Origin, runtime_line
from gateway.observe.streams import LineWriter, unbuffered

Relay = Callable[[RuntimeEvent, str, Mapping[str, Fact]], None]

_FORMATTER = logging.Formatter()
_QUEUE_MESSAGES = 1000
"""Messages queued for the writer; further ones are dropped and counted."""


class Messages(logging.Handler):
    """Writes log messages to standard error, from a thread that may block.

    If the pipe isn't read, messages are lost, but the event loop isn't blocked.
    """

    def __init__(
        self,
        stream: LineWriter | None = None,
        *,
        origin: Origin | None = None,
        least: Severity = Severity.INFO,
    ) -> None:
        super().__init__(logging.WARNING)
        self.least = least
        """The least severity that is written. What is relayed is judged elsewhere."""
        self.relay: Relay | None = None
        """Takes the events of `ONCE` instead of the stream; None: nothing does."""
        self._origin = origin or Origin()
        self._stream = stream or unbuffered(sys.stderr)
        self._queue: queue.Queue[str | None] = queue.Queue(_QUEUE_MESSAGES)
        self._lost = 0
        self._thread = threading.Thread(
            target=self._write, name="messages", daemon=True
        )
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queue the message for the writer; called by `logging`."""
        event = getattr(record, "event", None)
        facts: Mapping[str, Fact] = getattr(record, "facts", {})
        if not isinstance(event, RuntimeEvent):
            event, facts = RuntimeEvent.OTHER, {"logger": record.name}
        message = record.getMessage()
        if event in ONCE and self.relay is not None:
            self.relay(event, message, facts)
            return
        # Errors of libraries have no event of their own.
        is_error = event is RuntimeEvent.OTHER and record.levelno >= logging.ERROR
        if not is_error and not is_written(event, self.least):
            return
        trace = ""
        if record.exc_info:
            trace = _FORMATTER.formatException(record.exc_info)
        line = runtime_line(self._origin, record.created, event, message, facts, trace)
        try:
            self._queue.put_nowait(f"{line}\n")
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
                if is_written(RuntimeEvent.MESSAGES_LOST, self.least):
                    text += f"{self._line_about(lost)}\n"
            with contextlib.suppress(OSError, ValueError):
                self._stream.write(text)
                self._stream.flush()

    def _line_about(self, lost: int) -> str:
        return runtime_line(
            self._origin,
            time.time(),
            RuntimeEvent.MESSAGES_LOST,
            f"messages lost here, because nobody read them: {lost}",
            {"count": lost},
        )


@contextlib.contextmanager
def messages(
    origin: Origin | None = None, least: Severity = Severity.INFO
) -> Iterator[Messages]:
    """Make `Messages` the handler of last resort, used if no other is configured."""
    before: Any = logging.lastResort
    handler = logging.lastResort = Messages(origin=origin, least=least)
    try:
        yield handler
    finally:
        logging.lastResort = before
        handler.finish()
        handler.close()


def write_from(least: Severity) -> None:
    """Have this process's `Messages` write events of this severity, and higher ones."""
    if isinstance(logging.lastResort, Messages):
        logging.lastResort.least = least

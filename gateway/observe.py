"""edge. One typed Record per request, whatever became of it, and the access log.

A record holds no token, cookie, body or query string, so no format can leak one.
Lines are written by a thread of their own: a log that nobody reads may lose lines,
but it never holds up a request. Several processes may write to one stream: a line is
written whole, so that nobody can put what looks like a line of its own into the log.
What the gateway says of itself on standard error goes the same way, by `Messages`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import queue
import stat
import sys
import threading
import time
from collections.abc import Iterator
from copy import copy
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted
from typing import Protocol, TextIO

from gateway.errors import Side, Stage

_QUEUE_BATCHES = 1000
"""Batches waiting for the writer; beyond that lines are dropped and counted."""

_QUEUE_MESSAGES = 1000
_QUIET_S = 10.0
"""So long no line was lost before the loss is said to be over: a reader that is only
nearly fast enough costs two messages in that time, and not two for each batch."""

_BATCH_LINES = 200
_BATCH_DELAY_S = 0.05

_WHOLE_BYTES = 4096
"""So much is written to a pipe in one piece, or not at all. Source: pipe(7)."""
_CUTS = (1024, 256, 64, 8)
"""Characters that are left of long texts, until the line is short enough. With the last
one it is, however the rest must be escaped."""


@dataclass(kw_only=True)
class Record:
    """What happened to one request. Filled in as the request goes along.

    Without slots: what isn't set is found in the class, and costs a request nothing.
    """

    started: float
    """`time.perf_counter()` when the head had been read."""
    client: str = "-"
    method: str = "-"
    path: str = "-"
    """Canonical, without query; `-` when it couldn't be understood."""
    request_id: str = "-"
    stage: Stage = Stage.ACCEPT
    side: Side | None = None
    """Whose failure it was, if it was one."""
    status: int = 0
    route: str | None = None
    decision: str = "-"
    """`allowed`, `anonymous`, `denied`, `undecided`, `auth`, `preflight`, or `-`."""
    reason: str = ""
    user_id: str | None = None
    upstream: str | None = None
    duration_ms: float = 0.0
    verify_at: float = 0.0
    """When the session began to be checked, like `started`; 0: it wasn't. This and the
    next two are plain stamps, because a context for each stage costs three times as
    much as all of them; whoever writes the record subtracts."""
    verified_at: float = 0.0
    """When the verdict was there."""
    replied_at: float = 0.0
    """When the head of the upstream's reply was there."""
    connect_ms: float | None = None
    """How long a connection took that had to be made; None: there was one."""
    bytes_in: int = 0
    bytes_out: int = 0
    note: str = ""
    """Anything the operator should know: dropped cookies, the failure's cause."""

    @property
    def verify_ms(self) -> float | None:
        """How long the check of the session took; None without one."""
        if not self.verified_at:
            return None
        return (self.verified_at - self.verify_at) * 1000

    @property
    def upstream_ms(self) -> float | None:
        """How long the upstream took for its reply's head; None without a reply.

        The time to connect isn't in it; what the client took to send its body is.
        """
        if not self.replied_at:
            return None
        return (self.replied_at - self.verified_at) * 1000 - (self.connect_ms or 0.0)

    @classmethod
    def begin(cls, started: float, client: str, method: str) -> Record:
        """Return the record of a request that has just come in."""
        record = cls.__new__(cls)  # the generated __init__ sets every field
        record.started = started
        record.client = client
        record.method = method
        return record


class Observer(Protocol):
    """Takes each record once, when its request is over."""

    def observe(self, record: Record) -> None: ...


def text_line(record: Record, now: float) -> str:
    """Return the record as a line for a person; control characters escaped."""
    who = f" user={record.user_id}" if record.user_id else ""
    why = f" ({record.reason})" if record.reason else ""
    to = f" -> {record.upstream}" if record.upstream else ""
    note = f" | {record.note}" if record.note else ""
    line = (
        f"{_time(now)[11:]} {record.status or '-'} {record.method} {record.path}"
        f" [{record.route or '-'}] {record.decision}{why}{who}{to}"
        f" {record.duration_ms:.1f}ms in={record.bytes_in} out={record.bytes_out}"
        f" {record.client} {record.request_id}{note}"
    )
    return line if line.isprintable() else line.encode("unicode_escape").decode()


def json_line(record: Record, now: float) -> str:
    """Return the record as one line of JSON, for a log collector.

    The same as `json.dumps` without spaces, which takes nearly three times as long.
    """
    route, user_id, upstream = record.route, record.user_id, record.upstream
    side = record.side
    return (
        f'{{"time":"{_time(now)}+00:00"'
        f',"request_id":{_quoted(record.request_id)}'
        f',"client":{_quoted(record.client)}'
        f',"method":{_quoted(record.method)}'
        f',"path":{_quoted(record.path)}'
        f',"status":{record.status}'
        f',"route":{"null" if route is None else _quoted(route)}'
        f',"decision":{_quoted(record.decision)}'
        f',"reason":{_quoted(record.reason)}'
        f',"user_id":{"null" if user_id is None else _quoted(user_id)}'
        f',"upstream":{"null" if upstream is None else _quoted(upstream)}'
        f',"duration_ms":{round(record.duration_ms, 2)!r}'
        f',"verify_ms":{_milliseconds(record.verify_ms)}'
        f',"connect_ms":{_milliseconds(record.connect_ms)}'
        f',"upstream_ms":{_milliseconds(record.upstream_ms)}'
        f',"bytes_in":{record.bytes_in}'
        f',"bytes_out":{record.bytes_out}'
        f',"stage":{_quoted(record.stage)}'
        f',"side":{"null" if side is None else _quoted(side)}'
        f',"note":{_quoted(record.note)}}}'
    )


def _milliseconds(value: float | None) -> str:
    return "null" if value is None else f"{value:.2f}"


def _time(now: float) -> str:
    """Return the time in UTC as ISO 8601, cut to milliseconds, without its offset."""
    second = int(now)
    # To microseconds first, as `datetime` does: .9999999 is the next second.
    micros = round((now - second) * 1e6)
    if micros == 1_000_000:
        second, micros = second + 1, 0
    return f"{_second(second)}.{micros // 1000:03d}"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    """Return the second's part of `_time`; most lines have that of the line before."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


FORMATS = {"text": text_line, "json": json_line}


def fitting_line(form: str, record: Record, now: float) -> str:
    """Return the record's line in *form*, of less than 4096 bytes with its end.

    Where it would be longer, long texts are cut and end with an ellipsis.
    """
    write = FORMATS[form]
    line = write(record, now)
    # Counted only where it may matter: a character has four bytes at most.
    if len(line) >= _WHOLE_BYTES // 4:
        cuts = iter(_CUTS)
        while len(line.encode()) >= _WHOLE_BYTES:
            line = write(_cut(record, next(cuts)), now)
    return line


def _cut(record: Record, length: int) -> Record:
    shorter = copy(record)
    for name, value in vars(record).items():  # unset ones are short
        if type(value) is str and len(value) > length:
            setattr(shorter, name, f"{value[:length]}…")
    return shorter


_log = logging.getLogger("gateway.observe")


class NoLog:
    """Takes records and keeps none, for whoever logs elsewhere."""

    def observe(self, record: Record) -> None:
        """Forget it."""

    def flush(self) -> None:
        """Nothing waits."""

    def close(self, timeout_s: float = 0.0) -> None:
        """Nothing is open."""


class Lines(Protocol):
    """Takes text, and may take its time."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


class Unbuffered:
    """A file descriptor as a stream that keeps nothing back.

    The interpreter flushes `sys.stdout` when it ends. If nobody reads, that would
    never be over; if the reader is gone, it would end the process with an error.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        # A file takes whatever is written at once as one piece.
        self._is_file = stat.S_ISREG(os.fstat(descriptor).st_mode)

    def write(self, text: str, /) -> None:
        """Write all of it, in pieces of whole lines; blocks while nobody reads."""
        data = text.encode()
        for piece in (data,) if self._is_file else _pieces(data):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(self._descriptor, rest) :]

    def flush(self) -> None:
        """Nothing waits."""


def _pieces(data: bytes) -> Iterator[bytes]:
    """Yield *data* in pieces that a pipe takes whole and that end where lines end."""
    begin = 0
    while begin < len(data):
        end = begin + _WHOLE_BYTES
        if end < len(data):
            end = data.rfind(b"\n", begin, end) + 1 or end
        yield data[begin:end]
        begin = end


def _unbuffered(stream: TextIO) -> Lines:
    try:
        return Unbuffered(stream.fileno())
    except io.UnsupportedOperation:  # replaced by something without a descriptor
        return stream


class AccessLog:
    """Writes records as lines to a stream, from a thread that may block.

    Lines are gathered and handed over in batches, so a request costs one list
    append. `close()` writes what is left.
    """

    def __init__(self, form: str = "text", stream: Lines | None = None) -> None:
        self._form = form
        self._stream = stream or _unbuffered(sys.stdout)
        self._pending: list[tuple[Record, float]] = []
        self._oldest = 0.0
        self._queue: queue.Queue[list[tuple[Record, float]] | None] = queue.Queue(
            _QUEUE_BATCHES
        )
        # Each is counted by one thread only.
        self._not_queued = 0
        self._not_written = 0
        self._told = 0
        """Of the lines that were lost, how many are no news."""
        self._before = 0
        self._lost_at = 0.0
        self._is_losing = False
        self._thread = threading.Thread(
            target=self._write, name="access-log", daemon=True
        )
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost because the stream took none for too long, or refused them."""
        return self._not_queued + self._not_written

    def observe(self, record: Record) -> None:
        now = time.time()
        pending = self._pending
        if not pending:
            self._oldest = now
        pending.append((record, now))
        if len(pending) >= _BATCH_LINES or now - self._oldest >= _BATCH_DELAY_S:
            self.flush()

    def flush(self) -> None:
        """Hand what was gathered to the writer; called on a timer by the server."""
        if self._pending:
            batch, self._pending = self._pending, []
            try:
                self._queue.put_nowait(batch)
            except queue.Full:
                self._not_queued += len(batch)
        self._tell(time.monotonic())

    def _tell(self, now: float) -> None:
        """Say when lines begin to be lost, and how many were when that is over."""
        if self.dropped != self._told:
            if not self._is_losing:
                self._before = self._told
                _log.warning("the access log isn't read: lines of it are being lost")
            self._is_losing = True
            self._told = self.dropped
            self._lost_at = now
        elif (
            self._is_losing and now - self._lost_at >= _QUIET_S and self._queue.empty()
        ):
            self._tell_end()

    def _tell_end(self) -> None:
        self._is_losing = False
        lost = self.dropped - self._before
        _log.warning("lines of the access log that were lost: %d", lost)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is left, waiting at most *timeout_s* for a stuck stream."""
        self.flush()
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)
        self._tell(time.monotonic())
        if self._is_losing:
            self._tell_end()

    def _write(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                lines = "".join(
                    f"{fitting_line(self._form, record, at)}\n" for record, at in batch
                )
                self._stream.write(lines)
                self._stream.flush()
            except (OSError, ValueError):
                self._not_written += len(batch)


class Messages(logging.Handler):
    """Writes log messages to standard error, from a thread that may block.

    A pipe that nobody reads may lose messages, but never stops the event loop.
    """

    def __init__(self, stream: Lines | None = None, *, who: str = "") -> None:
        """*who* begins every line, where several processes write to one stream."""
        super().__init__(logging.WARNING)
        self._who = who
        self._stream = stream or _unbuffered(sys.stderr)
        self._queue: queue.Queue[str | None] = queue.Queue(_QUEUE_MESSAGES)
        self._lost = 0
        self._thread = threading.Thread(
            target=self._write, name="messages", daemon=True
        )
        self._thread.start()

    def emit(self, record: logging.LogRecord) -> None:
        """Have it written; called by `logging`."""
        try:
            self._queue.put_nowait(f"{self._who}{self.format(record)}\n")
        except queue.Full:
            self._lost += 1

    def finish(self, timeout_s: float = 2.0) -> None:
        """Write what is left, waiting at most *timeout_s* for a stuck stream."""
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
    """Have `logging` write by `Messages` where nobody has configured anything else."""
    before = logging.lastResort
    handler = logging.lastResort = Messages(who=who)
    try:
        yield
    finally:
        logging.lastResort = before
        handler.finish()
        handler.close()

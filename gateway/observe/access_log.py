"""edge. The access log: a line for each record, in text or JSON.

A thread of its own writes the lines: if the log isn't read, lines are lost, but no
request waits. Several processes may write to one stream, so each line is short enough
to be written in one piece.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import sys
import threading
import time
from copy import copy
from datetime import UTC, datetime
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted

from gateway.observe.meters import Meters
from gateway.observe.record import Record
from gateway.observe.streams import WHOLE_BYTES, LineWriter, unbuffered

_QUEUE_BATCHES = 1000
"""Batches queued for the writer; further lines are dropped and counted."""

_QUIET_S = 10.0
"""The loss counts as over when no line was lost for this long: a reader that is only
nearly fast enough costs two messages in that time, not two for each batch."""

_BATCH_LINES = 200
_BATCH_DELAY_S = 0.05

_CUTS = (1024, 256, 64, 8)
"""Characters kept of long texts, tried until the line is short enough. With the last
one it always is, however the text is escaped."""

_log = logging.getLogger("gateway.observe")


def text_line(record: Record, now: float) -> str:
    """Return the record as a line for people, with control characters escaped."""
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
    """Return the record as one line of JSON, for log collectors.

    The result is that of `json.dumps` without spaces, which takes nearly three times
    as long.
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
    # Rounded to microseconds first, as `datetime` does: .9999999 is the next second.
    micros = round((now - second) * 1e6)
    if micros == 1_000_000:
        second, micros = second + 1, 0
    return f"{_second(second)}.{micros // 1000:03d}"


@lru_cache(maxsize=2)
def _second(second: int) -> str:
    """Return `_time` without the fraction; most lines share it with the line before."""
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%S")


FORMATS = {"text": text_line, "json": json_line}


def fitting_line(form: str, record: Record, now: float) -> str:
    """Return the record's line in *form*, at most 4096 bytes with its newline.

    In a longer line, long texts are cut and end with an ellipsis.
    """
    write = FORMATS[form]
    line = write(record, now)
    # A character has four bytes at most, so shorter lines needn't be encoded.
    if len(line) >= WHOLE_BYTES // 4:
        cuts = iter(_CUTS)
        while len(line.encode()) >= WHOLE_BYTES:
            line = write(_cut(record, next(cuts)), now)
    return line


def _cut(record: Record, length: int) -> Record:
    shorter = copy(record)
    for name, value in vars(record).items():  # fields that aren't set are short
        if type(value) is str and len(value) > length:
            setattr(shorter, name, f"{value[:length]}…")
    return shorter


class NoLog:
    """An observer that drops every record."""

    def observe(self, record: Record) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self, timeout_s: float = 0.0) -> None:
        """Do nothing."""


class CountedOnly:
    """An observer that writes nothing, and has records counted for metrics."""

    dropped = 0
    """Lines lost, as `AccessLog.dropped`."""

    def __init__(self, meters: Meters) -> None:
        self._meters = meters
        self._pending: list[tuple[Record, float]] = []
        meters.log = self

    def observe(self, record: Record) -> None:
        self._pending.append((record, 0.0))
        if len(self._pending) >= _BATCH_LINES:
            self.flush()

    def flush(self) -> None:
        """Have the batch counted; called on a timer by the server."""
        batch, self._pending = self._pending, []
        self._meters.count(batch)

    def close(self, timeout_s: float = 0.0) -> None:
        """Do nothing."""


class AccessLog:
    """Writes records as lines to a stream, from a thread that may block.

    Records are queued in batches, so a request costs one list append. `close()` writes
    the rest.
    """

    def __init__(
        self,
        form: str = "text",
        stream: LineWriter | None = None,
        *,
        meters: Meters | None = None,
    ) -> None:
        """*meters* counts the records, those of lost lines too."""
        self._meters = meters
        if meters is not None:
            meters.log = self
        self._form = form
        self._stream = stream or unbuffered(sys.stdout)
        self._pending: list[tuple[Record, float]] = []
        self._oldest = 0.0
        self._queue: queue.Queue[list[tuple[Record, float]] | None] = queue.Queue(
            _QUEUE_BATCHES
        )
        # Each counter is changed by one thread only.
        self._not_queued = 0
        self._not_written = 0
        self._seen = 0
        """`dropped` when it was last looked at."""
        self._dropped_before = 0
        """`dropped` before the present loss began."""
        self._lost_at = 0.0
        self._is_losing = False
        self._thread = threading.Thread(
            target=self._write, name="access-log", daemon=True
        )
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines lost because the stream was blocked for too long, or failed."""
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
        """Queue the batch for the writer; called on a timer by the server."""
        if self._pending:
            batch, self._pending = self._pending, []
            if self._meters is not None:
                self._meters.count(batch)
            try:
                self._queue.put_nowait(batch)
            except queue.Full:
                self._not_queued += len(batch)
        self._report(time.monotonic())

    def _report(self, now: float) -> None:
        """Log that lines are being lost, and afterwards how many were."""
        if self.dropped != self._seen:
            if not self._is_losing:
                self._dropped_before = self._seen
                _log.warning("the access log isn't read: lines of it are being lost")
            self._is_losing = True
            self._seen = self.dropped
            self._lost_at = now
        elif (
            self._is_losing and now - self._lost_at >= _QUIET_S and self._queue.empty()
        ):
            self._report_end()

    def _report_end(self) -> None:
        self._is_losing = False
        lost = self.dropped - self._dropped_before
        _log.warning("lines of the access log that were lost: %d", lost)

    def close(self, timeout_s: float = 2.0) -> None:
        """Write the rest, waiting at most *timeout_s* for a blocked stream."""
        self.flush()
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)
        self._report(time.monotonic())
        if self._is_losing:
            self._report_end()

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

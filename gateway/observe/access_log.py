"""edge. The access log: a line for each record, in text, JSON or ECS (`ecs`).

A thread of its own writes the lines: if the log isn't read, lines are lost, but no
request waits. Several processes may write to one stream, so each line is short enough
to be written in one piece.
"""

from __future__ import annotations

import contextlib
import json
import logging
import queue
import sys
import threading
import time
from collections.abc import Iterator
from copy import copy
from functools import lru_cache
from json.encoder import encode_basestring_ascii as _quoted

from gateway.config import LogConfig
from gateway.events import RuntimeEvent, about
from gateway.observe.ecs import ECS_RATE, ecs_common, ecs_line
from gateway.observe.meters import METHODS, Meters
from gateway.observe.record import Record
from gateway.observe.runtime import Origin
from gateway.observe.selection import Selection
from gateway.observe.streams import WHOLE_BYTES, LineWriter, unbuffered
from gateway.observe.times import stamp

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

_FAILED = 500
"""The lowest status of a request that counts as an error of the service's side."""

_log = logging.getLogger("gateway.observe")


def text_line(record: Record, now: float, more: str = "") -> str:
    """Return the record as a line for people, with control characters escaped.

    *more* is written after the ids.
    """
    who = f" user={record.user_id}" if record.user_id else ""
    why = f" ({record.reason})" if record.reason else ""
    to = f" -> {record.upstream}" if record.upstream else ""
    note = f" | {record.note}" if record.note else ""
    trace = f" trace={record.trace_id}" if record.trace else ""
    level = "ERROR" if record.status >= _FAILED else "INFO"
    line = (
        f"{stamp(now)} {level} {record.status or '-'} {record.method} {record.path}"
        f" [{record.route or '-'}] {record.decision}{why}{who}{to}"
        f" {record.duration_ms:.1f}ms in={record.bytes_in} out={record.bytes_out}"
        f" {record.client} {record.request_id}{trace}{more}{note}"
    )
    return line if line.isprintable() else line.encode("unicode_escape").decode()


def json_line(record: Record, now: float, more: str = "") -> str:
    """Return the record as one line of JSON, for log collectors.

    *more* is what all lines of a process have in common, as `common_fields` returns it.
    The result is that of `json.dumps` without spaces, which takes nearly three times
    as long.
    """
    user_id, side = record.user_id, record.side
    method, agent = record.method, record.user_agent
    target = record.target
    remember = _outcome if method in METHODS else _outcome.__wrapped__
    outcome = remember(
        method, record.route, record.decision, record.reason, record.upstream, target
    )
    browser = "" if agent is None else f',"user_agent":{_quoted(agent)}'
    return (
        f'{{"time":"{stamp(now)}"'
        f"{_LEVELS[record.status >= _FAILED]}"
        f',"request_id":{_quoted(record.request_id)}'
        f',"trace_id":{_quoted_or_null(record.trace_id)}'
        f',"client":{_quoted(record.client)}'
        f"{_site(record.host, record.is_secure, record.protocol)}"
        f"{outcome}"
        f',"path":{_quoted(record.path)}'
        f',"status":{record.status}'
        f',"user_id":{"null" if user_id is None else _quoted(user_id)}'
        f',"tenant_id":{_quoted_or_null(record.tenant_id)}'
        f',"upstream_status":{record.upstream_status or "null"}'
        f',"attempts":{0 if target is None else 1 + record.retries}'
        f',"duration_ms":{round(record.duration_ms, 2)!r}'
        f',"verify_ms":{_milliseconds(record.verify_ms)}'
        f',"connect_ms":{_milliseconds(record.connect_ms)}'
        f',"upstream_ms":{_milliseconds(record.upstream_ms)}'
        f',"bytes_in":{record.bytes_in}'
        f',"bytes_out":{record.bytes_out}'
        f',"stage":{_quoted(record.stage)}'
        f',"side":{"null" if side is None else _quoted(side)}'
        f',"note":{_quoted(record.note)}'
        f"{browser}{more}}}"
    )


_LEVELS = (',"level":"info","event":"request"', ',"level":"error","event":"request"')


@lru_cache(maxsize=256)
def _site(host: str, is_secure: bool, protocol: str) -> str:
    """Return the fields that say what was asked for, but the path."""
    return (
        f',"host":{_quoted(host)}'
        f',"scheme":"{"https" if is_secure else "http"}"'
        f',"protocol":"{protocol}"'
    )


@lru_cache(maxsize=1024)
def _outcome(
    method: str,
    route: str | None,
    decision: str,
    reason: str,
    upstream: str | None,
    target: str | None,
) -> str:
    """Return fields with few values; called with known methods, as clients choose."""
    return (
        f',"method":{_quoted(method)}'
        f',"route":{_quoted_or_null(route)}'
        f',"decision":{_quoted(decision)}'
        f',"reason":{_quoted(reason)}'
        f',"upstream":{_quoted_or_null(upstream)}'
        f',"target":{_quoted_or_null(target)}'
    )


def common_fields(origin: Origin) -> str:
    """Return the end of every line in JSON of a process: pid, worker, generation."""
    fields = {
        "pid": origin.pid,
        "worker": origin.worker,
        "generation": origin.generation,
    }
    return f",{json.dumps(fields, separators=(',', ':'))[1:-1]}"


def _quoted_or_null(value: str | None) -> str:
    return "null" if value is None else _quoted(value)


def _milliseconds(value: float | None) -> str:
    return "null" if value is None else f"{value:.2f}"


FORMATS = {"text": text_line, "json": json_line, "ecs": ecs_line}


def fitting_line(form: str, record: Record, now: float, more: str = "") -> str:
    """Return the record's line in *form*, at most 4096 bytes with its newline.

    In a longer line, long texts are cut and end with an ellipsis.
    """
    write = FORMATS[form]
    line = write(record, now, more)
    # A character has four bytes at most, so shorter lines needn't be encoded.
    if len(line) >= WHOLE_BYTES // 4:
        cuts = iter(_CUTS)
        while len(line.encode()) >= WHOLE_BYTES:
            line = write(_cut(record, next(cuts)), now, more)
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
        selection: Selection | None = None,
        origin: Origin | None = None,
    ) -> None:
        """*meters* counts the records, those without a line and of lost ones too.

        *selection* chooses those that have a line; *origin* is the process.
        """
        self._selection = selection or Selection(LogConfig())
        self.is_complete = False
        """Whether requests have a line that the selection would leave out."""
        self._more, self._rate = "", " sample={}"
        origin = origin or Origin()
        if form == "json":
            self._more = common_fields(origin)
            self._rate = ',"sample_rate":{}'
        elif form == "ecs":
            self._more = ecs_common(origin.pid, origin.worker, origin.generation)
            self._rate = ECS_RATE
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
        self._why = ""
        """What the stream's last error was; empty: it isn't read."""
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
                self._why = ""
                self._not_queued += len(batch)
        self._report(time.monotonic())

    def _report(self, now: float) -> None:
        """Log that lines are being lost, and afterwards how many were."""
        if self.dropped != self._seen:
            if not self._is_losing:
                self._dropped_before = self._seen
                why = self._why or "it isn't read"
                _log.warning(
                    "lines of the access log are being lost: %s",
                    why,
                    extra=about(RuntimeEvent.LOG_LINES_LOST, reason=why),
                )
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
        _log.warning(
            "lines of the access log that were lost: %d",
            lost,
            extra=about(RuntimeEvent.LOG_LINES_COUNTED, count=lost),
        )

    def close(self, timeout_s: float = 2.0) -> None:
        """Write the rest, waiting at most *timeout_s* for a blocked stream."""
        self.flush()
        with contextlib.suppress(queue.Full):
            self._queue.put(None, timeout=timeout_s)
            self._thread.join(timeout_s)
        self._report(time.monotonic())
        if self._is_losing:
            self._report_end()

    def _lines(self, batch: list[tuple[Record, float]]) -> Iterator[str]:
        """Yield the lines of the records that have one."""
        form, more, selection = self._form, self._more, self._selection
        if selection.is_all or self.is_complete:
            for record, at in batch:
                yield f"{fitting_line(form, record, at, more)}\n"
            return
        for record, at in batch:
            if share := selection.share(record):
                rate = "" if selection.sample >= 1 else self._rate.format(share)
                yield f"{fitting_line(form, record, at, more + rate)}\n"

    def _write(self) -> None:
        while (batch := self._queue.get()) is not None:
            try:
                lines = "".join(self._lines(batch))
                if lines:
                    self._stream.write(lines)
                    self._stream.flush()
            except (OSError, ValueError) as error:
                self._why = getattr(error, "strerror", None) or type(error).__name__
                self._not_written += len(batch)

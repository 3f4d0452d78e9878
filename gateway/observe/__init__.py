"""edge. One typed Record for each request, the access log, and standard error.

`record` is what is recorded, `access_log` writes it, `stderr` writes what the gateway
reports of itself, `streams` is how both reach a pipe without mixing lines.
"""

from __future__ import annotations

from gateway.observe.access_log import (
    FORMATS,
    AccessLog,
    CountedOnly,
    NoLog,
    fitting_line,
    json_line,
    text_line,
)
from gateway.observe.record import Observer, Record
from gateway.observe.stderr import Messages, messages
from gateway.observe.streams import LineWriter, Unbuffered

__all__ = [
    "FORMATS",
    "AccessLog",
    "CountedOnly",
    "LineWriter",
    "Messages",
    "NoLog",
    "Observer",
    "Record",
    "Unbuffered",
    "fitting_line",
    "json_line",
    "messages",
    "text_line",
]

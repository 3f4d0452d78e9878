"""edge. One typed Record for each request, the access log, and standard error.

`record` is what is recorded, and `access_log` writes it. `runtime` makes the lines
about the gateway itself, and `stderr` writes them. `ecs` has both in the Elastic Common
Schema. `streams` is how both reach a pipe
without mixing lines. `selection` chooses the requests that have a line. `recording` is
what is noted for spans, and `spans` exports them.
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
from gateway.observe.boundary import log_unexpected
from gateway.observe.ecs import ecs_line
from gateway.observe.record import Observer, Record
from gateway.observe.recording import Recording, Try, current, recorded
from gateway.observe.runtime import (
    STRUCTURED,
    Origin,
    RuntimeLog,
    Say,
    has_colours,
    runtime_line,
)
from gateway.observe.selection import Selection
from gateway.observe.stderr import Messages, messages, write_from
from gateway.observe.streams import LineWriter, Unbuffered

__all__ = [
    "FORMATS",
    "STRUCTURED",
    "AccessLog",
    "CountedOnly",
    "LineWriter",
    "Messages",
    "NoLog",
    "Observer",
    "Origin",
    "Record",
    "Recording",
    "RuntimeLog",
    "Say",
    "Selection",
    "Try",
    "Unbuffered",
    "current",
    "ecs_line",
    "fitting_line",
    "has_colours",
    "json_line",
    "log_unexpected",
    "messages",
    "recorded",
    "runtime_line",
    "text_line",
    "write_from",
]

"""edge. Lines about the gateway itself on standard error, as text, JSON or ECS.

`runtime_line` makes one. `RuntimeLog` writes it at once, for the supervisor and for
commands, which have no event loop to delay. `stderr.Messages` is for other processes.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from gateway.events import Fact, RuntimeEvent, Severity, is_written
from gateway.observe.ecs import ecs_message
from gateway.observe.streams import WHOLE_BYTES, LineWriter, unbuffered
from gateway.observe.times import stamp

_CUTS: Final = (1024, 256, 64, 8)
"""Characters kept of long values, tried until the line is short enough."""
_MAX_FACT_ITEMS: Final = 20
_WRITERS: Final[Mapping[str, Callable[[dict[str, object]], str]]] = {
    "json": json.dumps,
    "ecs": ecs_message,
}
STRUCTURED: Final = frozenset(_WRITERS)
"""The forms whose lines are for programs: there, problems of a file are events, too."""
_COLOURS: Final = {Severity.ERROR: 31, Severity.WARNING: 33, Severity.INFO: 36}


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The process that writes, and how it does."""

    form: str = "text"
    """`json`, `ecs`, or any other word for text."""
    pid: int = field(default_factory=os.getpid)
    worker: int | None = None
    """The worker's number, from 1; None: it isn't a worker."""
    generation: int | None = None
    """The number of the configuration that the process serves."""
    who: str = ""
    """Put before each message in text, as several processes share a stream."""
    has_colours: bool = False


def has_colours() -> bool:
    """Return whether standard error is a terminal that shows colours.

    Source: https://no-color.org
    """
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def runtime_line(
    origin: Origin,
    now: float,
    event: RuntimeEvent,
    message: str,
    facts: Mapping[str, Fact],
    trace: str = "",
) -> str:
    """Return the line of an event, without its newline. *trace* is a traceback.

    In JSON and ECS it has at most 4096 bytes with its newline: longer values are cut,
    and end with an ellipsis; a traceback keeps its end. In text, control characters are
    escaped, and all lines but the first are indented, so that no value can forge one.
    """
    if origin.form not in _WRITERS:
        return _text_line(origin, now, event, message, trace)
    write = _WRITERS[origin.form]
    fields: dict[str, object] = {
        "time": stamp(now),
        "level": event.severity,
        "event": event.code,
        "message": message,
        "pid": origin.pid,
        "worker": origin.worker,
        "generation": origin.generation,
        **facts,
    }
    if trace:
        fields["traceback"] = trace
    line = write(fields)
    for length in _CUTS:
        if len(line) < WHOLE_BYTES:
            break
        line = write({name: _cut(name, fields[name], length) for name in fields})
    return line


def _cut(name: str, value: object, length: int) -> object:
    if isinstance(value, str) and len(value) > length:
        return f"…{value[-length:]}" if name == "traceback" else f"{value[:length]}…"
    if isinstance(value, list | tuple):
        return [_cut("", item, length) for item in value[:_MAX_FACT_ITEMS]]
    return value


def _text_line(
    origin: Origin, now: float, event: RuntimeEvent, message: str, trace: str
) -> str:
    level = event.severity.upper()
    if origin.has_colours:
        level = f"\x1b[{_COLOURS[event.severity]}m{level}\x1b[0m"
    first, *more = message.split("\n")
    lines = [f"{stamp(now)} {level} {origin.who}{_escaped(first)}"]
    lines += (f"    {_escaped(line)}" for line in (*more, *trace.splitlines()))
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text if text.isprintable() else text.encode("unicode_escape").decode()


class Say(Protocol):
    """Writes a line about the gateway for its operator."""

    def __call__(
        self,
        event: RuntimeEvent,
        message: str,
        *,
        generation: int | None = None,
        **facts: Fact,
    ) -> None: ...


class RuntimeLog:
    """Writes lines to standard error at once, best effort."""

    def __init__(
        self,
        form: str,
        stream: LineWriter | None = None,
        *,
        least: Severity = Severity.INFO,
    ) -> None:
        """*form* is as in `Origin`; *stream* is standard error by default."""
        self._least = least
        self._origin = Origin(form=form, has_colours=has_colours())
        self._stream = stream

    def write_from(self, least: Severity) -> None:
        """Write events of this severity, and of higher ones, from now on."""
        self._least = least

    def say(
        self,
        event: RuntimeEvent,
        message: str,
        *,
        generation: int | None = None,
        **facts: Fact,
    ) -> None:
        """Write the line of *event*. It may block until the stream is read."""
        if not is_written(event, self._least):
            return
        shown = facts if generation is None else {"generation": generation, **facts}
        line = runtime_line(self._origin, time.time(), event, message, shown)
        with contextlib.suppress(OSError, ValueError):
            stream = self._stream or unbuffered(sys.stderr)
            stream.write(f"{line}\n")
            stream.flush()

"""PURE. What a supervisor and its children say to each other.

One message is one line of JSON with one key. Both ends run the same program, but a
worker faces the internet: what it sends is checked like anybody's.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import assert_never

_MAX_LINE_BYTES = 1024 * 1024
"""No message that a worker can have reason to send is nearly as long."""
_BATCH_BYTES = 64 * 1024
"""About so much of a deny-list goes into one message; escaped, up to 12 times more."""
_MAX_HANDLE = 1024
"""Characters of a session handle. SuperTokens' have less than 100."""


class BadMessage(ValueError):
    """The other end sent what isn't a message. The text repeats nothing of it."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Both ways: sessions to refuse, and until when, in seconds since the epoch."""

    ends: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Accept:
    """To a worker: accept on these sockets, by number, and on no others."""

    sockets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """To a child: accept nothing any more, finish what was begun, and end."""


@dataclass(frozen=True, slots=True)
class Ping:
    """To a child, which sends it back: it reads what it is told."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From a child: it has started, and can serve."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a worker that can't be started with its configuration, and why."""

    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """To the hub: a worker has sent *message*."""

    child: int
    """Whose number no other child of this supervisor has."""
    slot: int
    message: Deny | Ready | Failed


Message = Deny | Accept | Drain | Ping | Ready | Failed | Report


def encode(message: Message) -> bytes:
    """Return *message* as it is sent."""
    told = _told(message)
    return json.dumps(told, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _told(message: Message) -> dict[str, object]:
    match message:
        case Deny(ends):
            return {"deny": dict(ends)}
        case Accept(sockets):
            return {"accept": sockets}
        case Drain():
            return {"drain": True}
        case Ping():
            return {"ping": True}
        case Ready():
            return {"ready": True}
        case Failed(reason):
            return {"failed": reason}
        case Report(child, slot, inner):
            return {"child": child, "slot": slot, "report": _told(inner)}
        case never:
            assert_never(never)


class Decoder:
    """Makes messages of the bytes that arrive, however they are cut."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that *data* completes.

        Raises:
            BadMessage: one isn't what `encode` makes, or is longer than 1 MiB.
        """
        searched = len(self._rest)
        self._rest += data
        end = self._rest.rfind(b"\n", searched)
        if end < 0:
            lines = []
        else:
            lines = bytes(self._rest[:end]).split(b"\n")
            del self._rest[: end + 1]
        if max(map(len, (*lines, self._rest))) > _MAX_LINE_BYTES:
            raise BadMessage("a message is too long")
        return [_decode(line) for line in lines]


def _decode(line: bytes) -> Message:
    try:
        told = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        raise BadMessage("a message isn't JSON") from None
    match told:
        case {"child": child, "slot": slot, "report": inner, **rest} if not rest:
            message = _plain(inner)
            if isinstance(message, Deny | Ready | Failed):
                return Report(_number(child), _number(slot), message)
            raise BadMessage("a report of what no worker reports")
        case _:
            return _plain(told)


def _plain(told: object) -> Message:
    """Return a message that has no other in it: reports don't nest."""
    match told:
        case {"deny": dict() as ends, **rest} if not rest:
            return Deny({_handle(name): _time(until) for name, until in ends.items()})
        case {"accept": list() as sockets, **rest} if not rest:
            return Accept(tuple(map(_number, sockets)))
        case {"drain": True, **rest} if not rest:
            return Drain()
        case {"ping": True, **rest} if not rest:
            return Ping()
        case {"ready": True, **rest} if not rest:
            return Ready()
        case {"failed": str(reason), **rest} if not rest:
            return Failed(reason)
        case _:
            raise BadMessage("a message of an unknown kind")


def _handle(value: str) -> str:
    if len(value) > _MAX_HANDLE:
        raise BadMessage("a session that is none")
    return value


def _time(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadMessage("a time that is none")
    try:
        time = float(value)
    except OverflowError:
        time = math.inf
    if not math.isfinite(time):
        raise BadMessage("a time that is none")
    return time


def _number(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadMessage("a number that is none")
    return value


def batches(ends: Iterable[tuple[str, float]]) -> Iterator[Deny]:
    """Yield *ends* in messages that every decoder takes, also inside a report."""
    batch: dict[str, float] = {}
    size = 0
    for handle, until in ends:
        batch[handle] = until
        size += len(handle) + 24
        if size >= _BATCH_BYTES:
            yield Deny(batch)
            batch, size = {}, 0
    if batch:
        yield Deny(batch)

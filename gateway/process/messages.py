"""PURE. The messages between a supervisor and its children.

A message is one line of JSON; it has one key, but for a report, which has three. Both
ends run the same program, but a worker faces the internet: its messages are checked
like any untrusted input.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Final

from gateway.events import ONCE_CODES, RuntimeEvent
from gateway.observe.meters import Sample
from gateway.process import (
    admin_messages,
    lease_messages,
    shared_messages,
    target_messages,
)
from gateway.process.admin_messages import AdminMessage
from gateway.process.lease_messages import DrawLeases, LeaseMessage, LeasesDrawn
from gateway.process.message_values import (
    BadMessage,
    one_of,
    to_api_key,
    to_ends,
    to_hosts,
    to_number,
    to_samples,
    to_time,
    to_url,
    to_user,
    user_to_json,
)
from gateway.process.shared_messages import (
    RefuseSessions,
    ShareDenials,
    SharedMessage,
    ShareWith,
    StoreState,
)
from gateway.process.target_messages import (
    CheckTargets,
    TargetEjected,
    TargetMessage,
    TargetsDown,
)
from gateway.session.deny_list import UserDenial

_MAX_LINE_BYTES = 1024 * 1024
"""Of one message. Valid messages are shorter by far."""
_BATCH_BYTES = 64 * 1024
"""About the part of a deny-list in one message; JSON escapes make it up to 12 times as
long."""
_BATCH_USERS = 32
"""Of about the same length, as an id has up to 1,024 characters."""
MAX_KEY_SET = 256 * 1024
"""Of a key set, in characters. A core's usual set has 2,000."""


MAX_NOTICE = 2000
"""Of the text of a notice, and of each fact, in characters."""


@dataclass(frozen=True, slots=True)
class Deny:
    """Both ways: sessions to refuse, each until a time in seconds since the epoch."""

    ends: Mapping[str, float]
    number: int = 0
    """The sender's number of it, which `DenyDone` answers; 0: no answer is wanted."""
    users: tuple[UserDenial, ...] = ()
    """Users whose older sessions are refused. From the hub and to workers only."""


@dataclass(frozen=True, slots=True)
class DenyDone:
    """Both ways: the `Deny` with this number is in force.

    From a worker: in this worker. To a worker: in all others that may have clients.
    """

    number: int


@dataclass(frozen=True, slots=True)
class Accept:
    """To a worker: accept on the sockets with these numbers, and on no others."""

    sockets: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Drain:
    """To a child: stop accepting, finish the requests in flight, and exit.

    Sent again to a worker that keeps WebSockets, it closes them.
    """

    websockets_s: float = 0.0
    """How long WebSockets stay open; 0: they are closed now."""


@dataclass(frozen=True, slots=True)
class Ping:
    """To a child, which sends it back: its event loop runs."""


@dataclass(frozen=True, slots=True)
class Ready:
    """From a child: it has started and can serve."""


@dataclass(frozen=True, slots=True)
class Failed:
    """From a worker: its configuration can't be served, for *reason*."""

    reason: str


@dataclass(frozen=True, slots=True)
class KeySource:
    """From a worker that starts: the core whose keys verify its tokens."""

    hosts: tuple[str, ...]
    issuer: str


@dataclass(frozen=True, slots=True)
class AskCore:
    """From a worker that starts, and to the hub: ask whether the core can be used."""

    hosts: tuple[str, ...]
    """None: ask nothing."""
    api_key: str | None = field(repr=False)
    timeout_s: float


@dataclass(frozen=True, slots=True)
class KeysUntil:
    """From a worker: until when it can verify tokens with the keys that it has."""

    until: float
    """On the monotonic clock, which all processes of a machine share."""


@dataclass(frozen=True, slots=True)
class FetchKeys:
    """To the hub: fetch the keys of *source* from now on, and of no other core."""

    source: KeySource
    refresh_s: float
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Notice:
    """From a worker: an event of the whole gateway, one of `events.ONCE`."""

    event: RuntimeEvent
    message: str
    facts: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Keys:
    """From the hub, and to a worker that starts: the keys of *source*."""

    source: KeySource
    fetched_at: float
    """On the monotonic clock."""
    jwks: str
    """A JWKS document."""


WORKER_STATES: Final = (
    "waiting",
    "starting",
    "ready",
    "accepting",
    "hanging",
    "lost",
    "draining",
)
"""The states of workers. `waiting`: to be started; `ready`: it could accept, but does
not yet; `hanging`: one didn't answer, and none is ready in its place yet;
`lost`: it can't be used, and hasn't exited."""
RESTART_CAUSES: Final = ("exit", "signal", "hang", "misbehaviour", "fork")
"""Why workers are replaced. `signal`: another process's; `fork`: it couldn't start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """To the hub: how the gateway is, each time that it changes."""

    generation: int
    """The number of the generation that accepts."""
    children: tuple[int, ...]
    """The numbers of all workers that haven't exited."""
    slots: tuple[str, ...]
    """The states of its workers, by slot."""
    others: Mapping[str, int]
    """How many workers of other generations there are, by state."""
    is_started: bool
    """The start is over: see `/startupz`."""
    is_draining: bool
    """The gateway has been told to stop. It may still accept."""
    keys_until: float | None
    """Until when all workers that accept have keys, on the monotonic clock; None: one
    has none, or no worker accepts."""
    is_loaded: bool
    """The file could be served when it was read last."""
    loaded_at: float
    """When a file that could be served took over, in seconds since the epoch."""
    restarts: Mapping[str, int]
    """How many workers were replaced, by cause."""
    hub_restarts: int


@dataclass(frozen=True, slots=True)
class Snapshot:
    """From a worker: all that it has counted since it started, for metrics."""

    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """To the hub: a worker has sent *message*."""

    child: int
    """The worker's number, which is unique among the children of this supervisor."""
    slot: int
    message: Deny | Ready | Failed | Snapshot


Message = (
    Deny
    | DenyDone
    | Accept
    | Drain
    | Ping
    | Ready
    | Failed
    | KeySource
    | AskCore
    | KeysUntil
    | FetchKeys
    | Keys
    | Notice
    | Snapshot
    | Status
    | Report
    | AdminMessage
    | TargetMessage
    | SharedMessage
    | LeaseMessage
)


_STATUS_FIELDS = tuple(field.name for field in fields(Status))


def encode(message: Message) -> bytes:
    """Return *message* as one line of JSON, with the line feed."""
    value = _to_json(message)
    return json.dumps(value, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def _to_json(message: Message) -> dict[str, object]:
    match message:
        case Deny(ends, number, users):
            return {
                "deny": dict(ends),
                **({"number": number} if number else {}),
                **({"users": [*map(user_to_json, users)]} if users else {}),
            }
        case DenyDone(number):
            return {"denied": number}
        case Accept(sockets):
            return {"accept": sockets}
        case Drain(websockets_s):
            return {"drain": websockets_s}
        case Ping():
            return {"ping": True}
        case Ready():
            return {"ready": True}
        case Failed(reason):
            return {"failed": reason}
        case KeySource():
            return {"key_source": _source_to_json(message)}
        case AskCore(hosts, api_key, timeout_s):
            return {"ask_core": [timeout_s, api_key, *hosts]}
        case KeysUntil(until):
            return {"keys_until": until}
        case FetchKeys(source, refresh_s, timeout_s):
            return {"fetch_keys": [_source_to_json(source), refresh_s, timeout_s]}
        case Keys(source, fetched_at, jwks):
            return {"keys": [_source_to_json(source), fetched_at, jwks]}
        case Notice(event, text, facts):
            return {"notice": [event.code, text, dict(facts)]}
        case Snapshot(samples):
            return {"snapshot": samples}
        case Status():
            return {"status": [getattr(message, name) for name in _STATUS_FIELDS]}
        case Report(child, slot, inner):
            return {"child": child, "slot": slot, "report": _to_json(inner)}
        case CheckTargets() | TargetsDown() | TargetEjected():
            return target_messages.to_json(message)
        case ShareWith() | ShareDenials() | StoreState() | RefuseSessions():
            return shared_messages.to_json(message)
        case DrawLeases() | LeasesDrawn():
            return lease_messages.to_json(message)
        case admin:
            return admin_messages.to_json(admin)


def _source_to_json(source: KeySource) -> list[object]:
    return [source.issuer, *source.hosts]


class Decoder:
    """Decodes a stream of messages that arrives in pieces of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[Message]:
        """Return the messages that *data* completes.

        Raises:
            BadMessage: a message isn't one that `encode` makes, or is longer than
                1 MiB.
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
        value = json.loads(line.decode("ascii"))
    except (ValueError, RecursionError):
        raise BadMessage("a message isn't JSON") from None
    match value:
        case {"child": child, "slot": slot, "report": inner, **rest} if not rest:
            message = _simple_message(inner)
            if isinstance(message, Deny | Ready | Failed | Snapshot):
                return Report(to_number(child), to_number(slot), message)
            raise BadMessage("a report contains a message that workers don't send")
        case _:
            return _simple_message(value)


def _simple_message(value: object) -> Message:
    """Return any message but a report, since reports don't nest."""
    match value:
        case {"deny": dict() as ends, **rest} if not rest:
            return Deny(to_ends(ends))
        case {"deny": dict() as ends, "number": number, **rest} if not rest:
            return Deny(to_ends(ends), to_number(number))
        case {"deny": dict() as ends, "users": list() as users, **rest} if (
            rest.keys() <= {"number"}
        ):
            denial = to_number(rest.get("number", 0))
            return Deny(to_ends(ends), denial, tuple(map(to_user, users)))
        case {"denied": number, **rest} if not rest:
            return DenyDone(to_number(number))
        case {"accept": list() as sockets, **rest} if not rest:
            return Accept(tuple(map(to_number, sockets)))
        case {"drain": websockets_s, **rest} if not rest:
            return Drain(to_time(websockets_s))
        case {"ping": True, **rest} if not rest:
            return Ping()
        case {"ready": True, **rest} if not rest:
            return Ready()
        case {"failed": str(reason), **rest} if not rest:
            return Failed(reason)
        case {"key_source": source, **rest} if not rest:
            return _source(source)
        case {"ask_core": [timeout_s, api_key, *hosts], **rest} if not rest:
            return AskCore(to_hosts(hosts), to_api_key(api_key), to_time(timeout_s))
        case {"keys_until": until, **rest} if not rest:
            return KeysUntil(to_time(until))
        case {"fetch_keys": [source, refresh_s, timeout_s], **rest} if not rest:
            return FetchKeys(_source(source), to_time(refresh_s), to_time(timeout_s))
        case {"keys": [source, at, str(jwks)], **rest} if not rest:
            if len(jwks) > MAX_KEY_SET:
                raise BadMessage("a key set is too large")
            return Keys(_source(source), to_time(at), jwks)
        case {"notice": [str(code), str(text), dict() as facts], **rest} if not rest:
            return _notice(code, text, facts)
        case {"snapshot": list() as samples, **rest} if not rest:
            return Snapshot(to_samples(samples))
        case {"status": list() as values, **rest} if not rest:
            return _status(values)
        case {"check_targets": _} | {"targets_down": _} | {"target_ejected": _}:
            return target_messages.from_json(value)
        case (
            {"share_with": _}
            | {"shared": _}
            | {"store_known": _}
            | {"refuse_sessions": _}
        ):
            return shared_messages.from_json(value)
        case {"draw": _} | {"drawn": _}:
            return lease_messages.from_json(value)
        case _:
            return admin_messages.from_json(value)


def _notice(code: str, text: str, facts: dict[str, object]) -> Notice:
    event = ONCE_CODES.get(code)
    words = [text, *facts.values()]
    if (
        event is None
        or not facts.keys() <= set(event.fact_names)
        or not all(isinstance(word, str) and len(word) <= MAX_NOTICE for word in words)
    ):
        raise BadMessage("an invalid notice")
    return Notice(event, text, {name: str(facts[name]) for name in facts})


def _status(values: list[object]) -> Status:
    match values:
        case [
            generation,
            list() as children,
            list() as slots,
            dict() as others,
            bool(is_started),
            bool(is_draining),
            keys_until,
            bool(is_loaded),
            loaded_at,
            dict() as restarts,
            hub_restarts,
        ]:
            return Status(
                generation=to_number(generation),
                children=tuple(map(to_number, children)),
                slots=tuple(one_of(WORKER_STATES, slot) for slot in slots),
                others=_counts(WORKER_STATES, others),
                is_started=is_started,
                is_draining=is_draining,
                keys_until=None if keys_until is None else to_time(keys_until),
                is_loaded=is_loaded,
                loaded_at=to_time(loaded_at),
                restarts=_counts(RESTART_CAUSES, restarts),
                hub_restarts=to_number(hub_restarts),
            )
        case _:
            raise BadMessage("an invalid status")


def _counts(names: Sequence[str], value: dict[str, object]) -> dict[str, int]:
    return {one_of(names, name): to_number(count) for name, count in value.items()}


def _source(value: object) -> KeySource:
    match value:
        case [str(issuer), *hosts]:
            return KeySource(to_hosts(hosts), to_url(issuer))
        case _:
            raise BadMessage("an invalid source of keys")


def batches(
    ends: Iterable[tuple[str, float]], users: Iterable[UserDenial] = ()
) -> Iterator[Deny]:
    """Yield *ends* in messages short enough for a decoder, also inside a report.

    *ends* are pairs of a session handle and a time in seconds since the epoch. *users*
    follow, in messages of their own.
    """
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
    denials = tuple(users)
    for start in range(0, len(denials), _BATCH_USERS):
        yield Deny({}, users=denials[start : start + _BATCH_USERS])

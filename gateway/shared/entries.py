"""PURE. The entries of the shared stream: denials, as text that is checked when read.

An entry has three fields: `v`, the version of the format; `g`, the id of the gateway
that has sent it; `d`, a JSON document

    {"s": {"session handle": until}, "u": [["user", "tenant", before, until]]}

in ASCII, with times in seconds since the epoch, and null for all tenants. Gateways of
other versions read the same stream during an update: an entry that isn't of this form
is skipped as a whole, so a later version that changes the meaning must change `v`.

Whoever can write to the store can end sessions. What is read is limited so that it does
no more: no denial outlasts `MAX_DENY_S`, and none concerns sessions of the future.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from gateway.pace import finite_s
from gateway.session.deny_list import MAX_DENY_S, MAX_HANDLE, UserDenial, UserScope

VERSION: Final = "1"
MAX_ENTRY_BYTES: Final = 128 * 1024
"""Of a document. Longer ones aren't read."""
_BATCH_BYTES: Final = 48 * 1024
"""About the length of a document after which the next denial begins another one."""
MAX_ID: Final = 64
"""Of a gateway's id, in characters."""
MAX_AHEAD_S: Final = 300.0
"""How far the clock of another gateway may be ahead of this one's."""


@dataclass(frozen=True, slots=True)
class SharedDenials:
    """Sessions and users to refuse, as `Deny` has them."""

    ends: Mapping[str, float] = field(default_factory=dict)
    users: tuple[UserDenial, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.ends or self.users)


@dataclass(frozen=True, slots=True)
class SharedEntry:
    """One entry of the stream."""

    gateway: str
    denials: SharedDenials


class NotAnEntry(ValueError):
    """It isn't an entry of this format. The text quotes nothing of it."""


def fields(entry: SharedEntry) -> dict[str, str]:
    """Return the fields of *entry*."""
    document = {
        "s": dict(entry.denials.ends),
        "u": [
            [one.scope.user_id, one.scope.tenant_id, one.before, one.until]
            for one in entry.denials.users
        ],
    }
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return {"v": VERSION, "g": entry.gateway, "d": text}


def end_of(denials: SharedDenials) -> float:
    """Return when the last of *denials* is over; 0.0: there is none."""
    ends = (*denials.ends.values(), *(user.until for user in denials.users))
    return max(ends, default=0.0)


def batches(denials: SharedDenials) -> Iterator[SharedDenials]:
    """Yield *denials* in parts that fit an entry."""
    ends: dict[str, float] = {}
    users: list[UserDenial] = []
    size = 0
    for handle, until in denials.ends.items():
        ends[handle] = until
        size += _size(handle)
        if size >= _BATCH_BYTES:
            yield SharedDenials(ends)
            ends, size = {}, 0
    for user in denials.users:
        users.append(user)
        size += _size(user.scope.user_id) + _size(user.scope.tenant_id or "")
        if size >= _BATCH_BYTES:
            yield SharedDenials(ends, tuple(users))
            ends, users, size = {}, [], 0
    if ends or users:
        yield SharedDenials(ends, tuple(users))


def _size(text: str) -> int:
    """Return about the bytes of *text* in a document, with its times."""
    return len(json.dumps(text)) + 48


def read(raw: Mapping[bytes, bytes], now: float) -> SharedEntry:
    """Return the entry with the fields *raw*, limited as this file's docstring says.

    *now* is in seconds since the epoch.

    Raises:
        NotAnEntry: it isn't one, or it is of another version.
    """
    if raw.get(b"v") != VERSION.encode():
        raise NotAnEntry("another version")
    gateway, document = raw.get(b"g", b""), raw.get(b"d", b"")
    if not 0 < len(gateway) <= MAX_ID or not gateway.isalnum():
        raise NotAnEntry("an invalid gateway")
    if len(document) > MAX_ENTRY_BYTES:
        raise NotAnEntry("too long")
    try:
        value = json.loads(document.decode("ascii"))
    except (ValueError, RecursionError):
        raise NotAnEntry("not JSON") from None
    match value:
        case {"s": dict() as ends, "u": list() as users}:
            denials = SharedDenials(
                {_id(handle): _end(until, now) for handle, until in ends.items()},
                tuple(_user(user, now) for user in users),
            )
        case _:
            raise NotAnEntry("not denials")
    return SharedEntry(gateway.decode("ascii"), denials)


def _user(value: object, now: float) -> UserDenial:
    match value:
        case [str(user), str() | None as tenant, before, until]:
            scope = UserScope(_id(user), None if tenant is None else _id(tenant))
            at = min(_time(before), now + MAX_AHEAD_S)
            return UserDenial(scope, at, _end(until, now))
        case _:
            raise NotAnEntry("an invalid user")


def _id(value: str) -> str:
    if not 0 < len(value) <= MAX_HANDLE:
        raise NotAnEntry("an invalid id")
    return value


def _end(value: object, now: float) -> float:
    return min(_time(value), now + MAX_DENY_S)


def _time(value: object) -> float:
    try:
        return finite_s(value)
    except ValueError as error:
        raise NotAnEntry(str(error)) from None

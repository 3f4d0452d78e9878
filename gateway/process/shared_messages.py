"""PURE. The messages about denials that gateways share over a store.

The supervisor tells the hub which store to use, and every denial of this gateway. The
hub tells it those of others, and whether it knows all that the store has. The
supervisor takes none of this from a worker.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from gateway.config import StoreAddress
from gateway.process.message_values import (
    BadMessage,
    to_ends,
    to_number,
    to_time,
    to_user,
    user_to_json,
)
from gateway.shared.entries import SharedDenials
from gateway.shared.place import StorePlace

_MAX_TEXT = 8192
"""Of an address, a name, a password or a path, in characters."""


@dataclass(frozen=True, slots=True)
class ShareWith:
    """To the hub: share denials over this store from now on, and over no other."""

    place: StorePlace | None = field(repr=False)
    """None: over none."""


@dataclass(frozen=True, slots=True)
class ShareDenials:
    """To the hub: denials of this gateway. From the hub: those of others."""

    denials: SharedDenials
    is_new: bool
    """They were made just now; else the hub is new and is told what is in force."""


@dataclass(frozen=True, slots=True)
class StoreState:
    """From the hub, each second and at each change: whether the store is there."""

    is_known: bool
    """The gateway has all denials that are in the store."""


@dataclass(frozen=True, slots=True)
class RefuseSessions:
    """To a worker: whether to refuse requests with a session, for want of the store."""

    is_on: bool


SharedMessage = ShareWith | ShareDenials | StoreState | RefuseSessions


def to_json(message: SharedMessage) -> dict[str, object]:
    """Return *message* as JSON."""
    match message:
        case ShareWith(place):
            return {"share_with": place and _place_to_json(place)}
        case ShareDenials(denials, is_new):
            users = [*map(user_to_json, denials.users)]
            return {"shared": [is_new, dict(denials.ends), users]}
        case StoreState(is_known):
            return {"store_known": is_known}
        case RefuseSessions(is_on):
            return {"refuse_sessions": is_on}
        case never:
            assert_never(never)


def from_json(value: object) -> SharedMessage:
    """Return the message in *value*.

    Raises:
        BadMessage: it is none of these.
    """
    match value:
        case {"share_with": None, **rest} if not rest:
            return ShareWith(None)
        case {"share_with": list() as values, **rest} if not rest:
            return ShareWith(_place(values))
        case {
            "shared": [bool(is_new), dict() as ends, list() as users],
            **rest,
        } if not rest:
            denials = SharedDenials(to_ends(ends), tuple(map(to_user, users)))
            return ShareDenials(denials, is_new)
        case {"store_known": bool(is_known), **rest} if not rest:
            return StoreState(is_known)
        case {"refuse_sessions": bool(is_on), **rest} if not rest:
            return RefuseSessions(is_on)
        case _:
            raise BadMessage("a message of an unknown kind")


def _place_to_json(place: StorePlace) -> list[object]:
    address = place.address
    return [
        address.host,
        address.port,
        address.is_tls,
        address.username,
        address.password,
        address.database,
        place.key,
        place.ca_file,
        place.grace_s,
    ]


def _place(values: list[object]) -> StorePlace:
    match values:
        case [
            host,
            port,
            bool(is_tls),
            username,
            password,
            database,
            key,
            ca_file,
            grace_s,
        ]:
            return StorePlace(
                address=StoreAddress(
                    host=_text(host),
                    port=to_number(port),
                    is_tls=is_tls,
                    username=None if username is None else _text(username),
                    password=None if password is None else _text(password),
                    database=to_number(database),
                ),
                key=_text(key),
                ca_file=None if ca_file is None else _text(ca_file),
                grace_s=None if grace_s is None else to_time(grace_s),
            )
        case _:
            raise BadMessage("an invalid store")


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > _MAX_TEXT:
        raise BadMessage("an invalid text about a store")
    return value

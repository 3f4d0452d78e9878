"""PURE. Fields that a route sets, adds and removes, in requests and in replies.

What the gateway itself decides by can't be edited: a field that says who the user is,
where the request comes from, how long the body is, or which origins may read a reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gateway.headers.cookies import sets_session_cookie
from gateway.headers.names import EDITED, Rule, fold, is_reserved_reply, request_rule
from gateway.http.fields import Fields, block

_is_name = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?").fullmatch

_MESSAGE = "the gateway sets it for the body and the connection that it forwards"
_OWN = "the gateway sets it, and services rely on it"
_EDITABLE = frozenset({None, Rule.AUTHORIZATION, Rule.COOKIE})
"""The rules of request fields that a route may edit."""
_HANDSHAKE = "sec-websocket-"
_FRAMING = frozenset(
    {
        b"connection",
        b"content-length",
        b"http2-settings",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    }
)
_OWN_OF_REPLIES = frozenset({b"date", b"x-request-id", b"via"})
_CACHES = frozenset({b"cache-control", b"cdn-cache-control", b"surrogate-control"})


@dataclass(frozen=True, slots=True)
class Edits:
    """What a route changes in the fields of one direction.

    No NamedTuple, whose attributes cost more to read: each message reads some.
    """

    removed: frozenset[bytes] = frozenset()
    """Names as `names.fold` returns them."""
    added: bytes = b""
    """Fields, each with CRLF."""
    added_uncached: bytes = b""
    """The same without those that say what caches may keep."""
    fields: Fields = ()
    """The same as `added`."""

    @property
    def marks(self) -> int:
        """Marks of lines: in a message with one of these, a line may be removed."""
        return EDITED if self.removed else 0


NO_EDITS = Edits()


def compile_edits(
    set_fields: Mapping[str, str], added: Mapping[str, str], removed: Iterable[str]
) -> Edits:
    """Return the edits that *set_fields* and *added* (name → value), and *removed* ask.

    A field that is set takes the place of all fields of its name.
    """
    fields = [
        (name.encode(), value.encode())
        for part in (set_fields, added)
        for name, value in part.items()
    ]
    return Edits(
        removed=frozenset(fold(name.encode()) for name in (*set_fields, *removed)),
        added=block(fields),
        added_uncached=block(f for f in fields if f[0].lower() not in _CACHES),
        fields=tuple(fields),
    )


def check_request_edit(name: str) -> None:
    """Check that a route may set, add or remove the request field *name*.

    Raises:
        ValueError: it may not; the message has the reason.
    """
    _check_name(name)
    folded = fold(name.encode())
    if folded in _FRAMING or folded == b"expect" or name.lower().startswith(_HANDSHAKE):
        raise ValueError(_MESSAGE)
    if folded == b"host":
        raise ValueError("host_header says which Host a service gets")
    if folded == b"via" or request_rule(folded) not in _EDITABLE:
        raise ValueError(_OWN)


def check_reply_edit(name: str) -> None:
    """Check that a route may set, add or remove the reply field *name*.

    Raises:
        ValueError: it may not; the message has the reason.
    """
    _check_name(name)
    folded = fold(name.encode())
    if folded in _FRAMING or name.lower().startswith(_HANDSHAKE):
        raise ValueError(_MESSAGE)
    if folded.startswith(b"access-control-"):
        raise ValueError("cors says which origins may read replies")
    if folded in _OWN_OF_REPLIES or is_reserved_reply(folded):
        raise ValueError("the gateway sets it, and clients rely on it")


def check_reply_value(name: str, value: str) -> None:
    """Check that a route may set or add the reply field *name* with *value*.

    Raises:
        ValueError: it may not; the message has the reason.
    """
    if name.lower() == "set-cookie" and sets_session_cookie(value.encode()):
        raise ValueError("this is a cookie of the session, which only SuperTokens sets")


def _check_name(name: str) -> None:
    if not _is_name(name):
        raise ValueError("a field name has letters, digits and - here")

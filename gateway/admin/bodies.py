"""PURE. What the bodies of requests to the admin listener say."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from gateway.events import Severity

MAX_ID: int = 256
"""Of a session handle or an id, in characters. SuperTokens' have less than 100."""


_TENANT = re.compile(r"[A-Za-z0-9_-]+")
"""It becomes a segment of a path at the core."""


class BadBody(ValueError):
    """The body can't be used. The text is the reason, and quotes nothing of it."""


@dataclass(frozen=True, slots=True)
class RevokeSession:
    """End one session."""

    handle: str


@dataclass(frozen=True, slots=True)
class RevokeUser:
    """End all sessions of a user, or those in one tenant."""

    user_id: str
    tenant_id: str | None = None


Revocation = RevokeSession | RevokeUser

CONFIGURED: Final = "configured"
"""As the file says."""
LOG_LEVELS: Final = (*(severity.value for severity in Severity), CONFIGURED)
LOG_REQUESTS: Final = ("all", CONFIGURED)


@dataclass(frozen=True, slots=True)
class LogChange:
    """Log more or less than the file says."""

    level: str | None = None
    """The least severity of messages, one of `LOG_LEVELS`; None: as it is."""
    requests: str | None = None
    """Which requests have a line, one of `LOG_REQUESTS`; None: as it is."""


def members(body: bytes, *names: str) -> Mapping[str, str]:
    """Return the members of the JSON object *body*; an empty body has none.

    Raises:
        BadBody: it is none, or has others than *names*, or a value that isn't an id.
    """
    try:
        value = json.loads(
            body.decode() or "{}",
            object_pairs_hook=_object,
            parse_constant=_no_constant,
        )
    except BadBody:
        raise
    except (ValueError, RecursionError):
        raise BadBody("the body isn't JSON") from None
    if not isinstance(value, dict):
        raise BadBody("expected a JSON object")
    if value.keys() - {*names}:
        expected = ", ".join(names) or "none"
        raise BadBody(f"unknown member: there are {expected}")
    if not all(is_id(each) for each in value.values()):
        raise BadBody(
            f"expected texts of 1 to {MAX_ID} printable ASCII characters, no blank"
        )
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) < len(pairs):
        raise BadBody("a member occurs twice")
    return dict(pairs)


def _no_constant(_name: str) -> object:
    raise BadBody("the body isn't JSON")


def is_id(value: object) -> bool:
    """Return whether *value* may be a session handle, or the id of a user or tenant."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= MAX_ID
        and all("!" <= char <= "~" for char in value)
    )


def revocation(body: bytes) -> Revocation:
    """Return whose sessions are to end.

    Raises:
        BadBody: as `members`; or it names neither a session nor a user, or both.
    """
    match members(body, "session", "user", "tenant"):
        case {"session": handle, **rest} if not rest:
            return RevokeSession(handle)
        case {"user": user_id, **rest} if rest.keys() <= {"tenant"}:
            tenant_id = rest.get("tenant")
            if tenant_id is not None and not _TENANT.fullmatch(tenant_id):
                raise BadBody("a tenant's id has letters, digits, - and _ only")
            return RevokeUser(user_id, tenant_id)
        case _:
            raise BadBody("expected session, or user, or user and tenant")


def log_change(body: bytes) -> LogChange:
    """Return how to log from now on.

    Raises:
        BadBody: as `members`; or a value is none of those that there are, or there is
            no member.
    """
    given = members(body, "level", "requests")
    if not given:
        raise BadBody("expected level, requests, or both")
    for name, values in (("level", LOG_LEVELS), ("requests", LOG_REQUESTS)):
        if given.get(name, CONFIGURED) not in values:
            raise BadBody(f"{name} is one of {', '.join(values)}")
    return LogChange(given.get("level"), given.get("requests"))

"""PURE. What session calls come to: values, read with `match`."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.dev.core.jws import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as handed out, times in ms."""

    text: str
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """What callers learn about a session."""

    handle: str
    user_id: str
    payload: JsonObject
    tenant_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A session as it stands in the database, times in ms."""

    session: Session
    data: JsonObject
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A session with a new pair of tokens."""

    session: Session
    access: Token
    refresh: Token
    anti_csrf: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verified:
    """A good access token; `access` is its successor when the client needs one."""

    session: Session
    access: Token | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unauthorised:
    """There's no such session (any more)."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TryRefresh:
    """The access token is no good; a refresh may bring a better one."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Theft:
    """A superseded refresh token was used. The session lives on until revoked."""

    handle: str
    user_id: str

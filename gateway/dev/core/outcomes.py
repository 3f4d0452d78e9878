"""PURE. The outcomes of calls to the session recipe, for a `match` statement."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.dev.core.jws import JsonObject


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token for the client; times in ms since the epoch."""

    text: str
    created_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """The fields of a session that calls return."""

    handle: str
    user_id: str
    payload: JsonObject
    tenant_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """A session's row in the database; times in ms since the epoch."""

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
    """A valid access token. `access` replaces it in the client, unless it is None."""

    session: Session
    access: Token | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Unauthorised:
    """The session doesn't exist or has ended, or the token can't be accepted."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TryRefresh:
    """The access token is invalid; a refresh may return a valid one."""

    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Theft:
    """A superseded refresh token was used. The session stays valid until revoked."""

    handle: str
    user_id: str

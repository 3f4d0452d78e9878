"""PURE. Who is asking: credentials as they came, and what verification says of them.

`proxy` and `verify` never import each other. They meet here, through `Verifier`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

from gateway.fields import Fields
from gateway.http.lines import Line
from gateway.http.methods import SAFE_METHODS as SAFE_METHODS  # noqa: PLC0414 # a name of this room, too


class Protection(StrEnum):
    """What a route demands of a request (`protected:` in the route table)."""

    PUBLIC = "public"
    """No session is read; the request is anonymous whatever it carries."""
    OPTIONAL = "optional"
    """No session passes as anonymous; a broken or expired one is refused."""
    REQUIRED = "required"


class CheckDatabase(StrEnum):
    """When the core is asked whether the session still exists."""

    NEVER = "never"
    ON_WRITE = "on_write"
    """For every method but GET, HEAD and OPTIONS."""
    CACHED = "cached"
    """When the last answer for this token is older than `max_age`."""
    ALWAYS = "always"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimRule:
    """A condition on one claim of the access token payload."""

    path: tuple[str, ...]
    any_of: tuple[Any, ...] = ()
    """The claim's value (or one element of a list) is one of these."""
    equals: Any = None
    has_equals: bool = False
    contains: Any = None
    has_contains: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a session must have besides being valid. Empty: nothing."""

    roles_any: tuple[str, ...] = ()
    roles_all: tuple[str, ...] = ()
    permissions_any: tuple[str, ...] = ()
    permissions_all: tuple[str, ...] = ()
    email_verified: bool = False
    mfa: bool = False
    tenants: tuple[str, ...] = ()
    claims: tuple[ClaimRule, ...] = ()
    max_age_s: float | None = None
    """A claim older than this is fetched again from the core, in seconds."""
    validators: tuple[str, ...] = ()
    """Dotted names of SDK claim validators made by the user."""

    def __bool__(self) -> bool:
        return self != _NOTHING


_NOTHING = Requirements()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionPolicy:
    """A route's whole demand on the session; compared and hashed by identity."""

    protection: Protection = Protection.REQUIRED
    requirements: Requirements = _NOTHING
    check_database: CheckDatabase = CheckDatabase.NEVER
    max_age_s: float = 5.0
    """For `CheckDatabase.CACHED`: how old the core's answer may be, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Identity:
    """A verified session. Never made from anything but a verified token."""

    user_id: str
    recipe_user_id: str
    session_handle: str
    tenant_id: str
    claims: Mapping[str, Any]
    """The access token payload, whole."""
    expires_at: float
    """When the access token ends, in seconds since the epoch."""
    written: dict[object, bytes] = field(default_factory=dict, init=False, repr=False)
    """A store for `headers`: these facts as fields, by header policy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The request may go on, as *identity*, or as anonymous when it is None."""

    identity: Identity | None
    reason: str
    """A short word for the log: `public`, `anonymous`, `cached`, `local`, `core`."""
    new_tokens: Fields = ()
    """Fields that the answer must carry to the client (new access token)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The request is refused with SuperTokens' own answer, and goes nowhere."""

    status: int
    body: bytes
    fields: Fields = field(default=())
    """Content-Type, and Set-Cookie or st-* fields when tokens are cleared."""
    reason: str = "unauthorised"


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """Nobody could tell; the answer is 503 with Retry-After, and goes nowhere."""

    reason: str
    retry_after_s: int = 1


Verdict = Allowed | Denied | Undecided


class SessionRequest(Protocol):
    """What verification may see of a request: its head, nothing of its body."""

    @property
    def method(self) -> str: ...

    @property
    def path(self) -> str:
        """The canonical path (see `target`), without query."""
        ...

    @property
    def fields(self) -> Fields: ...

    @property
    def shown(self) -> Sequence[Line]:
        """The lines that may hold credentials, read with CREDENTIAL_FIELDS."""
        ...

    @property
    def is_secure(self) -> bool:
        """The client's side is https, directly or as a trusted proxy says."""
        ...

    @property
    def authority(self) -> str: ...


class Verifier(Protocol):
    """Turns a request's credentials into a verdict.

    Implementations never raise for anything that a client, a token or the core
    does: whatever goes wrong inside is `Undecided`.
    """

    async def verify(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict: ...

    def verify_now(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | None:
        """Return the verdict, or None: `verify` must be awaited for it."""
        ...

    def has_ended(self, session_handle: str) -> bool:
        """Return whether a session, verified once, is known to be over by now."""
        ...


# --- credentials ------------------------------------------------------------

ACCESS_COOKIE = "sAccessToken"
_LEGACY_COOKIE = "sIdRefreshToken"
_BEARER = b"Bearer "
_ESCAPED = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


class Credentials(NamedTuple):
    """What a request shows to prove its session: nothing here is verified."""

    bearer: str | None = None
    """What stands after `Bearer `, maybe nothing; None without that scheme."""
    access_cookies: tuple[str, ...] = ()
    """Every `sAccessToken` cookie. The last is the one that the SDK reads; with more
    than one it asks for a refresh instead."""
    anti_csrf: str | None = None
    has_rid: bool = False
    """A `rid` field, of any value, is there (anti-CSRF mode VIA_CUSTOM_HEADER)."""
    legacy: bool = False
    """A `sIdRefreshToken` cookie is there: the session of an old SDK, to refresh."""
    auth_mode: str | None = None
    """`st-auth-mode` in lower case."""
    is_authorized: bool = False
    """An Authorization field is there, whatever it holds."""


def _authorization(value: bytes) -> Credentials:
    bearer = None
    if value.startswith(_BEARER):
        bearer = value[len(_BEARER) :].decode("latin-1").strip()
    return Credentials(bearer=bearer, is_authorized=True)


def _cookies(value: bytes) -> Credentials:
    if b"sAccessToken" not in value and b"sIdRefreshToken" not in value:
        return _NO_CREDENTIALS
    access_cookies, legacy = _session_cookies(value.decode("latin-1"))
    return Credentials(access_cookies=access_cookies, legacy=legacy)


def _anti_csrf(value: bytes) -> Credentials:
    return Credentials(anti_csrf=value.decode("latin-1"))


def _rid(_: bytes) -> Credentials:
    return Credentials(has_rid=True)


def _auth_mode(value: bytes) -> Credentials:
    return Credentials(auth_mode=value.decode("latin-1").lower())


_NO_CREDENTIALS = Credentials()
CREDENTIAL_FIELDS: Mapping[bytes, Callable[[bytes], Credentials]] = MappingProxyType(
    {
        b"authorization": _authorization,
        b"cookie": _cookies,
        b"anti-csrf": _anti_csrf,
        b"rid": _rid,
        b"st-auth-mode": _auth_mode,
    }
)
"""What reads the credentials of one field: its name in lower case → from its value.

1. Values are Latin-1, so that no byte is lost: a token with a byte above 0x7F can't be
   a JWT, and is not made one by dropping the byte.
2. `Bearer` is case-sensitive and followed by a space.
3. Cookies are split at `;`, then at the first `=`; spaces round both are cut, a quoted
   value is unquoted, then percent-decoded.
4. A cookie whose percent-decoded name is `sAccessToken` is another one of that name,
   but is never the one that is read. (The SDK counts only those in the first Cookie
   field and without a second `=`: two are refused here in any case.)

Source: supertokens_python 0.31.4, recipe/session/cookie_and_header.py; starlette 1.x,
requests.cookie_parser.
"""


def credentials(shown: Sequence[Line]) -> Credentials:
    """Return the credentials in lines that were read with CREDENTIAL_FIELDS.

    Of a field that comes twice the first counts; of Cookie fields all count.
    """
    if len(shown) == 1:
        only: Credentials = shown[0].says
        return only
    bearer = anti_csrf = auth_mode = None
    is_authorized = has_rid = legacy = False
    cookies: tuple[str, ...] = ()
    for line in shown:
        part: Credentials = line.says
        if part.is_authorized and not is_authorized:
            is_authorized = True
            bearer = part.bearer
        cookies += part.access_cookies
        legacy = legacy or part.legacy
        has_rid = has_rid or part.has_rid
        if anti_csrf is None:
            anti_csrf = part.anti_csrf
        if auth_mode is None:
            auth_mode = part.auth_mode
    return Credentials(
        bearer=bearer,
        access_cookies=cookies,
        anti_csrf=anti_csrf,
        has_rid=has_rid,
        legacy=legacy,
        auth_mode=auth_mode,
        is_authorized=is_authorized,
    )


def _session_cookies(text: str) -> tuple[tuple[str, ...], bool]:
    """Return the access tokens of one Cookie field, and whether it has a legacy one."""
    found: list[str] = []
    aliases: list[str] = []
    legacy = False
    for pair in text.split(";"):
        name, equals, value = pair.partition("=")
        if not equals:
            continue
        name = name.strip()
        if name == ACCESS_COOKIE:
            found.append(unquote(_unquoted(value.strip())))
        elif name == _LEGACY_COOKIE:
            legacy = True
        elif "%" in name and unquote(name) == ACCESS_COOKIE:
            aliases.append(value)
    return (*aliases, *found) if found else (), legacy


def _unquoted(value: str) -> str:
    """Return a cookie value without its quotes and backslashes (RFC 2109 §4.1)."""
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPED.sub(lambda m: chr(int(m[1], 8)) if m[1] else m[2], value[1:-1])

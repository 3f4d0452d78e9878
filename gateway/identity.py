"""PURE. Who a request acts for, what a route demands, and the verdict.

`proxy` and `verify` never import each other. They meet here, through `Verifier`.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from gateway.http.fields import Fields
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
class SessionIdentity:
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


Principal = SessionIdentity
"""Who a request acts for: a union with one member for each kind of credential, today
the session. Every member has `user_id`, `claims`, `expires_at` and `written`. What only
one kind has is read after a `match` that ends in `assert_never`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The request may go on, for *principal*, or as anonymous when it is None."""

    principal: Principal | None
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


class Absent:
    """The request shows no credential of the kind that an authenticator judges."""


ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class Pending:
    """There is no verdict before something else has been asked."""

    resume: Callable[[], Coroutine[Any, Any, Verdict | Absent]]
    """Asks, and returns the verdict."""


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
    def credential_lines(self) -> Sequence[Line]:
        """The lines that may hold credentials, read with `session.credentials`."""
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

    def has_ended(self, principal: Principal) -> bool:
        """Return whether *principal*, verified before, is known to be over by now."""
        ...

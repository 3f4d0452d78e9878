"""PURE. The principal of a request, the demands of a route, and the verdict.

`proxy` and `verify` never import each other. Both use the `Verifier` protocol here.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final, Protocol

from gateway.http.fields import Fields
from gateway.http.lines import Line
from gateway.http.methods import SAFE_METHODS as SAFE_METHODS  # noqa: PLC0414 # a name of this room, too


class Protection(StrEnum):
    """What a route demands of a request (`protected:` in the route table)."""

    PUBLIC = "public"
    """No session is read; the request is anonymous even with credentials."""
    OPTIONAL = "optional"
    """A request without a session is anonymous; a broken or expired one is refused."""
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
    mail_domains: tuple[str, ...] = ()
    """The claim is a mail address of one of these domains, in lower case."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirements:
    """What a session must have besides being valid. False if it is nothing."""

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
    alternatives: tuple[tuple[Requirements, ...], ...] = ()
    """Of each group, everything in at least one item. Items have no `validators` and no
    `alternatives`."""

    def __bool__(self) -> bool:
        return self != _NOTHING


_NOTHING = Requirements()


def together(all_of: Iterable[Requirements]) -> Requirements:
    """Return requirements that are met by whoever meets each of *all_of*.

    A second list of which one item is enough becomes a group of one alternative. It
    takes for granted that all of *all_of* with tenants share one (`routes.lint`).
    """
    result = _NOTHING
    for one in all_of:
        result = _both(result, one) if result else one
    return result


def _both(one: Requirements, other: Requirements) -> Requirements:
    alternatives = one.alternatives + other.alternatives
    if one.roles_any and other.roles_any:
        some = Requirements(roles_any=other.roles_any, max_age_s=other.max_age_s)
        alternatives += ((some,),)
    if one.permissions_any and other.permissions_any:
        some = Requirements(
            permissions_any=other.permissions_any, max_age_s=other.max_age_s
        )
        alternatives += ((some,),)
    tenants = one.tenants or other.tenants
    if one.tenants and other.tenants:
        tenants = tuple(name for name in one.tenants if name in other.tenants)
    ages = [age for age in (one.max_age_s, other.max_age_s) if age is not None]
    return Requirements(
        roles_any=one.roles_any or other.roles_any,
        roles_all=(*one.roles_all, *other.roles_all),
        permissions_any=one.permissions_any or other.permissions_any,
        permissions_all=(*one.permissions_all, *other.permissions_all),
        email_verified=one.email_verified or other.email_verified,
        mfa=one.mfa or other.mfa,
        tenants=tenants,
        claims=(*one.claims, *other.claims),
        max_age_s=min(ages, default=None),
        validators=tuple(dict.fromkeys((*one.validators, *other.validators))),
        alternatives=alternatives,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionPolicy:
    """A route's whole demand on the session; compared and hashed by identity."""

    protection: Protection = Protection.REQUIRED
    requirements: Requirements = _NOTHING
    check_database: CheckDatabase = CheckDatabase.NEVER
    max_age_s: float = 5.0
    """For `CheckDatabase.CACHED`: how old the core's answer may be, in seconds."""
    withholds: bool = False
    """The client can't be given new tokens: a token that would be replaced is good for
    as long as a verified one is remembered."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SessionIdentity:
    """A verified session. Made from a verified token only."""

    user_id: str
    recipe_user_id: str
    session_handle: str
    tenant_id: str
    claims: Mapping[str, Any]
    """The whole access token payload."""
    expires_at: float
    """When the access token expires, in seconds since the epoch."""
    written: dict[object, bytes] = field(default_factory=dict, init=False, repr=False)
    """A store for `headers`: these facts as fields, by header policy."""
    assertions: dict[str, tuple[float, bytes]] = field(
        default_factory=dict, init=False, repr=False
    )
    """A store for `assertions`: by audience, until when one is used, and its field."""


Principal = SessionIdentity
"""The party that a request acts for: a union with one member for each kind of
credential, today the session. Every member has `user_id`, `claims`, `expires_at`,
`written` and `assertions`. Attributes of only one kind are read after a `match` that
ends in `assert_never`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The request is forwarded, for *principal*, or as anonymous when it is None."""

    principal: Principal | None
    reason: str
    """A short word for the log: `public`, `anonymous`, `cached`, `local`, `core`."""
    new_tokens: Fields = ()
    """Fields that the answer must carry to the client (new access token)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The request is refused with SuperTokens' own answer, and isn't forwarded."""

    status: int
    body: bytes
    fields: Fields = field(default=())
    """Content-Type, and Set-Cookie or st-* fields when tokens are cleared."""
    reason: str = "unauthorised"


@dataclass(frozen=True, slots=True, kw_only=True)
class Undecided:
    """The session couldn't be checked. The request isn't forwarded; the answer is 503
    with Retry-After."""

    reason: str
    retry_after_s: int = 1
    note: str = field(default="", compare=False)
    """Why, for the log."""


Verdict = Allowed | Denied | Undecided


class Absent:
    """The request has no credential of the kind that an authenticator checks."""


ABSENT: Final = Absent()


@dataclass(frozen=True, slots=True)
class Pending:
    """The verdict needs an answer that must be awaited."""

    resume: Callable[[], Coroutine[Any, Any, Verdict | Absent]]
    """Awaits that answer, and returns the verdict."""


class SessionRequest(Protocol):
    """The part of a request that verification reads: its head, not its body."""

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
        """The client's side is https, directly or according to a trusted proxy."""
        ...

    @property
    def authority(self) -> str: ...


class Verifier(Protocol):
    """Turns a request's credentials into a verdict.

    Implementations never raise because of a client, a token or the core: an internal
    failure is `Undecided`.
    """

    async def verify(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict: ...

    def verify_now(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | None:
        """Return the verdict, or None if `verify` must be awaited for it."""
        ...

    def has_ended(self, principal: Principal) -> bool:
        """Return whether *principal*, verified earlier, is known to have ended."""
        ...

"""PURE. What is required of a session, and what the service is told about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import (
    ClaimPath,
    Dotted,
    Flag,
    IdentityHeader,
    IdentityTemplate,
    Seconds,
    Text,
)
from gateway.config.models.base import Model


class AnyAll(Model):
    """At least one of `any`, and all of `all`."""

    any: tuple[Text, ...] = ()
    """One of these is enough."""
    all: tuple[Text, ...] = ()
    """All of these are required."""


class ClaimConfig(Model):
    """A condition on one claim: exactly one of `in`, `equals` and `contains`."""

    path: ClaimPath
    """Name of the claim: `plan`, or `st-ev.v` for a claim within a claim."""
    any_of: Annotated[tuple[Any, ...] | None, Field(alias="in", min_length=1)] = None
    """The claim equals one of these values."""
    equals: Any = None
    """The claim equals this value."""
    contains: Any = None
    """The claim is a list that contains this value."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding unless exactly one condition is set."""
        if len(self._keys_set("any_of", "equals", "contains")) != 1:
            yield Finding(
                loc=(), message="expected exactly one of in, equals and contains"
            )


class RequireConfig(Model):
    """Conditions that a session must meet besides being valid."""

    roles: AnyAll = AnyAll()
    permissions: AnyAll = AnyAll()
    email_verified: Flag = False
    """The user's mail address must be verified."""
    mfa: Flag = False
    """All factors required of the session's user must be complete."""
    tenants: tuple[Text, ...] = ()
    """The session's tenant must be one of these. Empty: any."""
    claims: tuple[ClaimConfig, ...] = ()
    """Conditions on claims; all must hold."""
    max_age: Seconds | None = None
    """Claims older than this are fetched again, so that changed roles take effect."""
    validators: tuple[Dotted, ...] = ()
    """Dotted names of claim validators in Python."""


class SessionConfig(Model):
    """How the session is checked."""

    check_database: Literal["never", "on_write", "cached", "always"] = "never"
    """When the core is asked if the session still exists; `never` trusts the token.

    Risk: with `never`, a session that was revoked elsewhere is accepted until its token
    expires. With the others, an unreachable core means 503.
    """
    max_age: Seconds = 5.0
    """For `cached`: highest age of the core's last answer."""
    close_streams: Flag = True
    """Cut a reply that is still being sent when its session ends, and one of unknown
    length also when the access token expires. `websocket.close_on_session_end` is for
    WebSockets.

    Risk: with false, a stream outlives the session that opened it.
    """


class SessionPatch(Model):
    """How one route checks the session. An unset key comes from `defaults`."""

    check_database: Literal["never", "on_write", "cached", "always"] | None = None
    """As in `defaults.session`."""
    max_age: Seconds | None = None
    """For `cached`: highest age of the core's last answer."""
    close_streams: Flag | None = None
    """As in `defaults.session`."""


class IdentityConfig(Model):
    """Identity fields that the upstream gets besides the usual ones."""

    headers: dict[IdentityHeader, IdentityTemplate] = Field(default_factory=dict)
    """Field name → template with claims, such as `{claims.plan}`."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each name that repeats another one in another case."""
        seen: set[str] = set()
        for name in self.headers:
            if name.lower() in seen:
                yield Finding(
                    loc=("headers", name),
                    message="this field is set twice: names differ in case only",
                    hint="Remove one of the two",
                )
            seen.add(name.lower())

"""PURE. What is required of a session, and what the service is told about it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import (
    Cidr,
    ClaimPath,
    Dotted,
    Flag,
    HostName,
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
    """A condition on one claim: exactly one of the keys but `path`."""

    path: ClaimPath
    """Name of the claim: `plan`, or `st-ev.v` for a claim within a claim."""
    any_of: Annotated[tuple[Any, ...] | None, Field(alias="in", min_length=1)] = None
    """The claim equals one of these values."""
    equals: Any = None
    """The claim equals this value."""
    contains: Any = None
    """The claim is a list that contains this value."""
    mail_domain: Annotated[tuple[HostName, ...], Field(min_length=1)] | None = None
    """The claim is a mail address of one of these domains, not of their sub-domains.

    It isn't proof that the user owns the address: require `email_verified`, too.
    """

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding unless exactly one condition is set."""
        conditions = self._keys_set("any_of", "equals", "contains", "mail_domain")
        if len(conditions) != 1:
            yield Finding(
                loc=(),
                message="expected exactly one of in, equals, contains and mail_domain",
            )


class ConditionsConfig(Model):
    """Conditions that a session must meet besides being valid: all that are set."""

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


class RequireConfig(ConditionsConfig):
    """Conditions that a session must meet besides being valid."""

    any: tuple[ConditionsConfig, ...] = ()
    """Alternatives: all conditions of at least one of them must be met.

    Each may have the keys from `roles` to `max_age`.
    """
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


class ClientsConfig(Model):
    """The addresses of clients, after `gateway.trusted_proxies`, that may ask."""

    allow: tuple[Cidr, ...] = ()
    """Only these networks. Empty: all."""
    deny: tuple[Cidr, ...] = ()
    """Not these networks, even if they are in `allow`."""

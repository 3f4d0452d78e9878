"""PURE. The keys below `routes` and `defaults`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import (
    AllowedField,
    Bytes,
    ClaimPath,
    Dotted,
    Flag,
    HostHeader,
    HostPattern,
    IdentityHeader,
    IdentityTemplate,
    Method,
    Name,
    Origin,
    Path,
    Prefix,
    Protected,
    Regex,
    Seconds,
    TargetUrl,
    Template,
    Text,
    Upstream401,
    UpToFive,
)
from gateway.config.models.base import Model
from gateway.config.models.services import TimeoutsConfig, TimeoutsPatch
from gateway.http.path_pattern import Pattern


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


class PathMatchConfig(Model):
    """The path, in exactly one of four forms."""

    exact: Path | None = None
    """This path and no other."""
    prefix: Prefix | None = None
    """This path and all below it: `/orders` covers `/orders/1`, not `/ordersx`."""
    template: Template | None = None
    """`/orders/{id}/items`: a name in braces matches one non-empty segment."""
    regex: Regex | None = None
    """Pattern that matches the whole canonical path."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding unless exactly one form is given."""
        forms = [getattr(self, name) for name in type(self).model_fields]
        if len(forms) - forms.count(None) != 1:
            yield Finding(
                loc=(), message="expected exactly one of exact, prefix, template, regex"
            )


class MatchConfig(Model):
    """Which requests the route matches: all keys that are set must match."""

    path: PathMatchConfig
    methods: Annotated[tuple[Method, ...] | None, Field(min_length=1)] = None
    """Unset: all. GET includes HEAD."""
    hosts: Annotated[tuple[HostPattern, ...] | None, Field(min_length=1)] = None
    """`api.example.com`, or `*.example.com` for one label or more."""


class RewriteConfig(Model):
    """How the path is changed for the upstream. The rest of it and the query stay."""

    strip_prefix: Prefix | None = None
    """Prefix to remove. A final slash of the path is kept."""
    replace_prefix: Prefix | None = None
    """Replaces the stripped prefix or, without `strip_prefix`, the matched one."""


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


class WebSocketConfig(Model):
    """WebSocket connections."""

    enabled: Flag = True
    """False refuses upgrades with 403."""
    allowed_origins: tuple[Origin, ...] | None = None
    """Origins that may connect. Unset: the CORS origins."""
    idle_timeout: Seconds = 300.0
    """Longest time in which neither side sends anything."""
    max_lifetime: Seconds | None = None
    """Longest duration of a connection. Unset: no limit."""
    close_on_session_end: Flag = True
    """Close the connection with 4401 when the access token or its session ends.

    Risk: with false, a connection outlives the session that opened it.
    """


class RequestConfig(Model):
    """What a request on this route may contain."""

    max_body_size: Bytes | None = None
    """Largest request body. Unset: `gateway.limits.max_body_size`."""
    buffer: Bytes | None = None
    """Bodies up to this size arrive whole before their service is asked. 0: none do.

    Unset: `defaults.request.buffer`. A body without Content-Length is never awaited.
    """
    allow_field_names: tuple[AllowedField, ...] = ()
    """Names with `_` or `.` that are forwarded; other fields with them are dropped.

    Risk: a service that reads `_` as `-` takes such a field for the one with `-`.
    """


class RetryConfig(Model):
    """When a request is sent again after its upstream failed."""

    attempts: UpToFive = 1
    """How often a GET, HEAD or OPTIONS without a body is sent again if the connection
    ends before the reply's head does. 0: never. See docs/proxying.md.
    """


class RequestDefaultsConfig(Model):
    """What holds for the requests of all routes."""

    buffer: Bytes = 65536
    """Bodies up to this size arrive whole before their service is asked. 0: none do.

    A slow upload then holds no connection of the service.
    """


class DefaultsConfig(Model):
    """Values for routes that don't set their own."""

    protected: Protected = True
    """True, so that a route without `protected` requires a session.

    Risk: with false, every route without `protected` is open.
    """
    timeouts: TimeoutsConfig = TimeoutsConfig()
    session: SessionConfig = SessionConfig()
    request: RequestDefaultsConfig = RequestDefaultsConfig()
    forward_credentials: Flag = False
    """True sends the session's cookies and tokens to the upstreams.

    Risk: with true, every service can act as any of its callers, everywhere.
    """
    upstream_401: Upstream401 = "403"
    """What the client gets for an upstream's 401 to a request with a session.

    With `pass`, SuperTokens' frontends go into a refresh loop.
    """


class RouteConfig(Model):
    """One route: which requests it matches, what it requires, and where they go."""

    name: Name | None = None
    """Name in logs. Unset: the route's index and path."""
    path: Prefix | None = None
    """Short for `match: {path: {prefix: …}}`."""
    match: MatchConfig | None = None
    upstream: TargetUrl | None = None
    """Short for a service with this one target."""
    service: str | None = None
    """Name of a service from `services`."""
    protected: Protected | None = None
    """`optional`: a request without a session is anonymous. Unset: as in `defaults`.

    Risk: with false, no session is read and nothing is required of the client.
    """
    require: RequireConfig = RequireConfig()
    session: SessionPatch = SessionPatch()
    rewrite: RewriteConfig = RewriteConfig()
    timeouts: TimeoutsPatch = TimeoutsPatch()
    identity: IdentityConfig = IdentityConfig()
    forward_credentials: Flag | None = None
    """True sends the session's cookies and tokens to the upstream. Unset: as in
    `defaults`.

    Risk: with true, the service can act as the user at every route.
    """
    upstream_401: Upstream401 | None = None
    """What the client gets for an upstream's 401. Unset: as in `defaults`."""
    host_header: HostHeader | None = None
    """As in `services`. Unset: the service's value."""
    websocket: WebSocketConfig = WebSocketConfig()
    request: RequestConfig = RequestConfig()
    retry: RetryConfig = RetryConfig()

    def conflicts(self) -> Iterator[Finding]:
        """Yield findings about the path, the upstream and the rewrite."""
        if (self.path is None) == (self.match is None):
            yield Finding(loc=(), message="expected exactly one of path and match")
        if (self.upstream is None) == (self.service is None):
            yield Finding(
                loc=(), message="expected exactly one of upstream and service"
            )
        yield from self._rewrite_conflicts()

    def _rewrite_conflicts(self) -> Iterator[Finding]:
        form = self.path_match
        strip = self.rewrite.strip_prefix
        if strip is not None and form is not None and not _begins(form, strip):
            yield Finding(
                loc=("rewrite", "strip_prefix"),
                message="the route's paths don't all begin with this prefix",
                hint="Strip whole segments from the beginning of the route's path",
            )
        if (
            self.rewrite.replace_prefix is not None
            and strip is None
            and form is not None
            and (form.template or form.regex)
        ):
            yield Finding(
                loc=("rewrite", "replace_prefix"),
                message="a template or regex has no prefix to replace",
                hint="Name the prefix with strip_prefix",
            )

    @property
    def path_match(self) -> PathMatchConfig | None:
        """The form of path, from `match` or from `path`; None if neither is given."""
        if self.match is not None:
            return self.match.path
        return None if self.path is None else PathMatchConfig(prefix=self.path)


def _begins(form: PathMatchConfig, prefix: str) -> bool:
    """Return whether all matching paths begin with the whole segments of *prefix*."""
    if prefix == "/":
        return True
    if form.regex is not None:
        return Pattern(form.regex).begins_with(prefix)
    whole = form.exact or form.prefix or form.template or ""
    return whole == prefix or whole.startswith(f"{prefix}/")

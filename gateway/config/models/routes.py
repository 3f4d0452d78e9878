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
    """At least one of `any`, and each of `all`."""

    any: tuple[Text, ...] = ()
    """One of these is enough."""
    all: tuple[Text, ...] = ()
    """Each of these is needed."""


class ClaimConfig(Model):
    """A condition on one claim: exactly one of `in`, `equals` and `contains`."""

    path: ClaimPath
    """`plan`, or `st-ev.v` for a claim within a claim."""
    any_of: Annotated[tuple[Any, ...] | None, Field(alias="in", min_length=1)] = None
    """The claim is one of these."""
    equals: Any = None
    """The claim is this."""
    contains: Any = None
    """The claim is a list with this in it."""

    def conflicts(self) -> Iterator[Finding]:
        """Which condition it is must be certain."""
        if len(self._given("any_of", "equals", "contains")) != 1:
            yield Finding(
                loc=(), message="expected exactly one of in, equals and contains"
            )


class RequireConfig(Model):
    """What a session must have besides being valid."""

    roles: AnyAll = AnyAll()
    permissions: AnyAll = AnyAll()
    email_verified: Flag = False
    """The user's mail address is verified."""
    mfa: Flag = False
    """All factors that the session's user must complete are complete."""
    tenants: tuple[Text, ...] = ()
    """The session's tenant is one of these. Empty: any."""
    claims: tuple[ClaimConfig, ...] = ()
    """All of them."""
    max_age: Seconds | None = None
    """Older claims are fetched again, so that a change of roles is seen."""
    validators: tuple[Dotted, ...] = ()
    """Dotted names of claim validators in Python."""


class PathMatchConfig(Model):
    """Exactly one of the four."""

    exact: Path | None = None
    """This path and no other."""
    prefix: Prefix | None = None
    """This path and all below it: `/orders` covers `/orders/1`, not `/ordersx`."""
    template: Template | None = None
    """`/orders/{id}/items`: a name stands for one non-empty segment."""
    regex: Regex | None = None
    """Matches the whole canonical path."""

    def conflicts(self) -> Iterator[Finding]:
        """A route has one form of path."""
        given = [getattr(self, name) for name in type(self).model_fields]
        if len(given) - given.count(None) != 1:
            yield Finding(
                loc=(), message="expected exactly one of exact, prefix, template, regex"
            )


class MatchConfig(Model):
    """Which requests a route is for; all that is given must match."""

    path: PathMatchConfig
    methods: Annotated[tuple[Method, ...] | None, Field(min_length=1)] = None
    """Unset: all. GET includes HEAD."""
    hosts: Annotated[tuple[HostPattern, ...] | None, Field(min_length=1)] = None
    """`api.example.com`, or `*.example.com` for one label or more."""


class RewriteConfig(Model):
    """How the path changes on its way; the rest of it and the query stay."""

    strip_prefix: Prefix | None = None
    """Taken off; a path is left with its final slash as it was."""
    replace_prefix: Prefix | None = None
    """What stands in place of the matched (or stripped) prefix."""


class SessionConfig(Model):
    """How the session is checked."""

    check_database: Literal["never", "on_write", "cached", "always"] = "never"
    """When the core is asked if the session still exists; `never` trusts the token.

    Risk: with `never`, a session that was revoked elsewhere is good until its token
    expires. With the others, a core that is away means 503.
    """
    max_age: Seconds = 5.0
    """For `cached`: how old the core's last answer may be."""


class SessionPatch(Model):
    """How one route checks the session; what is unset comes from `defaults`."""

    check_database: Literal["never", "on_write", "cached", "always"] | None = None
    """As in `defaults.session`."""
    max_age: Seconds | None = None
    """For `cached`: how old the core's last answer may be."""


class IdentityConfig(Model):
    """What the upstream is told of the user, besides the usual fields."""

    headers: dict[IdentityHeader, IdentityTemplate] = Field(default_factory=dict)
    """Field name → template over the claims, as in `{claims.plan}`."""

    def conflicts(self) -> Iterator[Finding]:
        """Field names differ in more than their case."""
        seen: set[str] = set()
        for name in self.headers:
            if name.lower() in seen:
                yield Finding(
                    loc=("headers", name),
                    message="this field stands here twice",
                )
            seen.add(name.lower())


class WebSocketConfig(Model):
    """Upgraded connections."""

    enabled: Flag = True
    """False refuses them with 403."""
    allowed_origins: tuple[Origin, ...] | None = None
    """Unset: the CORS origins."""
    idle_timeout: Seconds = 300.0
    """The longest silence, of both sides."""
    max_lifetime: Seconds | None = None
    """Unset: no limit."""
    close_on_session_end: Flag = True
    """Closed with 4401 when the access token ends, or its session does.

    Risk: with false, a socket outlives the session that opened it.
    """


class RequestConfig(Model):
    """What a request may be on this route."""

    max_body_size: Bytes | None = None
    """Unset: `gateway.limits.max_body_size`."""
    allow_field_names: tuple[AllowedField, ...] = ()
    """Names with `_` or `.` that are let through; all others are dropped.

    Risk: a service that reads `_` as `-` takes them for the field of that name.
    """


class RetryConfig(Model):
    """What is done again when an upstream fails."""

    attempts: UpToFive = 1
    """How often a GET, HEAD or OPTIONS without a body is sent again, if the connection
    ends before the reply's head does; 0: never. See docs/proxying.md.
    """


class DefaultsConfig(Model):
    """What routes don't say themselves."""

    protected: Protected = True
    """Protected unless said otherwise: a forgotten line closes, it doesn't open.

    Risk: with false, every route that says nothing is open.
    """
    timeouts: TimeoutsConfig = TimeoutsConfig()
    session: SessionConfig = SessionConfig()
    forward_credentials: Flag = False
    """Session tokens stay here: whoever has one is the user.

    Risk: with true, every service can act as any of its callers, everywhere.
    """
    upstream_401: Upstream401 = "403"
    """An upstream's own 401 would send SuperTokens' frontends into a refresh loop."""


class RouteConfig(Model):
    """One line of the route table: which requests, who may, and where they go."""

    name: Name | None = None
    """For logs; unset: made from its place and path."""
    path: Prefix | None = None
    """Short for `match: {path: {prefix: …}}`."""
    match: MatchConfig | None = None
    upstream: TargetUrl | None = None
    """Short for a service with this one target."""
    service: str | None = None
    """A name from `services`."""
    protected: Protected | None = None
    """`true`, `false`, or `optional`: anonymous without a session. Unset: the default.

    Risk: with false, no session is read, and nothing is asked of the client.
    """
    require: RequireConfig = RequireConfig()
    session: SessionPatch = SessionPatch()
    rewrite: RewriteConfig = RewriteConfig()
    timeouts: TimeoutsPatch = TimeoutsPatch()
    identity: IdentityConfig = IdentityConfig()
    forward_credentials: Flag | None = None
    """True sends the session's cookies and tokens on to the upstream.

    Risk: whoever has them is the user, at every route.
    """
    upstream_401: Upstream401 | None = None
    """What becomes of an upstream's 401 for a request with a session."""
    host_header: HostHeader | None = None
    """Unset: the service's."""
    websocket: WebSocketConfig = WebSocketConfig()
    request: RequestConfig = RequestConfig()
    retry: RetryConfig = RetryConfig()

    def conflicts(self) -> Iterator[Finding]:
        """A route has one path, one upstream, and a rewrite that can happen."""
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
                hint="Strip what stands at the beginning of its path, up to a /",
            )
        if (
            self.rewrite.replace_prefix is not None
            and strip is None
            and form is not None
            and (form.template or form.regex)
        ):
            yield Finding(
                loc=("rewrite", "replace_prefix"),
                message="a template or regex has no prefix to be replaced",
                hint="Say which with strip_prefix",
            )

    @property
    def path_match(self) -> PathMatchConfig | None:
        """What the path is matched by, however it was written; None if it wasn't."""
        if self.match is not None:
            return self.match.path
        return None if self.path is None else PathMatchConfig(prefix=self.path)


def _begins(form: PathMatchConfig, prefix: str) -> bool:
    """Return whether all paths that match begin with *prefix*, up to a border."""
    if prefix == "/":
        return True
    if form.regex is not None:
        return Pattern(form.regex).begins_with(prefix)
    whole = form.exact or form.prefix or form.template or ""
    return whole == prefix or whole.startswith(f"{prefix}/")

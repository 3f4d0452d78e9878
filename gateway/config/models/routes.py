"""PURE. The keys below `routes` and `defaults`."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config.findings import Finding
from gateway.config.forms import (
    AllowedField,
    Bytes,
    Flag,
    HostHeader,
    Name,
    Origin,
    Prefix,
    Protected,
    Seconds,
    TargetUrl,
    Upstream401,
    UpToFive,
)
from gateway.config.models.base import Model
from gateway.config.models.matching import MatchConfig, PathMatchConfig, RewriteConfig
from gateway.config.models.policies import (
    IdentityConfig,
    RequireConfig,
    SessionConfig,
    SessionPatch,
)
from gateway.config.models.services import TimeoutsConfig, TimeoutsPatch
from gateway.http.path_pattern import Pattern


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

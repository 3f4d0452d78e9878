"""PURE. The keys below `routes` and `defaults`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field

from gateway.config.findings import Finding
from gateway.config.forms import (
    Flag,
    HostHeader,
    Name,
    Origin,
    Prefix,
    Protected,
    Seconds,
    TargetUrl,
    Upstream401,
)
from gateway.config.models.answers import (
    OnUnauthenticatedConfig,
    RedirectConfig,
    RespondConfig,
)
from gateway.config.models.base import Model
from gateway.config.models.cors import RouteCorsConfig
from gateway.config.models.matching import (
    Hosts,
    MatchConfig,
    Methods,
    Paths,
    Rewrite,
    RewriteConfig,
)
from gateway.config.models.messages import (
    RequestConfig,
    RequestDefaultsConfig,
    ResponseConfig,
)
from gateway.config.models.policies import (
    ClientsConfig,
    IdentityConfig,
    RequireConfig,
    SessionConfig,
    SessionPatch,
)
from gateway.config.models.rate_limits import RateUses
from gateway.config.models.services import (
    RetryConfig,
    TimeoutsConfig,
    TimeoutsPatch,
)
from gateway.config.models.splits import SplitConfig


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


class DefaultsConfig(Model):
    """Values for routes that don't set their own."""

    protected: Protected = True
    """True, so that a route without `protected` requires a session.

    Risk: with false, every route without `protected` is open.
    """
    timeouts: TimeoutsConfig = TimeoutsConfig()
    session: SessionConfig = SessionConfig()
    request: RequestDefaultsConfig = RequestDefaultsConfig()
    response: ResponseConfig = ResponseConfig()
    on_unauthenticated: OnUnauthenticatedConfig | None = None
    forward_credentials: Flag = False
    """True sends the session's cookies and tokens to the upstreams.

    Risk: with true, every service can act as any of its callers, everywhere.
    """
    forward_authorization: Flag | None = None
    """True sends `Authorization: Bearer` with a token that is no session's to the
    upstreams. Unset: on routes that are public or optional. Other schemes always pass.
    """
    host_header: HostHeader = "upstream"
    """Host that services get: `upstream` (the target's own), `preserve` (the client's),
    or a literal. See docs/proxying.md.

    Risk: with `preserve`, the client chooses the host.
    """
    upstream_401: Upstream401 = "403"
    """What the client gets for an upstream's 401 to a request with a session.

    With `pass`, SuperTokens' frontends go into a refresh loop.
    """


class RouteSettings(Model):
    """What may stand on a route, and on a group for all of its routes.

    An unset key of a route comes from its group, then from its service, then from
    `defaults`. `require` is different: what each of them requires must be met.
    """

    hosts: Hosts | None = None
    """`api.example.com`, or `*.example.com` for one label or more. Unset: any."""
    upstream: TargetUrl | None = None
    """Short for a service with this one target."""
    service: str | None = None
    """Name of a service from `services`."""
    split: SplitConfig | None = None
    """Unset: all requests go to the one service."""
    protected: Protected | None = None
    """`optional`: a request without a session is anonymous. Unset: as in `defaults`.

    Risk: with false, no session is read and nothing is required of the client. What a
    group or service requires doesn't hold for such a route.
    """
    require: RequireConfig = RequireConfig()
    session: SessionPatch = SessionPatch()
    rewrite: Rewrite = RewriteConfig()
    timeouts: TimeoutsPatch = TimeoutsPatch()
    identity: IdentityConfig = IdentityConfig()
    assertion: Flag = True
    """False: the service gets no `X-Identity-Assertion` from this route, although
    `gateway.assertion` is set."""
    forward_credentials: Flag | None = None
    """True sends the session's cookies and tokens to the upstream. Unset: as in
    `defaults`.

    Risk: with true, the service can act as the user at every route.
    """
    forward_authorization: Flag | None = None
    """True sends `Authorization: Bearer` with a token that is no session's to the
    upstream. Unset: as in `defaults`, or else if the route is public or optional.
    """
    upstream_401: Upstream401 | None = None
    """What the client gets for an upstream's 401. Unset: as in `defaults`."""
    host_header: HostHeader | None = None
    """As in `defaults`. Unset: the service's value."""
    websocket: WebSocketConfig = WebSocketConfig()
    request: RequestConfig = RequestConfig()
    response: ResponseConfig = ResponseConfig()
    cors: RouteCorsConfig = RouteCorsConfig()
    on_unauthenticated: OnUnauthenticatedConfig | None = None
    retry: RetryConfig = RetryConfig()
    clients: ClientsConfig = ClientsConfig()
    critical: Flag = False
    """True: its requests come before others where requests wait for a service
    (`services.<name>.limits`), and are the last to be refused. They are never refused
    because of `gateway.overload`.
    """
    rate_limit: RateUses = ()
    """Names of limits in `rate_limits`; all of them count. Each may be written as
    `{policy: NAME, cost: N}`. The nearest list counts: that of the route, else of its
    group, else of its service; `[]` is none.
    """


_NO_MATCH = MatchConfig()


class RouteConfig(RouteSettings):
    """One route: which requests it matches, what it requires, and where they go."""

    name: Name | None = None
    """Name in logs. Unset: the route's index and path."""
    path: Paths | None = None
    """A path with all paths below it, one of the forms below, or a list of these."""
    methods: Methods | None = None
    """Unset: all. GET includes HEAD."""
    match: MatchConfig | None = None
    """More conditions. `path`, `methods` and `hosts` may stand here, too."""
    respond: RespondConfig | None = None
    redirect: RedirectConfig | None = None

    @property
    def answers(self) -> list[str]:
        """The keys of the route itself that say who answers."""
        keys = ("upstream", "service", "respond", "redirect")
        return [key for key in keys if getattr(self, key) is not None]

    def conflicts(self) -> Iterator[Finding]:
        """Yield findings about keys that are given twice, or not at all."""
        inner = self.match or _NO_MATCH
        if (self.path is None) == (inner.path is None):
            yield Finding(
                loc=(), message="expected exactly one of path and match with a path"
            )
        for key in ("methods", "hosts"):
            if getattr(self, key) is not None and getattr(inner, key) is not None:
                yield Finding(
                    loc=(key,),
                    message=f"match has {key}, too",
                    hint="Remove one of the two",
                )


class GroupConfig(RouteSettings):
    """Routes with something in common."""

    path: Prefix | None = None
    """Stands before the paths of the routes: `/shop` and `/cart` are `/shop/cart`."""
    routes: Annotated[tuple[RouteConfig, ...], Field(min_length=1)]
    """The routes of the group. Each may have keys of its own."""

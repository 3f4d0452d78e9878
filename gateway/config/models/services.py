"""PURE. The keys below `services`, and the timeouts that services and routes share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Final, Literal, get_args

from pydantic import BeforeValidator, Field

from gateway.config.findings import Finding, did_you_mean, wrong
from gateway.config.forms import (
    Flag,
    HashKey,
    HostHeader,
    HostName,
    Method,
    Name,
    NotNegative,
    Path,
    Positive,
    Protected,
    RetryOn,
    Seconds,
    Share,
    TargetUrl,
    Text,
    UpToFive,
    Weight,
)
from gateway.config.models.answers import OnUnauthenticatedConfig
from gateway.config.models.assertions import ServiceAssertionConfig, short_assertion
from gateway.config.models.base import Model
from gateway.config.models.cors import RouteCorsConfig
from gateway.config.models.messages import RequestConfig, ResponseConfig
from gateway.config.models.policies import (
    ClientsConfig,
    IdentityConfig,
    RequireConfig,
    SessionPatch,
)
from gateway.config.models.rate_limits import RateUses
from gateway.config.urls import address
from gateway.http.target import is_ip


class TimeoutsConfig(Model):
    """How long an upstream may take."""

    connect: Seconds = 3.0
    """For a new connection, TLS included."""
    response: Seconds = 60.0
    """From the end of the request to the reply's head."""
    idle: Seconds = 60.0
    """Longest gap between two pieces of the reply's body."""
    total: Seconds | None = None
    """The whole exchange. Unset: no limit, so that streams can last."""


class TimeoutsPatch(Model):
    """Timeouts of one service or route.

    An unset key comes from the service, then from `defaults`.
    """

    connect: Seconds | None = None
    """For a new connection, TLS included."""
    response: Seconds | None = None
    """From the end of the request to the reply's head."""
    idle: Seconds | None = None
    """Longest gap between two pieces of the reply's body."""
    total: Seconds | None = None
    """The whole exchange."""


class RetryConfig(Model):
    """When a request is sent again after its upstream failed.

    An unset key of a route comes from its group, then from its service.
    """

    attempts: UpToFive = 1
    """How often a GET, HEAD or OPTIONS without a body is sent again, for what `on`
    lists. 0: never. See docs/proxying.md.
    """
    on: tuple[RetryOn, ...] = ("connect", "reset")
    """What is retried. `connect`: the target takes no connection, so the next one gets
    the request, whatever its method. `reset`: the connection ends before the reply's
    head does. `502`, `503`, `504`: the reply has this status.
    """
    per_try: Seconds | None = None
    """How long a try may take that can be repeated, from the end of the request to the
    reply's head. The last one has `timeouts.response`. Unset: a slow reply is no reason
    to send the request again.
    """
    budget: Share = 0.2
    """How many retries there are for each request to the service in the long run, in
    each worker; 100 more may come at once. More of them would keep an overloaded
    service from recovering.
    """


class TlsConfig(Model):
    """How the certificates of `https` targets are verified."""

    ca_file: Text | None = None
    """PEM bundle of authorities to trust instead of the system's."""
    server_name: HostName | None = None
    """Name in the certificate, if it isn't the target's host."""
    verify: Flag = True
    """False accepts any certificate: for development only.

    Risk: with false, an attacker on the network can read and answer requests in place
    of the service.
    """


class TargetConfig(Model):
    """One address of a service. A bare URL is short for it."""

    url: TargetUrl
    """`http://host:port`, `https://host`, or `unix:/path/to.sock`. No path."""
    weight: Weight = 1
    """Its share of the requests, compared with the other targets' weights."""


_Policy = Literal["least_requests", "round_robin", "random"]
_POLICIES: tuple[str, ...] = get_args(_Policy)


class BalanceConfig(Model):
    """Which target a request goes to. The name of a policy is short for it."""

    policy: _Policy = "least_requests"
    """`least_requests`: of two drawn at random, the one with fewer requests in progress
    in this worker.
    """
    hash: HashKey | None = None
    """Requests with the same value go to the same target, while it is there: `session`,
    `user`, `tenant`, `client` (its address), `cookie:NAME` or `header:NAME`. Requests
    without it go where `policy` sends them.
    """


def _short_balance(value: object) -> object:
    if isinstance(value, Mapping | BalanceConfig):
        return value
    if value not in _POLICIES:
        raise wrong(
            f"expected {', '.join(_POLICIES)}, or {{hash: …}}",
            did_you_mean(value, _POLICIES) or "See docs/proxying.md",
        )
    return {"policy": value}


class PassiveHealthConfig(Model):
    """A target that takes no connections, or breaks new ones, is left out for a time.

    Each worker judges by its own requests, and tells the others. Then one request tries
    the target again.
    """

    enabled: Flag = True
    """`passive: false` is short for `enabled: false`: each target gets its share at all
    times.
    """
    failures: Positive = 3
    """In a row, before the target is left out."""
    eject: Seconds = 10.0
    """How long, the first time; twice as long the second time, and so on."""
    max_eject: Seconds = 300.0
    """The longest time."""
    max_ejected: Share = 0.5
    """The greatest part of the targets that is left out. The last one always stays."""


class ActiveHealthConfig(Model):
    """Each target is asked regularly, by one process for all workers. A target that
    fails is left out until it is good again. If all targets fail, all get requests.
    """

    path: Path
    """What is asked for, with GET. A whole reply with 200 to 399 is good."""
    interval: Seconds = 10.0
    """From one check of a target to the next; up to a tenth less or more, at random."""
    timeout: Seconds = 2.0
    """For the whole check, the connection included."""
    up: Positive = 2
    """Good checks in a row after which a target is up."""
    down: Positive = 2
    """Failed checks in a row after which a target is down."""


def _short_passive(value: object) -> object:
    return {"enabled": value} if isinstance(value, bool) else value


class HealthConfig(Model):
    """How targets that are out of order are found."""

    passive: Annotated[
        PassiveHealthConfig,
        BeforeValidator(
            _short_passive, json_schema_input_type=PassiveHealthConfig | bool
        ),
    ] = PassiveHealthConfig()
    """By the requests themselves."""
    active: ActiveHealthConfig | None = None
    """By checks. Unset: there are none."""


class ServiceLimitsConfig(Model):
    """How many requests a service gets at a time from each worker."""

    in_flight: Positive
    """Most requests in progress, with all targets together: from before a request is
    sent until its reply has arrived. One that waits for its client doesn't count
    meanwhile, nor does an open WebSocket.
    """
    pending: NotNegative = 256
    """Most requests that wait for one of them to end; 0: none waits. They wait as long
    as `timeouts.connect` allows, or `hold` if that is longer. More of them get 503 at
    once, and so do those that have waited in vain.
    """


def _short_target(value: object) -> object:
    return {"url": value} if isinstance(value, str) else value


class PathsConfig(Model):
    """How a service reads paths. `paths: exact`: it distinguishes all of them.

    If a key is unset, the service may do either: a request whose path it could read as
    that of a stricter route is refused (`gateway.near_misses`). With the looser value,
    routes match the way the service reads.

    Risk: if the service reads paths in another way than the value states, a request can
    pass the guard of the path that is served.
    """

    case: Literal["sensitive", "insensitive"] | None = None
    """`/Orders` is `/orders` for Express, Koa and ASP.NET, and for few others."""
    final_slash: Literal["significant", "ignored"] | None = None
    """`/orders/` is `/orders` for Express, Koa, Rails, and Spring before 6."""
    parameters: Literal["kept", "cut"] | None = None
    """`/orders;x=1` is `/orders` for Tomcat, Jetty and Spring."""
    extension: Literal["kept", "cut"] | None = None
    """`/orders.json` is `/orders` for Rails, and Spring before 5.3."""
    final_dots: Literal["kept", "cut"] | None = None
    """`/orders.` and `/orders%20` are `/orders` for IIS and Windows file systems."""


def _short_paths(value: object) -> object:
    if not isinstance(value, str):
        return value
    if value != "exact":
        raise wrong(
            "expected exact, or keys such as case and final_slash",
            did_you_mean(value, ("exact",)) or "See docs/configuration.md",
        )
    return {
        "case": "sensitive",
        "final_slash": "significant",
        "parameters": "kept",
        "extension": "kept",
        "final_dots": "kept",
    }


class MirrorConfig(Model):
    """A share of the requests is also sent to another service, whose replies are
    dropped. Nothing waits for it. See docs/proxying.md.
    """

    service: Name
    """Name of the other service."""
    share: Share = 1.0
    """Of the requests, at random."""
    methods: Annotated[tuple[Method, ...], Field(min_length=1)] = (
        "GET",
        "HEAD",
        "OPTIONS",
    )
    """Which requests are sent. Others than these have effects.

    Risk: with `POST`, for example, the other service acts on each of them, too.
    """
    in_flight: Positive = 32
    """Most of these requests in progress, in each worker. More are dropped."""


class ServiceConfig(Model):
    """An upstream that routes name."""

    targets: Annotated[
        tuple[
            Annotated[
                TargetConfig,
                BeforeValidator(
                    _short_target, json_schema_input_type=TargetConfig | str
                ),
            ],
            ...,
        ],
        Field(min_length=1),
    ]
    """Addresses of the service."""
    resolve: Literal["one", "each"] = "one"
    """`each`: every address that a target's name has is a target of its own, such as
    the pods of a headless service in Kubernetes. `one`: a name is one target, whose
    addresses are tried in turn.
    """
    resolve_interval: Seconds = 10.0
    """With `resolve: each`, from one look-up of a name to the next, in each worker; up
    to a tenth less or more, at random.
    """
    balance: Annotated[
        BalanceConfig,
        BeforeValidator(
            _short_balance,
            json_schema_input_type=BalanceConfig | _Policy,
        ),
    ] = BalanceConfig()
    health: HealthConfig = HealthConfig()
    hold: Seconds | None = None
    """How long a request waits while no target takes connections, instead of failing:
    the service may be restarting. Unset: it doesn't wait.
    """
    limits: ServiceLimitsConfig | None = None
    """How many requests the service gets at a time from each worker. Unset: any number,
    as far as connections allow.
    """
    mirror: MirrorConfig | None = None
    """Unset: no other service gets its requests."""
    timeouts: TimeoutsPatch = TimeoutsPatch()
    retry: RetryConfig = RetryConfig()
    """For the routes to this service."""
    protected: Protected | None = None
    """For the routes to this service that don't set it, nor their group. Unset: as in
    `defaults`.

    Risk: as with `protected` of a route.
    """
    require: RequireConfig = RequireConfig()
    """What every protected route to this service requires, besides its own `require`.
    The keys of this and the next three are those of a route.
    """
    session: SessionPatch = SessionPatch()
    """For the routes to this service."""
    identity: IdentityConfig = IdentityConfig()
    """For the routes to this service."""
    assertion: Annotated[
        ServiceAssertionConfig,
        BeforeValidator(
            short_assertion,
            json_schema_input_type=ServiceAssertionConfig | bool,
        ),
    ] = ServiceAssertionConfig()
    clients: ClientsConfig = ClientsConfig()
    """For the routes to this service."""
    rate_limit: RateUses = ()
    """Limits of the routes to this service, as `rate_limit` of a route."""
    max_connections: Positive = 256
    """Most connections of each worker to one target.

    Exchanges that wait for a slow client come on top (`max_waiting`).
    """
    max_waiting: Positive | None = None
    """Most exchanges with one target that wait for their clients, in each worker.

    One more cuts the slowest one. Unset: four times `max_connections`.
    """
    keep_alive: Seconds = 4.0
    """How long an idle connection to a target is kept: less than the service keeps it.

    A shorter `Keep-Alive: timeout` of the service counts, less one second. See
    docs/proxying.md.
    """
    tls: TlsConfig = TlsConfig()
    paths: Annotated[
        PathsConfig,
        BeforeValidator(
            _short_paths, json_schema_input_type=PathsConfig | Literal["exact"]
        ),
    ] = PathsConfig()
    request: RequestConfig = RequestConfig()
    response: ResponseConfig = ResponseConfig()
    cors: RouteCorsConfig = RouteCorsConfig()
    on_unauthenticated: OnUnauthenticatedConfig | None = None
    host_header: HostHeader | None = None
    """Host that the service gets. Unset: as in `defaults`.

    Risk: with `preserve`, the client chooses the host.
    """

    def conflicts(self) -> Iterator[Finding]:
        """Yield findings about names that are to be looked up."""
        if self.resolve == "each" and not any(_is_named(one) for one in self.targets):
            yield Finding(
                loc=("resolve",),
                message="no target has a name that could be looked up",
                hint="Write the service's name in place of its address, or remove"
                " resolve",
            )
        if self.resolve != "each" and "resolve_interval" in self.model_fields_set:
            yield Finding(
                loc=("resolve_interval",),
                message="nothing is looked up regularly",
                hint="Add resolve: each, or remove it",
            )
        elif self.resolve_interval < _MIN_RESOLVE_S:
            yield Finding(
                loc=("resolve_interval",),
                message=f"must be at least {_MIN_RESOLVE_S:g}s",
            )


_MIN_RESOLVE_S: Final = 1.0
"""More look-ups than that would be a load for the DNS, and tell no news."""


def _is_named(target: TargetConfig) -> bool:
    at = address(target.url)
    return at.scheme != "unix" and not is_ip(at.host)

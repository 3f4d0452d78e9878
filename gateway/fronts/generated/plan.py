"""PURE. What every front's configuration needs, from a route table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway.config import Address, Config, ListenAddress, listen_address
from gateway.fronts.original import Endpoint
from gateway.fronts.verdicts import names_of
from gateway.routes import RouteTable, Service

COOKIES: Final = 4
"""The most new Set-Cookie fields that a front passes on one by one."""
TOKEN_FIELDS: Final = ("front-token", "st-access-token")
"""New tokens of an allowed request, besides cookies."""
REPLY_FIELDS: Final = (
    "Access-Control-Allow-Origin",
    "Access-Control-Allow-Credentials",
    "Access-Control-Expose-Headers",
    "Vary",
    "X-Request-Id",
)
"""Other fields of an allowed request's answer that are for the client."""
PREFLIGHT_FIELDS: Final = (
    "Access-Control-Allow-Methods",
    "Access-Control-Allow-Headers",
    "Access-Control-Max-Age",
)
"""Fields that only the answer to a preflight has. They are for the client, too."""

_is_plain = re.compile(r"[A-Za-z0-9_-]+").fullmatch


class NoFront(ValueError):
    """There is no configuration for this route table: the message has the reason."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}\n{remedy}")


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontService:
    """A service that the front forwards to."""

    name: str
    """As in X-Gateway-Service."""
    label: str
    """For the front's own names: letters, digits, `_` and `-`."""
    targets: tuple[Address, ...]
    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontPlan:
    """What a front's configuration says."""

    listen: ListenAddress
    """Of the front."""
    decision: ListenAddress
    """Where the front asks."""
    own: ListenAddress | None
    """Where the gateway answers `own_paths`. None: no address without TLS."""
    own_exact: tuple[str, ...]
    own_below: str
    """A path that the gateway answers, with all paths below it."""
    identity: tuple[str, ...]
    """Names that only the gateway may set."""
    services: tuple[FrontService, ...]
    rewrites: bool
    """Whether a service may get another path than the client sent: by `rewrite`, or as
    `gateway.decision.path` is `canonical`."""
    max_body_size: int
    """The largest that a route allows, in bytes."""
    notes: tuple[str, ...]
    """What this route table says and no front does."""


def front_plan(
    config: Config,
    table: RouteTable,
    front: str,
    endpoint: Endpoint,
    *,
    listen: ListenAddress,
    decision: ListenAddress | None = None,
) -> FrontPlan:
    """Return the plan for a front that asks *endpoint*.

    *decision* is the listener's address as the front reaches it; None: as in the file.
    If it has a host, the gateway's own paths are expected there, too.

    Raises:
        NoFront: nothing listens for the front, or it can't reach a service.
    """
    asked = config.gateway.decision
    if asked is None or asked.listen is None:
        raise NoFront(
            "no front can ask: gateway.decision.listen isn't set",
            "Add gateway: {decision: {listen: 127.0.0.1:9000,"
            f" endpoints: [{endpoint}]}}}}",
        )
    if endpoint not in asked.endpoints:
        raise NoFront(
            f"{front} asks {endpoint}, which gateway.decision.endpoints doesn't list",
            f"Write endpoints: [{', '.join((*asked.endpoints, endpoint))}]",
        )
    place = decision or _reached(listen_address(asked.listen))
    if not (place.is_unix or place.port):
        raise NoFront(
            "the port of gateway.decision.listen is chosen at each start",
            "Set a port, or give the address with --decision",
        )
    services = table.services()
    _check_targets(services)
    reached = {one for route in table.routes for one in route.services}
    return FrontPlan(
        listen=listen,
        decision=place,
        own=_own(config, decision),
        own_exact=tuple(_own_exact(config)),
        own_below=config.supertokens.api_base_path,
        identity=tuple(name.decode() for name in names_of(table.routes)),
        services=tuple(
            FrontService(
                name=service.name,
                label=f"app_{service.name if _is_plain(service.name) else number}",
                targets=service.targets,
                weights=service.weights,
            )
            for number, service in enumerate(services, 1)
            if service in reached
        ),
        rewrites=asked.path == "canonical"
        or any(route.rewrite is not None for route in table.routes),
        max_body_size=max((route.max_body_size for route in table.routes), default=0),
        notes=tuple(_notes(config, table)),
    )


def _check_targets(services: Sequence[Service]) -> None:
    for service in services:
        for target in service.targets:
            if target.scheme == "https":
                raise NoFront(
                    f"the target {target} uses TLS, which these configurations don't"
                    " have",
                    "Let the gateway forward to it, or write the front's part by hand"
                    " (docs/fronts.md)",
                )


def _reached(place: ListenAddress) -> ListenAddress:
    """Return where a program of the same machine reaches *place*."""
    if not place.is_everywhere:
        return place
    return ListenAddress(
        host="[::1]" if place.host == "[::]" else "127.0.0.1", port=place.port
    )


def _own(config: Config, decision: ListenAddress | None) -> ListenAddress | None:
    """Return the first address of the gateway without TLS and PROXY header, or None."""
    for listen in config.gateway.listen:
        place = listen.parsed
        is_plain = listen.tls is None and not listen.proxy_protocol
        if (
            not is_plain
            or listen.redirect_to_https
            or not (place.is_unix or place.port)
        ):
            continue
        if decision is None or decision.is_unix or place.is_unix:
            return _reached(place)
        return ListenAddress(host=decision.host, port=place.port)
    return None


def _own_exact(config: Config) -> Iterator[str]:
    gateway = config.gateway
    yield gateway.user_path
    if gateway.access_path is not None:
        yield gateway.access_path
    if gateway.assertion is not None:
        yield gateway.assertion.jwks_path


def _notes(config: Config, table: RouteTable) -> Iterator[str]:
    if config.gateway.assertion is not None:
        yield "gateway.assertion: services get no X-Identity-Assertion"
    if any(route.answer is not None for route in table.routes):
        yield "routes that the gateway answers itself are refused"
    if any(service.mirror for service in table.services()):
        yield "mirror: no request is copied"
    if not all(route.headers.forward_credentials for route in table.routes):
        yield "forward_credentials: services get the client's Cookie and Authorization"

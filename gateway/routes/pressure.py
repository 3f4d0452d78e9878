"""PURE. Settings against overload that can be served but may be mistakes."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.config import Config, Finding
from gateway.routes.table import RouteTable


def doubtful_limits(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each service whose connections are fewer than its limit."""
    for name, service in settings.services.items():
        connections = service.max_connections * len(service.targets)
        if service.limits is not None and service.limits.in_flight > connections:
            yield Finding(
                loc=("services", name, "limits", "in_flight"),
                message=f"the service has {connections} connections (max_connections"
                " for each target): requests wait for these, and not in turn",
                hint="Lower in_flight, or raise max_connections",
            )


def doubtful_priorities(table: RouteTable) -> Iterator[Finding]:
    """Yield a finding for critical routes that come before no others."""
    forwarded = [route for route in table.routes if route.answer is None]
    if len(forwarded) > 1 and all(route.critical for route in forwarded):
        yield Finding(
            loc=(),
            message="all routes are critical, so none comes before another",
            hint="Leave critical out where a refusal does the least harm",
        )
    for route in table.routes:
        if route.critical and route.answer is not None:
            yield Finding(
                loc=(*route.loc, "critical"),
                message="this has no effect: the gateway answers the route itself",
                hint="Remove it",
            )

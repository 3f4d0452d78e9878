"""PURE. What is wrong with a route's `split`, seen with the services it names.

The keys of the route and of its own service hold for both services, because one
decision is made for a request before the split. A key of the other service that would
have no effect, or could let a request pass a guard there, is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from gateway.config.findings import Finding
from gateway.config.models.routes import RouteSettings
from gateway.config.models.services import ServiceConfig
from gateway.config.models.splits import SplitConfig

_OF_SESSIONS: Final = ("user", "session", "tenant")

ROUTE_KEYS: Final = tuple(
    key
    for key in ServiceConfig.model_fields
    if key in RouteSettings.model_fields and key != "assertion"
)
"""The keys of a service that hold for the routes to it. `assertion` is a key of both,
but each service's own holds for the requests that it gets."""


def flaws(
    split: SplitConfig,
    own: str | None,
    services: Mapping[str, ServiceConfig],
    *,
    reads_session: bool,
) -> Iterator[Finding]:
    """Yield what is wrong with *split*; places are relative to it.

    *own* is the route's service, None for one with an `upstream`. *reads_session*: the
    route isn't public.
    """
    if split.sticky in _OF_SESSIONS and not reads_session:
        yield Finding(
            loc=("sticky",) if "sticky" in split.model_fields_set else (),
            message=f"a public route reads no session, so it has no {split.sticky} to"
            " split by",
            hint="Set sticky: client, cookie:NAME, header:NAME or none",
        )
    if split.to == own:
        yield Finding(
            loc=("to",),
            message="this is the route's own service",
            hint="Name another one",
        )
        return
    other = services.get(split.to)
    if other is None:
        return
    ours = ServiceConfig.model_construct() if own is None else services.get(own)
    if ours is not None:
        yield from _differences(split.to, other, own, ours)


def _differences(
    to: str, other: ServiceConfig, own: str | None, ours: ServiceConfig
) -> Iterator[Finding]:
    """Yield a finding for each key of *other* that would be ignored or unsafe."""
    whose = "its own service" if own is None else f"services.{own}"
    for key in ROUTE_KEYS:
        if key not in other.model_fields_set:
            continue
        if key in ours.model_fields_set and getattr(other, key) == getattr(ours, key):
            continue
        yield Finding(
            loc=("to",),
            message=f"{to} has {key}, which would have no effect here: the keys of the"
            f" route and of {whose} hold for both",
            hint=f"Remove it from services.{to}, or write the same in services.{own}"
            if own is not None
            else f"Remove it from services.{to}, and write it on the route if needed",
            see=("services", to, key),
        )
    if other.paths != ours.paths:
        yield Finding(
            loc=("to",),
            message=f"{to} may read paths in another way than {whose}, so guards"
            " would not hold for both",
            hint="Write the same paths for both services",
            see=("services", to),
        )

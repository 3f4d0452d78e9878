"""PURE. What is wrong with services' `mirror`, seen with the services it names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gateway.config.findings import Finding, did_you_mean


def mirror_flaws(services: Mapping[Any, Any]) -> Iterator[Finding]:
    """Yield findings about *services*, which are raw data.

    Both services must read paths in the same way, since guards are judged for both.
    """
    for name, service in services.items():
        mirror = service.get("mirror") if isinstance(service, Mapping) else None
        to = mirror.get("service") if isinstance(mirror, Mapping) else None
        if not isinstance(to, str):
            continue
        loc = ("services", str(name), "mirror", "service")
        other = services.get(to)
        if to == name:
            yield Finding(
                loc=loc,
                message="this is the service itself, which would get requests twice",
                hint="Name another one",
            )
        elif to not in services:
            yield Finding(
                loc=loc,
                message="there is no service of this name",
                hint=did_you_mean(to, map(str, services)) or "Add it to services",
            )
        elif isinstance(other, Mapping) and other.get("paths") != service.get("paths"):
            yield Finding(
                loc=loc,
                message=f"{to} may read paths in another way than {name}, so guards"
                " would not hold for both",
                hint="Write the same paths for both services",
                see=("services", to),
            )

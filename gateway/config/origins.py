"""PURE. Where the values of a route stand: on it, its group, its service, or above."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gateway.config.effective import EffectiveRoute
from gateway.config.findings import Loc
from gateway.config.models.base import Model
from gateway.config.models.config import Config

_ELSEWHERE: Final = {
    ("request", "max_body_size"): ("gateway", "limits", "max_body_size"),
    ("cors", "allow_origins"): ("cors", "allow_origins"),
    ("cors", "allow_headers"): ("cors", "allow_headers"),
    ("cors", "expose_headers"): ("cors", "expose_headers"),
    ("cors", "max_age"): ("cors", "max_age"),
}
"""The last place of keys that aren't below `defaults`."""


def origins(config: Config, route: EffectiveRoute) -> dict[str, list[Loc]]:
    """Return the places of all values that the file sets for *route*.

    The keys are dotted, such as `timeouts.connect`. A key that isn't there has its
    default. `require` has each place that requires something; every other key one.
    """
    found: dict[str, list[Loc]] = {}
    for loc, model in _levels(config, route):
        for key in _keys(model):
            name = ".".join(key)
            if key[0] == "require":
                if not route.requires:
                    continue  # the route is open, which drops what is above it
                found.setdefault(key[0], [])
                if (*loc, key[0]) not in found[key[0]]:
                    found[key[0]].append((*loc, key[0]))
            elif key[0] in _KEYS and name not in _OF_SERVICES:
                found.setdefault(name, [(*loc, *key)])
    for key, place in _ELSEWHERE.items():
        if _is_set(config, place):
            found.setdefault(".".join(key), [place])
    return found


_KEYS: Final = (
    *("hosts", "protected", "session", "rewrite", "timeouts", "identity"),
    *("forward_credentials", "forward_authorization", "upstream_401", "host_header"),
    *("websocket", "request", "response", "cors", "on_unauthenticated", "retry"),
    *("clients", "critical", "rate_limit", "upstream", "service", "split", "assertion"),
)
"""Those of `RouteSettings` that one place sets."""
_OF_SERVICES: Final = ("assertion.enabled", "assertion.audience")
"""A service's key of the same name as a route's has another meaning."""


def _levels(config: Config, route: EffectiveRoute) -> Iterator[tuple[Loc, Model]]:
    """Yield the places of keys of *route*, the nearest first."""
    *above, last = route.loc
    index = int(last)
    if len(above) == 1:
        yield route.loc, config.routes[index]
    else:
        group = config.groups[int(above[1])]
        yield route.loc, group.routes[index]
        yield route.loc[:2], group
    name = route.settings.service
    if name is not None:
        yield ("services", name), config.services[name]
    yield ("defaults",), config.defaults


def _keys(model: Model) -> Iterator[tuple[str, ...]]:
    """Yield the keys that *model* sets, with those within other models."""
    for name in sorted(model.model_fields_set):
        value = getattr(model, name)
        if isinstance(value, Model) and value.model_fields_set:
            yield from ((name, *inner) for inner in _keys(value))
        else:
            yield (name,)


def _is_set(config: Config, place: tuple[str, ...]) -> bool:
    model: object = config
    for key in place:
        if not isinstance(model, Model) or key not in model.model_fields_set:
            return False
        model = getattr(model, key)
    return True

"""PURE. What differs between two configurations: which keys, and never their values.

A route is known by its name, else by its paths and methods, so one that was inserted
changes no other. A group counts as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from gateway.config.models.config import Config
from gateway.config.models.routes import GroupConfig, RouteConfig

_MAX_SHOWN: Final = 6
"""Of the changes in one line."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One difference."""

    how: Literal["added", "removed", "changed"]
    what: str
    """Such as `route orders`, `service users` or `gateway.limits.memory`."""


def changes(before: Config, after: Config) -> tuple[ConfigChange, ...]:
    """Return the differences: routes, groups and services, then the other keys."""
    return tuple(
        ConfigChange(how, what)
        for old, new in (
            (_routes(before.routes), _routes(after.routes)),
            (_groups(before.groups), _groups(after.groups)),
            (_services(before), _services(after)),
            (_keys(before), _keys(after)),
        )
        for what, how in _compared(old, new)
    )


def in_words(found: Sequence[ConfigChange]) -> str:
    """Return the differences in one line."""
    if not found:
        return "nothing has changed"
    shown = [f"{each.what} {each.how}" for each in found[:_MAX_SHOWN]]
    if len(found) > _MAX_SHOWN:
        shown.append(f"and {len(found) - _MAX_SHOWN} more changes")
    return ", ".join(shown)


def _compared(
    old: Mapping[str, object], new: Mapping[str, object]
) -> Iterator[tuple[str, Literal["added", "removed", "changed"]]]:
    for name in new.keys() - old.keys():
        yield name, "added"
    for name, value in old.items():
        if name not in new:
            yield name, "removed"
        elif new[name] != value:
            yield name, "changed"


def _numbered(labels: Sequence[str], values: Sequence[object]) -> dict[str, object]:
    """Return the values by label; equal labels get a number."""
    named: dict[str, object] = {}
    for label, value in zip(labels, values, strict=True):
        number, name = 1, label
        while name in named:
            number += 1
            name = f"{label} ({number})"
        named[name] = value
    return named


def _routes(routes: Sequence[RouteConfig]) -> dict[str, object]:
    return _numbered([f"route {_route_label(route)}" for route in routes], routes)


def _route_label(route: RouteConfig) -> str:
    if route.name is not None:
        return route.name
    paths = route.path or (route.match.path if route.match is not None else None) or ()
    texts = [str(path.matched[1]) for path in paths]
    methods = route.methods or (
        route.match.methods if route.match is not None else None
    )
    label = " ".join((*sorted(methods or ()), *texts))
    return label or "without a path"


def _groups(groups: Sequence[GroupConfig]) -> dict[str, object]:
    labels = [f"group {group.path or 'without a path'}" for group in groups]
    return _numbered(labels, groups)


def _services(config: Config) -> dict[str, object]:
    return {f"service {name}": each for name, each in config.services.items()}


def _keys(config: Config) -> dict[str, object]:
    """Return the values of all other keys, by their dotted names."""
    dumped = config.model_dump(exclude={"routes", "groups", "services"})
    return dict(_leaves("", dumped))


def _leaves(name: str, value: Any) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    else:
        yield name, value

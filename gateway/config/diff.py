"""PURE. What differs between two configurations: which keys, and never their values.

A route is known by its name, else by its paths and methods, so one that was inserted
changes no other. A group counts as a whole. A configuration can be compared by its
fingerprints, too, which are shorter, and show no value to those without the key.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, Final, Literal

from pydantic import BaseModel

from gateway.config.models.config import Config
from gateway.config.models.routes import GroupConfig, RouteConfig

_MAX_SHOWN: Final = 6
"""Of the changes in one line."""
_FINGERPRINT_BYTES: Final = 12

Item = Mapping[str, object]
"""The keys that a route, a group or a service sets, and their values: a key that is set
to its default replaces what the route would inherit. Another key has one, ITSELF."""
ITSELF: Final = ""
Parts = tuple[Mapping[str, Item], ...]
"""Routes, groups, services, and the other keys: name → item."""


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """One difference."""

    how: Literal["added", "removed", "changed"]
    what: str
    """Such as `route orders`, `service users` or `gateway.limits.memory`."""
    keys: tuple[str, ...] = ()
    """Those that have changed in it, been added or removed; none if it is a key."""

    def __str__(self) -> str:
        keys = f" ({', '.join(self.keys)})" if self.keys else ""
        return f"{self.what} {self.how}{keys}"


def parts(config: Config) -> Parts:
    """Return what `changes` compares of *config*."""
    return (
        _routes(config.routes),
        _groups(config.groups),
        _services(config),
        _keys(config),
    )


def fingerprints(config: Config, key: bytes) -> tuple[dict[str, dict[str, str]], ...]:
    """Return the `parts` of *config*, with a hash in place of each value.

    The *key*, of up to 64 bytes, keeps those who don't have it from guessing values.
    """
    return tuple(
        {
            name: {each: fingerprint(value, key) for each, value in item.items()}
            for name, item in part.items()
        }
        for part in parts(config)
    )


def changes(before: Parts, after: Parts) -> tuple[ConfigChange, ...]:
    """Return the differences: routes, groups and services, then the other keys."""
    return tuple(
        change
        for old, new in zip(before, after, strict=True)
        for change in _compared(old, new)
    )


def in_words(found: Sequence[ConfigChange]) -> str:
    """Return the differences in one line."""
    if not found:
        return "nothing has changed"
    shown = list(map(str, found[:_MAX_SHOWN]))
    if len(found) > _MAX_SHOWN:
        shown.append(f"and {len(found) - _MAX_SHOWN} more changes")
    return ", ".join(shown)


def _compared(
    old: Mapping[str, Item], new: Mapping[str, Item]
) -> Iterator[ConfigChange]:
    for name in new.keys() - old.keys():
        yield ConfigChange("added", name)
    for name, item in old.items():
        if name not in new:
            yield ConfigChange("removed", name)
        elif (keys := _unequal(item, new[name])) is not None:
            yield ConfigChange("changed", name, keys)


def _unequal(old: Item, new: Item) -> tuple[str, ...] | None:
    """Return which keys differ, but for ITSELF; None: none."""
    if old == new:
        return None
    missing = object()
    return tuple(
        sorted(
            key
            for key in old.keys() | new.keys()
            if key != ITSELF and old.get(key, missing) != new.get(key, missing)
        )
    )


def _numbered(
    labels: Sequence[str], models: Sequence[BaseModel]
) -> dict[str, dict[str, object]]:
    """Return the items of the models by label; equal labels get a number."""
    named: dict[str, dict[str, object]] = {}
    for label, model in zip(labels, models, strict=True):
        number, name = 1, label
        while name in named:
            number += 1
            name = f"{label} ({number})"
        named[name] = _item(model)
    return named


def _routes(routes: Sequence[RouteConfig]) -> dict[str, dict[str, object]]:
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


def _groups(groups: Sequence[GroupConfig]) -> dict[str, dict[str, object]]:
    labels = [f"group {group.path or 'without a path'}" for group in groups]
    return _numbered(labels, groups)


def _services(config: Config) -> dict[str, dict[str, object]]:
    return {f"service {name}": _item(each) for name, each in config.services.items()}


def _keys(config: Config) -> dict[str, dict[str, object]]:
    """Return the values of all other keys, by their dotted names."""
    dumped = config.model_dump(exclude={"routes", "groups", "services"})
    return {name: {ITSELF: value} for name, value in _leaves("", dumped)}


def _item(model: BaseModel) -> dict[str, object]:
    return {name: getattr(model, name) for name in sorted(model.model_fields_set)}


def _leaves(name: str, value: Any) -> Iterator[tuple[str, object]]:
    """Yield the keys below *name* that aren't unset, with their values."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(f"{name}.{key}" if name else str(key), inner)
    elif value is not None:
        yield name, value


def fingerprint(value: object, key: bytes = b"") -> str:
    """Return a digest of *value*, secrets included, that is the same in each process.

    Without a *key*, a short secret in it can be guessed: it isn't for other eyes.
    """
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_defaults=True)  # a tenth of the whole
    text = _canonical(value).encode(errors="surrogatepass")
    return blake2b(text, key=key, digest_size=_FINGERPRINT_BYTES).hexdigest()


def _canonical(value: object) -> str:
    """Return *value* as text that is the same in each process, unlike a set's."""
    match value:
        case Mapping():
            items = (f"{key!r}:{_canonical(item)}" for key, item in value.items())
            return f"{{{','.join(sorted(items))}}}"
        case set() | frozenset():
            return f"<{','.join(sorted(map(_canonical, value)))}>"
        case list() | tuple():
            return f"[{','.join(map(_canonical, value))}]"
        case _:
            return repr(value)

"""PURE. What is left of a file without its mistakes, so that others are found, too.

A route, group, service or rate limit with a mistake is replaced by a stand-in, which
keeps the places of all others; any other value with a mistake is left out.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any, Final

from gateway.config.findings import Finding, Loc

_NOWHERE: Final = "http://invalid.invalid"
"""No service has this name (RFC 6761 §6.4)."""


def pruned(data: object, findings: Iterable[Finding]) -> tuple[Any, tuple[Loc, ...]]:
    """Return a copy of *data* without the values of *findings*, and their places."""
    rest = copy.deepcopy(data)
    gone: dict[Loc, None] = {}
    for finding in findings:
        loc = _replaced(finding.loc)
        if loc not in gone and not any(loc[: len(one)] == one for one in gone):
            gone[loc] = None
            _remove(rest, loc)
    return rest, tuple(gone)


def is_within(loc: Loc, places: Iterable[Loc]) -> bool:
    """Return whether *loc* is one of *places*, or below it."""
    return any(loc[: len(place)] == place for place in places)


def _replaced(loc: Loc) -> Loc:
    """Return the place that is removed for a finding at *loc*."""
    match loc:
        case ("routes", int(), *_) | ("services" | "rate_limits", str(), *_):
            return loc[:2]
        case ("groups", int(), "routes", int(), *_):
            return loc[:4]
        case ("groups", int(), *_):
            return loc[:2]
        case _:
            # An item of a list takes the list with it: no stand-in fits every list.
            items = (at for at, step in enumerate(loc) if isinstance(step, int))
            return loc[: next(items, len(loc))]


def _remove(data: Any, loc: Loc) -> None:
    if not loc:
        if isinstance(data, dict):
            data["version"] = 1
        return
    for step in loc[:-1]:
        try:
            data = data[step]
        except (LookupError, TypeError):
            return
    last = loc[-1]
    stand_in = _stand_in(loc)
    try:
        if stand_in is not None:
            data[last] = stand_in
        elif isinstance(data, dict) and last != "version":
            data.pop(last, None)
        elif isinstance(data, dict):
            data[last] = 1
    except (LookupError, TypeError):
        return


def _stand_in(loc: Loc) -> dict[str, Any] | None:
    """Return a value for the place of a route, service, …; None for others."""
    route = {
        "path": {"exact": f"/.invalid/{'/'.join(map(str, loc))}"},
        "upstream": _NOWHERE,
        "split": None,
        "protected": True,
        "require": {},
    }
    match loc:
        case ("routes", int()) | ("groups", int(), "routes", int()):
            return route
        case ("groups", int()):
            return {"routes": [route]}
        case ("services", str()):
            return {"targets": [_NOWHERE]}
        case ("rate_limits", str()):
            return {"rate": "1/s"}
        case _:
            return None

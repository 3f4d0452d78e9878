"""PURE. Names of limits that nothing defines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from gateway.config.findings import Finding, Loc, did_you_mean
from gateway.config.models.rate_limits import READY


def unknown_limits(
    data: Mapping[Any, Any], levels: Sequence[tuple[Loc, Mapping[Any, Any]]]
) -> Iterator[Finding]:
    """Yield a finding for each attached limit that isn't defined.

    *data* is the raw content of the file, and *levels* are its services, groups and
    routes, each with its place.
    """
    defined = data.get("rate_limits")
    known = {*READY, *map(str, defined if isinstance(defined, Mapping) else ())}
    attached = [((*loc, "rate_limit"), keys.get("rate_limit")) for loc, keys in levels]
    supertokens = data.get("supertokens")
    if isinstance(supertokens, Mapping):
        calls = supertokens.get("rate_limits")
        for call, uses in calls.items() if isinstance(calls, Mapping) else ():
            attached.append((("supertokens", "rate_limits", call), uses))
    for loc, uses in attached:
        for place, name in _names(loc, uses):
            if name not in known:
                yield Finding(
                    loc=place,
                    message="there is no rate limit of this name",
                    hint=did_you_mean(name, known) or "Add it to rate_limits",
                )


def _names(loc: Loc, uses: object) -> Iterator[tuple[Loc, str]]:
    match uses:
        case str():
            yield loc, uses
        case {"policy": str(name)}:
            yield (*loc, "policy"), name
        case list() | tuple():
            for number, use in enumerate(uses):
                if not isinstance(use, list | tuple):
                    yield from _names((*loc, number), use)
        case _:
            pass

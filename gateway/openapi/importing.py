"""PURE. An OpenAPI document → routes, as the text of a file that others include.

Only what the document names is written: there is no route for all the rest, so an
operation that it lacks is refused with 404.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from gateway.identity import Protection
from gateway.openapi.operations import PARAMETER, Document, Operation

_NO_NAME: Final = re.compile(r"[^A-Za-z0-9._:-]+")
_SIGN: Final = re.compile(r"([].*+?|(){}[\\^$])")
_NO_PARAMETER: Final = re.compile(r"[^A-Za-z0-9_]+")
_MAX_NAME: Final = 90
"""Characters of a route's name; a number may follow."""
_PLAIN: Final = re.compile(r"[A-Za-z0-9_/-][A-Za-z0-9._:/-]*").fullmatch
_YAML_WORDS: Final = frozenset({"null", "true", "false", "yes", "no", "on", "off"})


@dataclass(frozen=True, slots=True)
class _Place:
    """What operations share that become one route."""

    hosts: tuple[str, ...] | None
    path: str
    """With the server's prefix."""
    protection: Protection
    alternatives: tuple[tuple[str, ...], ...]


def routes_of(document: Document, service: str) -> list[dict[str, Any]]:
    """Return the routes of a document, with the keys of the file, for *service*.

    The operations of a path with the same requirement are one route.
    """
    places: dict[_Place, list[Operation]] = {}
    for operation in document.operations:
        for prefix, hosts in _sites(operation).items():
            place = _Place(
                hosts,
                prefix + operation.path,
                operation.protection,
                operation.alternatives,
            )
            places.setdefault(place, []).append(operation)
    used: Counter[str] = Counter()
    return [
        _route(place, operations, service, used) for place, operations in places.items()
    ]


def _sites(operation: Operation) -> dict[str, tuple[str, ...] | None]:
    """Return the hosts of each prefix; None: any."""
    found: dict[str, tuple[str, ...] | None] = {}
    for site in operation.sites:
        hosts = found.get(site.prefix, ())
        if hosts is None or site.host is None:
            found[site.prefix] = None
        else:
            found[site.prefix] = (*hosts, site.host)
    return found


def _route(
    place: _Place, operations: list[Operation], service: str, used: Counter[str]
) -> dict[str, Any]:
    methods = dict.fromkeys(operation.method for operation in operations)
    if "GET" in methods:  # it includes HEAD
        methods.pop("HEAD", None)
    match: dict[str, Any] = {"path": _path(place.path), "methods": [*methods]}
    if place.hosts is not None:
        match["hosts"] = [*place.hosts]
    route: dict[str, Any] = {
        "name": _name(operations[0], place, used),
        "match": match,
        "service": service,
    }
    if place.protection is Protection.PUBLIC:
        route["protected"] = False
    elif place.protection is Protection.OPTIONAL:
        route["protected"] = "optional"
    else:
        route["protected"] = True
        if place.alternatives:
            route["require"] = _require(operations[0])
    return route


def _require(operation: Operation) -> dict[str, Any]:
    needs = operation.requirements
    if needs.permissions_all:
        return {"permissions": {"all": [*needs.permissions_all]}}
    if needs.permissions_any:
        return {"permissions": {"any": [*needs.permissions_any]}}
    (group,) = needs.alternatives
    return {"any": [{"permissions": {"all": [*one.permissions_all]}} for one in group]}


def _path(path: str) -> dict[str, str]:
    """Return the path of a route: names that are whole segments make a template."""
    if "{" not in path:
        return {"exact": path}
    segments = path.split("/")
    if all("{" not in one or PARAMETER.fullmatch(one) for one in segments):
        names: Counter[str] = Counter()
        return {"template": "/".join(_parameter(one, names) for one in segments)}
    pieces = PARAMETER.split(path)
    return {"regex": "[^/]+".join(_SIGN.sub(r"\\\1", piece) for piece in pieces)}


def _parameter(segment: str, names: Counter[str]) -> str:
    """Return a segment of a template; names have letters, digits and `_` only."""
    if not segment.startswith("{"):
        return segment
    name = _NO_PARAMETER.sub("_", segment[1:-1])
    name = name if name[:1].isalpha() else f"p{name}"
    names[name] += 1
    return f"{{{name}}}" if names[name] == 1 else f"{{{name}_{names[name]}}}"


def _name(operation: Operation, place: _Place, used: Counter[str]) -> str:
    """Return a name that no other route of the document has."""
    path = place.path.replace("{", "").replace("}", "").replace("/", "-")
    text = operation.name or f"{operation.method.lower()}{path}"
    name = _NO_NAME.sub("-", text).strip("-._:")[:_MAX_NAME] or "operation"
    used[name] += 1
    while used[name] > 1:
        name = f"{name}:{used[name]}"
        used[name] += 1
    return name


# --- text -----------------------------------------------------------------------


def imported(document: Document, service: str, target: str, source: str) -> str:
    """Return a file with the routes of a document, in YAML.

    *target* is the URL of the *service*, and *source* the name of the document's file.
    """
    return "\n".join((*_lines(document, service, target, source), ""))


def _lines(document: Document, service: str, target: str, source: str) -> Iterator[str]:
    about = " ".join(filter(None, (document.title, document.version)))
    yield f"# Made of {_comment(source)}" + (f" ({_comment(about)})." if about else ".")
    yield "# What it doesn't name has no route here: 404."
    for name in document.left_out:
        yield f"# Left out, as the gateway doesn't forward the method: {_comment(name)}"
    yield "version: 1"
    yield "services:"
    yield f"  {_flow(service)}: {_flow({'targets': [target]})}"
    yield "routes:" if document.operations else "routes: []"
    for route in routes_of(document, service):
        first, *rest = (f"{key}: {_flow(value)}" for key, value in route.items())
        yield f"  - {first}"
        yield from (f"    {line}" for line in rest)


def _comment(text: str) -> str:
    return text if text.isprintable() else ascii(text)


def _flow(value: object) -> str:
    """Return *value* as YAML on one line."""
    if isinstance(value, dict):
        items = (f"{_flow(key)}: {_flow(one)}" for key, one in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    is_plain = _PLAIN(text) and not text[0].isdigit() and text[0] != "-"
    if is_plain and text.lower() not in _YAML_WORDS and not text.endswith(":"):
        return text
    # JSON is YAML, but a dollar sign before a brace would be a variable.
    return json.dumps(text).replace("${", "$${")

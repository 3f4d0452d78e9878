"""PURE. The operations of an OpenAPI document, and what each asks of a session.

A missing `security` leaves an operation protected: many documents leave it out without
meaning that everybody may call it. Only `security: []` is public. An empty requirement,
`{}`, among others makes the session optional. Scopes are permissions.

Source: OpenAPI Specification 3.1.1, §4.8 (OpenAPI, Server, Path Item, Operation,
Security Requirement and Reference Objects); RFC 6901 (JSON Pointer).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

from gateway.config import Finding, Loc
from gateway.http.methods import METHODS
from gateway.identity import Protection, Requirements

OPERATION_KEYS: Final = (
    *("get", "put", "post", "delete", "options", "head", "patch", "trace", "query"),
)
"""The keys of a path that hold an operation. `query` is new in OpenAPI 3.2."""
PARAMETER: Final = re.compile(r"\{[^{}/]*\}")
"""A name in a path, with its braces."""
_VERSION: Final = re.compile(r"3\.[0-2](\.[0-9]+)?").fullmatch
_VARIABLE: Final = re.compile(r"\{([^{}]*)\}")
_MAX_REFERENCES: Final = 20
"""How many references may lead from one to the next."""
_MAX_OPERATIONS: Final = 10_000
_MAX_SITES: Final = 20
"""Servers of one operation."""


class BadDocument(ValueError):
    """It is no OpenAPI document that can be read. `findings` say where and why."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__(findings[0].message)
        self.findings = findings


@dataclass(frozen=True, slots=True)
class Site:
    """Where a server has its paths."""

    host: str | None
    """In lower case, without a port. None: any."""
    prefix: str
    """What comes before the paths, without a final slash; may be empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path."""

    loc: Loc
    """Its place in the document."""
    name: str
    """`operationId`; empty: it has none."""
    method: str
    """In upper case."""
    path: str
    """As in the document, with `{names}`."""
    sites: tuple[Site, ...]
    protection: Protection
    alternatives: tuple[tuple[str, ...], ...]
    """All permissions of at least one item are needed. Empty: none is."""

    @property
    def requirements(self) -> Requirements:
        """What the session must meet."""
        match self.alternatives:
            case ():
                return Requirements()
            case (needed,):
                return Requirements(permissions_all=needed)
            case several if all(len(one) == 1 for one in several):
                return Requirements(permissions_any=tuple(one for (one,) in several))
            case several:
                group = tuple(Requirements(permissions_all=one) for one in several)
                return Requirements(alternatives=(group,))


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """What is read of an OpenAPI document."""

    title: str
    version: str
    """Of the API."""
    operations: tuple[Operation, ...]
    """In the order of the document."""
    left_out: tuple[str, ...]
    """Operations whose methods the gateway doesn't forward, such as `TRACE /a`."""


def document_of(data: Mapping[str, Any]) -> Document:
    """Return the operations of a document, as it was parsed from JSON or YAML.

    Raises:
        BadDocument: it is of another version, or a part that is read isn't as the
            specification says.
    """
    return _Reader(data).document()


class _Reader:
    def __init__(self, data: Mapping[str, Any]) -> None:
        self._data = data

    def document(self) -> Document:
        if "swagger" in self._data:
            _refuse(("swagger",), "Swagger 2.0 isn't read", "Convert it to OpenAPI 3")
        version = str(self._data.get("openapi", ""))
        if not _VERSION(version):
            _refuse(
                ("openapi",) if version else (),
                "expected a document of OpenAPI 3.0, 3.1 or 3.2",
                "Its key openapi has the version, such as 3.1.1",
            )
        info = self._mapping(self._data.get("info", {}), ("info",))
        operations: list[Operation] = []
        left_out: list[str] = []
        paths = self._mapping(self._data.get("paths", {}), ("paths",))
        for path, item in paths.items():
            if path.startswith("x-"):
                continue
            for operation in self._of_path(path, item, ("paths", path)):
                if operation.method in METHODS:
                    operations.append(operation)
                else:
                    left_out.append(f"{operation.method} {operation.path}")
            if len(operations) > _MAX_OPERATIONS:
                _refuse(("paths",), f"more than {_MAX_OPERATIONS} operations")
        return Document(
            title=str(info.get("title", "")),
            version=str(info.get("version", "")),
            operations=tuple(operations),
            left_out=tuple(left_out),
        )

    def _of_path(self, path: str, item: object, loc: Loc) -> Iterator[Operation]:
        if not path.startswith("/"):
            _refuse(loc, "a path begins with /")
        found = self._resolved(item, loc)
        for key in OPERATION_KEYS:
            if key not in found:
                continue
            place = (*loc, key)
            operation = self._mapping(found[key], place)
            owners = (
                (operation, place),
                (found, loc),
                (self._data, ()),
            )
            protection, alternatives = self._security(operation, place)
            yield Operation(
                loc=place,
                name=str(operation.get("operationId") or ""),
                method=key.upper(),
                path=path,
                sites=self._sites(owners),
                protection=protection,
                alternatives=alternatives,
            )

    def _resolved(self, item: object, loc: Loc) -> Mapping[str, Any]:
        """Return a path item; a reference leads to one in this document."""
        found = self._mapping(item, loc)
        for _ in range(_MAX_REFERENCES):
            reference = found.get("$ref")
            if reference is None:
                return found
            if not isinstance(reference, str) or not reference.startswith("#/"):
                _refuse(
                    (*loc, "$ref"),
                    "only references within the document are followed",
                    "Join the files to one first",
                )
            found = self._mapping(self._at(reference, (*loc, "$ref")), loc)
        raise BadDocument(
            (Finding(loc=loc, message="too many references follow each other"),)
        )

    def _at(self, pointer: str, loc: Loc) -> object:
        found: object = self._data
        for step in pointer[2:].split("/"):
            name = step.replace("~1", "/").replace("~0", "~")
            if not isinstance(found, Mapping) or name not in found:
                _refuse(loc, f"there is nothing at {pointer}")
            found = found[name]
        return found

    def _security(
        self, operation: Mapping[str, Any], loc: Loc
    ) -> tuple[Protection, tuple[tuple[str, ...], ...]]:
        """Return whether a session is needed, and the permissions."""
        asked = operation.get("security")
        place: Loc = (*loc, "security")
        if asked is None:
            asked, place = self._data.get("security"), ("security",)
        if asked is None:
            return Protection.REQUIRED, ()
        if not isinstance(asked, list):
            _refuse(place, "expected a list")
        if not asked:
            return Protection.PUBLIC, ()
        alternatives: list[tuple[str, ...]] = []
        for number, one in enumerate(asked):
            schemes = self._mapping(one, (*place, number))
            if not schemes:
                return Protection.OPTIONAL, ()
            scopes: list[str] = []
            for name, listed in schemes.items():
                if not isinstance(listed, list) or not all(
                    isinstance(scope, str) and scope for scope in listed
                ):
                    _refuse((*place, number, name), "expected a list of scopes")
                scopes += listed
            alternatives.append(tuple(dict.fromkeys(scopes)))
        if () in alternatives:  # any session is enough
            return Protection.REQUIRED, ()
        return Protection.REQUIRED, tuple(dict.fromkeys(alternatives))

    def _sites(
        self, owners: tuple[tuple[Mapping[str, Any], Loc], ...]
    ) -> tuple[Site, ...]:
        """Return the sites of the nearest owner that lists servers."""
        for owner, loc in owners:
            servers = owner.get("servers")
            if not servers:
                continue
            place = (*loc, "servers")
            if not isinstance(servers, list) or len(servers) > _MAX_SITES:
                _refuse(place, f"expected a list of at most {_MAX_SITES} servers")
            found = (
                self._site(server, (*place, number))
                for number, server in enumerate(servers)
            )
            return tuple(dict.fromkeys(found))
        return (Site(None, ""),)

    def _site(self, server: object, loc: Loc) -> Site:
        found = self._mapping(server, loc)
        variables = self._mapping(found.get("variables") or {}, (*loc, "variables"))

        def default(match: re.Match[str]) -> str:
            variable = variables.get(match[1])
            if not isinstance(variable, Mapping) or "default" not in variable:
                _refuse((*loc, "url"), f"the variable {match[1]} has no default")
            return str(variable["default"])

        url = _VARIABLE.sub(default, str(found.get("url") or "/"))
        try:
            parts = urlsplit(url)
            host = parts.hostname
        except ValueError:
            _refuse((*loc, "url"), "this is no URL")
        if parts.query or parts.fragment or (parts.scheme and not host):
            _refuse((*loc, "url"), "expected a URL without query, or a path")
        path = parts.path if parts.path.startswith("/") else f"/{parts.path}"
        return Site(host, path.rstrip("/"))

    def _mapping(self, value: object, loc: Loc) -> Mapping[str, Any]:
        if not isinstance(value, Mapping):
            _refuse(loc, "expected keys")
        return value


def _refuse(loc: Loc, message: str, hint: str = "") -> NoReturn:
    raise BadDocument((Finding(loc=loc, message=message, hint=hint),))

"""PURE. What a route says, and what a look-up among routes says."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gateway import config
from gateway.config import Address
from gateway.headers import HeaderPolicy
from gateway.identity import SessionPolicy

Form = Literal["exact", "prefix", "template", "regex"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Service:
    """An upstream. Routes that name the same one share this object."""

    name: str
    """From `services`; the URL for a route's own `upstream`. Unique."""
    targets: tuple[Address, ...]
    tls: config.TlsConfig
    max_connections: int
    """Per target."""
    paths: config.PathsConfig
    """How it reads paths, as far as the file says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """How the path changes on its way."""

    strip: int
    """How many segments are taken off the beginning."""
    replacement: str
    """What stands in their place: empty, or a path without final slash."""

    def __call__(self, path: str) -> str:
        """Return what the upstream gets for *path*, which the route has matched.

        Whole segments are taken off, so that what is left is empty or begins with a
        slash; canonical paths have no dot segments and no `//`, so that nothing in it
        can climb out of the replacement.
        """
        pieces = path.split("/", self.strip + 1)
        rest = f"/{pieces[-1]}" if len(pieces) > self.strip + 1 else ""
        return (self.replacement + rest) or "/"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One route, with all defaults filled in."""

    index: int
    """Its place in the file, from zero."""
    name: str
    form: Form
    path: str
    """Prefix, template, … as the file has it, in canonical form."""
    methods: tuple[str, ...] | None
    hosts: tuple[str, ...] | None
    service: Service
    session: SessionPolicy
    says_protected: bool
    """Its own line says who may; else `defaults` does."""
    headers: HeaderPolicy
    timeouts: config.TimeoutsConfig
    rewrite: Rewrite | None
    host_header: str
    """`upstream`, `preserve`, or a literal."""
    upstream_401: Literal["pass", "403", "502"]
    websocket: config.WebSocketConfig
    max_body_size: int
    """In bytes."""
    retry: config.RetryConfig

    def upstream_path(self, path: str) -> str:
        """Return the path that the upstream gets for the canonical *path*."""
        return path if self.rewrite is None else self.rewrite(path)


def shape(route: Route) -> str:
    """Return the path of *route*, whatever a template calls its segments."""
    if route.form != "template":
        return route.path
    return "/".join(
        "{}" if segment.startswith("{") else segment
        for segment in route.path.split("/")
    )


# --- what a match says ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Matched:
    """The request takes this route."""

    route: Route


@dataclass(frozen=True, slots=True)
class NoRoute:
    """No route's host and path match: 404."""


@dataclass(frozen=True, slots=True)
class MethodNotAllowed:
    """The place that decides has no route for this method: 405."""

    allow: tuple[str, ...]
    """What it has routes for, sorted."""


@dataclass(frozen=True, slots=True)
class NearMiss:
    """The request would take *route*, but its service may read *guard*'s path: 404."""

    route: Route
    guard: Route
    """It leads to the same targets, and asks for more than *route* or refuses the
    method."""


Outcome = Matched | NoRoute | MethodNotAllowed | NearMiss

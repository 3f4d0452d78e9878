"""PURE. A compiled route, and the outcomes of a look-up."""

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
    """Its key in `services`, or the URL of a route's `upstream`. Unique."""
    targets: tuple[Address, ...]
    tls: config.TlsConfig
    max_connections: int
    """Per target."""
    max_waiting: int | None
    """Per target: exchanges that wait for their clients. None: the default."""
    paths: config.PathsConfig
    """How it reads paths, as far as the file declares it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrite:
    """How a request's path becomes the upstream's."""

    strip: int
    """Number of segments to remove from the beginning."""
    replacement: str
    """Their replacement: empty, or a path without final slash."""

    def __call__(self, path: str) -> str:
        """Return the upstream's path for *path*, which the route has matched.

        Whole segments are removed, so that the rest is empty or begins with a slash. A
        canonical path has no dot segments and no `//`, so that the result can't leave
        the replacement.
        """
        pieces = path.split("/", self.strip + 1)
        rest = f"/{pieces[-1]}" if len(pieces) > self.strip + 1 else ""
        return (self.replacement + rest) or "/"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One route, with all defaults filled in."""

    index: int
    """Its index in the file, from zero."""
    name: str
    form: Form
    path: str
    """The file's prefix, template, … in canonical form."""
    methods: tuple[str, ...] | None
    hosts: tuple[str, ...] | None
    service: Service
    session: SessionPolicy
    says_protected: bool
    """The route itself sets `protected`; otherwise `defaults` does."""
    headers: HeaderPolicy
    timeouts: config.TimeoutsConfig
    rewrite: Rewrite | None
    host_header: str
    """`upstream`, `preserve`, or a literal host."""
    upstream_401: Literal["pass", "403", "502"]
    websocket: config.WebSocketConfig
    max_body_size: int
    buffer: int
    """Bodies up to this size in bytes arrive whole before the service is asked."""
    """In bytes."""
    retry: config.RetryConfig
    close_streams: bool
    """Whether replies in progress end with their session."""

    def upstream_path(self, path: str) -> str:
        """Return the upstream's path for the canonical *path* of a request."""
        return path if self.rewrite is None else self.rewrite(path)


def shape(route: Route) -> str:
    """Return the path of *route*, with `{}` for each name of a template."""
    if route.form != "template":
        return route.path
    return "/".join(
        "{}" if segment.startswith("{") else segment
        for segment in route.path.split("/")
    )


# --- outcomes of a look-up ------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Matched:
    """The request takes this route."""

    route: Route


@dataclass(frozen=True, slots=True)
class NoRoute:
    """No route matches the host and the path: 404."""


@dataclass(frozen=True, slots=True)
class MethodNotAllowed:
    """The deciding place has no route for the method: 405."""

    allow: tuple[str, ...]
    """The methods it has routes for, sorted."""


@dataclass(frozen=True, slots=True)
class NearMiss:
    """*route* matches, but its service may read the path as that of *guard*: 404."""

    route: Route
    guard: Route
    """It leads to the same targets, and requires more than *route* or refuses the
    method."""


Outcome = Matched | NoRoute | MethodNotAllowed | NearMiss

"""PURE. A compiled route, and the outcomes of a look-up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gateway import config
from gateway.config import Address
from gateway.headers import Edits, HashBy, HeaderPolicy, MapPolicy, Networks
from gateway.http.fields import Fields
from gateway.http.redirect_template import RedirectTemplate
from gateway.http.target import Slashes, Target
from gateway.identity import SessionPolicy
from gateway.rate_limits import RouteLimits
from gateway.routes.answer import Answer
from gateway.routes.condition import Condition
from gateway.routes.split import Split
from gateway.timeouts import Retry, Timeouts

Form = config.PathForm


@dataclass(frozen=True, slots=True, kw_only=True)
class Mirror:
    """Which requests to a service are also sent to another one."""

    service: str
    """The name of the other one."""
    share: float
    """From 0 to 1."""
    methods: frozenset[str]
    in_flight: int
    """Most copies in progress, in each worker."""


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
    keep_alive: float
    """How many seconds an idle connection is kept."""
    paths: config.PathsConfig
    """How it reads paths, as far as the file declares it."""
    weights: tuple[int, ...]
    """Of the targets."""
    balance: str
    """`least_requests`, `round_robin` or `random`."""
    hash_by: HashBy | None
    """The part of a request that decides before that."""
    health: config.HealthConfig
    resolve_s: float | None
    """How often the names of targets are looked up, each of whose addresses is a target
    then; None: a name is one target."""
    hold: float | None
    """How many seconds a request waits while no target takes connections."""
    limits: config.ServiceLimitsConfig | None
    """How many requests it may have in progress. None: any number."""
    mirror: Mirror | None
    """None: no request is copied."""
    audience: str | None
    """Whom assertions to it are for. None: it gets none."""


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
        canonical path has no dot segments, so that the result can't leave the
        replacement. Empty segments at its beginning are removed: `//host` may be read
        as an authority.
        """
        pieces = path.split("/", self.strip + 1)
        rest = f"/{pieces[-1].lstrip('/')}" if len(pieces) > self.strip + 1 else ""
        return (self.replacement + rest) or "/"

    def removed(self, path: str) -> str:
        """Return the beginning of *path* that `__call__` removes: no final slash."""
        return "/".join(path.split("/", self.strip + 1)[: self.strip + 1])

    def public_prefix(self, path: str) -> bytes:
        """Return what is before the upstream's path in *path*; empty if nothing is.

        That is the removed beginning, without a replacement that it ends with:
        `/api/v2` replaced by `/v2` leaves `/api`. With any other replacement, nothing
        before the upstream's path makes the public one.
        """
        removed, replacement = self.removed(path), self.replacement
        if removed.endswith(replacement):
            return removed[: len(removed) - len(replacement)].encode()
        return b""


class ClientRule:
    """The networks whose clients may ask, and those whose clients may not."""

    __slots__ = ("_allow", "_deny", "written")

    def __init__(self, allow: Sequence[str], deny: Sequence[str]) -> None:
        """Raises: ValueError: an item isn't a network."""
        self.written = frozenset(allow), frozenset(deny)
        """Both lists, as the file has them."""
        self._allow = Networks(allow) if allow else None
        self._deny = Networks(deny)

    def allows(self, address: str) -> bool:
        """Return whether the client at *address* may ask.

        An address that isn't known, such as that of a Unix socket's peer, is in no
        network.
        """
        return address not in self._deny and (
            self._allow is None or address in self._allow
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Route:
    """One route, with all defaults filled in."""

    index: int
    """Its rank in the file, from zero: a route of the file has one for each path."""
    loc: config.Loc
    """Its place in the file."""
    name: str
    form: Form
    path: str
    """The file's prefix, template, … in canonical form, after the path of its group."""
    methods: tuple[str, ...] | None
    hosts: tuple[str, ...] | None
    condition: Condition | None
    """What else must hold for a request to match."""
    clients: ClientRule | None
    """Which clients may ask. None: all."""
    limits: RouteLimits | None
    """How often they may. None: there is no limit."""
    service: Service
    audience: str | None
    """Whom the assertions of its requests are for. None: they have none."""
    session: SessionPolicy
    says_protected: bool
    """The route itself sets `protected`; otherwise `defaults` does."""
    headers: HeaderPolicy
    timeouts: Timeouts
    rewrite: Rewrite | None
    mapping: MapPolicy
    """What of its replies is mapped to public URLs."""
    cors: config.CorsConfig | None
    """Its own CORS policy; None: that of the whole table."""
    reply_edits: Edits
    """What of its replies' fields is changed."""
    host_header: str
    """`upstream`, `preserve`, or a literal host."""
    upstream_401: Literal["pass", "403", "502"]
    websocket: config.WebSocketConfig
    max_body_size: int
    buffer: int
    """Bodies up to this size in bytes arrive whole before the service is asked."""
    """In bytes."""
    retry: Retry
    detour: Answer | Split | None
    """The gateway's own answer, or what sends requests to another service, too; None:
    the service gets all of them."""
    sign_in: RedirectTemplate | None
    """Where a browser that opens a page is sent in place of a 401."""
    slashes: Slashes
    """Which slashes of a path are kept, and sent to the service."""
    close_streams: bool
    """Whether replies in progress end with their session."""
    critical: bool
    """Whether its requests come before others where requests wait or are refused."""

    @property
    def answer(self) -> Answer | None:
        """The gateway's own answer; None: a service's."""
        return self.detour if isinstance(self.detour, Answer) else None

    @property
    def services(self) -> tuple[Service, ...]:
        """The services that its requests go to."""
        if isinstance(self.detour, Split):
            return self.service, self.detour.route.service
        return () if isinstance(self.detour, Answer) else (self.service,)

    def upstream_path(self, path: str) -> str:
        """Return the upstream's path for the canonical *path* of a request."""
        return path if self.rewrite is None else self.rewrite(path)

    def upstream_head(
        self, method: str, target: Target, authority: bytes, fields: bytes
    ) -> bytes:
        """Return the head of a request, as sent to one of the service's targets.

        *authority* is the target's own. *fields* are all fields but Host, each with
        CRLF.
        """
        host = self.host_header
        if host == "preserve":
            authority = (target.authority or target.host).encode() or authority
        elif host != "upstream":
            authority = host.encode()
        return b"".join(
            (
                method.encode(),
                b" ",
                self.upstream_path(target.path).encode(),
                target.query,
                b" HTTP/1.1\r\nHost: ",
                authority,
                b"\r\n",
                fields,
                b"\r\n",
            )
        )


def shape(form: Form, path: str) -> str:
    """Return *path* with `{}` for each name in braces."""
    if form == "regex":
        return path
    return "/".join(
        "{}" if segment.startswith("{") else segment for segment in path.split("/")
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


@dataclass(frozen=True, slots=True)
class Conditional:
    """Which route applies depends on fields and query: `resolve` tells."""

    options: tuple[tuple[Condition, Outcome], ...]
    """The first whose condition holds decides."""
    otherwise: Outcome

    def resolve(self, fields: Fields, query: bytes) -> Outcome:
        """Return the outcome for a request.

        *query* is the raw query, with or without its question mark.
        """
        for condition, outcome in self.options:
            if condition.holds(fields, query):
                return outcome
        return self.otherwise

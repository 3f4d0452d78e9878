"""edge. The resources that requests name: the gateway's own, and the route table."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from gateway.http import target
from gateway.http.target import Form, Target
from gateway.routes import (
    Conditional,
    Matched,
    MethodNotAllowed,
    Outcome,
    Route,
    RouteTable,
    slashes,
)
from gateway.supertokens.api import Auth

_new = object.__new__

USER_METHODS: Final = ("GET", "HEAD")
ACCESS_METHODS: Final = ("POST",)
JWKS_METHODS: Final = ("GET", "HEAD")

KNOWN_MAX_BYTES: Final = 512
"""Target and Host together must not be longer, in bytes, to be remembered. Targets with
a query are never remembered, as they may hold a secret."""
_KNOWN_MAX = 4096
"""Resources that are remembered: their keys take up to 2 MiB in total."""


class Resource:
    """The resource that a request names. It doesn't change once it is made."""

    __slots__ = ("outcome", "route", "target")

    target: Target
    route: Route | None
    """The route that applies; None: see `outcome`."""
    outcome: Outcome | Conditional | GatewayResource


class GatewayResource(Enum):
    """Resources of the gateway itself."""

    USER = auto()
    ACCESS = auto()
    """What the session may ask for (`gateway.user_access`)."""
    JWKS = auto()
    """The public keys of assertions."""
    AUTH = auto()
    ASTERISK = auto()
    """`OPTIONS *`: the gateway as a whole."""


class Router:
    """Finds resources: `/user`, the SDK's API, `OPTIONS *` and the route table."""

    def __init__(
        self,
        *,
        table: RouteTable,
        auth: Auth,
        user_path: str,
        access_path: str | None = None,
        jwks_path: str | None = None,
        jwks: bytes = b"",
    ) -> None:
        """*access_path* is where clients ask what they may do; None: nowhere. *jwks*
        is at *jwks_path*: the public keys of assertions; None: there are none.
        """
        self.table = table
        self.auth = auth
        self.user_path = user_path
        self.jwks = jwks
        self._own = {user_path: GatewayResource.USER}
        if access_path is not None:
            self._own[access_path] = GatewayResource.ACCESS
        if jwks_path is not None:
            self._own[jwks_path] = GatewayResource.JWKS
        self._kept_slashes = slashes.readings(table.routes)
        self.known: dict[tuple[str, bytes, bytes | None], Resource] = {}
        """Results of `find` by its arguments. Callers look here first."""

    def find(self, method: str, raw: bytes, host: bytes | None) -> Resource:
        """Return the resource that a method, a raw target and a Host name.

        Raises:
            BadTarget: readers could take it for different resources (`target.parse`).
        """
        resource: Resource = _new(Resource)
        outcome: Outcome | Conditional | GatewayResource
        if self._kept_slashes and target.has_odd_slash(raw):
            request_target, outcome = slashes.find(
                raw, method, host, self._kept_slashes, self._outcome
            )
        else:
            request_target = target.parse(raw, method, host)
            outcome = self._outcome(method, request_target)
        resource.target = request_target
        resource.outcome = outcome
        resource.route = None
        if isinstance(outcome, Matched):
            resource.route = outcome.route
        if not request_target.query and len(raw) + len(host or b"") <= KNOWN_MAX_BYTES:
            if len(self.known) >= _KNOWN_MAX:
                self.known.clear()
            self.known[method, raw, host] = resource
        return resource

    def owns(self, path: str) -> bool:
        """Return whether the gateway answers the canonical *path* itself."""
        return path in self._own or self.auth.owns(path)

    def method_allowed(self, request_target: Target, method: str) -> bool:
        """Return whether the resource of *request_target* supports *method*."""
        match self._outcome(method, request_target):
            case GatewayResource.USER:
                return method in USER_METHODS
            case GatewayResource.ACCESS:
                return method in ACCESS_METHODS
            case GatewayResource.JWKS:
                return method in JWKS_METHODS
            case Conditional():
                return True
            case outcome:
                return not isinstance(outcome, MethodNotAllowed)

    def route_for(self, request_target: Target, method: str) -> Route | None:
        """Return the route that *method* on a target takes; None if none does.

        Of routes with conditions, it is the one without, or else the first.
        """
        outcome = self._outcome(method, request_target)
        if isinstance(outcome, Conditional):
            options = (outcome.otherwise, *(one for _, one in outcome.options))
            matched = (one for one in options if isinstance(one, Matched))
            return next((one.route for one in matched), None)
        return outcome.route if isinstance(outcome, Matched) else None

    def _outcome(
        self, method: str, request_target: Target
    ) -> Outcome | Conditional | GatewayResource:
        path = request_target.path
        own = self._own.get(path)
        if own is not None:
            return own
        if self.auth.owns(path):
            return GatewayResource.AUTH
        if request_target.form is Form.ASTERISK:
            return GatewayResource.ASTERISK
        return self.table.match(method, request_target.host, path)

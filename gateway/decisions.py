"""PURE. A request with one meaning, and what is decided about it."""

from __future__ import annotations

from typing import NamedTuple

from gateway.headers import ForwardedFields
from gateway.http.fields import Fields
from gateway.http.lines import Line
from gateway.http.request_head import RequestHead
from gateway.http.target import Target
from gateway.identity import Allowed
from gateway.responses import Response
from gateway.routes import Route


class Request:
    """A request with one meaning only, made by step 2 from a head.

    It doesn't change once it is made. Verification reads the request through it
    (`identity.SessionRequest`).
    """

    __slots__ = ("credential_lines", "forwarded", "head", "id", "method", "target")

    head: RequestHead
    target: Target
    forwarded: ForwardedFields
    id: bytes
    method: str
    credential_lines: tuple[Line, ...]

    @property
    def path(self) -> str:
        return self.target.path

    @property
    def authority(self) -> str:
        return self.target.authority

    @property
    def is_secure(self) -> bool:
        return self.forwarded.is_secure

    @property
    def fields(self) -> Fields:
        return self.head.fields


class Respond(NamedTuple):
    """The gateway responds itself; the request is not forwarded."""

    answer: Response
    fields: Fields
    """Fields to add to those of `answer`: new tokens, CORS, `X-Request-Id`."""


class AuthCall(NamedTuple):
    """A call of the SDK's API. `Decider.call` makes it, with the request's body."""

    request: Request


class AccessCall(NamedTuple):
    """A question about other requests, by a verified session. The body has them."""

    request: Request
    verdict: Allowed


class Forward(NamedTuple):
    """The request may be forwarded to the route's service."""

    request: Request
    route: Route
    verdict: Allowed
    cors: Fields
    """The Access-Control-* fields of the reply."""
    upgrade: bool
    """Whether the request opens a WebSocket."""


Decision = Respond | AuthCall | AccessCall | Forward

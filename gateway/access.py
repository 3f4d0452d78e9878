"""edge. Which requests a session may make (`POST /user/access`), for user interfaces.

Each item is found in the route table and verified as the request itself would be, with
the credentials of the request that asks. No service is called, and no rate limit is
drawn on. The answer repeats nothing of what the client wrote.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, assert_never

from gateway.decisions import Request
from gateway.errors import GatewayError
from gateway.http.fields import Fields, is_token
from gateway.http.target import Target
from gateway.identity import (
    Allowed,
    Denied,
    SessionPolicy,
    Undecided,
    Verdict,
    Verifier,
)
from gateway.resources import (
    ACCESS_METHODS,
    JWKS_METHODS,
    USER_METHODS,
    GatewayResource,
    Router,
)
from gateway.routes import Conditional, Matched, MethodNotAllowed, NearMiss, Route

MAX_ITEMS: Final = 100
"""Of one request: each of them may need a call to the core."""
MAX_BODY: Final = 64 * 1024
"""In bytes."""

_new = object.__new__
_is_visible: Final = re.compile(rb"/[!-~]*").fullmatch


class Asked(NamedTuple):
    """One request that the client would like to make."""

    method: str
    target: bytes
    """Path and query, as they would be sent."""


class AccessResult(NamedTuple):
    """Whether it would be allowed, and if not, why."""

    status: int | None = None
    """Of the refusal. None: the request is allowed."""
    reason: str = ""
    """Of the refusal, as in the log."""


_ALLOWED: Final = AccessResult()


class BadItems(ValueError):
    """The body doesn't say what is asked. The text says why, in our own words."""


def asked(body: bytes) -> tuple[Asked, ...]:
    """Return the items of a body: `{"requests": [{"method": …, "path": …}, …]}`.

    Raises:
        BadItems: the body isn't that.
    """
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise BadItems("The body isn't JSON") from None
    match document:
        case {"requests": list() as items, **rest} if not rest:
            if not 0 < len(items) <= MAX_ITEMS:
                raise BadItems(f"Expected 1 to {MAX_ITEMS} requests")
            return tuple(map(_item, items))
        case _:
            raise BadItems('Expected {"requests": [{"method": "GET", "path": "/"}]}')


def _item(item: object) -> Asked:
    match item:
        case {"method": str(method), "path": str(path), **rest} if not rest:
            target = path.encode("utf-8", "surrogatepass")
            name = method.encode("utf-8", "surrogatepass")
            if is_token(name) and _is_visible(target):
                return Asked(method, target)
    raise BadItems("Each item of requests has a method, and a path that begins with /")


def body(answers: Sequence[AccessResult]) -> bytes:
    """Return the JSON that answers, in the order of the items."""
    results: list[dict[str, Any]] = [
        {"allowed": True}
        if one.status is None
        else {"allowed": False, "status": one.status, "reason": one.reason}
        for one in answers
    ]
    return json.dumps({"results": results}).encode()


class Access:
    """Judges the items of one request, by its credentials."""

    def __init__(self, request: Request, router: Router, verifier: Verifier) -> None:
        self._request = request
        self._router = router
        self._verifier = verifier
        self._verdicts: dict[tuple[int, str, str], Verdict] = {}
        """By the policy of a route, the method, and the path if that matters."""
        self.new_tokens: Fields = ()
        """Those of the last verification that issued some."""

    async def judge(self, item: Asked) -> AccessResult:
        """Return whether the client may make the request of *item*."""
        head = self._request.head
        try:
            resource = self._router.find(item.method, item.target, head.host)
        except GatewayError as error:
            return AccessResult(error.status, error.code)
        outcome = resource.outcome
        if isinstance(outcome, Conditional):
            outcome = outcome.resolve(head.fields, resource.target.query)
        match outcome:
            case Matched(route=route):
                return await self._judge_route(item, resource.target, route)
            case GatewayResource.USER:
                is_known = item.method in USER_METHODS
            case GatewayResource.ACCESS:
                is_known = item.method in ACCESS_METHODS
            case GatewayResource.JWKS:
                is_known = item.method in JWKS_METHODS
            case GatewayResource.AUTH:
                is_known = True  # the SDK's own answer decides
            case NearMiss():
                return AccessResult(404, "near_miss")
            case MethodNotAllowed():
                is_known = False
            case _:
                return AccessResult(404, "no_route")
        return _ALLOWED if is_known else AccessResult(405, "method_not_allowed")

    async def _judge_route(
        self, item: Asked, target: Target, route: Route
    ) -> AccessResult:
        client = self._request.forwarded.client
        if route.clients is not None and not route.clients.allows(client):
            return AccessResult(403, "client_refused")
        match await self._verdict(item, target, route.session):
            case Allowed():
                return _ALLOWED
            case Denied(status=status, reason=reason):
                return AccessResult(status, reason)
            case Undecided(reason=reason):
                return AccessResult(503, reason)
            case never:
                assert_never(never)

    async def _verdict(
        self, item: Asked, target: Target, policy: SessionPolicy
    ) -> Verdict:
        # Only validators of the operator's own may look at the path.
        path = target.path if policy.requirements.validators else ""
        known = id(policy), item.method, path
        if (verdict := self._verdicts.get(known)) is None:
            request = _as(self._request, item.method, target)
            verdict = await self._verifier.verify(request, policy)
            if isinstance(verdict, Allowed) and verdict.new_tokens:
                self.new_tokens = verdict.new_tokens
            self._verdicts[known] = verdict
        return verdict


def _as(request: Request, method: str, target: Target) -> Request:
    """Return *request* with another method and target."""
    other: Request = _new(Request)
    other.head = request.head
    other.id = request.id
    other.forwarded = request.forwarded
    other.credential_lines = request.credential_lines
    other.method = method
    other.target = target
    return other

"""edge. Steps 2 to 5: what becomes of a request, decided from its head alone.

There is no socket here and no client. Whoever has a request's head may ask: the proxy,
and whatever else serves the same route table. What comes back is one of three:
`Respond`, the gateway's own answer; `AuthCall`, the SDK's API, which needs the body;
`Forward`, all that is known of a request that goes on to a service.

It comes back at once where nothing must be asked. Where the core, its keys or the CORS
policy must be, something to await comes back.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from enum import Enum, auto
from time import perf_counter
from typing import Any, Final, NamedTuple, assert_never

from gateway import headers, responses, websocket
from gateway.downstream import cors
from gateway.downstream.cors import Cors, is_preflight
from gateway.errors import ContentTooLarge, GatewayError, Stage
from gateway.headers import ForwardedCache, ForwardedFields, Networks
from gateway.http import target
from gateway.http.fields import Fields
from gateway.http.lines import Line
from gateway.http.request_head import RequestHead
from gateway.http.target import Form, Target
from gateway.identity import (
    Allowed,
    Denied,
    Protection,
    SessionIdentity,
    SessionPolicy,
    Undecided,
    Verdict,
    Verifier,
)
from gateway.observe import Record
from gateway.responses import Response
from gateway.routes import (
    Matched,
    MethodNotAllowed,
    NearMiss,
    Outcome,
    Route,
    RouteTable,
)
from gateway.session.credentials import credentials
from gateway.supertokens.api import Auth, user

# Looking a member up in its enumeration costs three times what the assignment does.
_TARGET, _MATCH = Stage.TARGET, Stage.MATCH
_PREFLIGHT, _VERIFY = Stage.PREFLIGHT, Stage.VERIFY

_new = object.__new__

_USER_METHODS = ("GET",)

KNOWN_MAX_BYTES: Final = 512
"""Longer targets, with their Host, aren't remembered. Nor are those with a query, which
may hold a secret."""
_KNOWN_MAX = 4096
"""Resources that are remembered: with the above, 2 MiB and what was found."""

_EXPOSE = b"access-control-expose-headers"
"""The SDK's own; `cors` exposes the same names on every answer."""

_ANY_SESSION = SessionPolicy(protection=Protection.REQUIRED)


class Request:
    """A request that means one thing only: what step 2 makes of a head.

    Nothing in it changes once it is made. It is also what verification may see of the
    request (`identity.SessionRequest`).
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
    """The gateway answers, and no service sees the request."""

    answer: Response
    fields: Fields
    """What it carries besides its own: new tokens, CORS, `X-Request-Id`."""


class AuthCall(NamedTuple):
    """The SDK's own API answers. `Decider.call` takes it with the request's body."""

    request: Request


class Forward(NamedTuple):
    """The request may go on to the route's service."""

    request: Request
    route: Route
    verdict: Allowed
    cors: Fields
    """The Access-Control-* fields of the reply."""
    upgrade: bool
    """It opens a WebSocket."""


Decision = Respond | AuthCall | Forward


class Resource:
    """What a request names. Nothing in it changes once it is made."""

    __slots__ = ("outcome", "route", "target")

    target: Target
    route: Route | None
    """The route that decides; None: `outcome` says what else."""
    outcome: Outcome | Own


class Own(Enum):
    """What the gateway answers itself."""

    USER = auto()
    AUTH = auto()
    ASTERISK = auto()
    """`OPTIONS *`: the gateway as a whole."""


class Router:
    """What there is to be asked for: `/user`, the SDK's API, and the route table."""

    def __init__(self, *, table: RouteTable, auth: Auth, user_path: str) -> None:
        self.table = table
        self.auth = auth
        self.user_path = user_path
        self.known: dict[tuple[str, bytes, bytes | None], Resource] = {}
        """What `find` has found, by its arguments: each looks it up here first."""

    def find(self, method: str, raw: bytes, host: bytes | None) -> Resource:
        """Return what a request names by its method, its target and its Host.

        Raises:
            BadTarget: two readers could take it for different ones (`target.parse`).
        """
        resource: Resource = _new(Resource)
        resource.target = asked = target.parse(raw, method, host)
        resource.route = None
        resource.outcome = outcome = self._outcome(method, asked)
        if isinstance(outcome, Matched):
            resource.route = outcome.route
        if not asked.query and len(raw) + len(host or b"") <= KNOWN_MAX_BYTES:
            if len(self.known) >= _KNOWN_MAX:
                self.known.clear()
            self.known[method, raw, host] = resource
        return resource

    def method_allowed(self, asked: Target, method: str) -> bool:
        """Return whether the resource that a request names answers to *method*."""
        match self._outcome(method, asked):
            case Own.USER:
                return method in _USER_METHODS
            case outcome:
                return not isinstance(outcome, MethodNotAllowed)

    def _outcome(self, method: str, asked: Target) -> Outcome | Own:
        path = asked.path
        if path == self.user_path:
            return Own.USER
        if self.auth.owns(path):
            return Own.AUTH
        if asked.form is Form.ASTERISK:
            return Own.ASTERISK
        return self.table.match(method, asked.host, path)


class Decider:
    """Decides requests by one configuration."""

    def __init__(
        self,
        *,
        resources: Router,
        verifier: Verifier,
        policy: Cors,
        trusted: Networks,
        make_id: Callable[[], str],
    ) -> None:
        """*trusted* are the peers whose X-Forwarded-* fields count."""
        self._resources = resources
        self._verifier = verifier
        self._cors = policy
        self._forwarded_cache = ForwardedCache(trusted)
        self._make_id = make_id

    def decide(
        self, head: RequestHead, peer: str, record: Record, secure: bool
    ) -> Decision | Coroutine[Any, Any, Decision]:
        """Return what becomes of a request.

        *peer* is the address of the connection's other end, *secure* whether that
        connection is TLS. *record* is told what was decided, and how far it came.

        Raises:
            GatewayError: the request is refused before a route is known, or its body
                is too large for its route. `failed` has the answer.
        """
        # 2 target, 3 match
        record.stage = _TARGET
        method, resources = head.method, self._resources
        request: Request = _new(Request)
        if head.request_ids:
            request.id = headers.request_id(head.request_ids, self._make_id)
            record.request_id = request.id.decode()
        else:
            record.request_id = made = self._make_id()
            request.id = made.encode()
        resource = resources.known.get(
            (method, head.target, head.host)
        ) or resources.find(method, head.target, head.host)
        request.head = head
        request.method = method
        request.credential_lines = head.credential_lines
        request.target = asked = resource.target
        record.path = asked.path
        request.forwarded = forwarded = self._forwarded_cache.find(
            head, peer, asked.authority, secure
        )
        record.client = forwarded.client
        record.stage = _MATCH
        origins = head.origins
        # 4 preflight
        if origins and is_preflight(method, head.fields):
            return self._preflight(request, record)
        route = resource.route
        if route is None:
            return self._elsewhere(request, resource.outcome, record)
        record.route = route.name
        length = head.content_length
        if length is not None and length > route.max_body_size:
            raise ContentTooLarge
        upgrade = head.has_upgrade and websocket.wants_upgrade(head.fields)
        if upgrade and (refused := self._refused_upgrade(request, route, record)):
            return self._answered(request, refused)
        # 5 verify
        record.stage = _VERIFY
        record.verify_at = perf_counter()
        verdict = self._verifier.verify_now(request, route.session)
        record.verified_at = perf_counter()
        granted = self._cors.known(origins) if origins else ()
        if verdict is None or granted is None:
            return self._guarded_later(request, route, record, upgrade)
        return _judged(request, route, verdict, granted, record, upgrade)

    def _elsewhere(
        self, request: Request, outcome: Outcome | Own, record: Record
    ) -> Decision | Coroutine[Any, Any, Decision]:
        """Return what becomes of a request that no route may have."""
        match outcome:
            case Own.USER:
                return self._user(request, record)
            case Own.AUTH:
                record.route = "/auth"
                return AuthCall(request)
            case Own.ASTERISK:
                answer = Response(status=204)
            case MethodNotAllowed(allow=allow):
                answer = responses.method_not_allowed(allow, record.request_id)
            case NearMiss(route=route, guard=guard):
                record.route = route.name
                record.decision = "denied"
                record.reason = "near_miss"
                record.note = f"the path may be read as one of {guard.name}"
                answer = responses.near_miss(record.request_id)
            case _:
                answer = responses.no_route(record.request_id)
        return self._answered(request, answer)

    async def call(self, auth: AuthCall, body: bytes, record: Record) -> Respond:
        """Return the answer of the SDK's own API.

        Raises:
            GatewayError: the core can't be reached, or the SDK failed.
        """
        request, head = auth.request, auth.request.head
        reply = await self._resources.auth.handle(
            method=head.method,
            path=request.path,
            query=request.target.query[1:],
            fields=head.fields,
            body=body,
            secure=request.is_secure,
            authority=request.authority,
        )
        if reply is None:
            return await _now(
                self._answered(request, responses.no_route(record.request_id))
            )
        record.decision = "auth"
        answer = Response(status=reply.status, body=reply.body)
        own = tuple(f for f in reply.fields if f[0].lower() != _EXPOSE)
        return await _now(self._answered(request, answer, own))

    async def failed(
        self, error: GatewayError, head: RequestHead, record: Record, new_tokens: Fields
    ) -> Respond:
        """Return what the client of a request that failed is told.

        *new_tokens* are those that verification issued before.
        """
        if record.request_id == Record.request_id:  # what failed is the reading of it
            request_id = headers.request_id(head.request_ids, self._make_id)
            record.request_id = request_id.decode()
        granted = await self._cors.fields(head.origins)
        answer = responses.failure(error, record.request_id)
        return Respond(
            answer, _carried(record.request_id.encode(), granted, new_tokens)
        )

    # --- 4 preflight ----------------------------------------------------------

    async def _preflight(self, request: Request, record: Record) -> Respond:
        record.stage = _PREFLIGHT
        head = request.head
        granted = await self._cors.preflight(head.method, head.fields, request.target)
        own = (b"X-Request-Id", request.id)
        if granted is not None:
            record.decision = "preflight"
            return Respond(Response(status=204, fields=granted), (own,))
        record.decision = "denied"
        answer = responses.problem(
            status=403,
            code="cors_refused",
            title="This origin, method or header isn't allowed",
            request_id=record.request_id,
            fields=(cors.VARY,),
        )
        return Respond(answer, (own,))

    # --- 5 verify -------------------------------------------------------------

    def _user(
        self, request: Request, record: Record
    ) -> Respond | Coroutine[Any, Any, Respond]:
        """Answer with the session's own information, whatever the request says."""
        record.route = "/user"
        if request.head.method not in _USER_METHODS:
            answer = responses.method_not_allowed(_USER_METHODS, record.request_id)
            return self._answered(request, answer)
        return self._own_user(request, record)

    async def _own_user(self, request: Request, record: Record) -> Respond:
        verdict = await self._verified(request, _ANY_SESSION, record)
        if not isinstance(verdict, Allowed):
            return await _now(self._answered(request, _refusal(verdict, record)))
        _note_allowed(verdict, record)
        match verdict.principal:
            case SessionIdentity() as session:
                answer = responses.user(user(session))
            case None:
                raise AssertionError("a required session has a principal")
            case never:
                assert_never(never)
        return await _now(
            self._answered(request, answer, new_tokens=verdict.new_tokens)
        )

    async def _guarded_later(
        self, request: Request, route: Route, record: Record, upgrade: bool
    ) -> Decision:
        """Return the same, when the core, its keys or the CORS policy must be asked."""
        verdict = await self._verified(request, route.session, record)
        granted: Fields = ()
        if request.head.origins:
            granted = await self._cors.fields(request.head.origins)
        return _judged(request, route, verdict, granted, record, upgrade)

    async def _verified(
        self, request: Request, policy: SessionPolicy, record: Record
    ) -> Verdict:
        """Return the verdict on the request's session."""
        record.stage = _VERIFY
        record.verify_at = record.verify_at or perf_counter()
        try:
            return await self._verifier.verify(request, policy)
        finally:
            record.verified_at = perf_counter()

    def _refused_upgrade(
        self, request: Request, route: Route, record: Record
    ) -> Response | None:
        """Return the refusal of a WebSocket handshake, None to go on with it."""
        head, request_id = request.head, record.request_id
        if not route.websocket.enabled:
            return responses.problem(
                status=403,
                code="websocket_disabled",
                title="This route takes no WebSockets",
                request_id=request_id,
                close=True,
            )
        refused = websocket.refuse_handshake(
            head.method, head.fields, request_id, http10=head.http10
        )
        if refused is not None:
            return refused
        allowed = route.websocket.allowed_origins
        if not websocket.origin_allowed(
            head.fields,
            self._cors.origins if allowed is None else frozenset(allowed),
            by_cookie=bool(credentials(head.credential_lines).access_cookies),
        ):
            return responses.problem(
                status=403,
                code="websocket_origin",
                title="This origin may not open a WebSocket here",
                request_id=request_id,
                close=True,
            )
        return None

    # --- answers --------------------------------------------------------------

    def _answered(
        self,
        request: Request,
        answer: Response,
        own: Fields = (),
        new_tokens: Fields = (),
    ) -> Respond | Coroutine[Any, Any, Respond]:
        """Return *answer* with what every answer carries, CORS among it.

        *own* are fields that the SDK gave its answer.
        """
        if not request.head.origins:
            return Respond(answer, _carried(request.id, (), new_tokens, own))
        return self._answered_across(request, answer, own, new_tokens)

    async def _answered_across(
        self, request: Request, answer: Response, own: Fields, new_tokens: Fields
    ) -> Respond:
        """Return the same for a request of another origin."""
        granted = await self._cors.fields(request.head.origins)
        return Respond(answer, _carried(request.id, granted, new_tokens, own))


def answered(forward: Forward, answer: Response) -> Respond:
    """Return *answer* in place of the service's, with what every answer carries."""
    return Respond(
        answer, _carried(forward.request.id, forward.cors, forward.verdict.new_tokens)
    )


def _carried(
    request_id: bytes, granted: Fields, new_tokens: Fields, own: Fields = ()
) -> Fields:
    return (
        *own,
        *new_tokens,
        *cors.merged(granted, own),
        (b"X-Request-Id", request_id),
    )


def _judged(
    request: Request,
    route: Route,
    verdict: Verdict,
    granted: Fields,
    record: Record,
    upgrade: bool,
) -> Respond | Forward:
    """Return what the verdict on its session makes of a request for *route*."""
    if not isinstance(verdict, Allowed):
        answer = _refusal(verdict, record)
        return Respond(answer, _carried(request.id, granted, ()))
    _note_allowed(verdict, record)
    # Not by the class's own constructor, which takes twice the time.
    return tuple.__new__(Forward, (request, route, verdict, granted, upgrade))


def _note_allowed(verdict: Allowed, record: Record) -> None:
    principal = verdict.principal
    record.reason = verdict.reason
    if principal is None:
        record.decision = "anonymous"
    else:
        record.decision = "allowed"
        record.user_id = principal.user_id


def _refusal(verdict: Denied | Undecided, record: Record) -> Response:
    """Return the answer to a request whose session was refused, or not checked."""
    record.reason = verdict.reason
    match verdict:
        case Denied():
            record.decision = "denied"
            return responses.denied(verdict)
        case Undecided():
            record.decision = "undecided"
            return responses.undecided(verdict, record.request_id)
        case _:
            assert_never(verdict)


async def _now(found: Respond | Coroutine[Any, Any, Respond]) -> Respond:
    return found if isinstance(found, Respond) else await found

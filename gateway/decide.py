"""edge. Steps 2 to 5: what becomes of a request, decided from its head alone.

There is no socket here and no client. Whoever has a request's head may ask: the proxy,
and whatever else serves the same route table. What comes back is one of three:
`Answered`, the gateway's own answer; `AuthCall`, the SDK's API, which needs the body;
`Forward`, all that is known of a request that goes on to a service.

It comes back at once where nothing must be asked. Where the core, its keys or the CORS
policy must be, something to await comes back.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import NamedTuple, assert_never

from gateway import answers, cors, headers, target, websocket
from gateway.answers import Answer
from gateway.auth import Auth, user
from gateway.cors import Cors, is_preflight
from gateway.errors import ContentTooLarge, GatewayError, Stage
from gateway.fields import Fields
from gateway.headers import Forwarded, Networks
from gateway.heads import RequestHead
from gateway.identity import (
    Allowed,
    Denied,
    Protection,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
    Verifier,
    credentials,
)
from gateway.observe import Record
from gateway.routes import (
    Matched,
    MethodNotAllowed,
    NearMiss,
    NoRoute,
    Route,
    RouteTable,
)
from gateway.target import Form, Target

# Looking a member up in its enumeration costs three times what the assignment does.
_TARGET, _MATCH = Stage.TARGET, Stage.MATCH
_PREFLIGHT, _VERIFY = Stage.PREFLIGHT, Stage.VERIFY

_USER_METHODS = ("GET",)

_EXPOSE = b"access-control-expose-headers"
"""The SDK's own; `cors` exposes the same names on every answer."""

_ANY_SESSION = SessionPolicy(protection=Protection.REQUIRED)


class Request(NamedTuple):
    """A request that means one thing only: what step 2 makes of a head.

    This and the decisions are NamedTuples and not frozen dataclasses, because each
    request has one of them.
    """

    head: RequestHead
    target: Target
    forwarded: Forwarded
    id: bytes

    @property
    def is_secure(self) -> bool:
        """The client's side is https, directly or as a trusted proxy says."""
        return headers.client_scheme(self.head.fields, self.forwarded) == "https"


class Answered(NamedTuple):
    """The gateway answers, and no service sees the request."""

    answer: Answer
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


Decision = Answered | AuthCall | Forward


class Resources:
    """What there is to be asked for: `/user`, the SDK's API, and the route table."""

    def __init__(self, *, table: RouteTable, auth: Auth, user_path: str) -> None:
        self.table = table
        self.auth = auth
        self.user_path = user_path

    def method_allowed(self, asked: Target, method: str) -> bool:
        """Return whether the resource that a request names answers to *method*."""
        if asked.path == self.user_path:
            return method in _USER_METHODS
        if self.auth.owns(asked.path):
            return True
        found = self.table.match(method, asked.host, asked.path)
        return not isinstance(found, MethodNotAllowed)


class Decider:
    """Decides requests by one configuration."""

    def __init__(
        self,
        *,
        resources: Resources,
        verifier: Verifier,
        policy: Cors,
        trusted: Networks,
        make_id: Callable[[], str],
    ) -> None:
        """*trusted* are the peers whose X-Forwarded-* fields count."""
        self._resources = resources
        self._verifier = verifier
        self._cors = policy
        self._trusted = trusted
        self._make_id = make_id

    def decide(
        self, head: RequestHead, peer: str, record: Record, *, secure: bool
    ) -> Decision | Awaitable[Decision]:
        """Return what becomes of a request.

        *peer* is the address of the connection's other end, *secure* whether that
        connection is TLS. *record* is told what was decided, and how far it came.

        Raises:
            GatewayError: the request is refused before a route is known, or its body
                is too large for its route. `failed` has the answer.
        """
        request = self._understood(head, peer, record, secure=secure)
        asked = request.target
        # 3 match
        record.stage = _MATCH
        if request.head.has_origin and is_preflight(head.method, head.fields):
            return self._preflight(request, record)
        resources = self._resources
        if asked.path == resources.user_path:
            return self._user(request, record)
        if resources.auth.owns(asked.path):
            record.route = "/auth"
            return AuthCall(request)
        if asked.form is Form.ASTERISK:
            return self._answered(request, Answer(status=204))
        found = resources.table.match(head.method, asked.host, asked.path)
        match found:
            case Matched(route=route):
                record.route = route.name
                return self._guarded(request, route, record)
            case MethodNotAllowed(allow=allow):
                answer = answers.method_not_allowed(allow, record.request_id)
            case NearMiss(route=route, guard=guard):
                record.route = route.name
                record.decision = "denied"
                record.reason = "near_miss"
                record.note = f"the path may be read as one of {guard.name}"
                answer = answers.near_miss(record.request_id)
            case NoRoute():
                answer = answers.no_route(record.request_id)
            case _:
                assert_never(found)
        return self._answered(request, answer)

    async def call(self, auth: AuthCall, body: bytes, record: Record) -> Answered:
        """Return the answer of the SDK's own API.

        Raises:
            GatewayError: the core can't be reached, or the SDK failed.
        """
        request, head = auth.request, auth.request.head
        reply = await self._resources.auth.handle(
            method=head.method,
            path=request.target.path,
            query=request.target.query[1:],
            fields=head.fields,
            body=body,
            secure=request.is_secure,
            authority=request.target.authority,
        )
        if reply is None:
            return await _now(
                self._answered(request, answers.no_route(record.request_id))
            )
        record.decision = "auth"
        answer = Answer(status=reply.status, body=reply.body)
        own = tuple(f for f in reply.fields if f[0].lower() != _EXPOSE)
        return await _now(self._answered(request, answer, own))

    async def failed(
        self, error: GatewayError, head: RequestHead, record: Record, new_tokens: Fields
    ) -> Answered:
        """Return what the client of a request that failed is told.

        *new_tokens* are those that verification issued before.
        """
        if record.request_id == Record.request_id:  # what failed is the reading of it
            request_id = headers.request_id(head.fields, self._make_id)
            record.request_id = request_id.decode()
        granted = await self._cors.fields(head.fields)
        answer = answers.failure(error, record.request_id)
        return Answered(
            answer, _carried(record.request_id.encode(), granted, new_tokens)
        )

    # --- 2 target -------------------------------------------------------------

    def _understood(
        self, head: RequestHead, peer: str, record: Record, *, secure: bool
    ) -> Request:
        """Return the request with its one target, and where it came from.

        Raises:
            BadTarget: two readers could take it for different ones.
        """
        record.stage = _TARGET
        asked = target.parse(head.target, method=head.method, authority=head.host)
        if head.has_request_id:
            request_id = headers.request_id(head.fields, self._make_id)
            record.request_id = request_id.decode()
        else:
            record.request_id = made = self._make_id()
            request_id = made.encode()
        record.path = asked.path
        trusted = peer in self._trusted
        if trusted:
            record.client = headers.client_address(head.fields, peer, self._trusted)
        forwarded = tuple.__new__(
            Forwarded,
            (
                peer,
                trusted,
                "https" if secure else "http",
                asked.authority,
                "1.0" if head.http10 else "1.1",
            ),
        )
        # Not by the class's own constructor, which takes twice the time; so below.
        return tuple.__new__(Request, (head, asked, forwarded, request_id))

    # --- 4 preflight ----------------------------------------------------------

    async def _preflight(self, request: Request, record: Record) -> Answered:
        record.stage = _PREFLIGHT
        head = request.head
        granted = await self._cors.preflight(head.method, head.fields, request.target)
        own = (b"X-Request-Id", request.id)
        if granted is not None:
            record.decision = "preflight"
            return Answered(Answer(status=204, fields=granted), (own,))
        record.decision = "denied"
        answer = answers.problem(
            status=403,
            code="cors_refused",
            title="This origin, method or header isn't allowed",
            request_id=record.request_id,
            fields=(cors.VARY,),
        )
        return Answered(answer, (own,))

    # --- 5 verify -------------------------------------------------------------

    def _user(self, request: Request, record: Record) -> Answered | Awaitable[Answered]:
        """Answer with the session's own information, whatever the request says."""
        record.route = "/user"
        if request.head.method not in _USER_METHODS:
            answer = answers.method_not_allowed(_USER_METHODS, record.request_id)
            return self._answered(request, answer)
        return self._own_user(request, record)

    async def _own_user(self, request: Request, record: Record) -> Answered:
        verdict = await self._verified(request, _ANY_SESSION, record)
        if not isinstance(verdict, Allowed):
            return await _now(self._answered(request, _refusal(verdict, record)))
        assert verdict.identity is not None, "a required session has an identity"
        _note_allowed(verdict, record)
        answer = answers.user(user(verdict.identity))
        return await _now(
            self._answered(request, answer, new_tokens=verdict.new_tokens)
        )

    def _guarded(
        self, request: Request, route: Route, record: Record
    ) -> Decision | Awaitable[Decision]:
        """Return what *route* makes of the request.

        Raises:
            ContentTooLarge: the request says that its body is larger than it may be.
        """
        head = request.head
        length = head.content_length
        if length is not None and length > route.max_body_size:
            raise ContentTooLarge
        upgrade = head.has_upgrade and websocket.wants_upgrade(head.fields)
        if upgrade and (refused := self._refused_upgrade(request, route, record)):
            return self._answered(request, refused)
        record.stage = _VERIFY
        record.verify_at = perf_counter()
        verdict = self._verifier.verify_now(_session(request), route.session)
        record.verified_at = perf_counter()
        granted = self._cors.known(head.fields) if head.has_origin else ()
        if verdict is None or granted is None:
            return self._guarded_later(request, route, record, upgrade=upgrade)
        return _judged(request, route, verdict, granted, record, upgrade=upgrade)

    async def _guarded_later(
        self, request: Request, route: Route, record: Record, *, upgrade: bool
    ) -> Decision:
        """Return the same, when the core, its keys or the CORS policy must be asked."""
        verdict = await self._verified(request, route.session, record)
        granted: Fields = ()
        if request.head.has_origin:
            granted = await self._cors.fields(request.head.fields)
        return _judged(request, route, verdict, granted, record, upgrade=upgrade)

    async def _verified(
        self, request: Request, policy: SessionPolicy, record: Record
    ) -> Verdict:
        """Return the verdict on the request's session."""
        record.stage = _VERIFY
        record.verify_at = record.verify_at or perf_counter()
        try:
            return await self._verifier.verify(_session(request), policy)
        finally:
            record.verified_at = perf_counter()

    def _refused_upgrade(
        self, request: Request, route: Route, record: Record
    ) -> Answer | None:
        """Return the refusal of a WebSocket handshake, None to go on with it."""
        head, request_id = request.head, record.request_id
        if not route.websocket.enabled:
            return answers.problem(
                status=403,
                code="websocket_disabled",
                title="This route takes no WebSockets",
                request_id=request_id,
                close=True,
            )
        refused = websocket.refuse_handshake(
            head.method, head.version, head.fields, request_id
        )
        if refused is not None:
            return refused
        allowed = route.websocket.allowed_origins
        if not websocket.origin_allowed(
            head.fields,
            self._cors.origins if allowed is None else frozenset(allowed),
            by_cookie=bool(credentials(head.fields).access_cookies),
        ):
            return answers.problem(
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
        answer: Answer,
        own: Fields = (),
        new_tokens: Fields = (),
    ) -> Answered | Awaitable[Answered]:
        """Return *answer* with what every answer carries, CORS among it.

        *own* are fields that the SDK gave its answer.
        """
        if not request.head.has_origin:
            return Answered(answer, _carried(request.id, (), new_tokens, own))
        return self._answered_across(request, answer, own, new_tokens)

    async def _answered_across(
        self, request: Request, answer: Answer, own: Fields, new_tokens: Fields
    ) -> Answered:
        """Return the same for a request of another origin."""
        granted = await self._cors.fields(request.head.fields)
        return Answered(answer, _carried(request.id, granted, new_tokens, own))


def answered(forward: Forward, answer: Answer) -> Answered:
    """Return *answer* in place of the service's, with what every answer carries."""
    return Answered(
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


def _session(request: Request) -> SessionRequest:
    """Return what verification may see of the request."""
    head, asked = request.head, request.target
    return tuple.__new__(
        SessionRequest,
        (head.method, asked.path, head.fields, request.is_secure, asked.authority),
    )


def _judged(
    request: Request,
    route: Route,
    verdict: Verdict,
    granted: Fields,
    record: Record,
    *,
    upgrade: bool,
) -> Answered | Forward:
    """Return what the verdict on its session makes of a request for *route*."""
    if not isinstance(verdict, Allowed):
        answer = _refusal(verdict, record)
        return Answered(answer, _carried(request.id, granted, ()))
    _note_allowed(verdict, record)
    return tuple.__new__(Forward, (request, route, verdict, granted, upgrade))


def _note_allowed(verdict: Allowed, record: Record) -> None:
    identity = verdict.identity
    record.reason = verdict.reason
    if identity is None:
        record.decision = "anonymous"
    else:
        record.decision = "allowed"
        record.user_id = identity.user_id


def _refusal(verdict: Denied | Undecided, record: Record) -> Answer:
    """Return the answer to a request whose session was refused, or not checked."""
    record.reason = verdict.reason
    match verdict:
        case Denied():
            record.decision = "denied"
            return answers.denied(verdict)
        case Undecided():
            record.decision = "undecided"
            return answers.undecided(verdict, record.request_id)
        case _:
            assert_never(verdict)


async def _now(found: Answered | Awaitable[Answered]) -> Answered:
    return found if isinstance(found, Answered) else await found

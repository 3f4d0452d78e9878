"""edge. Steps 2 to 5: decides a request from its head alone.

There is no socket here and no client, so the proxy and any other server of the same
route table can use it. The decision is one of these: `Respond`, the gateway's own
response; `AuthCall` and `AccessCall`, which need the body; `Forward`, all that is known
of a request that is forwarded to a service.

`decide` returns the decision itself if it needs no call. It returns a coroutine if it
has to wait for the core, for its keys or for the CORS policy.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from random import random
from time import perf_counter
from typing import Any, assert_never

from gateway import access, errors, headers, responses, websocket
from gateway.decisions import AccessCall, AuthCall, Decision, Forward, Request, Respond
from gateway.downstream import cors
from gateway.downstream.cors import Cors, is_preflight
from gateway.errors import ContentTooLarge, GatewayError, Side, Stage
from gateway.headers import ForwardedCache, Traces
from gateway.http.fields import Fields, first
from gateway.http.redirect_template import RedirectTemplate
from gateway.http.request_head import RequestHead
from gateway.identity import (
    Allowed,
    Denied,
    Principal,
    Protection,
    SessionIdentity,
    SessionPolicy,
    Undecided,
    Verdict,
    Verifier,
)
from gateway.observe import Record, Recording
from gateway.rate_limits import Asking, AuthLimits, Caller, Limited, Limiter
from gateway.rate_limits.auth_calls import accounts, auth_call
from gateway.resources import (
    ACCESS_METHODS,
    JWKS_METHODS,
    USER_METHODS,
    GatewayResource,
    Router,
)
from gateway.responses import Response
from gateway.routes import (
    Conditional,
    Matched,
    MethodNotAllowed,
    NearMiss,
    Outcome,
    Route,
)
from gateway.routes.answer import Answer, opens_a_page
from gateway.session.credentials import credentials
from gateway.shedding import Shedding
from gateway.supertokens.api import user

# Looking up an enumeration's member takes three times as long as assigning it.
_TARGET, _MATCH = Stage.TARGET, Stage.MATCH
_PREFLIGHT, _VERIFY = Stage.PREFLIGHT, Stage.VERIFY

_new = object.__new__

_MAX_USER_AGENT = 256
"""Characters of a User-Agent that are logged."""
_EXPOSE = b"access-control-expose-headers"
"""Removed from the SDK's responses: `cors` exposes the same names on each response."""

_ANY_SESSION = SessionPolicy(protection=Protection.REQUIRED)


class Decider:
    """Decides requests according to one configuration."""

    def __init__(
        self,
        *,
        resources: Router,
        verifier: Verifier,
        policy: Cors,
        forwarded: ForwardedCache,
        make_id: Callable[[], str],
        traces: Traces,
        limiter: Limiter,
        auth_limits: AuthLimits | None = None,
        logs_user_agent: bool = False,
    ) -> None:
        """*auth_limits* are those of the SDK's API; None: it has none.

        *logs_user_agent*: the record has the request's User-Agent.
        """
        self._limiter = limiter
        self._auth_limits = auth_limits
        self._resources = resources
        self._logs_user_agent = logs_user_agent
        self._verifier = verifier
        self._cors = policy
        self._forwarded_cache = forwarded
        self._make_id = make_id
        self._traces = traces
        self._new_traces = traces.new
        self._least_marks = traces.least_marks
        self.shedding: Shedding | None = None
        """Which requests are refused now; None: none is."""

    def decide(
        self,
        head: RequestHead,
        peer: str,
        record: Record,
        secure: bool,
        subject: bytes = b"",
    ) -> Decision | Coroutine[Any, Any, Decision]:
        """Return the decision on a request, or a coroutine that returns it.

        *peer* is the address of the connection's other end; *secure* is whether that
        connection is TLS, and *subject* that of its verified client certificate. The
        decision and the stage reached are noted in *record*.

        Raises:
            GatewayError: the request is refused before a route is known, its body is
                too large for its route, or the worker is overloaded. `failed` makes the
                response.
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
        if head.marks >= self._least_marks:
            record.trace, parent = self._traces.begin(head, peer)
            if parent is not None:
                record.recording = Recording(
                    headers.span_id(record.trace), parent.decode()
                )
        else:
            record.trace = next(self._new_traces)
        resource = resources.known.get(
            (method, head.target, head.host)
        ) or resources.find(method, head.target, head.host)
        if head.http10:
            record.protocol = "HTTP/1.0"
        if self._logs_user_agent:
            record.user_agent = _user_agent(head)
        request.head = head
        request.method = method
        request.credential_lines = head.credential_lines
        request.target = request_target = resource.target
        record.path = request_target.path
        request.forwarded = forwarded = self._forwarded_cache.find(
            head, peer, request_target.authority, secure, subject
        )
        record.client = forwarded.client
        record.host = forwarded.authority
        record.is_secure = forwarded.is_secure
        record.stage = _MATCH
        origins = head.origins
        # 4 preflight
        if origins and is_preflight(method, head.fields):
            return self._preflight(request, record)
        route = resource.route
        if route is None:
            outcome = resource.outcome
            if isinstance(outcome, Conditional):
                outcome = outcome.resolve(head.fields, request_target.query)
            if not isinstance(outcome, Matched):
                return self._without_route(request, outcome, record)
            route = outcome.route
        record.route = route.name
        if route.clients is not None and not route.clients.allows(forwarded.client):
            return self._refused_client(request, route, record)
        if self.shedding is not None and route.answer is None:
            self._shed(is_critical=route.critical)
        length = head.content_length
        if length is not None and length > route.max_body_size:
            raise ContentTooLarge
        upgrade = head.has_upgrade and websocket.wants_upgrade(head.fields)
        if upgrade and (refused := self._refused_upgrade(request, route, record)):
            return self._respond(request, refused, policy=self._cors.of(route))
        if route.limits is not None:
            return self._decide_limited(request, route, record, upgrade)
        # 5 verify
        record.stage = _VERIFY
        record.verify_at = perf_counter()
        verdict = self._verifier.verify_now(request, route.session)
        record.verified_at = perf_counter()
        cors_fields = self._cors.of(route).known(origins) if origins else ()
        if verdict is None or cors_fields is None:
            return self._decide_async(request, route, record, upgrade)
        return _apply_verdict(request, route, verdict, cors_fields, record, upgrade)

    def _without_route(
        self, request: Request, outcome: Outcome | GatewayResource, record: Record
    ) -> Decision | Coroutine[Any, Any, Decision]:
        """Return the decision on a request without a route."""
        policy = self._cors
        match outcome:
            case GatewayResource.USER:
                self._shed()
                return self._user(request, record)
            case GatewayResource.ACCESS:
                self._shed()
                return self._access(request, record)
            case GatewayResource.AUTH:
                record.route = "/auth"
                if self.shedding is not None:
                    self._shed(is_critical=self._resources.auth.is_first(request.path))
                if self._auth_limits is not None:
                    return self._auth_limited(request, self._auth_limits, record)
                return AuthCall(request)
            case GatewayResource.JWKS:
                record.route = "/jwks"
                if request.method in JWKS_METHODS:
                    answer = responses.key_set(self._resources.jwks)
                else:
                    answer = responses.method_not_allowed(
                        JWKS_METHODS, record.request_id
                    )
            case GatewayResource.ASTERISK:
                answer = Response(status=204)
            case MethodNotAllowed(allow=allow):
                answer = responses.method_not_allowed(allow, record.request_id)
            case NearMiss(route=route, guard=guard):
                policy = self._cors.of(route)
                record.route = route.name
                record.decision = "denied"
                record.reason = "near_miss"
                record.note = f"the path may be read as one of {guard.name}"
                answer = responses.near_miss(record.request_id)
            case _:
                answer = responses.no_route(record.request_id)
        return self._respond(request, answer, policy=policy)

    def _shed(self, *, is_critical: bool = False) -> None:
        """Raise `GatewayOverloaded` if the request is one of those that are refused."""
        shedding = self.shedding
        if shedding is not None and not is_critical and shedding.refuses():
            raise errors.GatewayOverloaded

    def _refused_client(
        self, request: Request, route: Route, record: Record
    ) -> Decision | Coroutine[Any, Any, Decision]:
        """Return the refusal of a client by its address (`clients` of the route)."""
        record.decision, record.reason = "denied", "client_refused"
        answer = responses.client_refused(record.request_id)
        return self._respond(request, answer, policy=self._cors.of(route))

    async def call(
        self, call: AuthCall | AccessCall, body: bytes, record: Record
    ) -> Respond:
        """Return the response to a request whose decision needs its *body*.

        Raises:
            GatewayError: as `_call_sdk`.
        """
        if isinstance(call, AccessCall):
            return await self._answer_access(call, body, record)
        return await self._call_sdk(call, body, record)

    async def _call_sdk(self, auth: AuthCall, body: bytes, record: Record) -> Respond:
        """Return the response of the SDK's API to a request with *body*.

        Raises:
            GatewayError: the core can't be reached, or the SDK failed.
        """
        request, head = auth.request, auth.request.head
        if (limits := self._auth_limits) is not None:
            name = auth_call(request.method, request.path)
            uses = () if name is None else limits.after[name]
            limited = await _answered_limit(
                self._limiter.judge(uses, _caller(request, name, accounts(body)))
                if uses
                else None
            )
            if limited is not None:
                return await _awaited(self._too_many(request, limited, record))
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
            return await _awaited(
                self._respond(request, responses.no_route(record.request_id))
            )
        record.decision = "auth"
        record.note = reply.note
        answer = Response(status=reply.status, body=reply.body)
        sdk_fields = tuple(f for f in reply.fields if f[0].lower() != _EXPOSE)
        return await _awaited(self._respond(request, answer, sdk_fields))

    async def failed(
        self, error: GatewayError, head: RequestHead, record: Record, new_tokens: Fields
    ) -> Respond:
        """Return the response to a request that failed with *error*.

        *new_tokens* are the fields of tokens that verification issued before.
        """
        if record.request_id == Record.request_id:  # reading the id failed
            request_id = headers.request_id(head.request_ids, self._make_id)
            record.request_id = request_id.decode()
        cors_fields = await self._cors.named(record.route).fields(head.origins)
        answer = responses.failure(error, record.request_id)
        return Respond(
            answer, _common_fields(record.request_id.encode(), cors_fields, new_tokens)
        )

    # --- 4 preflight ----------------------------------------------------------

    async def _preflight(self, request: Request, record: Record) -> Respond:
        record.stage = _PREFLIGHT
        head = request.head
        asked = first(head.fields, b"access-control-request-method") or b""
        route = self._resources.route_for(request.target, asked.decode("latin-1"))
        preflight = await self._cors.of(route).preflight(
            head.method, head.fields, request.target
        )
        id_field = (b"X-Request-Id", request.id)
        record.decision = "preflight"
        if preflight.refusal:
            record.decision, record.reason = "denied", "cors_refused"
            record.note = preflight.refusal
        if preflight.fields is not None:
            # If something is refused, the browser says so and sends nothing more.
            return Respond(Response(status=204, fields=preflight.fields), (id_field,))
        answer = responses.problem(
            status=403,
            code="cors_refused",
            title="This origin isn't allowed",
            request_id=record.request_id,
            fields=(cors.VARY,),
        )
        return Respond(answer, (id_field,))

    # --- 5 verify -------------------------------------------------------------

    def _user(
        self, request: Request, record: Record
    ) -> Respond | Coroutine[Any, Any, Respond]:
        """Return the response of `/user`: the information in the request's session."""
        record.route = "/user"
        if request.head.method not in USER_METHODS:
            answer = responses.method_not_allowed(USER_METHODS, record.request_id)
            return self._respond(request, answer)
        return self._user_response(request, record)

    async def _user_response(self, request: Request, record: Record) -> Respond:
        verdict = await self._verified(request, _ANY_SESSION, record)
        if not isinstance(verdict, Allowed):
            return await _awaited(self._respond(request, _refusal(verdict, record)))
        _note_allowed(verdict, record)
        match verdict.principal:
            case SessionIdentity() as session:
                answer = responses.user(user(session))
            case None:
                raise AssertionError("a required session has a principal")
            case never:
                assert_never(never)
        return await _awaited(
            self._respond(request, answer, new_tokens=verdict.new_tokens)
        )

    async def _access(self, request: Request, record: Record) -> Respond | AccessCall:
        """Return the question of a session, or the refusal of a client without one."""
        record.route = "/user"
        if request.method not in ACCESS_METHODS:
            answer = responses.method_not_allowed(ACCESS_METHODS, record.request_id)
            return await _awaited(self._respond(request, answer))
        if (request.head.content_length or 0) > access.MAX_BODY:
            raise ContentTooLarge
        verdict = await self._verified(request, _ANY_SESSION, record)
        if not isinstance(verdict, Allowed):
            return await _awaited(self._respond(request, _refusal(verdict, record)))
        _note_allowed(verdict, record)
        return AccessCall(request, verdict)

    async def _answer_access(
        self, call: AccessCall, body: bytes, record: Record
    ) -> Respond:
        """Return which of the requests in *body* the session may make."""
        request = call.request
        try:
            items = access.asked(body)
        except access.BadItems as error:
            answer = responses.bad_items(str(error), record.request_id)
            return await _awaited(
                self._respond(request, answer, new_tokens=call.verdict.new_tokens)
            )
        judge = access.Access(request, self._resources, self._verifier)
        results = [await judge.judge(item) for item in items]
        return await _awaited(
            self._respond(
                request,
                responses.user(access.body(results)),
                new_tokens=judge.new_tokens or call.verdict.new_tokens,
            )
        )

    async def _decide_async(
        self, request: Request, route: Route, record: Record, upgrade: bool
    ) -> Decision:
        """Return the decision for *route*; wait for the core or the CORS policy."""
        verdict = await self._verified(request, route.session, record)
        cors_fields: Fields = ()
        if request.head.origins:
            cors_fields = await self._cors.of(route).fields(request.head.origins)
        return _apply_verdict(request, route, verdict, cors_fields, record, upgrade)

    async def _verified(
        self, request: Request, policy: SessionPolicy, record: Record
    ) -> Verdict:
        """Return the verdict on the request's session; its times go to *record*."""
        record.stage = _VERIFY
        record.verify_at = record.verify_at or perf_counter()
        try:
            return await self._verifier.verify(request, policy)
        finally:
            record.verified_at = perf_counter()

    # --- rate limits ----------------------------------------------------------

    def _decide_limited(
        self, request: Request, route: Route, record: Record, upgrade: bool
    ) -> Decision | Coroutine[Any, Any, Decision]:
        """Return the decision for a *route* with limits, or a coroutine.

        What needs no session is judged before it is verified, and the rest after.
        """
        limits = route.limits
        assert limits is not None, "the caller has looked"
        judged = self._limiter.judge(limits.before, _caller(request, route.name))
        if isinstance(judged, Limited):
            return self._too_many(request, judged, record, self._cors.of(route))
        if judged is not None:
            return self._decide_limited_async(request, route, record, upgrade, judged)
        record.stage = _VERIFY
        record.verify_at = perf_counter()
        verdict = self._verifier.verify_now(request, route.session)
        record.verified_at = perf_counter()
        if verdict is None:
            return self._decide_limited_async(request, route, record, upgrade)
        judged = self._judge_principal(request, route, verdict)
        if isinstance(judged, Limited):
            return self._too_many(request, judged, record, self._cors.of(route))
        origins = request.head.origins
        cors_fields = self._cors.of(route).known(origins) if origins else ()
        if judged is not None or cors_fields is None:
            return self._decide_limited_async(
                request, route, record, upgrade, judged, verdict
            )
        return _apply_verdict(request, route, verdict, cors_fields, record, upgrade)

    def _judge_principal(
        self, request: Request, route: Route, verdict: Verdict
    ) -> Limited | Asking | None:
        """Judge what needs the session, if the request has been allowed."""
        assert route.limits is not None, "the caller has looked"
        if not isinstance(verdict, Allowed) or not route.limits.after:
            return None
        caller = _caller(request, route.name, principal=verdict.principal)
        return self._limiter.judge(route.limits.after, caller)

    async def _decide_limited_async(
        self,
        request: Request,
        route: Route,
        record: Record,
        upgrade: bool,
        asking: Asking | None = None,
        verdict: Verdict | None = None,
    ) -> Decision:
        """Return the decision for a *route* with limits, when *asking* is answered.

        With *verdict*, *asking* is what needs the session.
        """
        limited = await _answered_limit(asking)
        if limited is None and verdict is None:
            verdict = await self._verified(request, route.session, record)
            limited = await _answered_limit(
                self._judge_principal(request, route, verdict)
            )
        if limited is not None:
            policy = self._cors.of(route)
            return await _awaited(self._too_many(request, limited, record, policy))
        assert verdict is not None, "it was verified above, or before"
        fields: Fields = ()
        if request.head.origins:
            fields = await self._cors.of(route).fields(request.head.origins)
        return _apply_verdict(request, route, verdict, fields, record, upgrade)

    def _auth_limited(
        self, request: Request, limits: AuthLimits, record: Record
    ) -> Decision | Coroutine[Any, Any, Decision]:
        """Return the call of the SDK's API, or its refusal by a limit."""
        name = auth_call(request.method, request.path)
        uses = () if name is None else limits.before[name]
        judged = self._limiter.judge(uses, _caller(request, name)) if uses else None
        if isinstance(judged, Limited):
            return self._too_many(request, judged, record)
        if judged is None:
            return AuthCall(request)

        async def decided() -> Decision:
            limited = await _answered_limit(judged)
            if limited is None:
                return AuthCall(request)
            return await _awaited(self._too_many(request, limited, record))

        return decided()

    def _too_many(
        self,
        request: Request,
        limited: Limited,
        record: Record,
        policy: Cors | None = None,
    ) -> Respond | Coroutine[Any, Any, Respond]:
        """Return the 429. Frontends keep the session: only a 401 ends it for them."""
        record.decision, record.reason = "denied", "rate_limited"
        record.note = f"rate limit {limited.policy.name}"
        answer = responses.problem(
            status=429,
            code="rate_limited",
            title="Too many requests",
            request_id=record.request_id,
            fields=limited.fields,
        )
        return self._respond(request, answer, policy=policy)

    def _refused_upgrade(
        self, request: Request, route: Route, record: Record
    ) -> Response | None:
        """Return the refusal of a WebSocket handshake; None if it is allowed."""
        head, request_id = request.head, record.request_id
        if not route.websocket.enabled:
            return responses.websocket_disabled(request_id)
        refused = websocket.refuse_handshake(
            head.method, head.fields, request_id, http10=head.http10
        )
        if refused is not None:
            return refused
        allowed = route.websocket.allowed_origins
        if not websocket.origin_allowed(
            head.fields,
            self._cors.of(route).origins if allowed is None else frozenset(allowed),
            by_cookie=bool(credentials(head.credential_lines).access_cookies),
        ):
            return responses.websocket_origin(request_id)
        return None

    # --- answers --------------------------------------------------------------

    def _respond(
        self,
        request: Request,
        answer: Response,
        sdk_fields: Fields = (),
        new_tokens: Fields = (),
        policy: Cors | None = None,
    ) -> Respond | Coroutine[Any, Any, Respond]:
        """Return *answer* with the fields of every response, CORS fields included.

        *sdk_fields* are the fields of the SDK's own response. *policy* is that of the
        route, if there is one.
        """
        if not request.head.origins:
            return Respond(
                answer, _common_fields(request.id, (), new_tokens, sdk_fields)
            )
        return self._respond_cross_origin(
            request, answer, sdk_fields, new_tokens, policy or self._cors
        )

    async def _respond_cross_origin(
        self,
        request: Request,
        answer: Response,
        sdk_fields: Fields,
        new_tokens: Fields,
        policy: Cors,
    ) -> Respond:
        """Return the same as `_respond`, for a request with an Origin field."""
        cors_fields = await policy.fields(request.head.origins)
        fields = _common_fields(request.id, cors_fields, new_tokens, sdk_fields)
        return Respond(answer, fields)


def answered(forward: Forward, answer: Response) -> Respond:
    """Return *answer* in place of the service's reply, with every response's fields."""
    return Respond(
        answer,
        _common_fields(forward.request.id, forward.cors, forward.verdict.new_tokens),
    )


def _common_fields(
    request_id: bytes, cors_fields: Fields, new_tokens: Fields, sdk_fields: Fields = ()
) -> Fields:
    return (
        *sdk_fields,
        *new_tokens,
        *cors.merged(cors_fields, sdk_fields),
        (b"X-Request-Id", request_id),
    )


def _apply_verdict(
    request: Request,
    route: Route,
    verdict: Verdict,
    cors_fields: Fields,
    record: Record,
    upgrade: bool,
) -> Respond | Forward:
    """Return the decision that follows from *verdict*, for a request of *route*."""
    if not isinstance(verdict, Allowed):
        answer = _refusal(verdict, record)
        if route.sign_in is not None and answer.status == 401 and not upgrade:
            answer = _sign_in(request, route.sign_in, answer)
        return Respond(answer, _common_fields(request.id, cors_fields, ()))
    _note_allowed(verdict, record)
    detour = route.detour
    if detour is not None:
        if isinstance(detour, Answer):
            return _answered(request, route, detour, verdict, cors_fields)
        principal, client = verdict.principal, request.forwarded.client
        if detour.takes(request.head.fields, principal, client, random):
            route = detour.route
    # The class's own constructor takes twice the time.
    return tuple.__new__(Forward, (request, route, verdict, cors_fields, upgrade))


def _answered(
    request: Request,
    route: Route,
    answer: Answer,
    verdict: Allowed,
    cors_fields: Fields,
) -> Respond:
    """Return the response of a route that the gateway answers itself."""
    fields = (*answer.fields, *route.reply_edits.fields)
    if answer.location is not None:
        path = route.upstream_path(request.target.path)
        location = answer.location(path, request.target.query, request.forwarded.prefix)
        fields += ((b"Location", location),)
    is_private = route.session.protection is not Protection.PUBLIC
    response = responses.fixed(
        answer.status,
        fields,
        answer.body,
        is_private=is_private,
        has_new_tokens=bool(verdict.new_tokens),
    )
    return Respond(
        response, _common_fields(request.id, cors_fields, verdict.new_tokens)
    )


def _sign_in(
    request: Request, template: RedirectTemplate, refusal: Response
) -> Response:
    """Return the redirect of a browser that opens a page, else *refusal*.

    The page to sign in isn't redirected to itself.
    """
    path = request.target.path
    if not opens_a_page(request.method, request.head.fields) or (
        template.is_local and path == template.path
    ):
        return refusal
    location = template(path, request.target.query, request.forwarded.prefix)
    return responses.sign_in(location)


def _user_agent(head: RequestHead) -> str | None:
    value = first(head.fields, b"user-agent")
    return None if value is None else value[:_MAX_USER_AGENT].decode("latin-1")


def _note_allowed(verdict: Allowed, record: Record) -> None:
    principal = verdict.principal
    record.reason = verdict.reason
    if principal is None:
        record.decision = "anonymous"
    else:
        record.decision = "allowed"
        record.user_id = principal.user_id
        record.tenant_id = principal.tenant_id


def _refusal(verdict: Denied | Undecided, record: Record) -> Response:
    """Return the response to a request that isn't allowed: denied or undecided."""
    record.reason = verdict.reason
    match verdict:
        case Denied():
            record.decision = "denied"
            return responses.denied(verdict)
        case Undecided():
            record.decision = "undecided"
            record.note = verdict.note
            record.side = (
                Side.GATEWAY if verdict.reason == "internal_error" else Side.CORE
            )
            return responses.undecided(verdict, record.request_id)
        case _:
            assert_never(verdict)


def _caller(
    request: Request,
    route: str | None,
    accounts: tuple[str, ...] = (),
    principal: Principal | None = None,
) -> Caller:
    """Return what limits know of the client of a request; *route* is its name."""
    return Caller(
        request.forwarded.client, request.head.fields, route or "", principal, accounts
    )


async def _answered_limit(judged: Limited | Asking | None) -> Limited | None:
    """Return the refusal of a request, if it has one; ask for it, if need be."""
    return await judged.answer() if isinstance(judged, Asking) else judged


async def _awaited(response: Respond | Coroutine[Any, Any, Respond]) -> Respond:
    return response if isinstance(response, Respond) else await response

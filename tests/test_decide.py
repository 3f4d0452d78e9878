"""The decision on a request, from its head only: without socket, client or SDK."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable
from typing import Any, NamedTuple, cast

import pytest

from gateway import config, headers, routes
from gateway.decide import Decider
from gateway.decisions import AuthCall, Decision, Forward, Respond
from gateway.downstream.cors import Cors
from gateway.errors import BadTarget, ContentTooLarge, CoreUnavailable, GatewayError
from gateway.headers import ForwardedCache, Networks, Traces
from gateway.http.fields import Fields, first
from gateway.http.request_head import HeadLimits, RequestHead, RequestReader
from gateway.identity import (
    Allowed,
    Denied,
    Principal,
    Protection,
    SessionIdentity,
    SessionPolicy,
    SessionRequest,
    Undecided,
    Verdict,
)
from gateway.observe import Record
from gateway.rate_limits import AuthLimits, Limiter, LocalStore
from gateway.resources import Router
from gateway.responses import Response
from gateway.session.credentials import CREDENTIAL_FIELDS
from gateway.session.tokens import holds_token, is_session_text
from gateway.supertokens.api import Auth

PAGE = b"https://app.example.com"
NEW_TOKENS: Fields = ((b"st-access-token", b"new"),)

ROUTES: list[dict[str, Any]] = [
    {"name": "open", "path": "/open", "protected": False},
    {"name": "private", "path": "/private"},
    {"name": "secret", "path": "/open/secret"},
    {"name": "small", "path": "/small", "request": {"max_body_size": 4}},
    {
        "name": "listed",
        "match": {"path": {"exact": "/listed"}, "methods": ["GET"]},
        "protected": False,
    },
    {"name": "still", "path": "/still", "websocket": {"enabled": False}},
    {"name": "beta", "path": "/open", "match": {"headers": {"X-Beta": "1"}}},
    {"name": "v2", "path": "/private", "match": {"query": {"v": "2"}}},
    {"name": "inside", "path": "/inside", "clients": {"allow": ["10.0.0.0/8"]}},
    {
        "name": "outside",
        "path": "/outside",
        "protected": False,
        "clients": {"allow": ["192.0.2.0/24"], "deny": ["192.0.2.1/32"]},
    },
    {
        "name": "limited",
        "path": "/limited",
        "protected": False,
        "rate_limit": "once",
    },
    {
        "name": "near",
        "path": "/near",
        "protected": False,
        "clients": {"allow": ["192.0.2.0/24"], "deny": ["192.0.2.2/32"]},
    },
]


READER = RequestReader(
    HeadLimits(target=8192, field=16384, head=65536, fields=100),
    headers.request_rules(headers.reserved(()), holds_token, is_session_text),
    CREDENTIAL_FIELDS,
)


def head(method: str, target: str, **fields: str | bytes) -> RequestHead:
    """Return the head of a request; `x_y` stands for the field `x-y`."""
    lines = [f"{method} {target} HTTP/1.1".encode(), b"Host: gw"]
    for name, value in fields.items():
        raw = value if isinstance(value, bytes) else value.encode()
        lines.append(name.replace("_", "-").encode() + b": " + raw)
    return READER.read(b"\r\n".join([*lines, b"", b""]))


class Sessions:
    """A verifier with a verdict for each token.

    `Bearer ann` is verified at once, and `Bearer new` needs the core. For `Bearer
    away` the core is down, and `Bearer broken` raises.
    """

    def __init__(self) -> None:
        self.requests: list[SessionRequest] = []

    def verify_now(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | None:
        credential = first(request.fields, b"authorization")
        if policy.protection is Protection.PUBLIC:
            return Allowed(principal=None, reason="public")
        if credential is None:
            return Denied(status=401, body=b"unauthorised")
        if credential == b"Bearer broken":
            raise RuntimeError
        if credential == b"Bearer ann":
            return Allowed(principal=identity("ann"), reason="cached")
        return None

    async def verify(self, request: SessionRequest, policy: SessionPolicy) -> Verdict:
        self.requests.append(request)
        now = self.verify_now(request, policy)
        if now is not None:
            return now
        if first(request.fields, b"authorization") == b"Bearer away":
            return Undecided(reason="core_unavailable")
        return Allowed(principal=identity("new"), reason="core", new_tokens=NEW_TOKENS)

    def has_ended(self, principal: Principal) -> bool:
        return False


def identity(user: str) -> SessionIdentity:
    return SessionIdentity(
        user_id=user,
        recipe_user_id=user,
        session_handle=f"session-{user}",
        tenant_id="public",
        claims={},
        expires_at=4e9,
    )


class SdkApi:
    """Replaces the SDK's API: it answers with the request's body."""

    def owns(self, path: str) -> bool:
        return path.startswith("/auth/")

    async def handle(self, **request: Any) -> Response | None:
        if request["path"] == "/auth/nothing":
            return None
        if request["path"] == "/auth/away":
            raise CoreUnavailable
        return Response(status=200, fields=(), body=request["body"])


def decider(sessions: Sessions, trusted: tuple[str, ...] = ()) -> Decider:
    """Return a decider over `ROUTES`."""
    settings = config.parse(
        {
            "version": 1,
            "cors": {"allow_origins": [PAGE.decode()]},
            "supertokens": {"rate_limits": {"sign_in": ["by-mail"]}},
            "rate_limits": {
                "once": {"rate": "1/d", "burst": 1, "key": "client"},
                "by-mail": {"rate": "1/d", "burst": 1, "key": "email"},
            },
            "services": {"up": {"targets": ["http://up"]}},
            "routes": [{"service": "up", **route} for route in ROUTES],
        }
    )
    resources = Router(
        table=routes.compile(settings),
        auth=cast("Auth", SdkApi()),
        user_path="/user",
    )
    return Decider(
        auth_limits=AuthLimits.of(settings),
        limiter=Limiter(LocalStore(time.monotonic_ns)),
        resources=resources,
        verifier=sessions,
        policy=Cors(
            settings.cors,
            website_domain=PAGE.decode(),
            sdk_headers=("rid",),
            method_allowed=resources.method_allowed,
        ),
        forwarded=ForwardedCache(Networks(trusted)),
        make_id=lambda: "made",
        traces=Traces(random.Random(1).randbytes, Networks(trusted)),
    )


class Decided(NamedTuple):
    decision: Decision
    record: Record
    at_once: bool
    """Whether nothing had to be awaited."""


async def decide(
    inbound: RequestHead,
    *,
    sessions: Sessions | None = None,
    trusted: tuple[str, ...] = (),
) -> Decided:
    """Return the decision on a request from 192.0.2.1."""
    record = Record.begin(0.0, "192.0.2.1", inbound.method)
    decision = decider(sessions or Sessions(), trusted).decide(
        inbound, "192.0.2.1", record, secure=False
    )
    if isinstance(decision, Awaitable):
        return Decided(await decision, record, at_once=False)
    return Decided(decision, record, at_once=True)


# --- each outcome -----------------------------------------------------------------

FORWARDED = {
    "public": (head("GET", "/open/a?b=c"), "open", None, True),
    "public, with a session": (
        head("GET", "/open", authorization="Bearer ann"),
        "open",
        None,
        True,
    ),
    "a session verified at once": (
        head("POST", "/private", authorization="Bearer ann"),
        "private",
        "ann",
        True,
    ),
    "a session that needs the core": (
        head("GET", "/private", authorization="Bearer new"),
        "private",
        "new",
        False,
    ),
    "a query that a route asks for": (
        head("GET", "/private?v=2", authorization="Bearer ann"),
        "v2",
        "ann",
        True,
    ),
    "another query": (
        head("GET", "/private?v=3", authorization="Bearer ann"),
        "private",
        "ann",
        True,
    ),
    "a client in an allowed network": (head("GET", "/near"), "near", None, True),
    "another origin, the first time": (
        head("GET", "/open", origin=PAGE),
        "open",
        None,
        False,
    ),
}


@pytest.mark.parametrize(
    ("inbound", "route", "user", "at_once"), FORWARDED.values(), ids=FORWARDED
)
async def test_what_is_forwarded(
    inbound: RequestHead, route: str, user: str | None, at_once: bool
) -> None:
    """The `Forward` has route, principal, id, query and new tokens.

    It is returned at once unless the core is needed, or an origin is new.
    """
    decision, record, came_at_once = await decide(inbound)
    assert isinstance(decision, Forward)
    assert decision.route.name == record.route == route
    principal = decision.verdict.principal
    assert (principal.user_id if principal else None) == user
    assert came_at_once is at_once
    assert decision.request.id == b"made"
    _, mark, query = inbound.target.partition(b"?")
    assert decision.request.target.query == mark + query
    assert decision.verdict.new_tokens == (NEW_TOKENS if user == "new" else ())


REFUSED = {
    "no session": (head("GET", "/private"), 401, "denied", "unauthorised", True),
    "a session that needs a core that is down": (
        head("GET", "/private", authorization="Bearer away"),
        503,
        "undecided",
        "core_unavailable",
        False,
    ),
    "a field that a route asks for, and its session isn't there": (
        head("GET", "/open", x_beta="1"),
        401,
        "denied",
        "unauthorised",
        True,
    ),
    "a client outside of the allowed networks": (
        head("GET", "/inside", authorization="Bearer ann"),
        403,
        "denied",
        "client_refused",
        True,
    ),
    "a denied client in an allowed network": (
        head("GET", "/outside"),
        403,
        "denied",
        "client_refused",
        True,
    ),
    "no route": (head("GET", "/nowhere"), 404, "-", "", True),
    "no route for the method": (head("PUT", "/listed"), 405, "-", "", True),
    "a near miss": (head("GET", "/open/Secret"), 404, "denied", "near_miss", True),
    "/user without a session": (
        head("GET", "/user"),
        401,
        "denied",
        "unauthorised",
        False,
    ),
    "/user by another method": (head("POST", "/user"), 405, "-", "", True),
    "a WebSocket that isn't one": (
        head("GET", "/open", upgrade="websocket", connection="upgrade"),
        426,
        "-",
        "",
        True,
    ),
    "a WebSocket where none is allowed": (
        head("GET", "/still", upgrade="websocket", connection="upgrade"),
        403,
        "-",
        "",
        True,
    ),
    "a preflight of another origin": (
        head(
            "OPTIONS",
            "/private",
            origin="https://evil.example",
            access_control_request_method="GET",
        ),
        403,
        "denied",
        "cors_refused",
        False,
    ),
    "a preflight for a method that the resource lacks": (
        head("OPTIONS", "/user", origin=PAGE, access_control_request_method="DELETE"),
        204,
        "denied",
        "cors_refused",
        False,
    ),
}


@pytest.mark.parametrize(
    ("inbound", "status", "decision", "reason", "at_once"),
    REFUSED.values(),
    ids=REFUSED,
)
async def test_what_is_refused(
    inbound: RequestHead, status: int, decision: str, reason: str, at_once: bool
) -> None:
    """The response has its status and the request id; the record has the reason."""
    respond, record, came_at_once = await decide(inbound)
    assert isinstance(respond, Respond)
    assert respond.answer.status == status
    assert (b"X-Request-Id", b"made") in respond.fields
    assert (record.decision, record.reason) == (decision, reason)
    assert came_at_once is at_once


@pytest.mark.parametrize(
    ("stated", "allowed"),
    [("10.1.2.3", True), ("10.1.2.3, 203.0.113.9", False), ("unknown", False)],
)
async def test_clients_are_known_through_trusted_proxies(
    stated: str, allowed: bool
) -> None:
    """A route's `clients` are compared with the address that trusted proxies confirm;
    a peer that isn't trusted can't claim one.
    """
    inbound = head("GET", "/inside", authorization="Bearer ann", x_forwarded_for=stated)
    trusting = await decide(inbound, trusted=("192.0.2.1/32",))
    assert isinstance(trusting.decision, Forward) is allowed
    decision, record, _ = await decide(inbound)
    assert isinstance(decision, Respond)
    assert record.reason == "client_refused"


async def test_user_is_answered_from_the_session() -> None:
    """The response of `/user` has the session's user, and its new tokens."""
    respond, record, _ = await decide(head("GET", "/user", authorization="Bearer new"))
    assert isinstance(respond, Respond)
    assert json.loads(respond.answer.body)["userId"] == "new"
    assert NEW_TOKENS[0] in respond.fields
    assert (record.route, record.user_id) == ("/user", "new")


async def test_a_preflight_is_granted_without_a_session() -> None:
    """The verifier isn't called: browsers send no credentials with a preflight."""
    sessions = Sessions()
    inbound = head(
        "OPTIONS", "/private", origin=PAGE, access_control_request_method="DELETE"
    )
    respond, record, _ = await decide(inbound, sessions=sessions)
    assert isinstance(respond, Respond)
    assert respond.answer.status == 204
    assert first(respond.answer.fields, b"access-control-allow-origin") == PAGE
    assert record.decision == "preflight"
    assert sessions.requests == []


async def test_the_sdk_s_api_is_called_with_the_body() -> None:
    """The decision is an `AuthCall`, which the caller makes with the body.

    A path that the SDK doesn't serve is 404.
    """
    for path, status, body in (
        ("/auth/in", 200, b"form"),
        ("/auth/nothing", 404, None),
    ):
        record = Record.begin(0.0, "-", "POST")
        a_decider = decider(Sessions())
        call = a_decider.decide(head("POST", path), "-", record, secure=False)
        assert isinstance(call, AuthCall)
        respond = await a_decider.call(call, b"form", record)
        assert respond.answer.status == status
        assert body is None or respond.answer.body == body


async def test_a_limit_of_an_account_is_judged_with_the_form() -> None:
    """It is known from the body alone; another account isn't refused."""
    same = decider(Sessions())
    statuses = []
    for mail in ("a@example.com", "a@example.com", "b@example.com"):
        fields = [{"id": "email", "value": mail}, {"id": "password", "value": "x"}]
        record = Record.begin(0.0, "192.0.2.1", "POST")
        call = same.decide(head("POST", "/auth/signin"), "192.0.2.1", record, False)
        assert isinstance(call, AuthCall)
        form = json.dumps({"formFields": fields}).encode()
        answered = await same.call(call, form, record)
        statuses.append(answered.answer.status)
    assert statuses == [200, 429, 200]


async def test_a_limited_route_answers_another_origin() -> None:
    """Its CORS policy is asked the first time, and the refusal has the fields, too."""
    same = decider(Sessions())
    found = []
    for _ in range(2):
        record = Record.begin(0.0, "192.0.2.1", "GET")
        inbound = head("GET", "/limited", origin=PAGE)
        decision = same.decide(inbound, "192.0.2.1", record, False)
        found.append(await decision if isinstance(decision, Awaitable) else decision)
    first_one, second = found
    assert isinstance(first_one, Forward)
    assert first(first_one.cors, b"access-control-allow-origin") == PAGE
    assert isinstance(second, Respond)
    assert second.answer.status == 429
    assert first(second.fields, b"access-control-allow-origin") == PAGE


@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24",)], ids=["stranger", "proxy"])
async def test_forwarded_fields_of_a_trusted_peer_are_used(
    trusted: tuple[str, ...],
) -> None:
    """They give the scheme and the client's address; those of others are ignored."""
    sessions = Sessions()
    inbound = head(
        "GET",
        "/private",
        authorization="Bearer new",
        x_forwarded_proto="https",
        x_forwarded_for="198.51.100.7",
    )
    _, record, _ = await decide(inbound, sessions=sessions, trusted=trusted)
    (session_request,) = sessions.requests
    assert session_request.is_secure is bool(trusted)
    assert record.client == ("198.51.100.7" if trusted else "192.0.2.1")


# --- failures ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inbound", "error"),
    [
        (head("GET", "/a/%2F"), BadTarget),
        (head("POST", "/small", content_length="5"), ContentTooLarge),
        (head("GET", "/private", authorization="Bearer broken"), RuntimeError),
    ],
    ids=["target", "size", "verifier"],
)
async def test_a_failure_is_no_decision(
    inbound: RequestHead, error: type[Exception]
) -> None:
    """Any failure is raised, so that there is nothing that could be forwarded."""
    with pytest.raises(error):
        await decide(inbound)


@pytest.mark.parametrize(
    ("inbound", "request_id"),
    [
        (head("GET", "/a/%2F", x_request_id="given"), "given"),
        (head("GET", "/a/%2F"), "made"),
        (head("GET", "/a/%2F", x_request_id="two words"), "made"),
    ],
)
async def test_the_response_to_a_failure(inbound: RequestHead, request_id: str) -> None:
    """It has a request id, the client's if that is valid, and the new tokens."""
    record = Record.begin(0.0, "-", "GET")
    error: GatewayError = BadTarget()
    respond = await decider(Sessions()).failed(error, inbound, record, NEW_TOKENS)
    assert respond.answer.status == 400
    assert json.loads(respond.answer.body)["request_id"] == request_id
    assert record.request_id == request_id
    assert NEW_TOKENS[0] in respond.fields

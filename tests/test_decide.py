"""What becomes of a request, decided from its head: no socket, no client, no SDK."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from typing import Any, NamedTuple, cast

import pytest

from gateway import config, headers, routes
from gateway.decide import (
    AuthCall,
    Decider,
    Decision,
    Forward,
    Respond,
    Router,
)
from gateway.downstream.cors import Cors
from gateway.errors import BadTarget, ContentTooLarge, CoreUnavailable, GatewayError
from gateway.headers import Networks
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
from gateway.responses import Response
from gateway.session.credentials import CREDENTIAL_FIELDS
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
]


Asked = RequestHead
READER = RequestReader(
    HeadLimits(target=8192, field=16384, head=65536, fields=100),
    headers.request_rules(headers.reserved(())),
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
    """`Bearer ann` is a session that is known, `Bearer new` one that must be asked
    about; `Bearer away` is one that can't be, and `Bearer broken` raises."""

    def __init__(self) -> None:
        self.asked: list[SessionRequest] = []

    def verify_now(
        self, request: SessionRequest, policy: SessionPolicy
    ) -> Verdict | None:
        shown = first(request.fields, b"authorization")
        if policy.protection is Protection.PUBLIC:
            return Allowed(principal=None, reason="public")
        if shown is None:
            return Denied(status=401, body=b"unauthorised")
        if shown == b"Bearer broken":
            raise RuntimeError
        if shown == b"Bearer ann":
            return Allowed(principal=identity("ann"), reason="cached")
        return None

    async def verify(self, request: SessionRequest, policy: SessionPolicy) -> Verdict:
        self.asked.append(request)
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
    """The SDK's own API: it answers with the body that it got."""

    def owns(self, path: str) -> bool:
        return path.startswith("/auth/")

    async def handle(self, **asked: Any) -> Response | None:
        if asked["path"] == "/auth/nothing":
            return None
        if asked["path"] == "/auth/away":
            raise CoreUnavailable
        return Response(status=200, fields=(), body=asked["body"])


def decider(sessions: Sessions, trusted: tuple[str, ...] = ()) -> Decider:
    """Return a decider over `ROUTES`."""
    settings = config.parse(
        {
            "version": 1,
            "cors": {"allow_origins": [PAGE.decode()]},
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
        resources=resources,
        verifier=sessions,
        policy=Cors(
            settings.cors,
            website_domain=PAGE.decode(),
            sdk_headers=("rid",),
            method_allowed=resources.method_allowed,
        ),
        trusted=Networks(trusted),
        make_id=lambda: "made",
    )


class Decided(NamedTuple):
    decision: Decision
    record: Record
    at_once: bool
    """Nothing had to be awaited."""


async def decide(
    asked: Asked,
    *,
    sessions: Sessions | None = None,
    trusted: tuple[str, ...] = (),
) -> Decided:
    """Return what becomes of a request from 192.0.2.1."""
    record = Record.begin(0.0, "192.0.2.1", asked.method)
    found = decider(sessions or Sessions(), trusted).decide(
        asked, "192.0.2.1", record, secure=False
    )
    if isinstance(found, Awaitable):
        return Decided(await found, record, at_once=False)
    return Decided(found, record, at_once=True)


# --- each outcome -----------------------------------------------------------------

FORWARDED = {
    "public": (head("GET", "/open/a?b=c"), "open", None, True),
    "public, with a session": (
        head("GET", "/open", authorization="Bearer ann"),
        "open",
        None,
        True,
    ),
    "a session that is known": (
        head("POST", "/private", authorization="Bearer ann"),
        "private",
        "ann",
        True,
    ),
    "a session that is asked about": (
        head("GET", "/private", authorization="Bearer new"),
        "private",
        "new",
        False,
    ),
    "another origin, the first time": (
        head("GET", "/open", origin=PAGE),
        "open",
        None,
        False,
    ),
}


@pytest.mark.parametrize(
    ("asked", "route", "user", "at_once"), FORWARDED.values(), ids=FORWARDED
)
async def test_what_may_go_on(
    asked: Asked, route: str, user: str | None, at_once: bool
) -> None:
    """A Forward holds all that is known; it comes at once if nobody must be asked."""
    decision, record, came_at_once = await decide(asked)
    assert isinstance(decision, Forward)
    assert decision.route.name == record.route == route
    found = decision.verdict.principal
    assert (found.user_id if found else None) == user
    assert came_at_once is at_once
    assert decision.request.id == b"made"
    assert (
        decision.request.target.query == asked.target[5 + 2 :]
        or b"?" not in asked.target
    )
    assert decision.verdict.new_tokens == (NEW_TOKENS if user == "new" else ())


REFUSED = {
    "no session": (head("GET", "/private"), 401, "denied", "unauthorised", True),
    "a session that can't be asked about": (
        head("GET", "/private", authorization="Bearer away"),
        503,
        "undecided",
        "core_unavailable",
        False,
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
    "a WebSocket where none is taken": (
        head("GET", "/still", upgrade="websocket", connection="upgrade"),
        403,
        "-",
        "",
        True,
    ),
    "a preflight of a stranger": (
        head(
            "OPTIONS",
            "/private",
            origin="https://evil.example",
            access_control_request_method="GET",
        ),
        403,
        "denied",
        "",
        False,
    ),
}


@pytest.mark.parametrize(
    ("asked", "status", "decision", "reason", "at_once"), REFUSED.values(), ids=REFUSED
)
async def test_what_is_refused(
    asked: Asked, status: int, decision: str, reason: str, at_once: bool
) -> None:
    """The answer is whole, and the record says why."""
    found, record, came_at_once = await decide(asked)
    assert isinstance(found, Respond)
    assert found.answer.status == status
    assert (b"X-Request-Id", b"made") in found.fields
    assert (record.decision, record.reason) == (decision, reason)
    assert came_at_once is at_once


async def test_user_is_the_session_s_own() -> None:
    """`/user` is answered from the session, with the new tokens that it brought."""
    found, record, _ = await decide(head("GET", "/user", authorization="Bearer new"))
    assert isinstance(found, Respond)
    assert json.loads(found.answer.body)["userId"] == "new"
    assert NEW_TOKENS[0] in found.fields
    assert (record.route, record.user_id) == ("/user", "new")


async def test_a_preflight_is_granted_without_a_session() -> None:
    """Nobody is asked about a session: browsers show none."""
    sessions = Sessions()
    asked = head(
        "OPTIONS", "/private", origin=PAGE, access_control_request_method="DELETE"
    )
    found, record, _ = await decide(asked, sessions=sessions)
    assert isinstance(found, Respond)
    assert found.answer.status == 204
    assert first(found.answer.fields, b"access-control-allow-origin") == PAGE
    assert record.decision == "preflight"
    assert sessions.asked == []


async def test_the_sdk_s_api_is_called_with_the_body() -> None:
    """Whoever has the body brings it; what isn't the API's is 404."""
    for path, status, body in (
        ("/auth/in", 200, b"form"),
        ("/auth/nothing", 404, None),
    ):
        record = Record.begin(0.0, "-", "POST")
        by = decider(Sessions())
        call = by.decide(head("POST", path), "-", record, secure=False)
        assert isinstance(call, AuthCall)
        found = await by.call(call, b"form", record)
        assert found.answer.status == status
        assert body is None or found.answer.body == body


@pytest.mark.parametrize("trusted", [(), ("192.0.2.0/24",)], ids=["stranger", "proxy"])
async def test_a_trusted_peer_speaks_for_its_client(trusted: tuple[str, ...]) -> None:
    """Its word counts for the scheme and the client's address, nobody else's does."""
    sessions = Sessions()
    asked = head(
        "GET",
        "/private",
        authorization="Bearer new",
        x_forwarded_proto="https",
        x_forwarded_for="198.51.100.7",
    )
    _, record, _ = await decide(asked, sessions=sessions, trusted=trusted)
    (shown,) = sessions.asked
    assert shown.is_secure is bool(trusted)
    assert record.client == ("198.51.100.7" if trusted else "192.0.2.1")


# --- what goes wrong --------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (head("GET", "/a/%2F"), BadTarget),
        (head("POST", "/small", content_length="5"), ContentTooLarge),
        (head("GET", "/private", authorization="Bearer broken"), RuntimeError),
    ],
    ids=["target", "size", "verifier"],
)
async def test_a_failure_is_no_decision(asked: Asked, error: type[Exception]) -> None:
    """Whatever fails, nothing comes back that could be forwarded."""
    with pytest.raises(error):
        await decide(asked)


@pytest.mark.parametrize(
    ("asked", "request_id"),
    [
        (head("GET", "/a/%2F", x_request_id="given"), "given"),
        (head("GET", "/a/%2F"), "made"),
        (head("GET", "/a/%2F", x_request_id="two words"), "made"),
    ],
)
async def test_the_answer_to_a_failure(asked: Asked, request_id: str) -> None:
    """It has an id even if the head couldn't be read, and keeps new tokens."""
    record = Record.begin(0.0, "-", "GET")
    error: GatewayError = BadTarget()
    found = await decider(Sessions()).failed(error, asked, record, NEW_TOKENS)
    assert found.answer.status == 400
    assert json.loads(found.answer.body)["request_id"] == request_id
    assert record.request_id == request_id
    assert NEW_TOKENS[0] in found.fields

"""The handler in AWS' real runtime, behind events of all kinds, with a core."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from any_core import new_email
from lambda_events import DECODED, KINDS, event
from runtime_api import Function, InvocationFailed, Received, Reply, deployed
from stack import form

from gateway.aws.events import EventKind
from gateway.dev.core import ThreadedCore

pytest.importorskip("awslambdaric", reason="AWS' runtime is built for Linux only")

ORIGIN = "https://www.example.com"
ROUTES = """
version: 1
supertokens:
  connection_uri: "${CORE}"
  api_domain: https://api.example.com
  website_domain: https://www.example.com
  recipes: {emailpassword: {}, userroles: {}}
aws: {base_path: /shop}
services:
  orders: {targets: ["${UPSTREAM}"], timeouts: {total: 20s}}
routes:
  - {path: /public, service: orders, protected: false}
  - {path: /maybe, service: orders, protected: optional}
  - {path: /orders, service: orders}
  - {path: /admin, service: orders, require: {roles: {any: [admin]}}}
  - {path: /ws, service: orders, websocket: {enabled: true}}
"""


class Answered:
    """What a client of AWS gets of what the function returned."""

    def __init__(self, returned: dict[str, Any]) -> None:
        self.status = returned["statusCode"]
        self.fields = [
            (name, value)
            for name, values in returned.get("multiValueHeaders", {}).items()
            for value in values
        ]
        self.fields += returned.get("headers", {}).items()
        self.fields += [("Set-Cookie", each) for each in returned.get("cookies", [])]
        body = returned["body"]
        self.is_base64 = returned["isBase64Encoded"]
        self.body = base64.b64decode(body) if self.is_base64 else body.encode()

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def one(self, name: str) -> str | None:
        found = self.all(name)
        assert len(found) < 2, found
        return found[0] if found else None

    def json(self) -> Any:
        return json.loads(self.body)


@pytest.fixture(scope="module")
def running(
    shared_core: ThreadedCore, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Function]:
    folder = tmp_path_factory.mktemp("function")
    with deployed(folder, ROUTES, shared_core.url) as running_function:
        yield running_function


@pytest.fixture
def function(running: Function) -> Iterator[Function]:
    """Return the function that all tests share; its service forgets what it got."""
    before = running.service.reply
    running.service.requests.clear()
    yield running
    running.service.reply = before


def ask(function: Function, kind: EventKind, *args: Any, **options: Any) -> Answered:
    return Answered(function.invoke(event(kind, *args, **options)))


JSON = ("Content-Type", "application/json")


def sign_up(function: Function, kind: EventKind, mode: str) -> Answered:
    answered = ask(
        function,
        kind,
        "POST",
        "/auth/signup",
        [JSON, ("st-auth-mode", mode), ("Origin", ORIGIN)],
        body=json.dumps(form(new_email("ann"))).encode(),
    )
    assert answered.status == 200, answered.body
    assert answered.json()["status"] == "OK"
    return answered


def bearer(function: Function, kind: EventKind = EventKind.HTTP_2) -> tuple[str, str]:
    token = sign_up(function, kind, "header").one("st-access-token")
    return ("Authorization", f"Bearer {token}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_guide_s_example(function: Function, kind: EventKind) -> None:
    """Sign-up in cookies, `/user` with them, 401 without, sign-out; CORS on all."""
    entered = sign_up(function, kind, "cookie")
    assert entered.one("Access-Control-Allow-Origin") == ORIGIN
    assert entered.one("Access-Control-Allow-Credentials") == "true"
    cookies = [each.partition(";")[0] for each in entered.all("Set-Cookie")]
    assert {each.partition("=")[0] for each in cookies} == {
        "sAccessToken",
        "sRefreshToken",
    }
    sent = [("Cookie", "; ".join(cookies)), ("rid", "anti-csrf"), ("Origin", ORIGIN)]
    user = ask(function, kind, "GET", "/user", sent)
    assert (user.status, user.is_base64) == (200, False)
    assert user.json()["userId"] == entered.json()["user"]["id"]
    assert {"sessionHandle", "userId", "accessTokenPayload"} <= {*user.json()}
    assert user.one("Access-Control-Allow-Origin") == ORIGIN
    refused = ask(function, kind, "GET", "/user", [("Origin", ORIGIN)])
    assert (refused.status, refused.json()) == (401, {"message": "unauthorised"})
    assert refused.one("Access-Control-Allow-Origin") == ORIGIN
    ended = ask(function, kind, "POST", "/auth/signout", [JSON, *sent], body=b"{}")
    assert ended.status == 200
    assert len(ended.all("Set-Cookie")) >= 2
    assert ask(function, kind, "GET", "/user", sent).status == 401
    assert not function.service.requests


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_is_forwarded(function: Function, kind: EventKind) -> None:
    """The service gets the identity and the body, and the client all cookies."""
    token = bearer(function, kind)
    answered = ask(
        function,
        kind,
        "POST",
        "/orders/7?x=1&y=2",
        [JSON, token, ("X-User-Id", "eve"), ("Cookie", "own=1"), ("Origin", ORIGIN)],
        body=b'{"a": 1}',
    )
    assert (answered.status, answered.body) == (200, b"ok")
    assert answered.all("Set-Cookie") == ["a=1", "b=2"]
    assert answered.one("Access-Control-Allow-Origin") == ORIGIN
    (got,) = function.service.requests
    assert (got.method, got.target, got.body) == (
        "POST",
        "/orders/7?x=1&y=2",
        b'{"a": 1}',
    )
    user_id = ask(function, kind, "GET", "/user", [token]).json()["userId"]
    assert got.all("X-User-Id") == [user_id]
    assert got.all("Cookie") == ["own=1"]
    assert got.all("X-Forwarded-For") == ["192.0.2.7"]
    assert got.all("X-Forwarded-Proto") == ["https"]
    assert got.all("X-Forwarded-Host") == ["api.example.com"]


@pytest.mark.parametrize("kind", KINDS)
def test_refused_requests_reach_no_service(function: Function, kind: EventKind) -> None:
    """A missing session, a broken one, a missing role, an unknown path."""
    token = bearer(function)
    for target, fields, status in (
        ("/orders", [], 401),
        ("/orders", [("Authorization", "Bearer a.b.c")], 401),
        ("/orders", [("Cookie", "sAccessToken=broken")], 401),
        ("/admin", [token], 403),
        ("/elsewhere", [token], 404),
    ):
        answered = ask(function, kind, "GET", target, fields)
        assert answered.status == status, (target, answered.body)
    assert not function.service.requests
    anonymous = ask(function, kind, "GET", "/maybe")
    assert anonymous.status == 200
    (got,) = function.service.requests
    assert got.all("X-Auth-Status") == ["anonymous"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_preflight(function: Function, kind: EventKind) -> None:
    """It has the SDK's headers, and needs no session."""
    answered = ask(
        function,
        kind,
        "OPTIONS",
        "/orders",
        [
            ("Origin", ORIGIN),
            ("Access-Control-Request-Method", "POST"),
            ("Access-Control-Request-Headers", "anti-csrf,rid"),
        ],
    )
    assert (answered.status, answered.body) == (204, b"")
    allowed = (answered.one("Access-Control-Allow-Headers") or "").lower()
    assert "anti-csrf" in allowed
    assert answered.one("Access-Control-Allow-Origin") == ORIGIN


HOSTILE = (
    "/public/../admin",
    "/public/%2e%2e/admin",
    "/%61dmin",
    "/public/..%2fadmin",
    "/public/..%5cadmin",
    "/public/%252e%252e/admin",
    "/%2561dmin",
    "/public/;/../admin",
    "/public/..;/admin",
    "/shop/admin",
    "/shop/shop/admin",
    "//admin",
    "/./admin",
    "/ADMIN",
    "/public%00/../admin",
    "/admin%3fx",
    "/admin%20",
)


@pytest.mark.parametrize("kind", KINDS)
def test_no_path_opens_the_admin_s_route(function: Function, kind: EventKind) -> None:
    """Whatever is forwarded is public as it is forwarded; nothing reaches /admin."""
    token = bearer(function)
    for target in HOSTILE:
        function.service.requests.clear()
        answered = ask(function, kind, "GET", target, [token])
        sent = [got.target for got in function.service.requests]
        if answered.status != 200:
            assert not sent
            continue
        (path,) = sent
        assert path.startswith("/public")
        if kind not in DECODED:
            assert "/../" not in path
        assert "admin" not in path or "%25" in path


@pytest.mark.parametrize("kind", DECODED)
def test_the_stage_is_in_no_path(function: Function, kind: EventKind) -> None:
    """The route table says /public, and the URL /prod/public."""
    answered = ask(function, kind, "GET", "/prod/public/x", stage="prod")
    assert answered.status == 200
    assert function.service.requests[0].target == "/public/x"
    refused = ask(function, kind, "GET", "/prod/orders", stage="prod")
    assert refused.status == 401


@pytest.mark.parametrize("kind", KINDS)
def test_the_base_path_is_in_no_path(function: Function, kind: EventKind) -> None:
    """The one of `aws.base_path`."""
    assert ask(function, kind, "GET", "/shop/public/x").status == 200
    assert function.service.requests[0].target == "/public/x"


def test_a_load_balancer_with_single_values(function: Function) -> None:
    """Every request is answered with the setting that is missing."""
    sent = event(EventKind.ALB, "GET", "/public")
    sent["headers"] = {n: v[-1] for n, v in sent.pop("multiValueHeaders").items()}
    answered = Answered(function.invoke(sent))
    assert answered.status == 500
    assert "lambda.multi_value_headers.enabled=true" in answered.json()["title"]
    assert not function.service.requests


@pytest.mark.parametrize("kind", KINDS)
def test_a_websocket_is_refused(function: Function, kind: EventKind) -> None:
    """An event has one reply."""
    fields = [("Upgrade", "websocket"), ("Sec-WebSocket-Key", "a" * 24)]
    answered = ask(function, kind, "GET", "/ws", [bearer(function), *fields])
    assert (answered.status, answered.json()["code"]) == (501, "upgrade_not_supported")
    assert not function.service.requests


def replying(content_type: str, body: bytes, *fields: tuple[str, str]) -> Any:
    def reply(_: Received) -> Reply:
        return 200, [("Content-Type", content_type), *fields], body

    return reply


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("content_type", "body", "fields", "is_base64"),
    [
        ("text/plain", "é".encode(), (), False),
        ("text/html; charset=utf-8", b"<p>", (), False),
        ("application/json", b"{}", (), False),
        ("application/problem+json", b"{}", (), False),
        ("text/plain", b"\xe9", (), True),
        ("text/html; charset=latin-1", b"<p>", (), True),
        ("application/json", b"{}", (("Content-Encoding", "gzip"),), True),
        ("image/png", b"\x89PNG\0", (), True),
        ("application/octet-stream", bytes(range(256)), (), True),
    ],
)
def test_bodies_arrive_as_they_are(
    function: Function,
    kind: EventKind,
    content_type: str,
    body: bytes,
    fields: tuple[tuple[str, str], ...],
    is_base64: bool,
) -> None:
    """Text in UTF-8 is sent as text, and all else in base64."""
    function.service.reply = replying(content_type, body, *fields)
    answered = ask(function, kind, "GET", "/public")
    assert (answered.body, answered.is_base64) == (body, is_base64)
    assert answered.one("Content-Type") == content_type


@pytest.mark.parametrize(
    ("kind", "content_type", "size", "status"),
    [
        (EventKind.HTTP_2, "text/plain", 6_000_000, 200),
        (EventKind.HTTP_2, "text/plain", 6_300_000, 502),
        (EventKind.REST, "image/png", 4_600_000, 200),
        (EventKind.REST, "image/png", 4_700_000, 502),
        (EventKind.ALB, "text/plain", 950_000, 200),
        (EventKind.ALB, "text/plain", 1_100_000, 502),
    ],
)
def test_replies_that_aws_does_not_take(
    function: Function, kind: EventKind, content_type: str, size: int, status: int
) -> None:
    """They are refused by their size, before they are read."""
    function.service.reply = replying(content_type, b"x" * size)
    answered = ask(function, kind, "GET", "/public")
    assert answered.status == status
    if status == 502:
        assert answered.json()["code"] == "reply_too_large"


def test_a_stream_is_refused(function: Function) -> None:
    """Server-sent events would end with the function's time."""
    function.service.reply = replying("text/event-stream; charset=utf-8", b"data: x")
    answered = ask(function, EventKind.HTTP_2, "GET", "/public")
    assert (answered.status, answered.json()["code"]) == (502, "reply_not_streamed")


def test_a_slow_service(function: Function) -> None:
    """The reply comes before AWS ends the function, and the next request is served."""
    over = threading.Event()

    def reply(got: Received) -> Reply:
        over.wait(30)
        return 200, [], b""

    before = function.service.reply
    function.service.reply = reply
    sent = event(EventKind.HTTP_2, "GET", "/public", [("Origin", ORIGIN)])
    answered = Answered(function.invoke(sent, time_s=2.0))
    over.set()
    assert (answered.status, answered.json()["code"]) == (504, "function_timeout")
    assert answered.one("Access-Control-Allow-Origin") == ORIGIN
    function.service.reply = before
    assert ask(function, EventKind.HTTP_2, "GET", "/public").status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_head_request(function: Function, kind: EventKind) -> None:
    """It has no body."""
    answered = ask(function, kind, "HEAD", "/public")
    assert (answered.status, answered.body) == (200, b"")


def test_an_event_that_is_no_request(function: Function) -> None:
    """Whoever invoked the function gets an error."""
    with pytest.raises(InvocationFailed, match="BadEvent"):
        function.invoke({"Records": []})

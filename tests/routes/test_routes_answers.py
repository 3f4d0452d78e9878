"""Routes that the gateway answers itself, and browsers that are sent to sign in."""

from __future__ import annotations

from typing import Any

import pytest
from faults import FaultUpstream, answer
from gateway_under_test import ORIGIN, gateway

from gateway import config, routes
from gateway.routes import Matched, NearMiss
from gateway.routes.answer import opens_a_page

OPEN = {"service": None, "protected": False}
PAGE = ("Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
ANN = ("Authorization", "Bearer ann")


async def test_respond_and_redirect() -> None:
    """They need no service, and it sees nothing of their requests."""
    more = [
        {"path": "/tea", "respond": {"status": 418, "body": "short, é"}, **OPEN},
        {"path": "/none", "respond": {"status": 204}, **OPEN},
        {
            "path": "/data",
            "respond": {
                "status": 200,
                "body": "{}",
                "content_type": "application/json",
            },
            "response": {"headers": {"set": {"X-A": "b"}}},
            **OPEN,
        },
        {
            "path": "/old",
            "redirect": {"to": "https://x.example{path}{query}", "status": 308},
            **OPEN,
        },
        {
            "path": "/was",
            "rewrite": "strip",
            "redirect": {"to": "/now{path}"},
            **OPEN,
        },
    ]
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, more_routes=more) as gw,
    ):
        tea = await gw.ask("GET", "/tea", ("Origin", ORIGIN))
        assert (tea.status, tea.body.decode()) == (418, "short, é")
        assert tea.one("Content-Type") == "text/plain; charset=utf-8"
        assert tea.one("Access-Control-Allow-Origin") == ORIGIN
        assert tea.one("X-Request-Id")
        head = await gw.ask("HEAD", "/tea")
        assert (head.status, head.one("Content-Length"), head.body) == (418, "9", b"")
        none = await gw.ask("POST", "/none", body=b"ignored")
        assert (none.status, none.body, none.one("Content-Type")) == (204, b"", None)
        data = await gw.ask("GET", "/data")
        assert data.one("Content-Type") == "application/json"
        assert data.one("X-A") == "b"
        old = await gw.ask("POST", "/old/a?b=c", body=b"x")
        assert (old.status, old.one("Location")) == (308, "https://x.example/old/a?b=c")
        was = await gw.ask("GET", "/was/a?b=c")
        assert (was.status, was.one("Location")) == (307, "/now/a")
        assert not upstream.requests


async def test_protected_answers_verify_first() -> None:
    """Without a session there is a 401; with one, no shared cache keeps the answer."""
    route = {"path": "/tea", "respond": {"status": 200, "body": "tea"}, "service": None}
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, more_routes=[{**route, "protected": True}]) as gw,
    ):
        assert (await gw.ask("GET", "/tea")).status == 401
        allowed = await gw.ask("GET", "/tea", ANN)
        assert (allowed.status, allowed.body) == (200, b"tea")
        assert allowed.one("Cache-Control") == "private, no-cache"
        gw.verifier.new_tokens = ((b"st-access-token", b"new"),)
        renewed = await gw.ask("GET", "/tea", ANN)
        assert renewed.one("st-access-token") == "new"
        assert renewed.one("Cache-Control") == "no-store"
        assert not upstream.requests


@pytest.mark.parametrize(
    ("keys", "path", "message"),
    [
        ({"respond": {"status": 401}}, "respond.status", "a 401 makes"),
        ({"respond": {"status": 302}}, "respond.status", "expected 200"),
        ({"respond": {"status": 101}}, "respond.status", "expected 200"),
        ({"respond": {"status": 204, "body": "x"}}, "respond.body", "has no body"),
        ({"respond": {"body": "x"}}, "respond", "the key 'status' is missing"),
        (
            {"respond": {"status": 200, "content_type": "a\r\nb"}},
            "respond.content_type",
            "printable",
        ),
        ({"redirect": {"to": "//evil"}}, "redirect.to", "expected https"),
        ({"redirect": {"to": "/a", "status": 300}}, "redirect.status", "expected"),
        ({"on_unauthenticated": {"redirect": "x"}}, "", "expected"),
        ({"respond": {"status": 200}, "service": "s"}, "", "expected exactly one of"),
        (
            {"respond": {"status": 200}, "redirect": {"to": "/b"}},
            "",
            "expected exactly one of",
        ),
    ],
)
def test_mistakes(keys: dict[str, Any], path: str, message: str) -> None:
    """`check` names the key and the remedy."""
    data = {
        "version": 1,
        "services": {"s": {"targets": ["http://s"]}},
        "routes": [{"path": "/a", **keys}],
    }
    with pytest.raises(config.InvalidConfig) as caught:
        config.parse(data)
    found = [(finding.path, finding.message) for finding in caught.value.findings]
    assert any(p.startswith(f"routes[0].{path}".rstrip(".")) for p, _ in found), found
    assert any(message in text for _, text in found), found


BLOCKED = {"status": 403}


@pytest.mark.parametrize(
    ("blocking", "path", "method", "is_miss"),
    [
        ({"respond": BLOCKED}, "/INTERNAL", "GET", True),
        ({"respond": BLOCKED}, "/Internal/x", "GET", True),
        ({"respond": BLOCKED}, "/internal;x", "GET", True),
        ({"respond": BLOCKED, "methods": ["POST"]}, "/Internal", "POST", True),
        ({"respond": BLOCKED}, "/external", "GET", False),
        ({"respond": {"status": 200}}, "/Internal", "GET", False),
        ({"redirect": {"to": "/b"}}, "/Internal", "GET", False),
    ],
)
def test_what_is_blocked_is_a_guard(
    blocking: dict[str, Any], path: str, method: str, is_miss: bool
) -> None:
    """A service that reads `/Internal` as `/internal` must not get it, either."""
    settings = config.parse(
        {
            "version": 1,
            "defaults": {"protected": False},
            "services": {"s": {"targets": ["http://s"]}},
            "routes": [
                {"path": "/", "service": "s"},
                {"path": "/internal", **blocking},
            ],
        }
    )
    outcome = routes.compile(settings).match(method, "gw", path)
    assert isinstance(outcome, NearMiss if is_miss else Matched)


def test_they_are_listed() -> None:
    """`gateway routes` says what such a route does."""
    settings = config.parse(
        {
            "version": 1,
            "routes": [
                {"path": "/a", "respond": {"status": 404}},
                {"path": "/b", "redirect": {"to": "/c"}},
            ],
        }
    )
    table = routes.compile(settings)
    assert [row.upstream for row in routes.rows(table)] == [
        "(responds with 404)",
        "(redirects with 307)",
    ]
    assert table.services() == ()


@pytest.mark.parametrize(
    ("method", "fields", "expected"),
    [
        ("GET", [PAGE], True),
        ("HEAD", [PAGE], True),
        ("GET", [("Accept", "text/html")], True),
        ("GET", [("Accept", "image/png, TEXT/HTML;level=1;q=0.5")], True),
        ("GET", [("Accept", "*/*"), ("Accept", "text/html")], True),
        ("GET", [PAGE, ("Sec-Fetch-Mode", "navigate")], True),
        ("GET", [PAGE, ("Sec-Fetch-Mode", "cors")], False),
        ("GET", [PAGE, ("Sec-Fetch-Mode", "no-cors")], False),
        ("POST", [PAGE], False),
        ("GET", [], False),
        ("GET", [("Accept", "*/*")], False),
        ("GET", [("Accept", "application/json, text/plain, */*")], False),
        ("GET", [("Accept", "text/html;q=0, */*")], False),
        ("GET", [("Accept", "text/htmlx")], False),
        ("GET", [("Accept", "xtext/html")], False),
        ("GET", [PAGE, ("rid", "anti-csrf")], False),
        ("GET", [PAGE, ("st-auth-mode", "cookie")], False),
        ("GET", [PAGE, ("Authorization", "Bearer x")], False),
        ("GET", [PAGE, ("X-Requested-With", "XMLHttpRequest")], False),
    ],
)
def test_who_opens_a_page(
    method: str, fields: list[tuple[str, str]], expected: bool
) -> None:
    """Only a browser's own request for a page; scripts get the 401 that they read."""
    raw = tuple((name.encode(), value.encode()) for name, value in fields)
    assert opens_a_page(method, raw) is expected


@pytest.mark.parametrize("level", ["route", "service", "defaults"])
async def test_browsers_are_sent_to_sign_in(level: str) -> None:
    """The page to return to is one encoded parameter; API calls get the 401."""
    keys = {"on_unauthenticated": {"redirect": "/login?next={url}", "for": "html"}}
    options: dict[str, Any] = {"route": {"protected": True}, "service": {}}
    options.setdefault(level, {}).update(keys)
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, **options) as gw,
    ):
        sent = await gw.ask("GET", "/a/b?c=//evil.com", PAGE)
        assert sent.status == 302
        assert sent.one("Location") == "/login?next=%2Fa%2Fb%3Fc%3D%2F%2Fevil.com"
        assert sent.one("Cache-Control") == "no-store"
        for method, target, *fields in (
            ("GET", "/a", ("Accept", "application/json")),
            ("POST", "/a", PAGE),
            ("GET", "/login?next=%2F", PAGE),
        ):
            refused = await gw.ask(method, target, *fields)
            assert refused.status == 401
            assert refused.json()["message"] == "unauthorised"
        assert not upstream.requests
        assert (await gw.ask("GET", "/a", ANN, PAGE)).status == 200
        gw.verifier.lacking.add("ann")
        assert (await gw.ask("GET", "/a", ANN, PAGE)).status == 403

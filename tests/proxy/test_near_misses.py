"""Protected routes for Express and Koa, which match paths more loosely than we do.

tests/routes/test_routes_near_misses.py tests the rule; these tests use real services.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Literal

import pytest
from gateway_under_test import UnderTest, gateway
from lenient_upstreams import lenient

App = Literal["express", "koa"]

GUARDS: tuple[Mapping[str, Any], ...] = (
    {"name": "admin", "path": "/admin"},
    {"name": "secret", "match": {"path": {"exact": "/secret"}}},
    {
        "name": "refund",
        "match": {"path": {"template": "/orders/{id}/refund"}, "methods": ["POST"]},
    },
)
"""Protected routes. A public route sends all other paths to the same service."""

SPELLINGS = [
    ("GET", "/Admin", "admin"),
    ("GET", "/ADMIN/users", "users"),
    ("GET", "/secret/", "secret"),
    ("GET", "/SECRET", "secret"),
    ("POST", "/orders/1/refund/", "refund"),
    ("POST", "/orders/1/Refund", "refund"),
    ("POST", "/orders/1/./refund/.", "refund"),
]
"""Method, target, and the handler of the service that takes it."""

each_app = pytest.mark.parametrize("app", ["express", "koa"])


async def handler_or_status(
    gw: UnderTest, method: str, target: str, *fields: Any
) -> str:
    """Return the handler that served a request, or the status of a refusal."""
    body = b"" if method == "POST" else None
    reply = await gw.ask(
        method, target, *fields, **({} if body is None else {"body": body})
    )
    return str(reply.one("X-Handler") if reply.status == 200 else reply.status)


@each_app
async def test_without_the_rule_other_spellings_reach_guarded_handlers(
    app: App,
) -> None:
    """The positive control: with `near_misses: forward` every spelling gets through."""
    async with (
        lenient(app) as up,
        gateway(
            f"http://127.0.0.1:{up.port}",
            more_routes=GUARDS,
            settings={"near_misses": "forward"},
        ) as gw,
    ):
        for method, target, handler in SPELLINGS:
            assert await handler_or_status(gw, method, target) == handler, target
        assert await handler_or_status(gw, "GET", "/admin") == "401"


@each_app
async def test_no_other_spelling_passes_a_guard(app: App) -> None:
    """It gets 404, the log names both routes, and the service is never dialled."""
    async with (
        lenient(app) as up,
        gateway(f"http://127.0.0.1:{up.port}", more_routes=GUARDS) as gw,
    ):
        for method, target, handler in SPELLINGS:
            session = ("Authorization", "Bearer ann")
            for fields in ((), (session,)):
                body = {"body": b""} if method == "POST" else {}
                reply = await gw.ask(method, target, *fields, **body)
                assert reply.status == 404, target
                assert json.loads(reply.body)["code"] == "near_miss"
                record = await gw.record()
                assert (record.route, record.reason) == ("0:/", "near_miss")
                guard = "admin" if handler == "users" else handler
                assert guard in record.note
                assert record.upstream is None
        assert gw.pools[0].open == 0
        assert await handler_or_status(gw, "GET", "/Elsewhere/") == "other"


@each_app
async def test_declared_path_rules_send_spellings_to_the_guarded_route(
    app: App,
) -> None:
    """With the service's `paths` set, the guarded route takes every spelling.

    Without a session it answers 401. With one the path is forwarded as it was sent,
    apart from dot segments.
    """
    async with (
        lenient(app) as up,
        gateway(
            f"http://127.0.0.1:{up.port}",
            more_routes=GUARDS,
            service={"paths": {"case": "insensitive", "final_slash": "ignored"}},
        ) as gw,
    ):
        for method, target, handler in SPELLINGS:
            assert await handler_or_status(gw, method, target) == "401", target
            body = {"body": b""} if method == "POST" else {}
            reply = await gw.ask(
                method, target, ("Authorization", "Bearer ann"), **body
            )
            assert (reply.status, reply.one("X-Handler")) == (200, handler)
            resolved = target.replace("/./", "/").removesuffix(".")
            assert reply.one("X-Url") == resolved
        assert await handler_or_status(gw, "DELETE", "/Orders/1/Refund") == "405"
        assert await handler_or_status(gw, "GET", "/admin;x") == "404", (
            "a path parameter is still a near miss"
        )

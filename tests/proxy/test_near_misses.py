"""Guards in front of Express and Koa, which read paths more loosely than routes do.

The rule is tested in test_routes_near_misses.py, here with real services.
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
"""Beside a public route for all other paths, to the same service."""

SPELLED = [
    ("GET", "/Admin", "admin"),
    ("GET", "/ADMIN/users", "users"),
    ("GET", "/secret/", "secret"),
    ("GET", "/SECRET", "secret"),
    ("POST", "/orders/1/refund/", "refund"),
    ("POST", "/orders/1/Refund", "refund"),
    ("POST", "/orders/1/./refund/.", "refund"),
]
"""Method, target, and the handler that serves it."""

each_app = pytest.mark.parametrize("app", ["express", "koa"])


async def served(gw: UnderTest, method: str, target: str, *fields: Any) -> str:
    """Return the handler that served a request, or the status of a refusal."""
    body = b"" if method == "POST" else None
    reply = await gw.ask(
        method, target, *fields, **({} if body is None else {"body": body})
    )
    return str(reply.one("X-Handler") if reply.status == 200 else reply.status)


@each_app
async def test_without_the_rule_the_service_serves_what_is_guarded(app: App) -> None:
    """The positive control: these spellings do reach the guarded handlers."""
    async with (
        lenient(app) as up,
        gateway(
            f"http://127.0.0.1:{up.port}",
            more_routes=GUARDS,
            settings={"near_misses": "forward"},
        ) as gw,
    ):
        for method, target, handler in SPELLED:
            assert await served(gw, method, target) == handler, target
        assert await served(gw, "GET", "/admin") == "401"


@each_app
async def test_no_spelling_passes_a_guard(app: App) -> None:
    """404, the log names both routes, and no connection to the service was made."""
    async with (
        lenient(app) as up,
        gateway(f"http://127.0.0.1:{up.port}", more_routes=GUARDS) as gw,
    ):
        for method, target, handler in SPELLED:
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
        assert await served(gw, "GET", "/Elsewhere/") == "other"


@each_app
async def test_a_service_that_says_how_it_reads_is_served_by_its_guards(
    app: App,
) -> None:
    """With `paths` the request takes the guarded route, and goes on as it was sent."""
    async with (
        lenient(app) as up,
        gateway(
            f"http://127.0.0.1:{up.port}",
            more_routes=GUARDS,
            service={"paths": {"case": "insensitive", "final_slash": "ignored"}},
        ) as gw,
    ):
        for method, target, handler in SPELLED:
            assert await served(gw, method, target) == "401", target
            body = {"body": b""} if method == "POST" else {}
            reply = await gw.ask(
                method, target, ("Authorization", "Bearer ann"), **body
            )
            assert (reply.status, reply.one("X-Handler")) == (200, handler)
            resolved = target.replace("/./", "/").removesuffix(".")
            assert reply.one("X-Url") == resolved
        assert await served(gw, "DELETE", "/Orders/1/Refund") == "405"
        assert await served(gw, "GET", "/admin;x") == "404", (
            "it may still be a near miss"
        )

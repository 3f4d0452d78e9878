"""Which requests have an assertion, and for whom: for the service that gets them."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from faults import (
    OK,
    FaultUpstream,
    Received,
    answer,
    answer_and_close,
    until,
)
from gateway_under_test import UnderTest, gateway

from gateway.assertions import generate

ANN = ("Authorization", "Bearer ann")
PATH = "/.well-known/gateway-jwks.json"


def asserted(request: Received) -> dict[str, Any] | None:
    """Return the claims of the assertion that a service got; None: it got none.

    There is at most one field with the name, however it is spelled.
    """
    values = [
        line.partition(b":")[2].strip()
        for line in request.head.split(b"\r\n")[1:]
        if b"assertion" in line.partition(b":")[0].lower()
    ]
    if not values:
        return None
    (value,) = values
    body = value.split(b".")[1]
    claims: dict[str, Any] = json.loads(urlsafe_b64decode(body + b"=" * 3))
    return claims


def audience(request: Received) -> str | None:
    """Return for whom the assertion is that a service got; None: it got none."""
    claims = asserted(request)
    return None if claims is None else claims["aud"]


@asynccontextmanager
async def asserting(
    folder: Path, *targets: str, **options: Any
) -> AsyncIterator[UnderTest]:
    """Run a gateway with a key; its route needs a session."""
    key = folder / "a.pem"
    if not key.exists():
        generate(key)
    route = {"protected": True, **options.pop("route", {})}
    settings = {"assertion": {"keys": [str(key)]}, **options.pop("settings", {})}
    async with gateway(*targets, route=route, settings=settings, **options) as gw:
        yield gw


@pytest.mark.parametrize(
    ("route", "service", "fields", "expected"),
    [
        ({}, {}, [ANN], "up"),
        ({}, {"assertion": {"audience": "orders"}}, [ANN], "orders"),
        ({"protected": "optional"}, {}, [ANN], "up"),
        ({"protected": "optional"}, {}, [], None),
        ({"protected": False}, {}, [ANN], None),
        ({"assertion": False}, {}, [ANN], None),
        ({}, {"assertion": False}, [ANN], None),
        ({"assertion": True}, {"assertion": False}, [ANN], None),
        ({"assertion": False}, {"assertion": {"audience": "orders"}}, [ANN], None),
    ],
)
async def test_sessions_have_one_unless_it_is_off(
    route: dict[str, Any],
    service: dict[str, Any],
    fields: list[tuple[str, str]],
    expected: str | None,
    tmp_path: Path,
) -> None:
    """Anonymous requests never have one; route and service may turn it off."""
    async with (
        FaultUpstream(answer()) as up,
        asserting(tmp_path, up.url, route=route, service=service) as gw,
    ):
        assert (await gw.ask("GET", "/a", *fields)).status == 200
        assert audience(up.requests[0]) == expected


async def test_a_group_turns_it_off_and_its_route_on(tmp_path: Path) -> None:
    """The nearest of the two counts."""
    async with (
        FaultUpstream(answer()) as up,
        asserting(
            tmp_path,
            up.url,
            more_routes=[
                {"path": "/off", "assertion": False},
                {"path": "/off/on"},
            ],
        ) as gw,
    ):
        for path in ("/a", "/off", "/off/on"):
            await gw.ask("GET", path, ANN)
        assert [audience(one) for one in up.requests] == ["up", None, "up"]


FORGED = [
    "X-Identity-Assertion",
    "x-identity-assertion",
    "X_Identity_Assertion",
    "x.identity.assertion",
    "X-Identity_Assertion",
    "x~identity!assertion",
    "X-Identity-Assertion-For",
]


@pytest.mark.parametrize("name", FORGED)
@pytest.mark.parametrize("is_on", [True, False], ids=["on", "off"])
@pytest.mark.parametrize("protected", [True, False, "optional"])
async def test_no_client_sets_it(
    name: str, is_on: bool, protected: Any, tmp_path: Path
) -> None:
    """In no spelling, on no route, whether the gateway signs or not."""
    settings = {} if is_on else {"assertion": None}
    fields = [ANN] if protected is True else []
    async with (
        FaultUpstream(answer()) as up,
        asserting(
            tmp_path, up.url, route={"protected": protected}, settings=settings
        ) as gw,
    ):
        reply = await gw.ask("GET", "/a", (name, "evil"), *fields)
        assert reply.status == 200
        assert b"evil" not in up.requests[0].head
        is_signed = is_on and protected is True
        assert audience(up.requests[0]) == ("up" if is_signed else None)


async def test_connection_removes_no_assertion(tmp_path: Path) -> None:
    """`Connection: X-Identity-Assertion` is about the client's fields only."""
    async with FaultUpstream(answer()) as up, asserting(tmp_path, up.url) as gw:
        field = ("Connection", "x-identity-assertion")
        assert (await gw.ask("GET", "/a", ANN, field)).status == 200
        assert audience(up.requests[0]) == "up"


async def test_a_split_request_is_for_the_service_that_gets_it(tmp_path: Path) -> None:
    """No service gets one for the other; one of them may get none."""
    async with (
        FaultUpstream(answer()) as old,
        FaultUpstream(answer()) as new,
        FaultUpstream(answer()) as bare,
    ):

        def split(to: str) -> dict[str, Any]:
            by = {"to": to, "weight": 0, "override": "header:X-Canary"}
            return {"split": by}

        async with asserting(
            tmp_path,
            old.url,
            route=split("new"),
            service={"assertion": {"audience": "orders"}},
            more_services={
                "new": {"targets": [new.url]},
                "bare": {"targets": [bare.url], "assertion": False},
            },
            more_routes=[
                {"path": "/bare", **split("bare")},
                {"path": "/off", "assertion": False, **split("new")},
            ],
        ) as gw:
            for path in ("/a", "/bare", "/off"):
                for choice in ("always", "never"):
                    fields = (ANN, ("X-Canary", choice))
                    assert (await gw.ask("GET", path, *fields)).status == 200
        assert [audience(one) for one in old.requests] == ["orders", "orders", None]
        assert [audience(one) for one in new.requests] == ["new", None]
        assert [audience(one) for one in bare.requests] == [None]


@pytest.mark.parametrize(
    ("shadow", "route", "expected"),
    [
        ({}, {}, "shadow"),
        ({"assertion": {"audience": "tests"}}, {}, "tests"),
        ({"assertion": False}, {}, None),
        ({}, {"assertion": False}, None),
    ],
)
async def test_a_copy_is_for_the_service_that_gets_it(
    shadow: dict[str, Any], route: dict[str, Any], expected: str | None, tmp_path: Path
) -> None:
    """The mirror's service can't use it at the real one."""
    async with FaultUpstream(answer()) as up, FaultUpstream(answer()) as copies:
        async with asserting(
            tmp_path,
            up.url,
            route=route,
            service={"mirror": {"service": "shadow"}},
            more_services={"shadow": {"targets": [copies.url], **shadow}},
        ) as gw:
            assert (await gw.ask("GET", "/a", ANN)).status == 200
            await until(lambda: copies.requests)
        assert audience(up.requests[0]) == (None if route else "up")
        assert audience(copies.requests[0]) == expected


async def test_a_retry_has_one_assertion(tmp_path: Path) -> None:
    """It is added to each try, not to what was sent before."""
    async with (
        FaultUpstream(answer_and_close(b"")) as broken,
        FaultUpstream(answer()) as good,
        asserting(tmp_path, broken.url, good.url, log_expected=True) as gw,
    ):
        for _ in range(4):
            assert (await gw.ask("GET", "/a", ANN)).status == 200
        assert len(good.requests) == 4
        assert {audience(one) for one in broken.requests + good.requests} == {"up"}


async def test_a_body_and_an_upgrade_keep_their_framing(tmp_path: Path) -> None:
    """The field comes after those that frame the request."""
    async with FaultUpstream(answer()) as up, asserting(tmp_path, up.url) as gw:
        assert (await gw.ask("POST", "/a", ANN, body=b"abc")).status == 200
        assert up.requests[0].body == b"abc"
        assert audience(up.requests[0]) == "up"


async def test_a_session_that_is_too_large_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """431 in place of a request without identity; a copy isn't sent, either."""
    monkeypatch.setattr("gateway.assertions.signing.MAX_IDENTITY_BYTES", 300)
    async with (
        FaultUpstream(answer()) as up,
        FaultUpstream(answer()) as copies,
        asserting(
            tmp_path,
            up.url,
            service={"mirror": {"service": "shadow"}},
            more_services={"shadow": {"targets": [copies.url]}},
        ) as gw,
    ):
        reply = await gw.ask("GET", "/a", ANN)
        assert (reply.status, reply.json()["code"]) == (431, "identity_too_large")
        assert up.requests == copies.requests == []


# --- the keys ---


async def test_everyone_gets_the_public_keys(tmp_path: Path) -> None:
    """From the gateway itself, with GET and HEAD; caches keep them for 5 minutes."""
    kid = generate(tmp_path / "a.pem").kid
    async with FaultUpstream(answer()) as up, asserting(tmp_path, up.url) as gw:
        reply = await gw.ask("GET", PATH)
        assert reply.status == 200
        assert reply.one("Content-Type") == "application/jwk-set+json"
        assert reply.one("Cache-Control") == "public, max-age=300"
        assert [key["kid"] for key in reply.json()["keys"]] == [kid]
        assert (await gw.record()).route == "/jwks"
        assert (await gw.ask("GET", f"{PATH}?v=1")).body == reply.body
        head = await gw.ask("HEAD", PATH)
        assert (head.status, head.body) == (200, b"")
        assert head.one("Content-Length") == str(len(reply.body))
        for method in ("POST", "PUT", "DELETE"):
            refused = await gw.ask(method, PATH)
            assert (refused.status, refused.one("Allow")) == (405, "GET, HEAD")
        assert up.requests == []


async def test_without_keys_the_path_is_a_route_like_others() -> None:
    """Nothing is reserved if nothing is signed."""
    async with FaultUpstream(answer(OK)) as up, gateway(up.url) as gw:
        assert (await gw.ask("GET", PATH)).status == 200
        assert len(up.requests) == 1

"""The trace fields that services get, with real clients and services.

tests/headers/test_trace_context.py has the forms of the fields.
"""

from __future__ import annotations

import re
from typing import Any

import pytest
from faults import OK, FaultUpstream, Received, answer
from gateway_under_test import gateway

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"
SENT = (("traceparent", f"00-{TRACE}-{SPAN}-01"), ("tracestate", "a=1"))
BUSY = OK.replace(b"200 OK", b"503 Busy")
BY_PROXY = {"trusted_proxies": ["127.0.0.1"]}
UPGRADE = (
    ("Connection", "Upgrade"),
    ("Upgrade", "websocket"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


def parent(request: Received) -> tuple[str, str, str]:
    """Return trace id, span id and flags of the only traceparent of *request*."""
    fields = re.findall(rb"(?im)^traceparent: (.*)\r$", request.head)
    assert len(fields) == 1
    found = re.fullmatch(r"00-(\w{32})-(\w{16})-(\w\w)", fields[0].decode())
    assert found is not None
    return found[1], found[2], found[3]


@pytest.mark.parametrize(
    ("tracing", "settings", "goes_on", "flags", "state"),
    [
        ({}, {}, False, "00", None),
        ({"inbound": "restart"}, {}, False, "00", None),
        ({"inbound": "continue"}, {}, True, "00", None),
        ({}, BY_PROXY, True, "01", b"a=1"),
        ({"inbound": "continue"}, BY_PROXY, True, "01", b"a=1"),
    ],
)
async def test_whose_trace_goes_on(
    tracing: dict[str, Any],
    settings: dict[str, Any],
    goes_on: bool,
    flags: str,
    state: bytes | None,
) -> None:
    """A trusted proxy's; a client's if the file says so. The log has its id."""
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, tracing=tracing, settings=settings) as gw,
    ):
        await gw.ask("GET", "/a", *SENT)
        trace_id, span_id, sampled = parent(upstream.requests[0])
        assert (trace_id == TRACE) == goes_on
        assert span_id != SPAN
        assert sampled == flags
        assert upstream.requests[0].field(b"tracestate") == state
        assert (await gw.record()).trace_id == trace_id


async def test_each_request_has_a_trace() -> None:
    """Without a field of the client's, too, and on one connection."""
    async with FaultUpstream(answer()) as upstream, gateway(upstream.url) as gw:
        for _ in range(3):
            await gw.ask("POST", "/a", body=b"x")
        ids = [parent(request)[:2] for request in upstream.requests]
        assert len({trace for trace, _ in ids}) == len({span for _, span in ids}) == 3
        assert [(await gw.record()).trace_id for _ in ids] == [one for one, _ in ids]


async def test_a_retry_has_a_span_of_its_own() -> None:
    """Services and their traces can tell tries apart."""
    async with (
        FaultUpstream(answer(BUSY)) as busy,
        gateway(busy.url, route={"retry": {"on": [503], "attempts": 2}}) as gw,
    ):
        await gw.ask("GET", "/a")
        tries = [parent(request) for request in busy.requests]
        assert len(tries) == 3
        assert len({trace for trace, _, _ in tries}) == 1
        assert len({span for _, span, _ in tries}) == 3


async def test_a_websocket_has_a_trace() -> None:
    """Its handshake is a request like others."""
    async with (
        FaultUpstream(answer(BUSY)) as upstream,
        gateway(upstream.url, route={"websocket": {"enabled": True}}) as gw,
    ):
        await gw.ask("GET", "/a", *UPGRADE, ("Origin", "https://app.example.com"))
        assert upstream.requests[0].field(b"upgrade") == b"websocket"
        trace_id, _, _ = parent(upstream.requests[0])
        assert (await gw.record()).trace_id == trace_id


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [("GET", "/a%00b", 400), ("GET", "/b", 404), ("POST", "/c", 405)],
)
async def test_refused_requests_have_a_trace(
    method: str, target: str, status: int
) -> None:
    """It stands in the log only: the service gets nothing."""
    routes = [{"path": "/c", "methods": ["GET"], "protected": False}]
    async with (
        FaultUpstream(answer()) as upstream,
        gateway(upstream.url, route={"path": "/a"}, more_routes=routes) as gw,
    ):
        assert (await gw.ask(method, target, *SENT)).status == status
        record = await gw.record()
        assert re.fullmatch("[0-9a-f]{32}", record.trace_id or "")
        assert record.trace_id != TRACE
        assert not upstream.requests

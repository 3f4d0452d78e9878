"""Copies of requests to another service (`mirror`), which nobody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest
from faults import FAULTS, OK, Behaviour, FaultUpstream, Peer, answer, black_hole, until
from gateway_under_test import UnderTest, gateway

from gateway import mirroring
from gateway.mirroring import MAX_BODY


@asynccontextmanager
async def mirrored(
    service: str,
    shadow: str,
    *,
    route: Mapping[str, Any] | None = None,
    log_expected: bool = False,
    **mirror: Any,
) -> AsyncIterator[UnderTest]:
    """Run a gateway whose service is copied to *shadow*."""
    async with gateway(
        service,
        service={"mirror": {"service": "shadow", **mirror}},
        route=route,
        more_services={"shadow": {"targets": [shadow], "keep_alive": 60}},
        log_expected=log_expected,
    ) as gw:
        yield gw


def counts(gw: UnderTest) -> dict[str, int]:
    """Return how many copies had each outcome; those without any are left out."""
    here = gw.proxy.dependencies.mirroring
    assert here is not None
    return {outcome: count for _, _, outcome, count in here.counts() if count}


async def test_a_copy_has_the_same_fields_and_a_mark() -> None:
    """Identity, path, query and trace are the request's; Host is the target's own."""
    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(answer()) as shadow,
        mirrored(
            real.url,
            shadow.url,
            route={"path": "/api", "rewrite": "strip", "protected": True},
        ) as gw,
    ):
        reply = await gw.ask(
            "GET",
            "/api/a?b=1",
            ("Authorization", "Bearer ann"),
            ("X-User-Id", "eve"),
            ("X-Shadow", "0"),
        )
        assert reply.status == 200
        await until(lambda: counts(gw) == {"answered": 1})
        assert (await gw.record()).upstream == "up"
        (request,), (copy,) = real.requests, shadow.requests
        assert copy.line == request.line == b"GET /a?b=1 HTTP/1.1"
        assert copy.field(b"host") == shadow.url.removeprefix("http://").encode()
        lines = [
            [line for line in one.head.split(b"\r\n") if not line.startswith(b"Host:")]
            for one in (copy, request)
        ]
        assert b"X-User-Id: ann" in lines[1]
        assert [line for line in lines[0] if line not in lines[1]] == [b"X-Shadow: 1"]
        assert [line for line in lines[1] if line not in lines[0]] == []
        assert b"x-shadow" not in request.head.lower()


@pytest.mark.parametrize(
    "behaviour",
    [
        FAULTS["hang before head"],
        FAULTS["close before reply"],
        FAULTS["reset in body"],
        answer(OK.replace(b"200 OK", b"500 Oh")),
    ],
    ids=["hangs", "closes", "resets", "500"],
)
async def test_the_client_does_not_notice(behaviour: Behaviour) -> None:
    """Whatever the other service does; its connections are closed at the end."""
    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(behaviour) as shadow,
        mirrored(real.url, shadow.url) as gw,
    ):
        for _ in range(3):
            reply = await gw.ask("GET", "/a")
            assert (reply.status, reply.body) == (200, b"ok")
        await until(lambda: len(shadow.requests) == 3)
        assert [(await gw.record()).note for _ in range(3)] == [""] * 3


async def test_a_service_that_takes_no_connection(closed_port: int) -> None:
    """It refuses, or never answers."""
    async with (
        FaultUpstream(answer()) as real,
        black_hole() as port,
        mirrored(real.url, f"http://127.0.0.1:{closed_port}") as refused,
        mirrored(real.url, f"http://127.0.0.1:{port}") as lost,
    ):
        for gw in (refused, lost):
            assert (await gw.ask("GET", "/a")).status == 200
        await until(lambda: counts(refused) == {"failed": 1})


async def test_copies_have_a_number_of_their_own() -> None:
    """What is above it is dropped; the real service gets all requests."""
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await go_on.wait()
        await peer.send(OK)

    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(slow) as shadow,
        mirrored(real.url, shadow.url, in_flight=2) as gw,
    ):
        for _ in range(5):
            assert (await gw.ask("GET", "/a")).status == 200
        assert counts(gw) == {"dropped": 3}
        go_on.set()
        await until(lambda: counts(gw) == {"dropped": 3, "answered": 2})
        assert (len(real.requests), len(shadow.requests)) == (5, 2)


@pytest.mark.parametrize(
    ("methods", "method", "copied"),
    [
        (None, "GET", True),
        (None, "HEAD", True),
        (None, "POST", False),
        (None, "DELETE", False),
        (["POST"], "POST", True),
        (["POST"], "GET", False),
    ],
)
async def test_only_safe_methods_unless_others_are_listed(
    methods: list[str] | None, method: str, copied: bool
) -> None:
    """A copy of a POST would act a second time."""
    keys: dict[str, Any] = {} if methods is None else {"methods": methods}
    async with (
        FaultUpstream(answer(b"HTTP/1.1 204 No Content\r\n\r\n")) as real,
        FaultUpstream(answer(b"HTTP/1.1 204 No Content\r\n\r\n")) as shadow,
        mirrored(real.url, shadow.url, **keys) as gw,
    ):
        assert (await gw.ask(method, "/a")).status == 204
        if copied:
            await until(lambda: counts(gw) == {"answered": 1})
        assert counts(gw) == ({"answered": 1} if copied else {})
        assert len(shadow.requests) == copied


@pytest.mark.parametrize(
    ("size", "outcome"),
    [(3, "answered"), (MAX_BODY, "answered"), (MAX_BODY + 1, "dropped")],
)
async def test_a_body_that_is_here_is_copied(size: int, outcome: str) -> None:
    """Up to 64 KiB; the buffer lets it arrive first."""
    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(answer()) as shadow,
        mirrored(
            real.url,
            shadow.url,
            methods=["POST"],
            route={"request": {"buffer": "1MiB"}},
        ) as gw,
    ):
        body = b"x" * size
        assert (await gw.ask("POST", "/a", body=body)).status == 200
        await until(lambda: counts(gw) == {outcome: 1})
        assert [one.body for one in real.requests] == [body]
        assert [one.body for one in shadow.requests] == (
            [body] if outcome == "answered" else []
        )


async def test_a_body_that_arrives_in_pieces_is_not_copied() -> None:
    """It would have to be kept."""
    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(answer()) as shadow,
        mirrored(
            real.url,
            shadow.url,
            methods=["POST"],
            route={"request": {"buffer": 0}},
        ) as gw,
        gw.connect() as wire,
    ):
        head = b"POST /a HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n"
        await wire.send(head + b"ab")
        await real.got_request.wait()
        await wire.send(b"cd")
        assert (await wire.reply("POST")).status == 200
        assert counts(gw) == {"dropped": 1}
        assert not shadow.requests


async def test_a_long_reply_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its connection is closed; a short one's is used again."""
    monkeypatch.setattr(mirroring, "MAX_REPLY", 1000)
    lengths = [10, 10, 10_000]

    async def by_turns(peer: Peer) -> None:
        while True:
            await peer.request()
            length = lengths.pop(0)
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % length
            await peer.send(head + b"x" * min(length, 2000))
            if length > 2000:
                await peer.gone()

    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(by_turns) as shadow,
        mirrored(real.url, shadow.url) as gw,
    ):
        for number in (1, 2, 3):
            assert (await gw.ask("GET", "/a")).status == 200
            await until(lambda: sum(counts(gw).values()) >= number)  # noqa: B023 - it is awaited here
        assert counts(gw) == {"answered": 3}
        await shadow.lost.wait()
        assert shadow.connections == 1


async def test_the_share_of_the_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chance decides on each request."""
    draws = iter((0.04, 0.05, 0.9, 0.0))
    monkeypatch.setattr(mirroring, "random", lambda: next(draws))
    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(answer()) as shadow,
        mirrored(real.url, shadow.url, share=0.05) as gw,
    ):
        for _ in range(4):
            await gw.ask("GET", "/a")
        await until(lambda: counts(gw) == {"answered": 2})
        assert len(shadow.requests) == 2


async def test_a_request_that_is_refused_is_not_copied() -> None:
    """Neither service sees a request without a session."""
    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(answer()) as shadow,
        mirrored(real.url, shadow.url, route={"protected": True}) as gw,
    ):
        assert (await gw.ask("GET", "/a")).status == 401
        assert counts(gw) == {}
        assert not shadow.requests
        assert not real.requests


async def test_a_request_is_copied_once_whatever_its_retries() -> None:
    async with (
        FaultUpstream(FAULTS["close before reply"]) as real,
        FaultUpstream(answer()) as shadow,
        mirrored(real.url, shadow.url) as gw,
    ):
        assert (await gw.ask("GET", "/a")).status == 502
        await until(lambda: counts(gw) == {"answered": 1})
        assert len(real.requests) > len(shadow.requests)


async def test_a_websocket_is_not_copied() -> None:
    fields = (
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    )
    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(answer()) as shadow,
        mirrored(real.url, shadow.url) as gw,
    ):
        assert (await gw.ask("GET", "/ws", *fields)).status == 200
        assert counts(gw) == {}
        assert not shadow.requests


async def test_copies_end_with_the_gateway() -> None:
    """One that is in progress is not waited for."""
    async with (
        FaultUpstream(answer()) as real,
        FaultUpstream(FAULTS["hang before head"]) as shadow,
    ):
        async with mirrored(real.url, shadow.url) as gw:
            assert (await gw.ask("GET", "/a")).status == 200
            await shadow.got_request.wait()
        await shadow.lost.wait()


async def test_without_a_mirror_nothing_is_in_the_way() -> None:
    """The function that sends requests is the one without copies."""
    async with FaultUpstream(answer()) as real, gateway(real.url) as gw:
        assert gw.proxy.dependencies.mirroring is None
        assert gw.proxy.forwarder._exchange.__module__ == "gateway.forward"

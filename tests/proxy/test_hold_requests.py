"""Requests to a service that takes no connections for a while, with `hold`."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest
from faults import OK, FaultUpstream, Peer, answer, until
from gateway_under_test import UnderTest, gateway
from wire import request


def held(gw: UnderTest) -> int:
    """Return the number of requests that wait."""
    hold = gw.proxy.dependencies.services["up"].hold
    return 0 if hold is None else len(hold)


@dataclass
class Restarting:
    """A service whose port refuses connections until `start`, and after `stop`."""

    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    _server: asyncio.Server | None = None

    def __post_init__(self) -> None:
        self._reserve()

    def _reserve(self) -> None:
        """Bind the port without listening, so that nobody else takes it."""
        self._sock = socket.socket()
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._sock.bind(("127.0.0.1", self.port))
        self.port = self._sock.getsockname()[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Take connections, one request each."""
        self._server = await asyncio.start_server(self._serve, sock=self._sock)

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head.partition(b" HTTP")[0])
        writer.write(OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        await writer.drain()
        writer.close()

    async def stop(self) -> None:
        """Refuse connections; requests that were taken are answered."""
        if self._server is not None:
            self._server.close()
            await self._server.wait_closed()
            self._server = None
            self._reserve()

    async def close(self) -> None:
        await self.stop()
        self._sock.close()


@asynccontextmanager
async def restarting() -> AsyncIterator[Restarting]:
    service = Restarting()
    try:
        yield service
    finally:
        await service.close()


async def test_requests_wait_for_a_service_that_starts() -> None:
    """Of any method, with and without a body; the service sees each of them once."""
    async with (
        restarting() as service,
        gateway(service.url, service={"hold": "60s"}) as gw,
    ):
        asked = [
            asyncio.create_task(
                gw.ask(("GET", "POST", "PUT")[n % 3], f"/{n}", body=b"x" * (n % 3))
            )
            for n in range(12)
        ]
        await until(lambda: held(gw) == 12)
        await service.start()
        assert [reply.status for reply in await asyncio.gather(*asked)] == [200] * 12
        seen = sorted(int(line.rpartition(b"/")[2]) for line in service.requests)
        assert seen == [*range(12)]
        assert held(gw) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_session_that_ends_meanwhile_is_refused(method: str) -> None:
    """The service never sees the request of a user who has signed out."""
    async with (
        restarting() as service,
        gateway(service.url, service={"hold": "60s"}, route={"protected": True}) as gw,
    ):
        ann, ben = (
            asyncio.create_task(
                gw.ask(method, f"/{name}", ("Authorization", f"Bearer {name}"))
            )
            for name in ("ann", "ben")
        )
        await until(lambda: held(gw) == 2)
        gw.verifier.ended.add("session-ann")
        await service.start()
        assert (await ben).status == 200
        refused = await ann
        assert refused.status == 401
        assert refused.json()["code"] == "session_ended"
        assert service.requests == [f"{method} /ben".encode()]


async def test_no_request_fails_while_a_service_is_restarted_under_load() -> None:
    """Eight clients ask one request after the other; the service restarts five times.

    A request that waits in the queue of a socket that is closed is reset: so these are
    GETs, which may be repeated.
    """
    statuses: list[int] = []
    is_over = False

    async def client(gw: UnderTest) -> None:
        while not is_over:
            statuses.append((await gw.ask("GET", "/a")).status)

    def has_asked(times: int) -> bool:
        return len(statuses) >= times

    async with (
        restarting() as service,
        gateway(service.url, service={"hold": "60s"}) as gw,
    ):
        await service.start()
        clients = [asyncio.create_task(client(gw)) for _ in range(8)]
        for restart in range(1, 6):
            await until(functools.partial(has_asked, 40 * restart))
            await service.stop()
            await until(lambda: held(gw) == 8)
            await service.start()
        await until(lambda: held(gw) == 0)
        is_over = True
        await asyncio.gather(*clients)
    assert set(statuses) == {200}


async def test_a_wait_has_an_end(closed_port: int) -> None:
    """After `hold`, or after `timeouts.total` if that is earlier."""
    for service, route in (
        ({"hold": "150ms"}, {}),
        ({"hold": "60s"}, {"timeouts": {"total": 0.15}}),
    ):
        options: Any = {"service": service, "route": route}
        async with gateway(f"http://127.0.0.1:{closed_port}", **options) as gw:
            assert (await gw.ask("POST", "/a")).status in (502, 504)
            assert (await gw.record()).reason in (
                "upstream_unreachable",
                "upstream_connect_timeout",  # of a try just before the end
            )
            assert held(gw) == 0


async def test_a_client_that_leaves_waits_no_longer(closed_port: int) -> None:
    async with gateway(
        f"http://127.0.0.1:{closed_port}", service={"hold": "60s"}
    ) as gw:
        async with gw.connect() as wire:
            await wire.send(request("POST", "/a"))
            await until(lambda: held(gw) == 1)
        await until(lambda: held(gw) == 0)


async def test_so_many_requests_wait_and_others_fail(closed_port: int) -> None:
    """As many as the service may have connections."""
    service = {"hold": "60s", "max_connections": 2}
    async with gateway(f"http://127.0.0.1:{closed_port}", service=service) as gw:
        async with gw.connect() as one, gw.connect() as other:
            for wire in (one, other):
                await wire.send(request("GET", "/a"))
            await until(lambda: held(gw) == 2)
            assert (await gw.ask("GET", "/a")).status == 502
        await until(lambda: held(gw) == 0)


async def test_a_target_that_takes_connections_is_used_at_once(
    closed_port: int,
) -> None:
    async with (
        FaultUpstream(answer()) as good,
        gateway(
            f"http://127.0.0.1:{closed_port}",
            good.url,
            service={"hold": "60s"},
            log_expected=True,
        ) as gw,
    ):
        for _ in range(10):
            assert (await gw.ask("POST", "/a")).status == 200
        assert held(gw) == 0


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_only_connections_are_waited_for(method: str) -> None:
    """A request that was sent, and can't be repeated, fails as without `hold`."""

    async def breaks(peer: Peer) -> None:
        await peer.request()

    async with (
        FaultUpstream(breaks) as bad,
        gateway(bad.url, service={"hold": "60s"}) as gw,
    ):
        assert (await gw.ask(method, "/a")).status == 502
        assert len(bad.requests) == (2 if method == "GET" else 1)


async def test_without_hold_nothing_waits(closed_port: int) -> None:
    async with (
        gateway(f"http://127.0.0.1:{closed_port}") as gw,
    ):
        assert (await gw.ask("GET", "/a")).status == 502
        assert held(gw) == 0


async def test_a_wait_ends_with_the_drain(closed_port: int) -> None:
    """A request that waits when the worker drains gets its 503 at the drain's end."""
    async with (
        gateway(
            f"http://127.0.0.1:{closed_port}",
            service={"hold": "60s"},
            settings={"drain_timeout": "150ms"},
        ) as gw,
        gw.connect() as wire,
    ):
        await wire.send(request("POST", "/a"))
        await until(lambda: held(gw) == 1)
        await gw.stop()
        reply = await wire.reply()
        assert (reply.status, reply.json()["code"]) == (503, "shutting_down")
        assert held(gw) == 0

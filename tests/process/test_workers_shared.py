"""Two real gateways with a real Redis: a session that ends at one ends at the other."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import cast

import pytest
from faults import FaultUpstream
from gateway_under_test import until_cut
from open_streams import HANDSHAKE, SESSION_ENDED, serve_upstream
from processes import DEADLINE_S, Process, command, serving
from redis_server import RedisServer, needs_redis, redis_running
from stack import Gateway, Records, User
from wire import WireReply, ask, connect, request

from gateway.app import App
from gateway.dev.core import ThreadedCore

pytestmark = needs_redis

ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  probes: {listen: 127.0.0.1:0}
  shared: {redis: "${REDIS}", on_failure: local}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services: {up: {targets: ["${UPSTREAM}"]}}
routes:
  - {name: open, path: /open, service: up, protected: false}
  - {name: private, path: /private, service: up}
"""
REFUSE = ROUTES.replace("on_failure: local", "on_failure: refuse, grace: 3s")


class Replica:
    """A running gateway, and the port of its probes."""

    def __init__(self, process: Process, port: int, probes: int) -> None:
        self.process = process
        self.port = port
        self.probes = probes

    async def get(self, target: str, user: User | None = None) -> WireReply:
        fields = () if user is None else (user.bearer,)
        return await ask(self.port, "GET", target, *fields)

    async def until(self, status: int, user: User, target: str = "/private") -> None:
        """Return when the user's requests have this status."""
        async with asyncio.timeout(DEADLINE_S):
            while (await self.get(target, user)).status != status:
                pass

    async def ready(self) -> dict[str, object]:
        """Return the check `shared` of `/readyz`, and the status."""
        reply = await ask(self.probes, "GET", "/readyz?verbose")
        check: dict[str, object] = json.loads(reply.body)["checks"]["shared"]
        return {**check, "code": reply.status}

    async def until_ready_says(self, status: str) -> dict[str, object]:
        async with asyncio.timeout(DEADLINE_S):
            while True:
                check = await self.ready()
                if check["status"] == status:
                    return check
                await asyncio.sleep(0.02)

    async def metric(self, name: str) -> float:
        reply = await ask(self.probes, "GET", "/metrics")
        for line in reply.body.decode().splitlines():
            if line.startswith(f"gateway_{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no {name}")


Start = Callable[..., Awaitable[Replica]]


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_running(tmp_path) as server:
        yield server


@pytest.fixture
async def start(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream, redis: RedisServer
) -> AsyncIterator[Start]:
    """Return a function that starts a gateway."""
    upstream.behaviour = serve_upstream
    async with AsyncExitStack() as opened:

        async def run(text: str = ROUTES, *, workers: int = 1) -> Replica:
            path = tmp_path / "routes.yaml"
            path.write_text(text, encoding="utf-8")
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", str(path), "--workers", str(workers)),
                    cwd=tmp_path,
                    environ={
                        "CORE": st_core.url,
                        "UPSTREAM": upstream.url,
                        "REDIS": redis.url,
                    },
                )
            )
            port = await serving(process)
            probes = await process.until_said(rb"probes on http://127\.0\.0\.1:(\d+)")
            return Replica(process, port, int(probes[1]))

        yield run


async def sign_up(replica: Replica, core: ThreadedCore) -> User:
    url = f"http://127.0.0.1:{replica.port}"
    one = Gateway(app=cast("App", None), url=url, records=Records(), any_core=core)
    return await one.sign_up()


async def test_a_sign_out_ends_the_session_at_every_replica(
    start: Start, st_core: ThreadedCore
) -> None:
    """Requests are refused there; WebSockets and streams are closed.

    Both workers of the other gateway know, and another user's session goes on.
    """
    here, there = await start(), await start(workers=2)
    user, other = await sign_up(here, st_core), await sign_up(here, st_core)
    async with connect(there.port) as socket, connect(there.port) as stream:
        await socket.send(request("GET", "/private", user.bearer, *HANDSHAKE))
        assert (await socket.head()).status == 101
        await stream.send(request("GET", "/private/events", user.bearer))
        assert (await stream.head()).status == 200
        assert await stream.chunk() == b"1\n"
        assert (await there.get("/private", user)).status == 200
        assert (await user.sign_out()).status == 200
        assert await socket.rest() == SESSION_ENDED
        assert await until_cut(stream) == b""
    await there.until(401, user)
    for _ in range(8):
        assert (await there.get("/private", user)).status == 401
    assert (await there.get("/private", other)).status == 200
    assert await here.metric("shared_store_connected") == 1
    assert await here.metric('shared_denials_total{direction="sent"}') == 1
    assert await there.metric('shared_denials_total{direction="received"}') == 1


async def test_a_replica_that_starts_later_knows_before_it_accepts(
    start: Start, st_core: ThreadedCore
) -> None:
    """It reads the stream first: its very first answer is 401."""
    here = await start()
    user = await sign_up(here, st_core)
    assert (await user.sign_out()).status == 200
    async with asyncio.timeout(DEADLINE_S):
        while await here.metric('shared_denials_total{direction="sent"}') < 1:
            pass
    there = await start()
    assert (await there.get("/private", user)).status == 401


async def test_nothing_is_lost_when_redis_is_killed_or_hangs(
    start: Start, st_core: ThreadedCore, redis: RedisServer
) -> None:
    """What was signed out meanwhile, or was in the lost data, is known afterwards.

    Requests and sign-outs are served all the while, and /readyz says what is wrong.
    """
    here, there = await start(), await start()
    users = [await sign_up(here, st_core) for _ in range(3)]
    assert (await users[0].sign_out()).status == 200
    await there.until(401, users[0])
    redis.kill()
    trouble = await here.until_ready_says("degraded")
    assert trouble["code"] == 200
    assert "the shared store can't be used" in str(trouble["reason"])
    assert (await users[1].sign_out()).status == 200
    assert (await here.get("/private", users[1])).status == 401
    assert (await there.get("/private", users[1])).status == 200
    await redis.start()
    await there.until(401, users[1])
    await there.until_ready_says("ok")
    redis.hang()
    for replica in (here, there):
        await replica.until_ready_says("degraded")
    assert (await users[2].sign_out()).status == 200
    assert (await there.get("/private", users[2])).status == 200
    redis.resume()
    await there.until(401, users[2])
    # Of the store that was lost, too: a replica that starts now knows all.
    await here.until_ready_says("ok")
    later = await start()
    for user in users:
        assert (await later.get("/private", user)).status == 401
    said = re.findall(rb"is used: stream|can't be used:", here.process.err)
    is_used, is_not = b"is used: stream", b"can't be used:"
    assert said[:5] == [is_used, is_not, is_used, is_not, is_used]


async def test_without_redis_a_gateway_starts_with_what_it_has(
    start: Start, st_core: ThreadedCore, redis: RedisServer
) -> None:
    """With `local` it serves; a sign-out reaches the store when that is there."""
    redis.kill()
    here = await start()
    assert (await here.ready())["status"] == "degraded"
    user = await sign_up(here, st_core)
    assert (await here.get("/private", user)).status == 200
    assert (await user.sign_out()).status == 200
    await redis.start()
    await here.until_ready_says("ok")
    there = await start()
    assert (await there.get("/private", user)).status == 401


async def test_refuse_answers_sessions_with_503_while_the_store_is_away(
    start: Start, st_core: ThreadedCore, redis: RedisServer, upstream: FaultUpstream
) -> None:
    """After the grace, and only requests with a session. It ends when Redis is back."""
    here = await start(REFUSE)
    user = await sign_up(here, st_core)
    assert (await here.get("/private", user)).status == 200
    redis.hang()
    await here.until(503, user)
    seen = len(upstream.requests)
    refused = await here.get("/private", user)
    assert (refused.status, refused.one("Retry-After")) == (503, "1")
    await here.process.until_said(b"denials_unknown")
    assert len(upstream.requests) == seen
    assert (await here.get("/private")).status == 401
    assert (await here.get("/open")).status == 200
    redis.resume()
    await here.until(200, user)


async def test_a_stop_sends_the_last_sign_outs(
    start: Start, st_core: ThreadedCore
) -> None:
    """A sign-out that was answered just before SIGTERM is known to others."""
    here, there = await start(), await start()
    user = await sign_up(here, st_core)
    assert (await user.sign_out()).status == 200
    begun = time.monotonic()
    here.process.signal(signal.SIGTERM)
    assert await here.process.ended() == 0
    assert time.monotonic() - begun < DEADLINE_S
    await there.until(401, user)

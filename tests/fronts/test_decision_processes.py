"""The decision listeners of real processes: drained, upgraded, killed, and slow.

A front takes no answer for a no. So every yes must be right, and what a process can't
decide any more gets none.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from faults import FaultUpstream, until
from grpc_client import Ask, asking, fields, question
from processes import Process, command, until_refused, workers
from stack import Gateway, Records, User
from wire import WireReply, connect, request

from gateway.app import App
from gateway.dev.core import ThreadedCore

ROUTES = """\
version: 1
gateway:
  listen: "127.0.0.1:0"
  decision: {listen: "127.0.0.1:0", endpoints: [forward-auth], grpc: "127.0.0.1:0"}
  drain_timeout: 60
  pidfile: "FOLDER/gateway.pid"
supertokens:
  connection_uri: "${CORE}"
  core: {timeout: 60}
  recipes: {emailpassword: {}}
services: {up: {targets: ["${UPSTREAM}"]}}
routes:
  - {path: /open, service: up, protected: false}
  - {path: /checked, service: up, session: {check_database: always}}
"""
VERIFY = "*/recipe/session/verify"
"""What the core is asked for `check_database`."""


@dataclass
class Decider:
    """A running gateway that fronts ask, and a user with a session."""

    process: Process
    http: int
    grpc: int
    user: User
    core: ThreadedCore
    pidfile: Path

    async def ask(self, target: str) -> WireReply:
        """Ask as Caddy does, over a connection of its own."""
        async with connect(self.http) as wire:
            await wire.send(self.http_question(target))
            return await wire.reply()

    def http_question(self, target: str) -> bytes:
        return request(
            "GET",
            "/forward-auth",
            ("X-Forwarded-For", "192.0.2.7"),
            ("X-Forwarded-Method", "GET"),
            ("X-Forwarded-Uri", target),
            ("X-Forwarded-Host", "a.test"),
            ("X-Forwarded-Proto", "https"),
            self.user.bearer,
        )

    def question(self, target: str) -> Any:
        return question(target, self.user.bearer)

    @asynccontextmanager
    async def asked(
        self, call: Ask
    ) -> AsyncIterator[tuple[Coroutine[Any, Any, WireReply], asyncio.Task[Any]]]:
        """Ask over HTTP and over gRPC; both wait for the core within the block.

        Neither has a deadline before it is awaited: an upgrade takes a while.
        """
        faults = self.core.core.faults
        faults.forget_calls()
        faults.hang(VERIFY)

        async def over_grpc() -> Any:
            return await call(self.question("/checked"), timeout_s=200.0)

        async with connect(self.http) as wire:
            await wire.send(self.http_question("/checked"))
            task = asyncio.create_task(over_grpc())
            reply = wire.reply()
            try:
                await faults.until_called(VERIFY)
                yield reply, task
            finally:
                faults.clear()
                reply.close()
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    def is_yes(self, reply: WireReply) -> bool:
        return reply.status == 200 and reply.one("X-User-Id") == self.user.id

    def is_grpc_yes(self, answer: Any) -> bool:
        return fields(answer.ok_response.headers).get("x-user-id") == [self.user.id]


@asynccontextmanager
async def deciding(
    tmp_path: Path, core: ThreadedCore, upstream: FaultUpstream, count: int = 2
) -> AsyncIterator[Decider]:
    """Run a gateway with *count* workers. No service must hear of a question."""
    path = tmp_path / "routes.yaml"
    path.write_text(ROUTES.replace("FOLDER", str(tmp_path)), encoding="utf-8")
    pidfile = tmp_path / "gateway.pid"
    async with AsyncExitStack() as opened:
        process = await opened.enter_async_context(
            command(
                *("serve", "-c", str(path), "--workers", str(count)),
                cwd=tmp_path,
                environ={"CORE": core.url, "UPSTREAM": upstream.url},
            )
        )

        def end_holder() -> None:
            with suppress(OSError, ValueError):
                os.kill(int(pidfile.read_text()), signal.SIGKILL)

        opened.callback(end_holder)
        place = rb"http://127\.0\.0\.1:(\d+)"
        said = await process.until_said(rb" on %b, %b, %b, " % (place, place, place))
        own, http, over_grpc = map(int, said.groups())
        url = f"http://127.0.0.1:{own}"
        gateway = Gateway(cast("App", None), url, Records(), core)
        user = await gateway.sign_up()
        yield Decider(process, http, over_grpc, user, core, pidfile)
    assert not upstream.connections


async def test_a_stop_answers_what_is_asked(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """Questions in progress get their answer, and new ones are refused."""
    async with (
        deciding(tmp_path, st_core, upstream) as gw,
        asking(gw.grpc) as call,
        gw.asked(call) as (http, over_grpc),
    ):
        gw.process.signal(signal.SIGTERM)
        await until_refused(gw.http)
        await until_refused(gw.grpc)
        st_core.core.faults.clear()
        assert gw.is_yes(await http)
        assert gw.is_grpc_yes(await over_grpc)
        assert await gw.process.ended() == 0
        with pytest.raises(grpc.aio.AioRpcError):
            await call(gw.question("/open"))


async def test_an_upgrade_loses_no_question(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """The next gateway has the sockets; the one before answers what it was asked."""
    async with (
        deciding(tmp_path, st_core, upstream) as gw,
        asking(gw.grpc) as call,
        gw.asked(call) as (http, over_grpc),
    ):
        before = int(gw.pidfile.read_text())
        os.kill(before, signal.SIGUSR2)
        asked = 0
        while int(gw.pidfile.read_text()) == before or asked < 20:
            assert (await gw.ask("/open")).status == 200
            async with asking(gw.grpc) as another:
                assert (await another(gw.question("/open"))).status.code == 0
            asked += 1
        st_core.core.faults.clear()
        assert gw.is_yes(await http)
        assert gw.is_grpc_yes(await over_grpc)
        await until(lambda: gw.process.child.returncode is not None)
        # Over the same channel, and a new connection: Envoy's calls go on.
        assert gw.is_grpc_yes(await call(gw.question("/checked")))
        assert gw.is_yes(await gw.ask("/checked"))
        # The output ends with the last process.
        os.kill(int(gw.pidfile.read_text()), signal.SIGTERM)
        await until_refused(gw.http)


async def test_a_killed_worker_lets_nothing_pass(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """Its questions get no answer; the next worker answers new ones."""
    async with (
        deciding(tmp_path, st_core, upstream, count=1) as gw,
        asking(gw.grpc) as call,
    ):
        async with gw.asked(call) as (http, over_grpc):
            (worker,) = workers(gw.process.child.pid)
            os.kill(worker, signal.SIGKILL)
            with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
                await http
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await over_grpc
            assert caught.value.code() == grpc.StatusCode.UNAVAILABLE
        assert gw.is_yes(await gw.ask("/checked"))
        async with asking(gw.grpc) as another:
            assert gw.is_grpc_yes(await another(gw.question("/checked")))


async def test_a_worker_that_is_slow_says_nothing(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> None:
    """Fronts that wait no longer have no answer, for public routes either."""
    async with (
        deciding(tmp_path, st_core, upstream) as gw,
        asking(gw.grpc) as call,
    ):
        assert (await call(gw.question("/open"))).status.code == 0
        stopped = workers(gw.process.child.pid)
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        try:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await gw.ask("/open")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(gw.question("/open"), timeout_s=1.0)
            assert caught.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
        finally:
            for pid in stopped:
                with suppress(OSError):
                    os.kill(pid, signal.SIGCONT)
        assert gw.is_yes(await gw.ask("/checked"))
        assert gw.is_grpc_yes(await call(gw.question("/checked")))

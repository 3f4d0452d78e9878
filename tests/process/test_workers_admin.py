"""The admin listener of a real gateway, and `gateway sessions revoke`."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, cast

import pytest
from click.testing import CliRunner, Result
from faults import FaultUpstream, until
from gateway_under_test import until_cut
from open_streams import HANDSHAKE, SESSION_ENDED, serve_upstream
from processes import DEADLINE_S, Process, ask_admin, command, serving, workers
from stack import Gateway, Records, User
from wire import Wire, WireReply, connect, request

from gateway.app import App
from gateway.cli import main
from gateway.dev.core import ThreadedCore

ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  drain_timeout: 5
  admin: {listen: "unix:${SOCKET}"}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services: {up: {targets: ["${UPSTREAM}"]}}
routes:
  - {name: open, path: /open, service: up, protected: false}
  - {name: private, path: /private, service: up}
"""


class Administered:
    """A running gateway, and the path of its admin socket."""

    def __init__(self, process: Process, port: int, path: Path, sock: str) -> None:
        self.process = process
        self.port = port
        self.path = path
        self.socket = sock

    def mode(self) -> tuple[bool, int] | None:
        """Return whether there is a socket, and its mode; None: there is no file."""
        try:
            mode = Path(self.socket).stat().st_mode
        except FileNotFoundError:
            return None
        return stat.S_ISSOCK(mode), stat.S_IMODE(mode)

    def workers(self) -> set[int]:
        """Return the process ids of the workers."""
        return workers(self.process.child.pid)

    async def ask(
        self, method: str, target: str, body: dict[str, str] | None = None
    ) -> WireReply:
        """Send one request to the admin listener; return the reply."""
        return await ask_admin(self.socket, method, target, body)

    async def show(self, target: str) -> Any:
        reply = await self.ask("GET", target)
        assert reply.status == 200, reply.body
        assert reply.one("Cache-Control") == "no-store"
        return reply.json()

    async def states(self) -> list[str]:
        """Return the states of the workers; none while the hub starts."""
        try:
            workers = await self.show("/workers")
        except (ConnectionError, FileNotFoundError, asyncio.IncompleteReadError):
            return []
        return [worker["state"] for worker in workers["workers"]]

    async def command(self, *args: str) -> Result:
        """Return the outcome of `gateway sessions revoke`."""
        given = ["sessions", "revoke", "--admin", f"unix:{self.socket}", *args]
        return await asyncio.to_thread(CliRunner().invoke, main, given)

    async def sign_up(self, core: ThreadedCore) -> User:
        url = f"http://127.0.0.1:{self.port}"
        one = Gateway(app=cast("App", None), url=url, records=Records(), any_core=core)
        return await one.sign_up()

    async def handle(self, user: User) -> str:
        """Return the handle of a user's session."""
        reply = await user.get("/user")
        assert reply.status == 200
        handle: str = reply.json()["sessionHandle"]
        return handle

    @asynccontextmanager
    async def each(self, connections: int) -> AsyncIterator[list[list[Wire]]]:
        """Yield so many connections to each of the two workers."""
        by_worker: dict[str, list[Wire]] = {}
        async with AsyncExitStack() as opened, asyncio.timeout(DEADLINE_S):
            while sum(len(w) >= connections for w in by_worker.values()) < 2:
                wire = await opened.enter_async_context(connect(self.port))
                reply = await get(wire, "/open")
                request_id = reply.one("X-Request-Id")
                assert request_id is not None
                by_worker.setdefault(request_id[:16], []).append(wire)
            yield [wires[:connections] for wires in by_worker.values()]


async def get(wire: Wire, target: str, *fields: tuple[str, str]) -> WireReply:
    await wire.send(request("GET", target, *fields))
    return await wire.reply()


@pytest.fixture
def folder() -> Iterator[str]:
    """Return a folder whose path is short enough for that of a socket."""
    with tempfile.TemporaryDirectory(prefix="gw") as path:
        yield path


Start = Callable[..., Awaitable[Administered]]


@pytest.fixture
async def start(
    tmp_path: Path, folder: str, st_core: ThreadedCore, upstream: FaultUpstream
) -> AsyncIterator[Start]:
    """Return a function that starts a gateway of two workers with an admin socket."""
    upstream.behaviour = serve_upstream
    async with AsyncExitStack() as opened:

        async def run(text: str = ROUTES) -> Administered:
            path = tmp_path / "routes.yaml"
            path.write_text(text, encoding="utf-8")
            sock = f"{folder}/admin.sock"
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", str(path), "--workers", "2"),
                    cwd=tmp_path,
                    environ={
                        "CORE": st_core.url,
                        "UPSTREAM": upstream.url,
                        "SOCKET": sock,
                        "SECRET": "sk_live_do_not_show",
                    },
                )
            )
            gateway = Administered(process, await serving(process), path, sock)
            async with asyncio.timeout(DEADLINE_S):
                while (await gateway.states()).count("accepting") < 2:
                    pass
            return gateway

        yield run


@pytest.mark.parametrize("by", ["session", "user"])
async def test_a_revocation_ends_everything_at_once(
    start: Start, st_core: ThreadedCore, by: str
) -> None:
    """WebSockets and streams close in both workers, and the next request is 401.

    The core has ended the session, too: it can't be refreshed. The same user's next
    session is valid.
    """
    gateway = await start()
    user, other = await gateway.sign_up(st_core), await gateway.sign_up(st_core)
    handle = await gateway.handle(user)
    async with gateway.each(4) as workers:
        for request_, stream, socket, theirs in workers:
            assert (await get(request_, "/private", user.bearer)).status == 200
            await socket.send(request("GET", "/private", user.bearer, *HANDSHAKE))
            assert (await socket.head()).status == 101
            await stream.send(request("GET", "/private/events", user.bearer))
            assert (await stream.head()).status == 200
            assert await stream.chunk() == b"1\n"
            assert (await get(theirs, "/private", other.bearer)).status == 200
        named = ("--session", handle) if by == "session" else ("--user", user.id)
        done = await gateway.command(*named)
        assert done.exit_code == 0, done.output
        assert done.output == (
            "gateway: all workers refuse it\ncore: 1 session(s) ended\n"
        )
        for request_, stream, socket, theirs in workers:
            assert await socket.rest() == SESSION_ENDED
            assert await until_cut(stream) == b""
            assert (await get(request_, "/private", user.bearer)).status == 401
            assert (await get(theirs, "/private", other.bearer)).status == 200
        assert (await user.refresh()).status == 401
        again = await user.enter()
        assert again.status == 200
        for request_, *_ in workers:
            assert (await get(request_, "/private", user.bearer)).status == 200
    await gateway.process.until_said(rb"admin: uid \d+ \(pid \d+\) asks to revoke the")


async def test_a_revocation_holds_here_while_the_core_is_away(
    start: Start, st_core: ThreadedCore
) -> None:
    """The workers refuse a user's tokens, although the sessions can't be listed.

    The answer says which part has failed, and the exit code is 1.
    """
    gateway = await start()
    user = await gateway.sign_up(st_core)
    assert (await user.get("/private")).status == 200
    st_core.core.faults.disconnect()
    done = await gateway.command("--user", user.id)
    assert done.exit_code == 1
    assert "gateway: all workers refuse it\n" in done.output
    assert "core: failed: the core can't be reached" in done.output
    st_core.core.faults.clear()
    async with gateway.each(1) as workers:
        for (wire,) in workers:
            assert (await get(wire, "/private", user.bearer)).status == 401


async def test_a_worker_that_starts_later_knows_a_denied_user(
    start: Start, st_core: ThreadedCore
) -> None:
    """The supervisor keeps the denial, and hands it to new workers before they accept.

    A reload doesn't lift it.
    """
    gateway = await start()
    user = await gateway.sign_up(st_core)
    st_core.core.faults.disconnect("*/recipe/session/user")
    assert (await gateway.command("--user", user.id)).exit_code == 1
    st_core.core.faults.clear()
    before = gateway.workers()
    reply = await gateway.ask("POST", "/reload")
    assert (reply.status, reply.json()["generation"]) == (200, 2)
    # They accept for another moment, and close connections without a request.
    await until(lambda: not before & gateway.workers())
    async with gateway.each(1) as workers:
        for (wire,) in workers:
            assert (await get(wire, "/private", user.bearer)).status == 401


async def test_it_shows_no_secret(start: Start) -> None:
    """Every path answers, and no answer has a value of a secret key."""
    gateway = await start(
        ROUTES.replace(
            "recipes: {emailpassword: {}}}",
            'recipes: {emailpassword: {}}, api_key: "${SECRET}"}',
        ).replace(
            "service: up, protected: false}",
            "service: up, protected: false,"
            ' request: {headers: {set: {X-Key: "${SECRET}"}}}}',
        )
    )
    dump = await gateway.show("/support-dump")
    for path in (
        *("config", "routes", "services", "targets", "keys", "workers", "version"),
    ):
        shown = await gateway.show(f"/{path}")
        assert shown.keys() == dump[path].keys() if isinstance(shown, dict) else shown
    assert "sk_live" not in json.dumps(dump)
    settings = dump["config"]["config"]
    assert settings["supertokens"]["api_key"] == "(secret)"
    assert settings["routes"][0]["request"]["headers"]["set"] == {"X-Key": "(secret)"}
    assert [route["name"] for route in dump["routes"]] == ["open", "private"]
    assert dump["services"][0]["routes"] == ["open", "private"]
    assert gateway.mode() == (True, 0o600)


async def test_a_reload_is_answered_when_it_serves(start: Start) -> None:
    """200 when the new generation serves, 422 with the problems of a refused file."""
    gateway = await start()
    before = await gateway.show("/config")
    text = gateway.path.read_text()
    gateway.path.write_text(text + "  - {path: /new, service: up, protected: false}\n")
    reply = await gateway.ask("POST", "/reload")
    assert reply.status == 200
    assert (await gateway.show("/config"))["hash"] != before["hash"]
    # The old workers accept for another 0.05 s.
    async with asyncio.timeout(DEADLINE_S):
        while True:
            async with connect(gateway.port) as wire:
                if (await get(wire, "/new")).status == 200:
                    break
    gateway.path.write_text(text + "  - {path: /new, service: none}\n")
    reply = await gateway.ask("POST", "/reload")
    assert reply.status == 422
    assert reply.json()["generation"] == 2
    assert "there is no service of this name" in reply.json()["problems"][0]


async def test_targets_are_shown_as_the_workers_see_them(start: Start) -> None:
    """Without probes, too. Workers report every second."""
    gateway = await start()
    async with asyncio.timeout(DEADLINE_S):
        while True:
            shown = await gateway.show("/targets")
            if shown and shown[0]["workers_that_send"] == 2:
                break
            await asyncio.sleep(0.05)
    (target,) = shown
    assert (target["service"], target["check"]) == ("up", None)
    assert target["connections"].keys() == {"in_use", "idle", "waiting"}


async def test_it_answers_while_all_workers_hang_and_drains(start: Start) -> None:
    """The hub has a process of its own. `/drain` is as SIGTERM, and the socket goes."""
    gateway = await start()
    workers = gateway.workers()
    for worker in workers:
        os.kill(worker, signal.SIGSTOP)
    assert len((await gateway.show("/workers"))["workers"]) == 2
    for worker in workers:
        os.kill(worker, signal.SIGCONT)
    reply = await gateway.ask("POST", "/drain")
    assert (reply.status, reply.json()) == (202, {"draining": True})
    assert await gateway.process.ended() == 0
    assert gateway.mode() is None

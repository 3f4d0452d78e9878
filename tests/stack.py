"""The parts of the end-to-end tests: a gateway in this process, and its users."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import blockbuster.blockbuster
import httpx
import pytest
from any_core import ExternalCore, new_email
from blockbuster import BlockBuster, BlockingError
from faults import Behaviour, Peer
from wire import WireReply, ask

from gateway import settings
from gateway.app import App, open_app
from gateway.dev.core import ThreadedCore
from gateway.observe import Record
from gateway.process.listening import close_listens, open_listens, urls
from gateway.process.serve import serving

DEADLINE_S = 10.0
PASSWORD = "correct-horse-1"
ORIGIN = "http://localhost:8000"
"""The website's domain by default."""


class Records:
    """The gateway's request records, kept in memory."""

    def __init__(self) -> None:
        self.all: list[Record] = []
        self._more = asyncio.Event()

    def observe(self, record: Record) -> None:
        self.all.append(record)
        self._more.set()

    async def of(self, request_id: str) -> Record:
        """Return the record of a request; wait for it, as it comes after the reply."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                for record in self.all:
                    if record.request_id == request_id:
                        return record
                self._more.clear()
                await self._more.wait()


class Outbox:
    """Records the mails of the recipes instead of sending them."""

    def __init__(self) -> None:
        self.mails: list[tuple[str, str, str]] = []

    async def send(self, kind: str, to: str, link: str) -> None:
        self.mails.append((kind, to, link))


@dataclass
class Gateway:
    """A gateway that listens on loopback."""

    app: App
    url: str
    records: Records
    any_core: ThreadedCore | ExternalCore

    @property
    def core(self) -> ThreadedCore:
        """Return the embedded core, on which faults can be set."""
        assert isinstance(self.any_core, ThreadedCore)
        return self.any_core

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    async def ask(
        self,
        method: str,
        target: str,
        *fields: tuple[str, str],
        body: bytes | None = None,
        host: str | None = "localhost",
    ) -> WireReply:
        """Send one request on a connection of its own; return the reply."""
        return await ask(self.port, method, target, *fields, body=body, host=host)

    async def sign_up(self, name: str = "ann") -> User:
        """Return a new user with a session in headers."""
        user = User(self, new_email(name))
        await user.enter("signup")
        return user

    async def record(self, reply: WireReply | httpx.Response) -> Record:
        """Return the record of the request that *reply* answered."""
        request_id = (
            reply.one("X-Request-Id")
            if isinstance(reply, WireReply)
            else reply.headers["x-request-id"]
        )
        assert request_id is not None
        return await self.records.of(request_id)


@dataclass
class User:
    """A user with a session whose tokens are sent in headers."""

    gateway: Gateway
    email: str
    id: str = ""
    access: str = ""
    refresh_token: str = ""

    @property
    def bearer(self) -> tuple[str, str]:
        return ("Authorization", f"Bearer {self.access}")

    async def enter(self, how: str = "signin") -> WireReply:
        """Sign up or in; store the tokens."""
        reply = await self.post(
            f"/auth/{how}",
            ("st-auth-mode", "header"),
            body=json.dumps(form(self.email)).encode(),
        )
        assert reply.status == 200, reply
        assert reply.json()["status"] == "OK", reply.body
        self.id = reply.json()["user"]["id"]
        self.take(reply)
        return reply

    async def refresh(self, token: str | None = None) -> WireReply:
        """Refresh with *token*, by default the last one; store the new tokens."""
        sent = self.refresh_token if token is None else token
        reply = await self.post(
            "/auth/session/refresh", ("Authorization", f"Bearer {sent}")
        )
        if reply.status == 200:
            self.take(reply)
        return reply

    async def sign_out(self) -> WireReply:
        return await self.post("/auth/signout", self.bearer)

    async def get(self, target: str, *fields: tuple[str, str]) -> WireReply:
        return await self.gateway.ask("GET", target, self.bearer, *fields)

    async def post(
        self, target: str, *fields: tuple[str, str], body: bytes = b"{}"
    ) -> WireReply:
        return await self.gateway.ask(
            "POST", target, ("Content-Type", "application/json"), *fields, body=body
        )

    def take(self, reply: WireReply) -> None:
        """Store the tokens that *reply* carries."""
        self.access = reply.one("st-access-token") or self.access
        self.refresh_token = reply.one("st-refresh-token") or self.refresh_token


Start = Callable[..., Awaitable[Gateway]]
"""The type of the fixture `start`."""


def form(email: str, password: str = PASSWORD) -> dict[str, Any]:
    """Return the body of a sign-up or sign-in."""
    return {
        "formFields": [
            {"id": "email", "value": email},
            {"id": "password", "value": password},
        ]
    }


@asynccontextmanager
async def running(
    path: Path, environ: dict[str, str], core: ThreadedCore | ExternalCore
) -> AsyncIterator[Gateway]:
    """Run the gateway that the file at *path* describes, for the block."""
    loaded = settings.load(path, environ)
    records = Records()
    listens = open_listens(loaded.config.gateway.listen, 1)
    url = urls(listens)
    try:
        async with (
            open_app(
                loaded.config, loaded.table, observer=records, email=Outbox()
            ) as app,
            serving(app, listens),
        ):
            await app.keys.refresh()  # so that no test waits for the first fetch
            yield Gateway(app=app, url=url, records=records, any_core=core)
    finally:
        close_listens(listens)


def replies(*in_turn: bytes) -> Behaviour:
    """Answer each request with the next of *in_turn*, and then always with the last."""

    async def behaviour(peer: Peer) -> None:
        while True:
            await peer.request()
            count = len(peer.upstream.requests)
            await peer.send(in_turn[min(count, len(in_turn)) - 1])

    return behaviour


@contextmanager
def no_blocking() -> Iterator[None]:
    """Fail the test if code of the gateway blocks the event loop in the block.

    Two exceptions: the development core, which isn't used in production and runs in a
    thread of its own here, and the writing of the log.
    """
    calls: list[str] = []

    class RecordedError(BlockingError):
        """Recorded, because the gateway's error boundaries would swallow it."""

        def __init__(self, func: str) -> None:
            super().__init__(func)
            calls.append(func)

    guard = BlockBuster("gateway", excluded_modules=["gateway.dev"])
    # A line of the log is written at once, by design.
    for name in ("io.TextIOWrapper.write", "io.BufferedWriter.write"):
        guard.functions[name].can_block_in("logging/__init__.py", {"emit", "flush"})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blockbuster.blockbuster, "BlockingError", RecordedError)
        guard.activate()
        try:
            yield
        finally:
            guard.deactivate()
    assert not calls, f"the event loop was blocked by {calls}"

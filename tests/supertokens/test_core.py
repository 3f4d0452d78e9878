"""The client under the SDK: places, deadlines, and connections that end."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from faults import DEADLINE_S, FaultUpstream, Peer, until

from gateway import config
from gateway.errors import CoreOutcomeUnknown, CoreUnavailable
from gateway.supertokens import core as sdk_core
from gateway.supertokens import core_answers
from gateway.supertokens.core import CoreClient

OK = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    b'Content-Length: 15\r\n\r\n{"status":"OK"}'
)


class RawCore:
    """A core on loopback; it answers only while `is_well`."""

    def __init__(self) -> None:
        self.is_well = True
        self.is_idle_kept = True
        self.open = 0
        """Connections that the client hasn't closed."""
        self.paths: list[str] = []
        self.now = self.most = 0
        """Calls under way that wait for `may_answer` (those with a password, and to
        `/held`), and the most there were."""
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def serve(self, peer: Peer) -> None:
        self.open += 1
        try:
            await self._serve(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open -= 1

    async def _serve(self, peer: Peer) -> None:
        while True:
            request = await peer.request()
            path = request.line.split()[1].decode()
            self.paths.append(path)
            is_held = b'"password"' in request.body or path == "/held"
            self.now += is_held
            self.most = max(self.most, self.now)
            if not self.is_well:
                await peer.gone()
                return
            if is_held:
                await self.may_answer.wait()
            self.now -= is_held
            await peer.send(OK)
            if not self.is_idle_kept:
                peer.writer.write_eof()
                await peer.gone()
                return


@contextlib.asynccontextmanager
async def core_and_client(
    tls: ssl.SSLContext | None = None, **settings: Any
) -> AsyncIterator[tuple[RawCore, str, CoreClient]]:
    """Yield a core, its URL and a client."""
    core = RawCore()
    async with FaultUpstream(core.serve, tls=tls) as server:
        values = config.CoreConfig.model_validate(settings)
        client = CoreClient(values, [server.url])
        try:
            yield core, server.url, client
        finally:
            await client.aclose()


async def test_a_call_cancelled_twice_leaves_no_connection() -> None:
    """K4: a second cancellation during the clean-up of the first changes nothing.

    A deadline and a client that leaves may come one after the other.
    """
    async with core_and_client() as (core, url, client):
        await client.get(f"{url}/hello")
        core.is_well = False
        for turns in range(4):
            core.paths.clear()
            calls = [
                asyncio.create_task(client.post(f"{url}/recipe/session/verify"))
                for _ in range(20)
            ]
            await until(lambda: len(core.paths) == 20)
            for call in calls:
                call.cancel()
            for _ in range(turns):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        await until(lambda: core.open == 0)
        core.is_well = True
        replies = await asyncio.gather(*(client.get(f"{url}/a") for _ in range(80)))
        assert {reply.status_code for reply in replies} == {200}
        assert core.open <= 64


async def test_every_call_is_reported_once(closed_port: int) -> None:
    """With its path, without app and tenant, and how it ended."""
    calls: list[tuple[str, str]] = []

    async def odd(peer: Peer) -> None:
        for answer in (OK, OK.replace(b"200 OK", b"400 Bad Request")):
            await peer.request()
            await peer.send(answer)
        await peer.request()

    def note(path: str, outcome: str, took_s: float) -> None:
        assert took_s >= 0
        calls.append((path, outcome))

    async with FaultUpstream(odd) as server:
        client = CoreClient(config.CoreConfig(), [server.url], on_call=note)
        await client.get(f"{server.url}/appid-a/t1/recipe/session?sessionHandle=s")
        await client.get(f"{server.url}/t1/users?limit=1")
        with pytest.raises(CoreUnavailable):
            await client.get(f"{server.url}/secret-thing")
        await client.aclose()
    assert calls == [
        *(("/recipe/session", "200"), ("/users", "400")),
        (core_answers.UNKNOWN_CALL, "broken"),
    ]
    calls.clear()
    closed = f"http://127.0.0.1:{closed_port}"
    client = CoreClient(config.CoreConfig(), [closed], on_call=note)
    with pytest.raises(CoreUnavailable):
        await client.get(f"{closed}/apiversion")
    await client.aclose()
    async with core_and_client() as (core, url, _):
        core.is_well = False
        client = CoreClient(config.CoreConfig(), [url], on_call=note)
        call = asyncio.create_task(client.post(f"{url}/recipe/session/refresh"))
        await until(lambda: core.paths)
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        await client.aclose()
    assert calls == [
        *(("/apiversion", "unreachable"), ("/recipe/session/refresh", "cancelled")),
    ]


async def test_the_core_s_certificate_is_verified(
    self_signed: ssl.SSLContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A core whose certificate no authority has signed isn't asked anything."""
    async with core_and_client(tls=self_signed) as (core, url, client):
        assert url.startswith("https://")
        with client.operation(), pytest.raises(CoreUnavailable):
            await client.get(f"{url}/users/count")
        assert core.paths == []
    trusting = ssl.create_default_context(cafile=str(tmp_path / "server.pem"))
    monkeypatch.setattr(httpx, "create_ssl_context", lambda **_: trusting)
    async with core_and_client(tls=self_signed) as (core, url, client):
        with client.operation():
            assert (await client.get(f"{url}/users/count")).status_code == 200
        assert core.paths == ["/users/count"]


async def test_an_idle_connection_that_the_core_closes_is_closed() -> None:
    """It is closed when the core closes it, and not only at the next call."""
    async with core_and_client() as (core, url, client):
        core.is_idle_kept = False
        await client.get(f"{url}/a")
        await until(lambda: core.open == 0)
        await client.get(f"{url}/a")
        assert core.paths == ["/a", "/a"]


@pytest.mark.parametrize("method", ["get", "post", "put", "delete"])
async def test_a_call_on_a_kept_connection_is_sent_once(method: str) -> None:
    """If a kept connection ends before the reply, the core may have acted."""
    paths = []

    async def once(peer: Peer) -> None:
        for answer in (OK, b""):
            paths.append((await peer.request()).line)
            await peer.send(answer)

    async with FaultUpstream(once) as server:
        client = CoreClient(config.CoreConfig(), [server.url])
        await client.get(f"{server.url}/a")
        with pytest.raises(CoreUnavailable, match="broke off"):
            await getattr(client, method)(f"{server.url}/b")
        await client.aclose()
    assert len(paths) == 2


async def test_calls_with_a_password_have_few_places() -> None:
    """At most `max_sign_in` run at once, in order; other calls don't wait for them."""
    async with core_and_client(max_sign_in=2) as (core, url, client):
        core.may_answer.clear()
        calls = [
            asyncio.create_task(
                client.post(f"{url}/{number}", json={"email": "a", "password": "b"})
            )
            for number in range(8)
        ]
        await until(lambda: core.now == 2)
        await client.post(f"{url}/recipe/session/refresh", json={"refreshToken": "c"})
        core.may_answer.set()
        await asyncio.gather(*calls)
    assert core.most == 2
    assert sorted(core.paths[:2]) == ["/0", "/1"]
    assert core.paths[2] == "/recipe/session/refresh"
    assert sorted(core.paths[3:]) == [f"/{number}" for number in range(2, 8)]


async def test_few_calls_with_a_password_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than may wait is refused at once, and wasn't sent."""
    monkeypatch.setattr(sdk_core, "_MAX_HASHING_WAITS", 3)
    async with core_and_client(max_sign_in=1) as (core, url, client):
        core.may_answer.clear()
        call = f"{url}/recipe/signin"
        calls = [
            asyncio.create_task(client.post(call, json={"password": "b"}))
            for _ in range(4)
        ]
        await until(lambda: core.now == 1)
        with pytest.raises(CoreUnavailable, match="too many calls with a") as refused:
            await client.post(call, json={"password": "b"})
        assert refused.value.may_repeat
        core.may_answer.set()
        await asyncio.gather(*calls)
    assert len(core.paths) == 4


async def test_a_call_that_is_given_up_keeps_its_place() -> None:
    """The core computes on, so the next call isn't sent before it has answered."""
    async with core_and_client(max_sign_in=1, auth_timeout=20) as (core, url, client):
        core.may_answer.clear()
        given_up = asyncio.create_task(client.post(f"{url}/a", json={"password": "b"}))
        await until(lambda: core.now == 1)
        given_up.cancel()
        with pytest.raises(asyncio.CancelledError):
            await given_up
        following = asyncio.create_task(client.post(f"{url}/b", json={"password": "b"}))
        await client.get(f"{url}/c")
        assert core.paths == ["/a", "/c"]
        core.may_answer.set()
        await following
    assert core.paths == ["/a", "/c", "/b"]
    assert core.most == 1


async def test_a_call_that_is_given_up_ends(caplog: pytest.LogCaptureFixture) -> None:
    """With a core that never answers, its place is free after `core.auth_timeout`."""
    async with core_and_client(max_sign_in=1) as (core, url, client):
        await client.get(f"{url}/hello")
        client._auth_timeout_s = 0.3
        core.is_well = False
        results = await asyncio.gather(
            *(client.post(f"{url}/a", json={"password": "b"}) for _ in range(5)),
            return_exceptions=True,
        )
        assert all(isinstance(result, CoreUnavailable) for result in results)
        core.is_well = True
        await until(lambda: core.open == 0 and not client._hashing)
        client._auth_timeout_s = DEADLINE_S
        await client.post(f"{url}/b", json={"password": "b"})
    assert not caplog.records


async def test_cancelled_waits_give_their_places_back() -> None:
    """A client that leaves while its call waits takes no place with it."""
    async with core_and_client(max_sign_in=1, max_concurrent=1) as (core, url, client):
        core.may_answer.clear()
        calls = [
            asyncio.create_task(client.post(f"{url}/a", json={"password": "b"}))
            for _ in range(5)
        ]
        await until(lambda: core.now == 1)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        core.may_answer.set()
        async with asyncio.timeout(DEADLINE_S):
            await client.post(f"{url}/b", json={"password": "b"})


async def test_session_checks_have_places_of_their_own() -> None:
    """When all places for `/auth/*` are taken, a session check is made at once."""
    async with core_and_client(max_concurrent=1) as (core, url, client):
        core.may_answer.clear()
        with client.operation():
            held = asyncio.create_task(client.get(f"{url}/held"))
        await until(lambda: core.now == 1)
        async with asyncio.timeout(DEADLINE_S):
            with client.operation(is_check=True):
                await client.post(f"{url}/recipe/session/verify", json={})
        core.may_answer.set()
        await held


async def test_lookups_leave_room_for_sessions() -> None:
    """What sign-ins look up is in flight twice for each `max_sign_in` at most, in the
    order of arrival; refreshes don't wait for them.
    """
    async with core_and_client(max_sign_in=1) as (core, url, client):
        core.may_answer.clear()
        with client.operation():
            held = [asyncio.create_task(client.get(f"{url}/held")) for _ in range(5)]
        await until(lambda: core.now == 2)
        with client.operation():
            await client.post(f"{url}/recipe/session/refresh", json={})
        assert core.now == 2
        core.may_answer.set()
        await asyncio.gather(*held)
        assert core.most == 2


async def _unreachable(client: CoreClient, url: str, core: RawCore) -> None:
    await client.post("http://127.0.0.1:1/recipe/signup", json={"password": "b"})


async def _no_place(client: CoreClient, url: str, core: RawCore) -> None:
    async with client._hashing_places:
        await client.post(f"{url}/recipe/signup", json={"password": "b"})


async def _get(client: CoreClient, url: str, core: RawCore) -> None:
    core.is_well = False
    await client.get(f"{url}/users")


async def _refresh(client: CoreClient, url: str, core: RawCore) -> None:
    core.is_well = False
    await client.post(f"{url}/tenant/recipe/session/refresh", json={})


async def _sign_up(client: CoreClient, url: str, core: RawCore) -> None:
    core.is_well = False
    await client.post(f"{url}/recipe/signup", json={"password": "b"})


async def _signed_up_before(client: CoreClient, url: str, core: RawCore) -> None:
    await client.post(f"{url}/recipe/signup", json={"password": "b"})
    core.is_well = False
    await client.get(f"{url}/users")


@pytest.mark.parametrize(
    ("ask", "kind", "detail"),
    [
        (_unreachable, CoreUnavailable, "the core can't be reached"),
        (_no_place, CoreUnavailable, "no place for a call with a password was free"),
        (_get, CoreUnavailable, "the core didn't answer in time"),
        (_refresh, CoreUnavailable, "the core didn't answer in time"),
        (_sign_up, CoreOutcomeUnknown, "the core didn't answer in time"),
        (_signed_up_before, CoreOutcomeUnknown, "the core didn't answer in time"),
    ],
)
async def test_what_may_have_acted(
    ask: Callable[[CoreClient, str, RawCore], Any],
    kind: type[CoreUnavailable],
    detail: str,
) -> None:
    """Only where nothing can have changed may the client be told to try again."""
    async with core_and_client(auth_timeout=2, max_sign_in=1) as (core, url, client):
        await client.get(f"{url}/hello")  # the first call takes longer
        with (
            pytest.raises(CoreUnavailable, match=detail) as raised,
            client.operation(),
        ):
            await ask(client, url, core)
    assert type(raised.value) is kind

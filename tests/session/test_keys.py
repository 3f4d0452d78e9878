"""The key store, with a real key server on loopback that can misbehave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from minting import Mint, private_key, segment
from yarl import URL

from gateway import config
from gateway.errors import CoreUnavailable
from gateway.pace import PACE, Pace
from gateway.session import key_reports, keys
from gateway.session.keys import BadKeySet, KeySet, KeyStore, Missing, key_set

OLD = Mint(kid="d-1")
NEW = Mint(kid="d-2", key=private_key("new"))

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class KeyServer:
    """A key server that sends *answer* and signals each request."""

    answer: Answer
    url: URL = field(default_factory=URL)
    asked: int = 0
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    was_asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked += 1
        self.paths.append(request.path)
        self.headers.append({k.lower(): v for k, v in request.headers.items()})
        self.was_asked.set()
        return await self.answer(request)

    async def asked_again(self) -> None:
        self.was_asked.clear()
        await asyncio.wait_for(self.was_asked.wait(), 5)


def publishes(*mints: Mint) -> Answer:
    return says(json.dumps({"keys": [mint.jwk() for mint in mints]}).encode())


def says(body: bytes, status: int = 200) -> Answer:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=body, status=status)

    return answer


async def hangs(_: web.Request) -> web.Response:
    await asyncio.Event().wait()
    raise AssertionError


async def hangs_up(request: web.Request) -> web.Response:
    assert request.transport is not None
    request.transport.close()
    return web.Response()


async def never_ends(request: web.Request) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    while True:
        await reply.write(b" " * 65536)


async def moves(_: web.Request) -> web.Response:
    raise web.HTTPFound("/elsewhere")


@asynccontextmanager
async def served(answer: Answer) -> AsyncIterator[KeyServer]:
    server = KeyServer(answer)
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", server.handle)
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = URL.build(scheme="http", host="127.0.0.1", port=runner.addresses[0][1])
    try:
        yield server
    finally:
        await runner.cleanup()


class Clock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


SETTINGS = config.KeysConfig(
    refresh_interval=300.0, max_stale=1000.0, cooldown=1.0, timeout=20.0
)


@asynccontextmanager
async def store(
    *urls: URL,
    clock: Clock | None = None,
    settings: config.KeysConfig = SETTINGS,
    pace: Pace = PACE,
) -> AsyncIterator[KeyStore]:
    """Run a store whose first fetch is under way."""
    found = KeyStore(urls, settings, clock=clock or Clock(), pace=pace)
    await found.start()
    try:
        yield found
    finally:
        await found.close()


def numbers(key: object) -> rsa.RSAPublicNumbers:
    assert isinstance(key, rsa.RSAPublicKey)
    return key.public_numbers()


OLD_NUMBERS = OLD.key.public_key().public_numbers()
NEW_NUMBERS = NEW.key.public_key().public_numbers()


OLD_SET = json.dumps({"keys": [OLD.jwk()]}).encode()

# --- normal operation ------------------------------------------------------------


async def test_keys_are_fetched_at_start() -> None:
    """Keys are fetched at start, before any request, and without an API key."""
    async with (
        served(publishes(OLD, NEW)) as server,
        store(server.url / "appid-x") as found,
    ):
        await found.refresh()
        assert numbers(found.get("d-1")) == OLD_NUMBERS
        assert numbers(found.get("d-2")) == NEW_NUMBERS
        assert found.get("d-3") is None
        state = found.state()
        assert server.paths == ["/appid-x/.well-known/jwks.json"]
        assert "api-key" not in server.headers[0]
    assert (state.keys, state.is_usable, state.is_fresh) == (2, True, True)
    assert (state.age_s, state.fetches, state.failures) == (0.0, 1, 0)
    assert state.error is None


async def test_keys_are_fetched_before_they_are_old() -> None:
    """A background fetch runs every `refresh_interval`."""
    often = SETTINGS.model_copy(update={"refresh_interval": 0.01})
    async with served(publishes(OLD)) as server, store(server.url, settings=often):
        for _ in range(3):
            await server.asked_again()


async def test_the_same_key_keeps_its_object() -> None:
    """A fetch with unchanged keys reports no withdrawn key to the listeners."""
    heard: list[tuple[KeySet, bool]] = []
    async with served(publishes(OLD)) as server, store(server.url) as found:
        found.subscribe(lambda keys, left: heard.append((keys, left)))
        await found.refresh()
        first = found.get("d-1")
        await found.refresh()
        assert found.get("d-1") is first
        assert [left for _, left in heard] == [False, False]
        server.answer = publishes(OLD, NEW)
        await found.refresh()
        server.answer = publishes(NEW)
        await found.refresh()
    assert [left for _, left in heard] == [False, False, False, True]
    assert heard[-1][0].jwks == {"keys": [NEW.jwk()]}


async def test_another_key_under_the_same_id_has_left() -> None:
    """A new key under an old id counts as withdrawn: tokens are verified again."""
    impostor = Mint(kid="d-1", key=private_key("impostor"))
    heard: list[bool] = []
    async with served(publishes(OLD)) as server, store(server.url) as found:
        await found.refresh()
        found.subscribe(lambda _, left: heard.append(left))
        server.answer = publishes(impostor)
        await found.refresh()
        assert numbers(found.get("d-1")) == impostor.key.public_key().public_numbers()
    assert heard == [False, True]  # the first call is for the keys already loaded


# --- an unreachable core (rows K1 to K5, K7) ----------------------------------------


async def test_start_does_not_wait_for_a_core_that_is_down() -> None:
    """K1: the process starts without keys, and reports that it has none."""
    async with served(hangs_up) as server, store(server.url) as found:
        await found.refresh()
        state = found.state()
        assert not state.is_usable
        assert not state.is_fresh
        assert state.age_s is None
        assert await found.seek("d-1") is Missing.UNAVAILABLE
        with pytest.raises(CoreUnavailable):
            await found.want("d-1")


async def test_start_does_not_wait_for_a_core_that_is_slow() -> None:
    """K2: the store becomes usable as soon as the core answers."""
    ready = asyncio.Event()

    async def later(request: web.Request) -> web.StreamResponse:
        await ready.wait()
        return await publishes(OLD)(request)

    async with served(later) as server, store(server.url) as found:
        await asyncio.wait_for(server.was_asked.wait(), 5)
        assert not found.state().is_usable
        ready.set()
        await found.refresh()
        assert found.state().is_usable


async def test_a_failed_fetch_is_tried_again_soon() -> None:
    """A failed fetch is repeated soon, without any request."""
    soon = Pace(keys_retry_s=0.01)
    async with served(says(b"", 500)) as server, store(server.url, pace=soon) as found:
        await server.asked_again()
        server.answer = publishes(OLD)
        got_keys = asyncio.Event()
        found.subscribe(lambda _keys, _left: got_keys.set())
        await asyncio.wait_for(got_keys.wait(), 5)
        assert found.state().is_fresh


FAULTS: dict[str, tuple[Answer, str]] = {
    "hangs": (hangs, "didn't answer in time"),
    "hangs up": (hangs_up, "can't be asked"),
    "status 500": (says(b"", 500), "status 500"),
    "status 429": (says(b"", 429), "status 429"),
    "redirect": (moves, "status 302"),
    "html": (says(b"<html>"), "isn't JSON"),
    "truncated": (says(b'{"keys": [{"kty"'), "isn't JSON"),
    "deep": (says(b"[" * 100_000), "isn't JSON"),
    "list": (says(b"[]"), "no list of keys"),
    "no keys": (says(b"{}"), "no list of keys"),
    "empty": (says(b'{"keys": []}'), "no usable key"),
    "unusable": (says(b'{"keys": [{"kty": "EC"}, 5, null]}'), "no usable key"),
    "huge": (says(b'{"keys": [' + b" " * 2 * 1024**2 + b"]}"), "too large"),
    "endless": (never_ends, "too large"),
}


@pytest.mark.parametrize(("fault", "error"), FAULTS.values(), ids=FAULTS.keys())
async def test_the_keys_there_are_stay(fault: Answer, error: str) -> None:
    """K3 to K5, K7: a bad answer of the core leaves the last good keys in use."""
    quick = SETTINGS.model_copy(update={"timeout": 0.2})
    clock = Clock()
    async with (
        served(publishes(OLD)) as server,
        store(server.url, clock=clock, settings=quick) as found,
    ):
        await found.refresh()
        server.answer = fault
        clock.now += 60
        await found.refresh()
        assert numbers(found.get("d-1")) == OLD_NUMBERS
        state = found.state()
        assert state.error is not None
        assert error in state.error
        assert str(server.url.port) not in state.error
        assert (state.is_usable, state.is_fresh, state.age_s) == (True, False, 60)
        # An unknown key id may be a new key, so it can't be refused.
        assert await found.seek("d-2") is Missing.UNAVAILABLE


async def test_keys_end_when_the_core_is_away_too_long() -> None:
    """After `max_stale` without the core, its keys are no longer trusted."""
    clock = Clock()
    async with (
        served(publishes(OLD)) as server,
        store(server.url, clock=clock) as found,
    ):
        await found.refresh()
        server.answer = says(b"", 500)
        clock.now += SETTINGS.max_stale - 1
        assert found.usable_for_s() == 1
        assert found.get("d-1") is not None
        clock.now += 1
        assert found.get("d-1") is None
        assert await found.seek("d-1") is Missing.UNAVAILABLE
        server.answer = publishes(OLD)
        clock.now += SETTINGS.cooldown
        assert numbers(await found.seek("d-1")) == OLD_NUMBERS


# --- keys that were handed over --------------------------------------------------


async def test_handed_keys_keep_their_age() -> None:
    """Keys of another process are used during an outage, `max_stale` from their fetch.

    The next good fetch replaces them, and so forgets what was verified with a key that
    has left.
    """
    clock = Clock()
    lefts = []
    async with (
        served(says(b"", 500)) as server,
        store(server.url, clock=clock) as found,
    ):
        found.subscribe(lambda _keys, has_left: lefts.append(has_left))
        await found.refresh()
        assert await found.seek("d-1") is Missing.UNAVAILABLE
        found.adopt(OLD_SET, clock.now - 900)
        assert numbers(found.get("d-1")) == OLD_NUMBERS
        assert found.usable_for_s() == SETTINGS.max_stale - 900
        assert not found.state().is_fresh
        clock.now += 100
        assert found.get("d-1") is None
        server.answer = publishes(NEW)
        await found.refresh()
        assert numbers(found.get("d-2")) == NEW_NUMBERS
        assert lefts == [False, True]


async def test_handed_keys_never_replace_newer_ones() -> None:
    """Neither do keys that are too old, or unusable, replace anything."""
    clock = Clock()
    async with served(publishes(NEW)) as server:
        found = KeyStore([server.url], SETTINGS, clock=clock)
        for document, age_s in (
            *((OLD_SET, SETTINGS.max_stale), (b"{}", 0), (b"\xff", 0)),
        ):
            found.adopt(document, clock.now - age_s)
            assert found.usable_for_s() <= 0
            assert not found.state().is_fresh
        await found.start()
        await found.refresh()
        for age_s in (0, 1):
            found.adopt(OLD_SET, clock.now - age_s)
            assert found.get("d-1") is None
        assert numbers(found.get("d-2")) == NEW_NUMBERS
        await found.close()


async def test_handed_keys_of_the_future_count_from_now() -> None:
    """No other process's clock makes keys last longer."""
    clock = Clock()
    found = KeyStore([], SETTINGS, clock=clock)
    found.adopt(OLD_SET, clock.now + 1e9)
    assert found.usable_for_s() == SETTINGS.max_stale


async def test_the_next_host_is_asked() -> None:
    """If a host fails, the next one is asked.

    The one that answered comes first from then on.
    """
    async with served(hangs) as dead, served(publishes(OLD)) as alive:
        quick = SETTINGS.model_copy(update={"timeout": 0.4})
        async with store(dead.url, alive.url, settings=quick) as found:
            await found.refresh()
            assert found.state().is_fresh
            await found.refresh()
        assert (dead.asked, alive.asked) == (1, 2)


async def test_no_host_at_all() -> None:
    async with store() as found:
        await found.refresh()
        assert found.state().error == "no core host is configured"


async def test_a_listener_that_fails_is_a_failed_fetch() -> None:
    """An exception in a listener counts as a failed fetch and doesn't stop the task."""

    def fails(_keys: KeySet, _left: bool) -> None:
        raise RuntimeError("secret")

    async with served(publishes(OLD)) as server, store(server.url) as found:
        found.subscribe(fails)
        await found.refresh()
        assert found.state().error == "the fetch failed (RuntimeError)"
        await found.refresh()
        assert found.state().failures == 2


async def test_an_outage_is_told_at_its_begin_and_its_end(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An outage is logged when it begins (host, reason, end of validity) and ends.

    A core that fails repeatedly is logged once a minute.
    """
    time = SimpleNamespace(time=lambda: 1_800_000_000.0)
    monkeypatch.setattr(key_reports, "time", time)
    clock = Clock()
    async with (
        served(publishes(OLD)) as server,
        store(server.url, clock=clock) as found,
    ):
        host = server.url.origin()
        for seconds, answer in (
            (0, publishes(OLD)),
            (10, says(b"", 500)),
            (1, says(b"", 500)),
            (1, says(b"x")),
            (9, publishes(OLD)),
            (1, publishes(OLD)),
            (1, says(b"", 500)),  # already logged in this minute
            (1, publishes(OLD)),
            (46, says(b"", 500)),
        ):
            clock.now += seconds
            server.answer = answer
            await found.refresh()
    begins = f"the signing keys can't be fetched: {host}: the core answered with status"
    rest = "500. Tokens are verified with the keys of before until 2027-01-15"
    assert caplog.messages == [
        f"{begins} {rest} 08:16:30 UTC",
        "the signing keys can be fetched again",
        f"{begins} {rest} 08:15:54 UTC",
    ]
    assert {record.levelname for record in caplog.records} == {"WARNING"}


async def test_a_core_that_never_was_there_is_told_with_every_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A core unreachable from the start is logged with every host, without passwords.

    No token can be verified without keys.
    """
    async with (
        served(says(b"", 404)) as server,
        store(server.url.with_user("me").with_password("secret"), server.url) as found,
    ):
        await found.refresh()
        await found.refresh()
        host = server.url.origin()
    one = f"{host}: the core answered with status 404"
    rest = "Until they are, no token can be verified: protected routes answer 503"
    assert caplog.messages == [
        f"the signing keys can't be fetched: {one}; {one}. {rest}"
    ]


# --- unknown key ids (rows E4, E5, E21, K6) -----------------------------------------


async def test_an_unknown_key_is_fetched_once_for_everyone() -> None:
    """K6: a thousand requests with a new key cause one fetch, and all get the key."""
    clock = Clock()
    async with (
        served(publishes(OLD)) as server,
        store(server.url, clock=clock) as found,
    ):
        await found.refresh()
        server.answer = publishes(OLD, NEW)
        clock.now += SETTINGS.cooldown
        got = await asyncio.gather(*(found.seek("d-2") for _ in range(200)))
        assert {numbers(key) for key in got} == {NEW_NUMBERS}
        assert server.asked == 2


async def test_forged_key_ids_cause_one_fetch_in_a_cooldown() -> None:
    """E4: after one fetch, unknown key ids are refused until the cooldown is over."""
    clock = Clock()
    async with (
        served(publishes(OLD)) as server,
        store(server.url, clock=clock) as found,
    ):
        await found.refresh()
        for number in range(50):
            assert await found.seek(f"d-forged-{number}") is Missing.UNKNOWN
        assert server.asked == 1
        clock.now += SETTINGS.cooldown
        for number in range(50):
            assert await found.seek(f"d-forged-{number}") is Missing.UNKNOWN
        assert server.asked == 2
        await found.want("d-forged")  # known to be missing: no error


async def test_a_key_that_came_meanwhile_needs_no_fetch() -> None:
    async with served(publishes(OLD)) as server, store(server.url) as found:
        await found.refresh()
        assert numbers(await found.seek("d-1")) == OLD_NUMBERS
        assert server.asked == 1


async def test_the_first_requests_wait_for_the_first_fetch() -> None:
    """Requests during the first fetch wait for it instead of being refused."""
    async with served(publishes(OLD)) as server, store(server.url) as found:
        assert numbers(await found.seek("d-1")) == OLD_NUMBERS
        assert server.asked == 1


async def test_a_hung_core_keeps_few_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """E5: a flood of forged ids can't queue up; those over the bound fail at once."""
    monkeypatch.setattr(keys, "_MAX_WAITING", 3)
    clock = Clock()
    async with (
        served(publishes(OLD)) as server,
        store(server.url, clock=clock) as found,
    ):
        await found.refresh()
        server.answer = hangs
        clock.now += SETTINGS.cooldown
        waiting = [asyncio.create_task(found.seek(f"d-{n}")) for n in range(3, 6)]
        await server.asked_again()
        assert await found.seek("d-7") is Missing.UNAVAILABLE
        assert not any(task.done() for task in waiting)
        assert found.get("d-1") is not None
        assert set(await asyncio.gather(*waiting)) == {Missing.UNAVAILABLE}
        assert server.asked == 2


async def test_a_client_that_leaves_ends_only_its_own_wait() -> None:
    """When one waiting client leaves, the fetch continues for the others."""
    go = asyncio.Event()

    async def later(request: web.Request) -> web.StreamResponse:
        await go.wait()
        return await publishes(OLD)(request)

    async with served(later) as server, store(server.url) as found:
        leaves = asyncio.create_task(found.seek("d-1"))
        stays = asyncio.create_task(found.seek("d-1"))
        await asyncio.wait_for(server.was_asked.wait(), 5)
        leaves.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaves
        go.set()
        assert numbers(await stays) == OLD_NUMBERS


async def test_closing_ends_a_fetch_that_hangs() -> None:
    """Closing the store leaves no task and no connection."""
    async with served(hangs) as server:
        found = KeyStore([server.url], SETTINGS)
        await found.start()
        await asyncio.wait_for(server.was_asked.wait(), 5)
        await found.close()
        names = {task.get_name() for task in asyncio.all_tasks()}
        assert names.isdisjoint({"keys", "keys-fetch"})
    assert await found.seek("d-1") is Missing.UNAVAILABLE


async def test_a_store_that_is_not_started_has_nothing() -> None:
    """A store that was not started is unavailable and refuses no token.

    Closing it is safe.
    """
    found = KeyStore(["http://localhost:1"], SETTINGS)
    assert await found.seek("d-1") is Missing.UNAVAILABLE
    assert found.state().error == "the key store isn't started"
    await found.close()


# --- what counts as a key --------------------------------------------------------


def changed(**changes: Any) -> dict[str, Any]:
    return {k: v for k, v in (OLD.jwk() | changes).items() if v is not ...}


def modulus(bits: int) -> str:
    return segment((1 << (bits - 1) | 1).to_bytes(bits // 8, "big"))


NO_KEYS: dict[str, object] = {
    "EC": changed(kty="EC"),
    "for encryption": changed(use="enc"),
    "RS512": changed(alg="RS512"),
    "no id": changed(kid=...),
    "empty id": changed(kid=""),
    "id number": changed(kid=5),
    "no modulus": changed(n=...),
    "modulus number": changed(n=5),
    "modulus not base64": changed(n="a"),
    "1024 bits": changed(n=modulus(1024)),
    "16384 bits": changed(n=modulus(16384)),
    "even modulus": changed(n=segment((1 << 2047).to_bytes(256, "big"))),
    "exponent 1": changed(e="AQ"),
    "even exponent": changed(e="BA"),
    "long exponent": changed(e=segment(b"\x01\x00\x00\x00\x01")),
    "text": "key",
    "null": None,
}


@pytest.mark.parametrize("entry", NO_KEYS.values(), ids=NO_KEYS.keys())
def test_what_is_no_key_is_left_out(entry: object) -> None:
    """An invalid entry is skipped; a set with no valid entry is rejected."""
    document = json.dumps({"keys": [entry, NEW.jwk()]}).encode()
    assert set(key_set(document, known=KeySet()).keys) == {"d-2"}
    with pytest.raises(BadKeySet):
        key_set(json.dumps({"keys": [entry]}).encode(), known=KeySet())


def test_use_and_alg_may_be_missing() -> None:
    """Keys without `use` or `alg` are accepted (RFC 7517 §4.2, §4.4: optional)."""
    document = json.dumps({"keys": [changed(use=..., alg=...)]}).encode()
    assert set(key_set(document, known=KeySet()).keys) == {"d-1"}


def test_the_first_of_two_keys_with_one_id_counts() -> None:
    impostor = Mint(kid="d-1", key=private_key("impostor"))
    document = json.dumps({"keys": [OLD.jwk(), impostor.jwk()]}).encode()
    found = key_set(document, known=KeySet())
    assert numbers(found.keys["d-1"]) == OLD_NUMBERS
    assert len(found.jwks["keys"]) == 1

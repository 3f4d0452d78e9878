"""Sharing over a real Redis, which is killed, hung, emptied and restarted."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from redis_server import RedisServer, needs_redis, redis_running

from gateway.config import StoreAddress
from gateway.session.deny_list import UserDenial, UserScope
from gateway.shared.entries import SharedDenials
from gateway.shared.place import StorePlace
from gateway.shared.sharing import Sharing, SharingPace

pytestmark = needs_redis

DEADLINE_S = 60.0
PACE = SharingPace(check_s=0.1, others_s=(0.1, 0.3))
HOUR = 3600.0
KEY = "gw:denials"


class Peer:
    """One gateway's sharing, and what it has reported."""

    def __init__(self, place: StorePlace, pace: SharingPace = PACE) -> None:
        self.denied: dict[str, float] = {}
        self.users: list[UserDenial] = []
        self.states: list[bool] = []
        self._more = asyncio.Event()
        self.sharing = Sharing(
            place, on_denials=self._deny, on_state=self._state, pace=pace
        )

    def _deny(self, denials: SharedDenials) -> None:
        self.denied |= denials.ends
        self.users += denials.users
        self._more.set()

    def _state(self, is_known: bool) -> None:
        self.states.append(is_known)
        self._more.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def until_known(self, *handles: str) -> None:
        await self.until(lambda: {*handles} <= {*self.denied})

    async def until_state(self, is_known: bool) -> None:
        await self.until(lambda: self.states[-1:] == [is_known])

    def deny(self, *handles: str) -> None:
        until = time.time() + HOUR
        self.sharing.deny(SharedDenials(dict.fromkeys(handles, until)))


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_running(tmp_path) as server:
        yield server


def place_at(redis: RedisServer) -> StorePlace:
    address = StoreAddress(host="127.0.0.1", port=redis.port)
    return StorePlace(address=address, key=KEY, ca_file=None, grace_s=None)


@asynccontextmanager
async def sharing(
    *places: StorePlace, pace: SharingPace = PACE
) -> AsyncIterator[list[Peer]]:
    """Yield gateways that share over these places."""
    peers = [Peer(place, pace) for place in places]
    async with AsyncExitStack() as opened:
        for peer in peers:
            peer.sharing.start()
            opened.push_async_callback(peer.sharing.close)
        yield peers


async def test_denials_reach_the_others_once(redis: RedisServer) -> None:
    """Sessions and users. The sender isn't told of its own, and counts the time."""
    place = place_at(redis)
    async with sharing(place, place) as (one, other):
        await one.until_state(True)
        await other.until_state(True)
        one.deny("a", "b")
        user = UserDenial(UserScope("u", "t"), time.time(), time.time() + HOUR)
        one.sharing.deny(SharedDenials(users=(user,)))
        await other.until_known("a", "b")
        await other.until(lambda: other.users == [user])
        await one.sharing.flush(DEADLINE_S)
        other.deny("c")
        await one.until_known("c")
        assert not {"a", "b"} & {*one.denied}
        await one.until(lambda: one.sharing.counts.lag_s is not None)
        counts = one.sharing.counts
        assert (counts.sent, counts.received, counts.waiting) == (3, 1, 0)


async def test_a_later_gateway_has_all_before_it_says_so(redis: RedisServer) -> None:
    """Also what the store got in thousands of entries."""
    place = place_at(redis)
    count = 1000
    async with sharing(place) as (one,):
        await one.until_state(True)
        for number in range(count):
            one.deny(f"h{number}")
            if number % 50 == 0:
                await one.sharing.flush(DEADLINE_S)
        await one.sharing.flush(DEADLINE_S)
        async with sharing(place) as (other,):
            await other.until_state(True)
            assert len(other.denied) == count


async def test_what_was_made_while_it_was_away_is_sent(redis: RedisServer) -> None:
    """And what the store had lost; the failure is said once, and the return, too."""
    place = place_at(redis)
    async with sharing(place, place) as (one, other):
        await one.until_state(True)
        one.deny("before")
        await other.until_known("before")
        redis.kill()
        await one.until_state(False)
        one.deny("meanwhile")
        assert one.sharing.counts.waiting == 1
        await redis.start()
        await other.until_known("meanwhile")
        await one.until_state(True)
        async with sharing(place) as (later,):
            await later.until_known("before", "meanwhile")


async def test_a_hung_store_is_noticed_and_delays_nothing(redis: RedisServer) -> None:
    """Denials are taken at once; afterwards everybody has them."""
    place = place_at(redis)
    async with sharing(place, place) as (one, other):
        await one.until_state(True)
        await other.until_state(True)
        redis.hang()
        one.deny("a")
        await one.until_state(False)
        assert one.sharing.trouble == "it doesn't answer"
        other.deny("b")
        redis.resume()
        await other.until_known("a")
        await one.until_known("b")


async def test_a_store_that_is_emptied_is_filled_again(redis: RedisServer) -> None:
    """Without a disconnection, and by another gateway if the denial's own is gone."""
    place = place_at(redis)
    async with sharing(place) as (other,):
        async with sharing(place) as (gone,):
            await gone.until_state(True)
            gone.deny("a")
            await other.until_known("a")
        other.deny("b")
        await other.sharing.flush(DEADLINE_S)
        await redis.do("FLUSHALL")
        async with asyncio.timeout(DEADLINE_S):
            while b'"a"' not in await redis.do("XRANGE", KEY, "-", "+"):
                pass
        async with sharing(place) as (later,):
            await later.until_known("a", "b")


async def test_foreign_entries_are_skipped_and_counted(redis: RedisServer) -> None:
    """They harm nothing, at the start and later."""
    place = place_at(redis)
    await redis.do("XADD", KEY, "*", "v", "2", "g", "x", "d", "{}")
    async with sharing(place, place) as (one, other):
        await one.until_state(True)
        await redis.do("XADD", KEY, "*", "hello", "world")
        other.deny("a")
        await one.until_known("a")
        assert one.sharing.counts.skipped == 2
        assert [*one.denied] == ["a"]


async def test_a_key_of_another_kind_is_said(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """The reason has the code that Redis gives, and nothing of the command."""
    await redis.do("SET", KEY, "x")
    with caplog.at_level(logging.WARNING):
        async with sharing(place_at(redis)) as (one,):
            await one.until_state(False)
            assert one.sharing.trouble == "it refuses a command (WRONGTYPE)"
    assert KEY not in caplog.text


async def test_a_password_is_used_and_never_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with redis_running(tmp_path, "--requirepass", "hunter2") as redis:
        place = place_at(redis)
        right = replace(place, address=replace(place.address, password="hunter2"))
        wrong = replace(place, address=replace(place.address, password="hunter3"))
        async with sharing(right, wrong, place) as peers:
            await peers[0].until_state(True)
            for peer in peers[1:]:
                await peer.until_state(False)
                said = "it refuses the user or the password"
                assert peer.sharing.trouble == said
    assert "hunter" not in caplog.text


async def test_the_documented_rights_are_enough(redis: RedisServer) -> None:
    """docs/replicas.md has them."""
    page = Path(__file__).parents[2] / "docs" / "replicas.md"
    block = page.read_text().partition("ACL SETUSER")[2].partition("```")[0]
    words = block.replace("~supertokens-gateway:*", f"~{KEY}").split()
    await redis.do("ACL", "SETUSER", *words)
    place = place_at(redis)
    address = replace(place.address, username="gateway", password="PASSWORD")
    async with sharing(replace(place, address=address), place) as (one, other):
        await one.until_state(True)
        one.deny("a")
        await other.until_known("a")
        seen = len(one.states)
        await one.until(lambda: len(one.states) > seen + 2)  # checked and trimmed
        assert one.sharing.trouble is None


async def test_entries_that_are_over_are_trimmed(redis: RedisServer) -> None:
    """In whole blocks of 100 entries: Redis's approximate trimming."""
    place = place_at(redis)
    async with sharing(place) as (one,):
        await one.until_state(True)
        over = time.time() - HOUR
        for number in range(250):
            text = f'{{"s": {{"h{number}": {over}}}, "u": []}}'
            await redis.do("XADD", KEY, "*", "v", "1", "g", "x", "d", text)
        one.deny("live")
        async with asyncio.timeout(DEADLINE_S):
            while int((await redis.do("XLEN", KEY))[1:]) > 100:
                pass
        async with sharing(place) as (later,):
            await later.until_state(True)
            assert [*later.denied] == ["live"]


async def test_nothing_listens(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It goes on to try, and says so once."""
    redis = RedisServer(tmp_path)
    with caplog.at_level(logging.WARNING):
        async with sharing(place_at(redis)) as (one,):
            await one.until(lambda: len(one.states) > 3)
    assert not any(one.states)
    assert one.sharing.trouble == "Connection refused"
    assert caplog.text.count("can't be used") == 1

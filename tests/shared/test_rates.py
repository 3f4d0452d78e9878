"""Rate limits in a real Redis: the rule, the keys, and a server that is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from processes import DEADLINE_S
from redis_server import RedisServer, needs_redis, redis_running

from gateway.config import StoreAddress
from gateway.rate_limits import Gcra
from gateway.rate_limits.leases import DrawAsked
from gateway.shared import rate_script
from gateway.shared.place import StorePlace
from gateway.shared.rate_script import StoreTaken
from gateway.shared.rates import SharedRates
from gateway.shared.store import client_of

S = 1_000_000_000
KEY = "0123456789abcdef" * 2
PREFIX = "app:rates:"


def wish(cost: int = 1, extra: int = 0, burst: int = 5, key: str = KEY) -> DrawAsked:
    return DrawAsked(1, key, 3600 * S, burst, cost, extra, "local")


def place_at(redis: RedisServer) -> StorePlace:
    address = StoreAddress(host="127.0.0.1", port=redis.port)
    return StorePlace(address=address, key="app:denials", ca_file=None, grace_s=None)


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_running(tmp_path) as server:
        yield server


@pytest.fixture
async def rates(redis: RedisServer) -> AsyncIterator[SharedRates]:
    """A way to the server whose answers may be slow, as machines are."""
    way = SharedRates(place_at(redis), answer_s=DEADLINE_S)
    yield way
    await way.close()


async def take(rates: SharedRates, *wishes: DrawAsked) -> Sequence[StoreTaken] | None:
    future: asyncio.Future[Sequence[StoreTaken] | None]
    future = asyncio.get_running_loop().create_future()
    rates.ask(wishes, future.set_result)
    async with asyncio.timeout(DEADLINE_S):
        return await future


async def until_back(rates: SharedRates, *wishes: DrawAsked) -> Sequence[StoreTaken]:
    async with asyncio.timeout(DEADLINE_S):
        while (taken := await take(rates, *wishes)) is None:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.02)
    return taken


@needs_redis
async def test_the_script_is_the_rule(redis: RedisServer) -> None:
    """It gives what `Gcra` gives, for any draws at any times, in microseconds."""
    chance = random.Random(7)
    lives = "math.ceil((full - now) / 1000)"
    assert lives in rate_script.RULE
    # Keys expire by the server's clock, which isn't the test's.
    rule = rate_script.RULE.replace(lives, "3600000")
    client = client_of(place_at(redis), timeout_s=DEADLINE_S)
    for case in range(40):
        interval, burst = chance.randint(1, 2_000_000), chance.randint(1, 50)
        gcra = Gcra(interval, burst)
        now = full_at = 1_800_000_000_000_000
        for _ in range(20):
            now += chance.randint(0, 2 * interval)
            cost, extra = chance.randint(1, 60), chance.randint(0, 9)
            reply = await client.eval(
                f"local now = {now}\n{rule}",
                *(1, f"case{case}", interval, burst, cost, extra),
            )
            taken = gcra.take(full_at, now, cost, extra)
            full_at = taken.full_at
            assert reply == [taken.granted, taken.wait_ns, max(0, full_at - now)]
    await client.aclose()


@needs_redis
async def test_draws_share_a_bucket_whose_key_ends(
    redis: RedisServer, rates: SharedRates
) -> None:
    """The key has the prefix and a digest only, and lives until the bucket is full."""
    first = await take(rates, wish(extra=2), wish(), wish(cost=2))
    assert first is not None
    assert [one.granted for one in first] == [3, 1, 0]
    assert 0 < first[2].wait_ns <= 3600 * S
    assert await redis.do("KEYS", "*") == (
        f"*1\r\n${len(PREFIX + KEY)}\r\n{PREFIX}{KEY}\r\n".encode()
    )
    lives = await redis.do("PTTL", PREFIX + KEY)
    assert 3 * 3600_000 < int(lives[1:]) <= 4 * 3600_000
    other = SharedRates(place_at(redis), answer_s=DEADLINE_S)
    again = await take(other, wish(), wish())
    assert again is not None
    assert [one.granted for one in again] == [1, 0]
    await other.close()
    assert rates.counts.by_store == 3


@needs_redis
@pytest.mark.parametrize("value", ["none", "9e99", "-1", "inf", "nan"])
async def test_a_foreign_value_delays_no_longer_than_a_burst(
    redis: RedisServer, rates: SharedRates, value: str
) -> None:
    await redis.do("SET", PREFIX + KEY, value)
    (taken,) = await until_back(rates, wish())
    assert taken.granted == 1 or taken.wait_ns <= 3600 * S


@needs_redis
async def test_a_server_that_is_killed_is_noticed_and_found_again(
    redis: RedisServer, rates: SharedRates
) -> None:
    """In between, answers come at once; the script is loaded again."""
    assert await take(rates, wish()) is not None
    redis.kill()
    async with asyncio.timeout(DEADLINE_S):
        while rates.trouble is None:  # noqa: ASYNC110 - without any draw
            await asyncio.sleep(0.02)
    assert not rates.counts.is_connected
    answers: list[object] = []
    rates.ask((wish(),), answers.append)
    assert answers == [None]
    assert rates.counts.without_store == 1
    await redis.start()
    await until_back(rates, wish())
    assert rates.trouble is None
    assert rates.counts.is_connected
    await redis.do("SCRIPT", "FLUSH")
    assert await take(rates, wish()) is not None


@needs_redis
async def test_a_server_that_hangs_keeps_nobody_waiting(redis: RedisServer) -> None:
    """The first one waits for the limit, the next one not at all."""
    rates = SharedRates(place_at(redis), answer_s=0.05)
    await until_back(rates, wish())
    redis.hang()
    async with asyncio.timeout(DEADLINE_S):
        while await take(rates, wish()) is not None:
            pass
    answers: list[object] = []
    rates.ask((wish(),), answers.append)
    assert answers == [None]
    redis.resume()
    await until_back(rates, wish())
    await rates.close()


@needs_redis
async def test_a_user_without_the_right_to_scripts_is_told(
    redis: RedisServer, rates: SharedRates
) -> None:
    await redis.do("ACL", "SETUSER", "default", "-eval")
    assert await take(rates, wish()) is None
    assert rates.trouble == "its user may not use the key, or a command"


@pytest.mark.parametrize(
    "reply",
    [None, [], [1, 0], [1, 0, 0, 0], [9, 0, 1], [0, 0, 1], [1, 5, 1], ["1", 0, 1]],
)
def test_what_the_script_would_not_say_is_refused(reply: object) -> None:
    with pytest.raises(ValueError, match="not the script's reply"):
        rate_script.read(reply, [wish()])

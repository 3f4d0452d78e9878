"""Connection pools: limits, idle connections, names (U14, U16), closing, events."""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from compiled import timeouts_of
from fake_time import MovableClock
from faults import (
    DEADLINE_S,
    FAULTS,
    OK,
    FaultUpstream,
    Peer,
    answer,
    answer_and_hang,
    black_hole,
    until,
)

from gateway.errors import (
    ConnectFailed,
    ConnectTimeout,
    OutOfDescriptors,
    Side,
    UpstreamBusy,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.timeouts import Timeouts
from gateway.upstream import Reply, UpstreamPool, Upstreams, UpstreamTarget
from gateway.upstream.dial import Lookup

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"


async def get(pool: UpstreamPool, timeouts: Timeouts, method: str = "GET") -> Reply:
    return await pool.exchange(GET, method=method, timeouts=timeouts)


@asynccontextmanager
async def looking_up(lookup: Lookup, *, ttl_s: float = 30) -> AsyncIterator[Upstreams]:
    """Return pools whose names are resolved by *lookup*."""
    upstreams = Upstreams(lookup=lookup, dns_ttl_s=ttl_s)
    try:
        yield upstreams
    finally:
        await upstreams.close()


def resolved(*addresses: str) -> list[Any]:
    """Return these addresses as getaddrinfo does."""
    return [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
        for address in addresses
    ]


# --- the limit of connections -------------------------------------------------


async def test_u16_the_limit_holds_and_waiting_requests_get_free_connections(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """With a limit of 4, 40 requests use 4 connections, and each gets its reply."""
    busy = most = 0

    async def behaviour(peer: Peer) -> None:
        nonlocal busy, most
        while True:
            await peer.request()
            busy += 1
            most = max(most, busy)
            await asyncio.sleep(0.002)
            busy -= 1
            await peer.send(OK)

    async with FaultUpstream(behaviour) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, max_connections=4)
        replies = await asyncio.gather(*(get(pool, timeouts) for _ in range(40)))
        assert [reply.read_now() for reply in replies] == [b"ok"] * 40
        assert (most, upstream.connections) == (4, 4)
        assert (pool.open, pool.idle, pool.in_use, pool.waiting) == (4, 4, 0, 0)
        assert pool.dialled == 4


async def test_u16_waiting_ends_with_503_and_other_targets_are_not_affected(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A request that gets no connection in `connect` is 503, and isn't sent.

    Requests to other targets are answered meanwhile.
    """
    async with (
        FaultUpstream(FAULTS["hang before head"]) as hung,
        FaultUpstream(answer(OK)) as well,
    ):
        pool = upstreams.pool(UpstreamTarget.parse(hung.url), max_connections=2)
        held = [asyncio.create_task(get(pool, timeouts)) for _ in range(2)]
        await until(lambda: len(hung.requests) == 2)
        queue = [
            asyncio.create_task(get(pool, timeouts_of(connect=0.05))) for _ in range(10)
        ]
        await asyncio.sleep(0)
        assert pool.waiting == 10
        other = upstreams.pool(UpstreamTarget.parse(well.url))
        assert (await get(other, timeouts)).read_now() == b"ok"
        outcomes = await asyncio.gather(*queue, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {UpstreamBusy}
        assert isinstance(outcomes[0], UpstreamBusy)
        assert (outcomes[0].status, outcomes[0].unsent) == (503, True)
        assert pool.waiting == 0
        for task in held:
            task.cancel()
        await asyncio.wait(held)
        assert len(hung.requests) == 2


async def test_a_waiting_request_dials_when_a_connection_has_closed(
    upstreams: Upstreams, timeouts: Timeouts, closed_port: int
) -> None:
    """At the limit, the next request dials when a connection has closed or failed."""
    async with FaultUpstream(FAULTS["close after reply"]) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, max_connections=1)
        replies = await asyncio.gather(*(get(pool, timeouts) for _ in range(5)))
        assert [reply.read_now() for reply in replies] == [b"ok"] * 5
    dead = upstreams.pool(
        UpstreamTarget.parse(f"http://127.0.0.1:{closed_port}"), max_connections=1
    )
    outcomes = await asyncio.gather(
        *(get(dead, timeouts) for _ in range(5)), return_exceptions=True
    )
    assert {type(outcome) for outcome in outcomes} == {ConnectFailed}
    assert dead.open == 0


async def test_a_replay_at_the_limit_gets_a_fresh_connection(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """At the limit, requests whose connection is reset are replayed and answered."""
    async with FaultUpstream(FAULTS["reset second request"]) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, max_connections=2)
        replies = await asyncio.gather(*(get(pool, timeouts) for _ in range(30)))
        assert [reply.read_now() for reply in replies] == [b"ok"] * 30
        assert pool.replayed > 0
        assert pool.open <= 2


async def test_a_cancelled_waiter_loses_no_connection(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A request is cancelled in the queue, or just when it was given the connection.

    Either way the next request in the queue gets the connection.
    """
    go_on = asyncio.Event()

    async def behaviour(peer: Peer) -> None:
        while True:
            await peer.request()
            await go_on.wait()
            await peer.send(OK)

    async with FaultUpstream(behaviour) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, max_connections=1)
        holder = asyncio.create_task(get(pool, timeouts))
        await upstream.got_request.wait()
        leaver, lucky, last = (
            asyncio.create_task(get(pool, timeouts)) for _ in range(3)
        )
        await asyncio.sleep(0)
        assert pool.waiting == 3
        leaver.cancel()
        await asyncio.wait([leaver])
        assert pool.waiting == 2
        go_on.set()
        await until(lambda: pool.waiting == 1)
        lucky.cancel()  # the connection was handed to it already
        await asyncio.wait([lucky])
        assert (await holder).read_now() == b"ok"
        assert (await last).read_now() == b"ok"
        assert pool.open == pool.idle == upstream.connections == 1


async def test_a_cancelled_waiter_loses_no_permission_to_dial(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A request is cancelled just when it may dial: the next one dials instead."""
    go_on = asyncio.Event()

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await go_on.wait()
        await peer.send(OK)

    async with FaultUpstream(behaviour) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, max_connections=1)
        holder = asyncio.create_task(get(pool, timeouts))
        await upstream.got_request.wait()
        lucky, last = (asyncio.create_task(get(pool, timeouts)) for _ in range(2))
        await asyncio.sleep(0)
        holder.cancel()  # its connection is closed, so that the next one may dial
        await until(lambda: pool.waiting == 1)
        lucky.cancel()
        await asyncio.wait([holder, lucky])
        go_on.set()
        assert (await last).read_now() == b"ok"
        assert pool.dialled == 2


async def test_the_limit_can_be_lowered(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A lower limit, as after a reload, closes no connection and dials none."""
    async with FaultUpstream(answer(OK)) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, max_connections=3)
        await asyncio.gather(*(get(pool, timeouts) for _ in range(3)))
        assert upstreams.pool(target, max_connections=1) is pool
        await asyncio.gather(*(get(pool, timeouts) for _ in range(6)))
        assert upstream.connections == 3


# --- idle connections ---------------------------------------------------------


async def test_the_connection_used_last_is_used_first(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """The connection used last is used first, so that the others can expire."""
    async with FaultUpstream(answer(OK)) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await asyncio.gather(*(get(pool, timeouts) for _ in range(3)))
        await get(pool, timeouts)
        last = upstream.requests[-1].connection
        for _ in range(4):
            await get(pool, timeouts)
        assert {got.connection for got in upstream.requests[-4:]} == {last}


@pytest.mark.parametrize(
    ("keepalive_s", "field", "kept"),
    [
        pytest.param(20, b"", False, id="keepalive_s"),
        pytest.param(30, b"Keep-Alive: timeout=0\r\n", False, id="timeout=0"),
        pytest.param(30, b"keep-alive: max=9, timeout=60\r\n", True, id="timeout=60"),
        pytest.param(30, b"", True, id="young"),
    ],
)
async def test_idle_connections_expire(
    clock: MovableClock,
    timeouts: Timeouts,
    keepalive_s: float,
    field: bytes,
    kept: bool,
) -> None:
    """An idle connection is closed after `keepalive_s`, or the upstream's `timeout`."""
    reply = b"HTTP/1.1 200 OK\r\n" + field + b"Content-Length: 2\r\n\r\nok"
    upstreams = Upstreams(keepalive_s=keepalive_s)

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)
        await peer.gone()

    async with FaultUpstream(behaviour) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await get(pool, timeouts)
        await clock.pass_time(20)
        if not kept:
            await upstream.lost.wait()
        assert (pool.idle, upstream.lost.is_set()) == (int(kept), not kept)
        await upstreams.close()


@pytest.mark.parametrize(
    ("keep_alive", "field", "left_s", "over_s"),
    [
        (None, b"", 3.9, 4.1),
        (None, b"Keep-Alive: timeout=5\r\n", 3.9, 4.1),
        (None, b"Keep-Alive: timeout=3\r\n", 1.9, 2.1),
        (60.0, b"", 59.0, 61.0),
        (60.0, b"Keep-Alive: timeout=5\r\n", 3.9, 4.1),
    ],
)
async def test_the_gateway_closes_an_idle_connection_first(
    clock: MovableClock,
    timeouts: Timeouts,
    keep_alive: float | None,
    field: bytes,
    left_s: float,
    over_s: float,
) -> None:
    """uvicorn closes after 5 s without a word: a POST then crosses its FIN, and is 502.

    The default is below that. What the service announces counts if it is less.
    """
    reply = b"HTTP/1.1 200 OK\r\n" + field + b"Content-Length: 2\r\n\r\nok"

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)
        await peer.gone()

    upstreams = Upstreams()
    async with FaultUpstream(behaviour) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, keepalive_s=keep_alive)
        await get(pool, timeouts)
        await clock.pass_time(left_s)
        assert pool.idle == 1
        await clock.pass_time(over_s - left_s)
        await upstream.lost.wait()
        await until(lambda: not pool.open)
        await upstreams.close()


async def test_the_time_after_which_a_service_closes_is_learned(
    clock: MovableClock, timeouts: Timeouts
) -> None:
    """Two idle connections closed by the service after the same time set the pool's."""
    close = asyncio.Event()

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await close.wait()

    upstreams = Upstreams()
    async with FaultUpstream(behaviour) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url), keepalive_s=60.0)
        for idle_s, keepalive_s in [(3.0, 60.0), (9.0, 60.0), (5.0, 60.0), (5.1, 4.1)]:
            close.clear()
            await get(pool, timeouts)
            await clock.pass_time(idle_s)
            assert pool.idle == 1
            close.set()
            await until(lambda: not pool.open)
            assert pool.keepalive_s == pytest.approx(keepalive_s, abs=0.05)
        await upstreams.close()


@pytest.mark.parametrize(
    ("idle_s", "learned_s"), [(10.0, 4.0), (5.0, 4.0), (3.0, 2.0), (1.0, 0.5)]
)
def test_what_is_learned_never_lengthens(idle_s: float, learned_s: float) -> None:
    """The gateway closes a second before the service, or after half of a short time."""
    upstreams = Upstreams()
    pool = upstreams.pool(UpstreamTarget.parse("http://127.0.0.1:9"))
    pool.on_idle_end(idle_s)
    assert pool.keepalive_s == 4.0
    pool.on_idle_end(idle_s + 0.1)
    assert pool.keepalive_s == pytest.approx(learned_s, abs=0.11)


async def test_a_long_idle_time_doesnt_lengthen_the_next_deadline(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A deadline sooner than the idle timer's is kept: the timer is moved."""

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.gone()

    async with FaultUpstream(behaviour) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await get(pool, timeouts)
        started = time.monotonic()
        with pytest.raises(UpstreamTimeout):
            async with asyncio.timeout(DEADLINE_S):
                await get(pool, timeouts_of(response=0.05))
        assert time.monotonic() - started > 0.04


@pytest.mark.parametrize("response_s", [20, 60], ids=["shorter", "longer"])
async def test_an_idle_connection_expires_after_its_last_use(
    clock: MovableClock, response_s: float
) -> None:
    """A connection is closed `keepalive_s` after its last use, whatever `response`."""
    uses = 3

    async def behaviour(peer: Peer) -> None:
        for _ in range(uses):
            await peer.request()
            await peer.send(OK)
        await peer.gone()

    upstreams = Upstreams(keepalive_s=40)
    async with FaultUpstream(behaviour) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        for _ in range(uses):
            reply = await get(pool, timeouts_of(response=response_s))
            assert reply.read_now() == b"ok"
            await clock.pass_time(25)
            assert pool.idle == 1
        clock.advance(15)
        await upstream.lost.wait()
        await until(lambda: not pool.open)
        assert upstream.connections == 1
        await upstreams.close()


async def test_an_idle_connection_that_was_just_closed_isnt_used(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """An aborted connection isn't used, even before the loop notifies the pool."""
    async with FaultUpstream(answer(OK)) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await get(pool, timeouts)
        pool._idle[0].abort()
        assert (await get(pool, timeouts)).read_now() == b"ok"
        assert pool.dialled == 2


async def test_an_idle_connection_that_the_upstream_closes_is_dropped(
    upstreams: Upstreams, timeouts: Timeouts
) -> None:
    """A connection that the upstream has closed counts neither as open nor as idle."""
    async with FaultUpstream(FAULTS["close after reply"]) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await get(pool, timeouts)
        await until(lambda: (pool.open, pool.idle) == (0, 0))


# --- names --------------------------------------------------------------------


async def test_u14_a_name_is_looked_up_once_per_ttl(
    clock: MovableClock, timeouts: Timeouts
) -> None:
    """Concurrent requests share one look-up; its result is used until it expires."""
    lookups: list[tuple[str, int]] = []

    async def lookup(host: str, port: int) -> list[Any]:
        lookups.append((host, port))
        await asyncio.sleep(0.01)  # the other requests come during the look-up
        return resolved("127.0.0.1", "127.0.0.1")

    async with FaultUpstream(FAULTS["close after reply"]) as upstream:
        url = f"http://api.test:{upstream.port}"
        async with looking_up(lookup, ttl_s=30) as upstreams:
            pool = upstreams.pool(UpstreamTarget.parse(url))
            await asyncio.gather(*(get(pool, timeouts) for _ in range(5)))
            await get(pool, timeouts)
            assert lookups == [("api.test", upstream.port)]
            clock.advance(30)
            await get(pool, timeouts)
            assert len(lookups) == 2


async def test_u14_a_name_that_isnt_known_is_502(timeouts: Timeouts) -> None:
    """A name that doesn't resolve is 502, and is looked up again for each request."""
    lookups = 0

    async def lookup(host: str, port: int) -> list[Any]:
        nonlocal lookups
        lookups += 1
        if lookups == 3:
            return []
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with looking_up(lookup) as upstreams:
        pool = upstreams.pool(UpstreamTarget.parse("http://api.test"))
        for _ in range(3):
            with pytest.raises(ConnectFailed) as caught:
                await get(pool, timeouts)
            assert caught.value.status == 502
        assert (lookups, pool.open) == (3, 0)


async def test_u14_slow_dns_is_504(timeouts: Timeouts) -> None:
    """A request waits `connect` for a look-up; a later one may use its result."""
    answered = asyncio.Event()

    async def lookup(host: str, port: int) -> list[Any]:
        await answered.wait()
        return resolved("127.0.0.1")

    async with FaultUpstream(answer(OK)) as upstream, looking_up(lookup) as upstreams:
        url = f"http://api.test:{upstream.port}"
        pool = upstreams.pool(UpstreamTarget.parse(url))
        with pytest.raises(ConnectTimeout):
            await get(pool, timeouts_of(connect=0.05))
        later = asyncio.create_task(get(pool, timeouts))
        await asyncio.sleep(0)
        answered.set()
        assert (await later).read_now() == b"ok"


async def test_u14_a_name_that_moves_is_followed(timeouts: Timeouts) -> None:
    """After a failed connect, the name is looked up again before its TTL has passed."""
    addresses = ["127.0.0.1"]

    async def lookup(host: str, port: int) -> list[Any]:
        return resolved(*addresses)

    upstream = FaultUpstream(FAULTS["close after reply"])
    async with upstream, looking_up(lookup) as upstreams:
        url = f"http://api.test:{upstream.port}"
        pool = upstreams.pool(UpstreamTarget.parse(url))
        assert (await get(pool, timeouts)).read_now() == b"ok"
        addresses[:] = ["127.0.0.2"]  # no server listens there
        upstreams.resolver.forget("api.test", upstream.port)
        with pytest.raises(ConnectFailed):
            await get(pool, timeouts)
        addresses[:] = ["127.0.0.1"]
        assert (await get(pool, timeouts)).read_now() == b"ok"


async def test_u14_a_name_that_moves_is_followed_though_the_old_server_runs(
    timeouts: Timeouts,
) -> None:
    """When a name has moved, new requests go to the new address, as in blue/green.

    Requests under way at the old address end there. The look-up is in the background:
    while the resolver is slow or fails, requests use the old address.
    """
    addresses = ["127.0.0.1"]
    lookups = 0
    slow = asyncio.Event()
    finish = asyncio.Event()

    async def lookup(host: str, port: int) -> list[Any]:
        nonlocal lookups
        lookups += 1
        if lookups == 2:
            raise socket.gaierror(socket.EAI_AGAIN, "Try again later")
        if lookups == 4:
            await slow.wait()
        return resolved(*addresses)

    async def old(peer: Peer) -> None:
        while True:
            await peer.request()
            if peer.number == 2:
                await finish.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")

    async with FaultUpstream(old) as blue:
        green = FaultUpstream(answer(OK), host="127.0.0.3", port=blue.port)
        url = f"http://api.test:{blue.port}"
        async with green, looking_up(lookup) as upstreams:
            pool = upstreams.pool(UpstreamTarget.parse(url))

            async def ask() -> bytes | None:
                return (await get(pool, timeouts)).read_now()

            def expire() -> None:
                """Let the TTL of the name pass."""
                cache = upstreams.resolver._cache
                cache.update({key: (0.0, known) for key, (_, known) in cache.items()})

            assert await ask() == b"old"
            expire()
            for _ in range(3):  # the resolver fails
                assert await ask() == b"old"
            # Take the first connection, so that the next request dials another.
            taken = pool._take()
            under_way = asyncio.create_task(get(pool, timeouts))
            await until(lambda: blue.connections == 2)
            assert taken is not None
            pool.release(taken)
            assert lookups == 3
            addresses[:] = ["127.0.0.3"]
            expire()
            for _ in range(3):  # the resolver is slow
                assert await ask() == b"old"
            slow.set()
            await until(lambda: not upstreams.resolver._lookups)
            replies = [await ask() for _ in range(3)]
            assert replies == [b"old", b"ok", b"ok"]
            finish.set()
            assert (await under_way).read_now() == b"old"
            assert (lookups, pool.dialled) == (4, 3)
            assert await ask() == b"ok"
            await until(lambda: pool.open == 1)


async def test_every_address_is_tried_within_the_connect_timeout(
    timeouts: Timeouts,
) -> None:
    """One address refuses, the next is silent, the third answers: 200 in `connect`."""

    async def lookup(host: str, port: int) -> list[Any]:
        return resolved("127.0.0.2", "127.0.0.1", "127.0.0.3")

    async with black_hole() as port:
        well = FaultUpstream(answer(OK), host="127.0.0.3", port=port)
        async with well, looking_up(lookup) as upstreams:
            pool = upstreams.pool(UpstreamTarget.parse(f"http://api.test:{port}"))
            # The silent address takes a second; the next one has another second.
            reply = await get(pool, timeouts_of(connect=2))
            assert reply.read_now() == b"ok"


async def test_the_systems_resolver(upstreams: Upstreams, timeouts: Timeouts) -> None:
    """`localhost` is resolved by the system, and one of its addresses answers."""
    async with FaultUpstream(answer(OK)) as upstream:
        url = upstream.url.replace("127.0.0.1", "localhost")
        pool = upstreams.pool(UpstreamTarget.parse(url))
        assert (await get(pool, timeouts)).read_now() == b"ok"


# --- Unix sockets, file descriptors, closing ----------------------------------


async def test_a_unix_socket(
    upstreams: Upstreams, timeouts: Timeouts, tmp_path: Path
) -> None:
    """A Unix socket is used like any target; a missing one is `ConnectFailed`."""
    path = str(tmp_path / "app.sock")
    async with FaultUpstream(answer(OK), unix_path=path) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        for method in ("GET", "POST"):
            assert (await get(pool, timeouts, method)).read_now() == b"ok"
        assert upstream.connections == 1
    missing = upstreams.pool(UpstreamTarget.parse(f"unix:{tmp_path}/none.sock"))
    with pytest.raises(ConnectFailed):
        await get(missing, timeouts)


async def test_p4_no_file_descriptor_left_is_503(timeouts: Timeouts) -> None:
    """EMFILE is 503, not 502: this process is at its limit, not the upstream."""

    async def lookup(host: str, port: int) -> list[Any]:
        raise OSError(errno.EMFILE, "Too many open files")

    async with looking_up(lookup) as upstreams:
        pool = upstreams.pool(UpstreamTarget.parse("http://api.test"))
        with pytest.raises(OutOfDescriptors) as caught:
            await get(pool, timeouts)
        assert (caught.value.status, caught.value.side) == (503, Side.GATEWAY)


async def test_closing_ends_every_exchange(timeouts: Timeouts) -> None:
    """`close` ends exchanges that reply, wait, dial or look up, and idle connections.

    A later request is `UpstreamBusy`.
    """

    async def lookup(host: str, port: int) -> list[Any]:
        await asyncio.Event().wait()
        raise AssertionError

    upstreams = Upstreams(lookup=lookup)
    async with (
        FaultUpstream(FAULTS["hang before head"]) as hung,
        FaultUpstream(FAULTS["hang in body"]) as cut,
        FaultUpstream(answer_and_hang(OK)) as well,
        black_hole() as port,
    ):
        pool = upstreams.pool(UpstreamTarget.parse(hung.url), max_connections=1)
        dark = upstreams.pool(UpstreamTarget.parse(f"http://127.0.0.1:{port}"))
        nowhere = upstreams.pool(UpstreamTarget.parse("http://api.test"))
        await get(upstreams.pool(UpstreamTarget.parse(well.url)), timeouts)
        reply = await get(upstreams.pool(UpstreamTarget.parse(cut.url)), timeouts)
        tasks = [asyncio.create_task(get(pool, timeouts)) for _ in range(2)]
        tasks += [
            asyncio.create_task(get(there, timeouts_of(connect=0.3)))
            for there in (dark, nowhere)
        ]
        await hung.got_request.wait()
        await upstreams.close()
        lost = asyncio.create_task(hung.lost.wait())
        await asyncio.wait([*tasks, lost], timeout=DEADLINE_S)
        for upstream in (hung, cut, well):
            await upstream.lost.wait()
        assert await reply.read() == b"hi"
        with pytest.raises(UpstreamClosed):
            await reply.read()
        for task in tasks:
            assert isinstance(task.exception(), UpstreamError), task
        with pytest.raises(UpstreamBusy):
            await get(pool, timeouts)
        assert [each.open for each in upstreams.pools] == [0] * 5
        await upstreams.close()


async def test_a_connection_that_is_made_after_closing_is_closed(
    timeouts: Timeouts,
) -> None:
    """A request that was dialling when the pool was closed fails and isn't sent."""
    go_on = asyncio.Event()

    async def lookup(host: str, port: int) -> list[Any]:
        await go_on.wait()
        return resolved("127.0.0.1")

    async with (
        FaultUpstream(answer_and_hang(OK)) as upstream,
        looking_up(lookup) as upstreams,
    ):
        url = f"http://api.test:{upstream.port}"
        pool = upstreams.pool(UpstreamTarget.parse(url))
        late = asyncio.create_task(get(pool, timeouts))
        await until(lambda: pool.open)
        closing = asyncio.create_task(pool.close())
        await asyncio.sleep(0)
        go_on.set()
        with pytest.raises(ConnectFailed):
            await late
        await closing
        assert (pool.open, upstream.requests) == (0, [])


async def test_cancelling_a_request_doesnt_cancel_a_shared_look_up(
    timeouts: Timeouts,
) -> None:
    """Two requests share a look-up; when one is cancelled, the other goes on."""
    go_on = asyncio.Event()

    async def lookup(host: str, port: int) -> list[Any]:
        await go_on.wait()
        return resolved("127.0.0.1")

    async with FaultUpstream(answer(OK)) as upstream, looking_up(lookup) as upstreams:
        url = f"http://api.test:{upstream.port}"
        pool = upstreams.pool(UpstreamTarget.parse(url))
        leaver, other = (asyncio.create_task(get(pool, timeouts)) for _ in range(2))
        await asyncio.sleep(0)
        leaver.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaver
        go_on.set()
        assert (await other).read_now() == b"ok"
        assert pool.open == 1


async def test_no_socket_is_left(timeouts: Timeouts) -> None:
    """After each fault, this process has as many open files and tasks as before."""

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with FaultUpstream(answer(OK)):
        pass  # libuv opens a file of its own with the first server
    before = open_files()
    upstreams = Upstreams()
    short = timeouts_of(connect=0.05, response=0.05, idle=0.05)

    served = 0

    async def attempt(url: str) -> None:
        nonlocal served
        pool = upstreams.pool(UpstreamTarget.parse(url))
        try:
            reply = await get(pool, short)
            while await reply.read():
                pass
            served += 1
        except UpstreamError:
            pass

    for behaviour in FAULTS.values():
        async with FaultUpstream(behaviour) as upstream:
            await asyncio.gather(*(attempt(upstream.url) for _ in range(3)))
    await upstreams.close()
    await until(lambda: open_files() == before)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert served  # some faults come after a whole reply


# --- events of connections ----------------------------------------------------


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class RecordedEvents:
    """Keeps the events of pools."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def connected(self, target: UpstreamTarget, seconds: float) -> None:
        assert 0 <= seconds < 2
        self.events.append(("connected", target.port))

    def connect_failed(self, target: UpstreamTarget, error: BaseException) -> None:
        self.events.append(("failed", target.port, type(error)))

    def replayed(self, target: UpstreamTarget) -> None:
        self.events.append(("replayed", target.port))

    def closed(self, target: UpstreamTarget, exchanges: int) -> None:
        self.events.append(("closed", target.port, exchanges))


async def test_events_of_connections(timeouts: Timeouts, closed_port: int) -> None:
    """There are events for connects, failed connects, replays and closed connections.

    A closed connection's event has its number of exchanges.
    """
    recorded = RecordedEvents()
    upstreams = Upstreams(events=recorded)
    requests = 0

    async def twice(peer: Peer) -> None:
        nonlocal requests
        while requests < 2:
            await peer.request()
            requests += 1
            await peer.send(WHOLE)
        await peer.request()

    async with FaultUpstream(twice) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target)
        for _ in range(2):
            await (await get(pool, timeouts)).read()
        assert recorded.events == [("connected", target.port)]
        with pytest.raises(ConnectFailed):
            await get(
                upstreams.pool(UpstreamTarget.parse(f"http://127.0.0.1:{closed_port}")),
                timeouts,
            )
        assert recorded.events[1:] == [("failed", closed_port, ConnectFailed)]
        del recorded.events[:]
        with pytest.raises(UpstreamClosed):
            await get(pool, timeouts)  # on the old connection, then on a new one
        await until(lambda: len(recorded.events) == 4)
        assert sorted(recorded.events, key=str) == [
            ("closed", target.port, 1),
            ("closed", target.port, 3),
            ("connected", target.port),
            ("replayed", target.port),
        ]
    await upstreams.close()


async def test_repr_of_a_connection(upstreams: Upstreams, timeouts: Timeouts) -> None:
    """A connection's `repr` has target, state, number of exchanges and deadline."""

    async def slower(peer: Peer) -> None:
        await peer.request()
        await peer.send(WHOLE)
        await peer.request()
        await peer.send(WHOLE[:-1])
        await peer.gone()

    async with FaultUpstream(slower) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await (await get(pool, timeouts)).read()
        (connection,) = pool._connections
        assert f"<{upstream.url} idle exchanges=1 deadline in " in repr(connection)
        asking = asyncio.create_task(get(pool, timeouts))
        await asyncio.sleep(0)
        assert " waiting exchanges=2 deadline in " in repr(connection)
        reply = await asking
        assert " replying exchanges=2 deadline in " in repr(connection)
        reply.close()
        assert " closed exchanges=2>" in repr(connection)

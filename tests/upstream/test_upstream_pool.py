"""Places, idle connections, names: U14, U16, and what is left when all is over."""

import asyncio
import errno
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
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

from gateway.config import TimeoutsConfig
from gateway.errors import (
    ConnectFailed,
    ConnectTimeout,
    UpstreamBusy,
    UpstreamClosed,
    UpstreamError,
    UpstreamTimeout,
)
from gateway.upstream import Reply, UpstreamPool, Upstreams, UpstreamTarget
from gateway.upstream.dial import Lookup

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"


async def get(
    pool: UpstreamPool, timeouts: TimeoutsConfig, method: str = "GET"
) -> Reply:
    return await pool.exchange(GET, method=method, timeouts=timeouts)


@asynccontextmanager
async def looking_up(lookup: Lookup, *, ttl_s: float = 30) -> AsyncIterator[Upstreams]:
    """Pools whose names are resolved by *lookup*."""
    mine = Upstreams(lookup=lookup, dns_ttl_s=ttl_s)
    try:
        yield mine
    finally:
        await mine.close()


def found(*addresses: str) -> list[Any]:
    """What getaddrinfo returns."""
    return [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0))
        for address in addresses
    ]


# --- places -------------------------------------------------------------------


async def test_u16_the_limit_holds_and_a_free_connection_goes_to_who_waits(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """40 requests through 4 places: never more connections, every one answered."""
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


async def test_u16_waiting_ends_with_503_and_others_are_not_touched(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """All places of one target hang: its queue times out, another target is as ever."""
    async with (
        FaultUpstream(FAULTS["hang before head"]) as hung,
        FaultUpstream(answer(OK)) as well,
    ):
        pool = upstreams.pool(UpstreamTarget.parse(hung.url), max_connections=2)
        held = [asyncio.create_task(get(pool, timeouts)) for _ in range(2)]
        await until(lambda: len(hung.requests) == 2)
        queue = [
            asyncio.create_task(get(pool, TimeoutsConfig(connect=0.05)))
            for _ in range(10)
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


async def test_a_place_that_gets_free_is_dialled_by_who_waits(
    upstreams: Upstreams, timeouts: TimeoutsConfig, closed_port: int
) -> None:
    """Also when its connection couldn't be kept, or couldn't be made."""
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
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """One place, many clients, each connection good for one request: no error."""
    async with FaultUpstream(FAULTS["reset second request"]) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, max_connections=2)
        replies = await asyncio.gather(*(get(pool, timeouts) for _ in range(30)))
        assert [reply.read_now() for reply in replies] == [b"ok"] * 30
        assert pool.replayed > 0
        assert pool.open <= 2


async def test_who_stops_waiting_leaves_nothing_behind(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """Cancelled in line, or in the moment its turn comes: the place goes on."""
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
        lucky.cancel()  # the connection was put into its hands already
        await asyncio.wait([lucky])
        assert (await holder).read_now() == b"ok"
        assert (await last).read_now() == b"ok"
        assert pool.open == pool.idle == upstream.connections == 1


async def test_a_place_given_to_one_who_just_left_goes_on(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """A place without a connection isn't lost either."""
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
        holder.cancel()  # its connection is closed, so that the place itself is free
        await until(lambda: pool.waiting == 1)
        lucky.cancel()
        await asyncio.wait([holder, lucky])
        go_on.set()
        assert (await last).read_now() == b"ok"
        assert pool.dialled == 2


async def test_the_limit_can_be_lowered(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """A reload's new limit counts from the next connection on."""
    async with FaultUpstream(answer(OK)) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = upstreams.pool(target, max_connections=3)
        await asyncio.gather(*(get(pool, timeouts) for _ in range(3)))
        assert upstreams.pool(target, max_connections=1) is pool
        await asyncio.gather(*(get(pool, timeouts) for _ in range(6)))
        assert upstream.connections == 3


# --- idle connections ---------------------------------------------------------


async def test_the_connection_used_last_is_used_first(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """So that the others grow old and are closed."""
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
        pytest.param(0.05, b"", False, id="our age"),
        pytest.param(30, b"Keep-Alive: timeout=0\r\n", False, id="timeout=0"),
        pytest.param(30, b"keep-alive: max=9, timeout=60\r\n", True, id="timeout=60"),
        pytest.param(30, b"", True, id="young"),
    ],
)
async def test_idle_connections_grow_old(
    timeouts: TimeoutsConfig, keepalive_s: float, field: bytes, kept: bool
) -> None:
    """After `keepalive_s`, or a little before the upstream would close."""
    reply = b"HTTP/1.1 200 OK\r\n" + field + b"Content-Length: 2\r\n\r\nok"
    upstreams = Upstreams(keepalive_s=keepalive_s)

    async def behaviour(peer: Peer) -> None:
        await peer.request()
        await peer.send(reply)
        await peer.gone()

    async with FaultUpstream(behaviour) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await get(pool, timeouts)
        await asyncio.sleep(0.1)
        assert (pool.idle, upstream.lost.is_set()) == (int(kept), not kept)
        await upstreams.close()


async def test_a_long_idle_time_doesnt_lengthen_the_next_deadline(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """The one timer is set to 30 s then; a shorter deadline moves it."""

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
                await get(pool, TimeoutsConfig(response=0.05))
        assert time.monotonic() - started > 0.04


@pytest.mark.parametrize("response_s", [0.1, 60], ids=["shorter", "longer"])
async def test_an_idle_connection_grows_old_after_its_last_use(
    response_s: float,
) -> None:
    """It is closed at its age, however long its replies might have taken."""
    uses = 3

    async def behaviour(peer: Peer) -> None:
        for _ in range(uses):
            await peer.request()
            await peer.send(OK)
        await peer.gone()

    upstreams = Upstreams(keepalive_s=0.3)
    async with FaultUpstream(behaviour) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        for _ in range(uses):
            reply = await get(pool, TimeoutsConfig(response=response_s))
            assert reply.read_now() == b"ok"
        await upstream.lost.wait()
        await until(lambda: not pool.open)
        assert upstream.connections == 1
        await upstreams.close()


async def test_an_idle_connection_that_was_just_closed_isnt_taken(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """Also in the moment before the loop has told the pool."""
    async with FaultUpstream(answer(OK)) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await get(pool, timeouts)
        pool._idle[0].abort()
        assert (await get(pool, timeouts)).read_now() == b"ok"
        assert pool.dialled == 2


async def test_an_idle_connection_that_ends_is_forgotten(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """No place is kept for a socket that the upstream has closed."""
    async with FaultUpstream(FAULTS["close after reply"]) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        await get(pool, timeouts)
        await asyncio.sleep(0.02)
        assert (pool.open, pool.idle) == (0, 0)


# --- names --------------------------------------------------------------------


async def test_u14_a_name_is_looked_up_once_per_ttl_however_many_ask(
    timeouts: TimeoutsConfig,
) -> None:
    """One look-up for all that wait, then none until it is too old."""
    asked: list[tuple[str, int]] = []

    async def lookup(host: str, port: int) -> list[Any]:
        asked.append((host, port))
        await asyncio.sleep(0.01)
        return found("127.0.0.1", "127.0.0.1")

    async with FaultUpstream(FAULTS["close after reply"]) as upstream:
        url = f"http://api.test:{upstream.port}"
        async with looking_up(lookup, ttl_s=0.2) as upstreams:
            pool = upstreams.pool(UpstreamTarget.parse(url))
            await asyncio.gather(*(get(pool, timeouts) for _ in range(5)))
            await get(pool, timeouts)
            assert asked == [("api.test", upstream.port)]
            await asyncio.sleep(0.2)
            await get(pool, timeouts)
            assert len(asked) == 2


async def test_u14_a_name_that_isnt_known_is_502(timeouts: TimeoutsConfig) -> None:
    """And it is asked for again next time."""
    asked = 0

    async def lookup(host: str, port: int) -> list[Any]:
        nonlocal asked
        asked += 1
        if asked == 3:
            return []
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async with looking_up(lookup) as upstreams:
        pool = upstreams.pool(UpstreamTarget.parse("http://api.test"))
        for _ in range(3):
            with pytest.raises(ConnectFailed) as caught:
                await get(pool, timeouts)
            assert caught.value.status == 502
        assert (asked, pool.open) == (3, 0)


async def test_u14_slow_dns_is_504_and_blocks_nobody(timeouts: TimeoutsConfig) -> None:
    """The look-up has the connect timeout; who comes later gets its answer."""
    answered = asyncio.Event()

    async def lookup(host: str, port: int) -> list[Any]:
        await answered.wait()
        return found("127.0.0.1")

    async with FaultUpstream(answer(OK)) as upstream, looking_up(lookup) as upstreams:
        url = f"http://api.test:{upstream.port}"
        pool = upstreams.pool(UpstreamTarget.parse(url))
        with pytest.raises(ConnectTimeout):
            await get(pool, TimeoutsConfig(connect=0.05))
        later = asyncio.create_task(get(pool, timeouts))
        await asyncio.sleep(0)
        answered.set()
        assert (await later).read_now() == b"ok"


async def test_u14_a_name_that_moves_is_followed(timeouts: TimeoutsConfig) -> None:
    """When no address answers any more, the name is looked up without waiting."""
    addresses = ["127.0.0.1"]

    async def lookup(host: str, port: int) -> list[Any]:
        return found(*addresses)

    upstream = FaultUpstream(FAULTS["close after reply"])
    async with upstream, looking_up(lookup) as upstreams:
        url = f"http://api.test:{upstream.port}"
        pool = upstreams.pool(UpstreamTarget.parse(url))
        assert (await get(pool, timeouts)).read_now() == b"ok"
        addresses[:] = ["127.0.0.2"]  # nobody listens there
        upstreams._resolver.forget("api.test", upstream.port)
        with pytest.raises(ConnectFailed):
            await get(pool, timeouts)
        addresses[:] = ["127.0.0.1"]
        assert (await get(pool, timeouts)).read_now() == b"ok"


async def test_u14_a_name_that_moves_is_followed_from_a_server_that_stays(
    timeouts: TimeoutsConfig,
) -> None:
    """Blue to green: the old one would keep its connections in use for ever.

    What is under way there is finished; the name is asked for in the background, so
    that a slow resolver, or one that fails, costs nobody a connection.
    """
    addresses = ["127.0.0.1"]
    asked = 0
    slow = asyncio.Event()
    finish = asyncio.Event()

    async def lookup(host: str, port: int) -> list[Any]:
        nonlocal asked
        asked += 1
        if asked == 2:
            raise socket.gaierror(socket.EAI_AGAIN, "Try again later")
        if asked == 4:
            await slow.wait()
        return found(*addresses)

    async def old(peer: Peer) -> None:
        while True:
            await peer.request()
            if peer.number == 2:
                await finish.wait()
            await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nold")

    async with FaultUpstream(old) as blue:
        green = FaultUpstream(answer(OK), host="127.0.0.3", port=blue.port)
        url = f"http://api.test:{blue.port}"
        async with green, looking_up(lookup, ttl_s=0.05) as upstreams:
            pool = upstreams.pool(UpstreamTarget.parse(url))

            async def ask() -> bytes | None:
                return (await get(pool, timeouts)).read_now()

            assert await ask() == b"old"
            await asyncio.sleep(0.06)
            for _ in range(3):  # the resolver fails
                assert await ask() == b"old"
            # The first connection is lent; the other one's request is under way.
            lent = pool._take()
            under_way = asyncio.create_task(get(pool, timeouts))
            await until(lambda: blue.connections == 2)
            assert lent is not None
            pool.release(lent)
            assert asked == 3
            addresses[:] = ["127.0.0.3"]
            await asyncio.sleep(0.06)
            for _ in range(3):  # the resolver is slow
                assert await ask() == b"old"
            slow.set()
            await asyncio.sleep(0.01)
            replies = [await ask() for _ in range(3)]
            assert replies == [b"old", b"ok", b"ok"]
            finish.set()
            assert (await under_way).read_now() == b"old"
            assert (asked, pool.dialled) == (4, 3)
            assert await ask() == b"ok"
            await until(lambda: pool.open == 1)


async def test_every_address_is_tried_and_a_black_hole_takes_its_share_only(
    timeouts: TimeoutsConfig,
) -> None:
    """Refused, then silent, then well: connected within the one deadline."""

    async def lookup(host: str, port: int) -> list[Any]:
        return found("127.0.0.2", "127.0.0.1", "127.0.0.3")

    async with black_hole() as port:
        well = FaultUpstream(answer(OK), host="127.0.0.3", port=port)
        async with well, looking_up(lookup) as upstreams:
            pool = upstreams.pool(UpstreamTarget.parse(f"http://api.test:{port}"))
            reply = await get(pool, TimeoutsConfig(connect=0.4))
            assert reply.read_now() == b"ok"


async def test_the_systems_resolver(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """`localhost`, by way of the thread pool; IPv6 first is no obstacle."""
    async with FaultUpstream(answer(OK)) as upstream:
        url = upstream.url.replace("127.0.0.1", "localhost")
        pool = upstreams.pool(UpstreamTarget.parse(url))
        assert (await get(pool, timeouts)).read_now() == b"ok"


# --- other transports, other ends ---------------------------------------------


async def test_a_unix_socket(
    upstreams: Upstreams, timeouts: TimeoutsConfig, tmp_path: Path
) -> None:
    """Like any target; one that isn't there is refused."""
    path = str(tmp_path / "app.sock")
    async with FaultUpstream(answer(OK), unix_path=path) as upstream:
        pool = upstreams.pool(UpstreamTarget.parse(upstream.url))
        for method in ("GET", "POST"):
            assert (await get(pool, timeouts, method)).read_now() == b"ok"
        assert upstream.connections == 1
    missing = upstreams.pool(UpstreamTarget.parse(f"unix:{tmp_path}/none.sock"))
    with pytest.raises(ConnectFailed):
        await get(missing, timeouts)


async def test_p4_no_file_descriptor_left_is_503(timeouts: TimeoutsConfig) -> None:
    """It is this process that is at its limit; the upstream isn't to blame."""

    async def lookup(host: str, port: int) -> list[Any]:
        raise OSError(errno.EMFILE, "Too many open files")

    async with looking_up(lookup) as upstreams:
        pool = upstreams.pool(UpstreamTarget.parse("http://api.test"))
        with pytest.raises(UpstreamBusy) as caught:
            await get(pool, timeouts)
        assert caught.value.status == 503


async def test_closing_ends_everything_at_once(timeouts: TimeoutsConfig) -> None:
    """In use, idle, waiting, dialling, looking up: all end; no socket, no task."""

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
            asyncio.create_task(get(there, TimeoutsConfig(connect=0.3)))
            for there in (dark, nowhere)
        ]
        await hung.got_request.wait()
        await upstreams.close()
        await asyncio.wait([*tasks, asyncio.create_task(hung.lost.wait())], timeout=1)
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


async def test_a_connection_that_is_made_after_the_end_is_closed(
    timeouts: TimeoutsConfig,
) -> None:
    """Whoever was dialling when the pool was closed gets an error, not a socket."""
    go_on = asyncio.Event()

    async def lookup(host: str, port: int) -> list[Any]:
        await go_on.wait()
        return found("127.0.0.1")

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


async def test_cancelling_one_who_waits_for_a_name_leaves_the_others(
    timeouts: TimeoutsConfig,
) -> None:
    """The look-up is shared, so it isn't his to cancel."""
    go_on = asyncio.Event()

    async def lookup(host: str, port: int) -> list[Any]:
        await go_on.wait()
        return found("127.0.0.1")

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


async def test_no_socket_is_left(timeouts: TimeoutsConfig) -> None:
    """After every fault there is, this process has as many files as before."""

    def open_files() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with FaultUpstream(answer(OK)):
        pass  # libuv opens a file of its own with the first server
    before = open_files()
    upstreams = Upstreams()
    short = TimeoutsConfig(connect=0.05, response=0.05, idle=0.05)

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
    for _ in range(100):
        if open_files() == before:
            break
        await asyncio.sleep(0.01)
    assert open_files() == before
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert served  # some faults come after a whole reply


# --- what is told of connections ----------------------------------------------------


WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class Heard:
    """Keeps what a pool tells."""

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


async def test_connections_are_told_of(
    timeouts: TimeoutsConfig, closed_port: int
) -> None:
    """Made, failed, closed with their number of exchanges, and replays."""
    heard = Heard()
    mine = Upstreams(events=heard)
    asked = 0

    async def twice(peer: Peer) -> None:
        nonlocal asked
        while asked < 2:
            await peer.request()
            asked += 1
            await peer.send(WHOLE)
        await peer.request()

    async with FaultUpstream(twice) as upstream:
        target = UpstreamTarget.parse(upstream.url)
        pool = mine.pool(target)
        for _ in range(2):
            await (await get(pool, timeouts)).read()
        assert heard.events == [("connected", target.port)]
        with pytest.raises(ConnectFailed):
            await get(
                mine.pool(UpstreamTarget.parse(f"http://127.0.0.1:{closed_port}")),
                timeouts,
            )
        assert heard.events[1:] == [("failed", closed_port, ConnectFailed)]
        del heard.events[:]
        with pytest.raises(UpstreamClosed):
            await get(pool, timeouts)  # on the old connection, then on a new one
        await until(lambda: len(heard.events) == 4)
        assert sorted(heard.events, key=str) == [
            ("closed", target.port, 1),
            ("closed", target.port, 3),
            ("connected", target.port),
            ("replayed", target.port),
        ]
    await mine.close()


async def test_a_connection_says_what_it_is_doing(
    upstreams: Upstreams, timeouts: TimeoutsConfig
) -> None:
    """For whoever debugs: target, state, exchanges, who holds it back, deadline."""

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

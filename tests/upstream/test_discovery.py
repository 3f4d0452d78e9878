"""`resolve: each`: the addresses of a name as targets, as they come and go."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from faults import FAULTS, Behaviour, FaultUpstream, Peer, answer, until

from gateway.timeouts import Timeouts
from gateway.upstream import Reply, ServiceTargets, UpstreamPool, Upstreams
from gateway.upstream.address import UpstreamTarget
from gateway.upstream.discovery import MAX_ADDRESSES, Discovery
from gateway.upstream.ejection import EjectionRules

GET = b"GET / HTTP/1.1\r\nHost: up\r\n\r\n"
NAME = "app.test"
ONE, TWO, THREE = "127.0.0.1", "127.0.0.2", "127.0.0.3"
SOON_S = 0.005


class Dns:
    """Answers look-ups of one name."""

    def __init__(self, *addresses: str) -> None:
        self.addresses: Sequence[str] = addresses
        self.error: OSError | None = None
        self.asked = 0

    async def __call__(self, host: str, port: int) -> list[Any]:
        assert host == NAME
        self.asked += 1
        if self.error is not None:
            raise self.error
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in self.addresses
        ]

    async def asked_again(self) -> None:
        """Return when a look-up that began after this call has had its effect."""
        # Of three look-ups, the second began later, and has ended.
        asked = self.asked
        await until(lambda: self.asked >= asked + 3)


@asynccontextmanager
async def found(
    dns: Dns,
    port: int = 80,
    *,
    more: Sequence[str] = (),
    weights: Sequence[float] = (),
    **options: Any,
) -> AsyncIterator[ServiceTargets]:
    """Yield the targets of a service with that name, and *more* of them."""
    upstreams = Upstreams(lookup=dns)
    pools = [
        upstreams.pool(UpstreamTarget.parse(url))
        for url in (f"http://{NAME}:{port}", *more)
    ]
    service = ServiceTargets("app", pools, weights=weights, **options)
    discovery = Discovery(upstreams)
    discovery.add(service, SOON_S)
    try:
        yield service
    finally:
        await discovery.aclose()
        await upstreams.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


@asynccontextmanager
async def serving(
    *addresses: str, behaviour: Behaviour | None = None
) -> AsyncIterator[list[FaultUpstream]]:
    """Yield an upstream at each address; all have the same port."""
    async with AsyncExitStack() as opened:
        port = 0
        upstreams = []
        for address in addresses:
            one = FaultUpstream(behaviour or answer(), host=address, port=port)
            upstreams.append(await opened.enter_async_context(one))
            port = one.port
        yield upstreams


def names(service: ServiceTargets) -> list[str]:
    return [pool.name for pool in service.pools]


def urls(*addresses: str, port: int = 80) -> list[str]:
    return [f"http://{address}:{port}" for address in addresses]


async def get(pool: UpstreamPool, timeouts: Timeouts) -> Reply:
    return await pool.exchange(GET, method="GET", timeouts=timeouts)


async def test_each_address_is_a_target(timeouts: Timeouts) -> None:
    """Round robin reaches all of them; Host is the name's."""
    async with serving(ONE, TWO, THREE) as upstreams:
        port = upstreams[0].port
        dns = Dns(THREE, ONE, TWO, ONE)
        async with found(dns, port, balance="round_robin") as service:
            assert names(service) == urls(NAME, port=port)
            await until(lambda: len(service.pools) > 1)
            assert names(service) == urls(ONE, TWO, THREE, port=port)
            authority = f"{NAME}:{port}".encode()
            assert {pool.authority for pool in service.pools} == {authority}
            for _ in range(6):
                await get(service.in_turn()[0], timeouts)
            assert [len(one.requests) for one in upstreams] == [2, 2, 2]


async def test_addresses_come_and_go(timeouts: Timeouts) -> None:
    """One that stays keeps its pool and its connections; idle ones of others close."""
    async with serving(ONE, TWO) as (one, _):
        dns = Dns(ONE, TWO)
        async with found(dns, one.port) as service:
            await until(lambda: len(service.pools) == 2)
            stays, leaves = service.pools
            for pool in service.pools:
                await get(pool, timeouts)
            dns.addresses = [THREE, ONE]
            await until(lambda: THREE in names(service)[-1])
            assert names(service) == urls(ONE, THREE, port=one.port)
            assert service.pools[0] is stays
            assert stays.idle == 1
            await until(lambda: leaves.open == 0)


async def test_an_exchange_with_an_address_that_leaves_goes_on(
    timeouts: Timeouts,
) -> None:
    """Its connection is closed after it, not kept."""
    go_on = asyncio.Event()

    async def slow(peer: Peer) -> None:
        await peer.request()
        await go_on.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await peer.gone()

    async with serving(ONE, behaviour=slow) as (one,):
        dns = Dns(ONE)
        async with found(dns, one.port) as service:
            await until(lambda: ONE in names(service)[0])
            (leaves,) = service.pools
            exchange = asyncio.create_task(get(leaves, timeouts))
            await one.got_request.wait()
            dns.addresses = [TWO]
            await until(lambda: TWO in names(service)[0])
            go_on.set()
            reply = await exchange
            assert reply.read_now() == b"ok"
            service.answered(leaves)
            await one.lost.wait()
            assert leaves.open == 0


async def test_an_address_that_returns_has_a_new_pool(timeouts: Timeouts) -> None:
    async with serving(ONE) as (one,):
        dns = Dns(ONE)
        async with found(dns, one.port) as service:
            await until(lambda: ONE in names(service)[0])
            (before,) = service.pools
            for addresses in ([TWO], [ONE]):
                dns.addresses = addresses
                await until(lambda: dns.addresses[0] in names(service)[0])
            assert service.pools[0] is not before
            await get(service.pools[0], timeouts)
            assert len(one.requests) == 1


@pytest.mark.parametrize(
    "error",
    [
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution"),
        None,
    ],
    ids=["unknown", "timeout", "empty"],
)
async def test_a_look_up_that_fails_changes_nothing(
    error: OSError | None, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, and once more when it succeeds again."""
    dns = Dns(ONE, TWO)
    async with found(dns) as service:
        await until(lambda: len(service.pools) == 2)
        before = service.pools
        dns.addresses, dns.error = [], error
        await dns.asked_again()
        assert service.pools == before
        dns.addresses, dns.error = [ONE, TWO, THREE], None
        await until(lambda: len(service.pools) == 3)
    lost, back = caplog.messages
    why = error.strerror if error is not None else "no address"
    assert lost == (
        f"service app: the addresses of http://{NAME}:80 can't be looked up: {why}."
        " The last 2 stay"
    )
    assert back.endswith("can be looked up again")


async def test_a_name_that_is_not_known_yet_is_one_target(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Requests to it fail as without `resolve`; it is found later."""
    dns = Dns(ONE, TWO)
    dns.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    async with found(dns) as service:
        await dns.asked_again()
        assert names(service) == urls(NAME)
        dns.error = None
        await until(lambda: len(service.pools) == 2)
    assert "It gets requests as one target" in caplog.messages[0]


async def test_weights_and_other_targets() -> None:
    """Each address has the weight of its name; targets without a name stay."""
    dns = Dns(ONE, TWO)
    other = "http://127.0.0.9:80"
    async with found(dns, more=[other], weights=(3, 5)) as service:
        await until(lambda: len(service.pools) == 3)
        assert names(service) == [*urls(ONE, TWO), other]
        assert service.weights == (3, 3, 5)


async def test_a_name_has_a_bounded_number_of_addresses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The first ones in numeric order count, so that all workers have the same."""
    everyone = [f"127.0.{n // 250}.{1 + n % 250}" for n in range(300)]
    dns = Dns(*reversed(everyone))
    async with found(dns) as service:
        await until(lambda: len(service.pools) > 1)
        assert names(service) == urls(*everyone[:MAX_ADDRESSES])
        await dns.asked_again()
    (message,) = caplog.messages
    assert "has 300 addresses, of which the first 100 get requests" in message


async def test_an_ejected_address_stays_ejected(timeouts: Timeouts) -> None:
    """While others come and go; each address is judged for itself."""
    rules = EjectionRules(failures=1, eject_s=60, max_eject_s=60, max_ejected=0.5)
    async with serving(TWO, behaviour=FAULTS["close before reply"]) as (two,):
        dns = Dns(ONE, TWO)
        async with found(dns, two.port, rules=rules) as service:
            await until(lambda: len(service.pools) == 2)
            bad = service.pools[1]
            with pytest.raises(Exception, match=TWO) as caught:
                await get(bad, timeouts)
            service.failed(bad, caught.value)  # type: ignore[arg-type] # an UpstreamError
            dns.addresses = [TWO, THREE, "127.0.0.4"]
            await until(lambda: len(service.pools) == 3)
            assert [is_up for _, is_up in service.up()] == [False, True, True]
            assert service.in_turn()[-1] is bad
            dns.addresses = [ONE]
            await until(lambda: len(service.pools) == 1)
            service.failed(bad, caught.value)  # type: ignore[arg-type] # as above
            assert names(service) == urls(ONE, port=two.port)


async def test_an_address_that_is_down_before_it_is_known() -> None:
    """The hub may find an address, and that it is down, before this worker does."""
    dns = Dns(ONE)
    async with found(dns) as service:
        await until(lambda: ONE in names(service)[0])
        service.set_down(urls(TWO))
        dns.addresses = [ONE, TWO]
        await until(lambda: len(service.pools) == 2)
        assert [is_up for _, is_up in service.up()] == [True, False]
        assert {service.in_turn()[0].name for _ in range(20)} == {*urls(ONE)}


async def test_names_with_one_address() -> None:
    """Each has a pool of its own, with its own Host; two services share one pool."""
    upstreams_of: dict[str, list[str]] = {"a.test": [ONE, TWO], "b.test": [TWO]}

    async def lookup(host: str, port: int) -> list[Any]:
        return [(2, 1, 6, "", (address, port)) for address in upstreams_of[host]]

    upstreams = Upstreams(lookup=lookup)
    pools = [
        upstreams.pool(UpstreamTarget.parse(f"http://{host}")) for host in upstreams_of
    ]
    service = ServiceTargets("app", pools)
    discovery = Discovery(upstreams)
    discovery.add(service, SOON_S)
    await until(lambda: len(service.pools) == 3)
    assert [pool.authority for pool in service.pools] == [
        b"a.test",
        b"a.test",
        b"b.test",
    ]
    other = ServiceTargets("other", pools[1:])
    discovery.add(other, SOON_S)
    await until(lambda: TWO in names(other)[0])
    assert other.pools[0] is service.pools[2]
    await discovery.aclose()
    await upstreams.close()

"""Requests to a service with several targets, of which some are out of order."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest
from faults import FAULTS, OK, FaultUpstream, Peer, answer, answer_and_close
from gateway_under_test import UnderTest, gateway

TURNS: dict[str, Any] = {"balance": "round_robin"}


def count(*upstreams: FaultUpstream) -> list[int]:
    return [len(one.requests) for one in upstreams]


async def test_a_target_that_fails_is_left_out(closed_port: int) -> None:
    """After three failures it isn't tried any more; no request has failed by it."""
    async with (
        FaultUpstream(answer()) as good,
        gateway(
            f"http://127.0.0.1:{closed_port}",
            good.url,
            service=TURNS,
            log_expected=True,
        ) as gw,
    ):
        for _ in range(20):
            assert (await gw.ask("POST", "/a")).status == 200
        notes = [(await gw.record()).note for _ in range(20)]
        assert [bool(note) for note in notes] == [*(True, False) * 3, *(False,) * 14]
        assert [
            line for line in gw.log.lines if "is ejected for 10 s" in line
        ] == gw.log.lines[:1]


async def test_a_target_that_resets_is_left_out() -> None:
    """It takes connections and closes each before the reply."""
    async with (
        FaultUpstream(FAULTS["close before reply"]) as bad,
        FaultUpstream(answer()) as good,
        gateway(bad.url, good.url, service=TURNS, log_expected=True) as gw,
    ):
        for _ in range(20):
            assert (await gw.ask("GET", "/a")).status == 200
        assert count(bad, good) == [3, 20]


async def test_replies_of_any_status_eject_nothing() -> None:
    """A 503 may be the service's answer to this request, and no other."""
    async with (
        FaultUpstream(answer(OK.replace(b"200 OK", b"503 Busy"))) as bad,
        FaultUpstream(answer()) as good,
        gateway(bad.url, good.url, service=TURNS) as gw,
    ):
        for _ in range(20):
            await gw.ask("GET", "/a")
        assert count(bad, good) == [10, 10]


async def test_the_last_target_is_always_tried(closed_port: int) -> None:
    """With one target, and with two that both fail."""
    closed = f"http://127.0.0.1:{closed_port}"
    for targets in ((closed,), (closed, f"http://localhost:{closed_port}")):
        async with gateway(*targets, log_expected=True) as gw:
            for _ in range(10):
                assert (await gw.ask("GET", "/a")).status == 502
            assert gw.pools[0].waiting == 0


async def test_a_target_comes_back() -> None:
    """Its trial succeeds after `eject`; it gets requests again."""
    is_well = False

    async def flaps(peer: Peer) -> None:
        await (answer() if is_well else FAULTS["close before reply"])(peer)

    passive = {"failures": 1, "eject": "20ms"}
    async with (
        FaultUpstream(flaps) as bad,
        FaultUpstream(answer()) as good,
        gateway(
            bad.url,
            good.url,
            service=TURNS | {"health": {"passive": passive}},
            log_expected=True,
        ) as gw,
    ):
        await gw.ask("GET", "/a")
        is_well = True
        while not any("is back" in line for line in gw.log.lines):
            assert (await gw.ask("GET", "/a")).status == 200
            await asyncio.sleep(0.005)
        assert bad.requests
        assert [pool for pool, is_up in services(gw) if is_up] == [*gw.pools]


@pytest.mark.parametrize("comes_back", [True, False])
async def test_no_post_is_a_trial(comes_back: bool) -> None:
    """A request that can't be repeated tries no target: a connection alone does.

    With *comes_back* the target takes connections again. It gets no request before, so
    none fails by it.
    """
    async with FaultUpstream(answer()) as gone:
        url = gone.url
    port = int(url.rpartition(":")[2])
    passive = {"failures": 1, "eject": "20ms", "max_eject": "20ms"}
    async with (
        FaultUpstream(answer()) as good,
        gateway(
            url,
            good.url,
            service=TURNS | {"health": {"passive": passive}},
            log_expected=True,
        ) as gw,
    ):

        def is_logged(text: str) -> bool:
            return any(text in line for line in gw.log.lines)

        while not is_logged("is ejected"):
            assert (await gw.ask("POST", "/a")).status == 200
        if not comes_back:
            before = len(gw.log.lines)
            while len(gw.log.lines) < before + 2:  # two trials have failed
                assert (await gw.ask("POST", "/a")).status == 200
                await asyncio.sleep(0.005)
            records = [await gw.record() for _ in good.requests]
            assert sum(bool(record.note) for record in records) == 1
            return
        took: list[bytes] = []

        async def note(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter
        ) -> None:
            took.append(await reader.read())
            writer.close()

        server = await asyncio.start_server(note, "127.0.0.1", port)
        async with server:
            while not is_logged("is back"):
                assert (await gw.ask("POST", "/a")).status == 200
                await asyncio.sleep(0.005)
            await asyncio.sleep(0)
            assert set(took) <= {b""}


def services(gw: UnderTest) -> Any:
    return gw.proxy.dependencies.services["up"].up()


async def test_passive_health_can_be_off(closed_port: int) -> None:
    """Each target gets its turn for ever."""
    async with (
        FaultUpstream(answer()) as good,
        gateway(
            f"http://127.0.0.1:{closed_port}",
            good.url,
            service=TURNS | {"health": {"passive": False}},
        ) as gw,
    ):
        for _ in range(10):
            assert (await gw.ask("GET", "/a")).status == 200
        notes = [(await gw.record()).note for _ in range(10)]
        assert sum(map(bool, notes)) == 5


async def test_a_slow_target_gets_few_requests() -> None:
    """By default, requests go where fewer are in progress."""
    may_answer = asyncio.Event()

    async def hangs(peer: Peer) -> None:
        await peer.request()
        await may_answer.wait()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")

    async with (
        FaultUpstream(hangs) as slow,
        FaultUpstream(answer()) as good,
        gateway(slow.url, good.url) as gw,
    ):
        first = [asyncio.create_task(gw.ask("GET", "/a")) for _ in range(20)]
        await slow.got_request.wait()
        held = len(slow.requests)
        for _ in range(30):
            if all(task.done() for task in first):
                break
            assert (await gw.ask("GET", "/a")).status == 200
        assert len(slow.requests) <= held + 3
        may_answer.set()
        await asyncio.gather(*first)


@pytest.mark.parametrize("kind", ["user", "cookie:room", "client"])
async def test_requests_with_one_key_go_to_one_target(kind: str) -> None:
    """And different keys to different targets."""
    async with (
        FaultUpstream(answer()) as one,
        FaultUpstream(answer()) as other,
        gateway(
            one.url,
            other.url,
            service={"balance": {"hash": kind}},
            route={"protected": True},
        ) as gw,
    ):
        chosen: Counter[int] = Counter()
        for number in range(40):  # all to one: once in 2 ** 39
            before = count(one, other)
            for _ in range(3):
                bearer = ("Authorization", f"Bearer user-{number}")
                cookie = ("Cookie", f"room=r{number}")
                assert (await gw.ask("GET", "/a", bearer, cookie)).status == 200
            after = count(one, other)
            got = [b - a for a, b in zip(before, after, strict=True)]
            assert sorted(got) == [0, 3]
            chosen[got.index(3)] += 1
        assert len(chosen) == (1 if kind == "client" else 2)


async def test_weights_are_shares_of_the_requests() -> None:
    """Three of four requests go to the target with weight 3."""
    async with (
        FaultUpstream(answer()) as one,
        FaultUpstream(answer()) as other,
        gateway(
            service={
                "targets": [{"url": one.url, "weight": 3}, other.url],
                **TURNS,
            },
        ) as gw,
    ):
        for _ in range(40):
            await gw.ask("GET", "/a")
        assert count(one, other) == [30, 10]


async def test_an_ejected_target_that_answers_in_need_is_back() -> None:
    """It was down, and then the other one is, before the ejection is over."""
    closing = OK.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    well, broken = answer_and_close(closing), FAULTS["close before reply"]
    async with (
        FaultUpstream(broken) as first,
        FaultUpstream(well) as second,
        gateway(first.url, second.url, service=TURNS, log_expected=True) as gw,
    ):
        while not any("is ejected" in line for line in gw.log.lines):
            assert (await gw.ask("GET", "/a")).status == 200
        first.behaviour, second.behaviour = well, broken
        for _ in range(20):
            assert (await gw.ask("GET", "/a")).status == 200
        assert [is_up for _, is_up in services(gw)] == [True, False]
        before = len(second.requests)
        assert (await gw.ask("POST", "/a")).status == 200
        assert len(second.requests) == before


async def test_workers_tell_each_other_of_ejections(closed_port: int) -> None:
    """What one tells, another takes over without a failed request of its own."""
    told: list[tuple[str, str, float | None]] = []
    closed = f"http://127.0.0.1:{closed_port}"
    async with (
        FaultUpstream(answer()) as good,
        gateway(closed, good.url, service=TURNS, log_expected=True) as gw,
        gateway(closed, good.url, service=TURNS, log_expected=True) as other,
    ):
        gw.proxy.dependencies.services["up"].tell = lambda *one: told.append(one)
        for _ in range(10):
            assert (await gw.ask("POST", "/a")).status == 200
        ((name, target, until),) = told
        assert (name, target) == ("up", closed)
        there = other.proxy.dependencies.services["up"]
        there.heard(target, until)
        there.heard("http://unknown:80", until)
        for _ in range(10):
            assert (await other.ask("POST", "/a")).status == 200
        assert not any([(await other.record()).note for _ in range(10)])
        there.heard(target, None)
        assert all(up for _, up in there.up())

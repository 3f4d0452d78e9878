"""Requests that are sent again: for a status, and for a reply that takes long."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faults import OK, FaultUpstream, Peer, answer, hang_before_head
from gateway_under_test import gateway

BUSY = OK.replace(b"200 OK", b"503 Busy")
TURNS: dict[str, Any] = {"balance": "round_robin"}


def count(*upstreams: FaultUpstream) -> list[int]:
    return [len(one.requests) for one in upstreams]


@pytest.mark.parametrize(
    ("retry", "method", "statuses", "sent"),
    [
        ({"on": [503]}, "GET", {200}, [2, 4]),
        ({"on": ["503", "reset"]}, "HEAD", {200}, [2, 4]),
        ({"on": [503]}, "POST", {200, 503}, [2, 2]),
        ({"on": [503], "attempts": 0}, "GET", {200, 503}, [2, 2]),
        ({"on": [502, 504]}, "GET", {200, 503}, [2, 2]),
        ({}, "GET", {200, 503}, [2, 2]),
    ],
)
@pytest.mark.parametrize("place", ["route", "service"])
async def test_a_status_is_retried(
    retry: dict[str, Any],
    method: str,
    statuses: set[int],
    sent: list[int],
    place: str,
) -> None:
    """One that `on` lists, for requests that may be repeated."""
    service = TURNS | ({"retry": retry} if place == "service" else {})
    route = {"retry": retry} if place == "route" else {}
    async with (
        FaultUpstream(answer(BUSY)) as busy,
        FaultUpstream(answer()) as good,
        gateway(busy.url, good.url, service=service, route=route) as gw,
    ):
        if method == "HEAD":
            busy.behaviour = answer(BUSY.removesuffix(b"ok"))
            good.behaviour = answer(OK.removesuffix(b"ok"))
        got = {(await gw.ask(method, "/a")).status for _ in range(4)}
        assert got == statuses
        assert count(busy, good) == sent


async def test_the_last_reply_is_the_clients() -> None:
    """If all targets have that status, and it is whole."""
    body = b"x" * 300_000
    reply = b"HTTP/1.1 503 Busy\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    route = {"retry": {"on": [503], "attempts": 3}}
    async with (
        FaultUpstream(answer(reply)) as busy,
        gateway(busy.url, route=route) as gw,
    ):
        got = await gw.ask("GET", "/a")
        assert (got.status, got.body) == (503, body)
        assert count(busy) == [4]
        assert (await gw.record()).note == "a 503 was retried"


async def test_a_slow_try_is_followed_by_another() -> None:
    """With `per_try`; not for a method that may change something."""
    route = {"retry": {"per_try": 0.1}, "timeouts": {"response": 0.3}}
    async with (
        FaultUpstream(hang_before_head) as slow,
        FaultUpstream(answer()) as good,
        gateway(slow.url, good.url, service=TURNS, route=route) as gw,
    ):
        assert (await gw.ask("GET", "/a")).status == 200
        assert count(slow, good) == [1, 1]
        assert (await gw.ask("GET", "/a")).status == 200  # the good one's turn
        assert (await gw.ask("POST", "/a")).status == 504
        assert count(slow, good) == [2, 2]


async def test_the_last_try_has_all_of_the_time() -> None:
    """A service that is slow for every request isn't cut off by `per_try`."""
    may_answer = asyncio.Event()

    async def second(peer: Peer) -> None:
        await peer.request()
        if peer.number == 2:
            await asyncio.sleep(0.3)
            await peer.send(OK)
            may_answer.set()
        await peer.gone()

    route = {"retry": {"per_try": 0.1}}
    async with FaultUpstream(second) as slow, gateway(slow.url, route=route) as gw:
        assert (await gw.ask("GET", "/a")).status == 200
        assert may_answer.is_set()
        assert count(slow) == [2]


async def test_without_connect_the_next_target_is_not_tried(closed_port: int) -> None:
    route: dict[str, Any] = {"retry": {"on": []}}
    async with (
        FaultUpstream(answer()) as good,
        gateway(
            f"http://127.0.0.1:{closed_port}", good.url, service=TURNS, route=route
        ) as gw,
    ):
        statuses = [(await gw.ask("GET", "/a")).status for _ in range(4)]
        assert statuses == [502, 200, 502, 200]

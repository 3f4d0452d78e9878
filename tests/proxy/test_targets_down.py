"""Requests to a service of which checks have found targets down (`health.active`)."""

from __future__ import annotations

from typing import Any

import pytest
from faults import FaultUpstream, answer
from gateway_under_test import UnderTest, gateway


def counts(*upstreams: FaultUpstream) -> list[int]:
    return [len(one.requests) for one in upstreams]


@pytest.mark.parametrize("passive", [True, False])
@pytest.mark.parametrize("hashed", [True, False])
async def test_a_target_that_is_down_gets_no_requests(
    passive: bool, hashed: bool
) -> None:
    """Until it is up; all of them get requests if all are down."""
    service: dict[str, Any] = {
        "balance": {"hash": "header:X-Key"} if hashed else "round_robin",
        "health": {"passive": passive},
    }
    async with (
        FaultUpstream(answer()) as one,
        FaultUpstream(answer()) as other,
        gateway(one.url, other.url, service=service) as gw,
    ):

        async def ask(times: int) -> list[int]:
            before = counts(one, other)
            for number in range(times):
                reply = await gw.ask("POST", "/a", ("X-Key", str(number)))
                assert reply.status == 200
            after = counts(one, other)
            return [now - then for now, then in zip(after, before, strict=True)]

        targets = gw.proxy.dependencies.services["up"]
        targets.set_down([one.url, "http://unknown:80"])
        assert await ask(20) == [0, 20]
        assert is_up(gw) == [False, True]
        targets.set_down([one.url, other.url])
        assert min(await ask(40)) > 0
        assert is_up(gw) == [False, False]
        targets.set_down([])
        assert min(await ask(100)) > 0
        assert is_up(gw) == [True, True]


async def test_a_target_that_is_down_is_tried_last(closed_port: int) -> None:
    """If the others take no requests, it may be the checks that are wrong."""
    async with (
        FaultUpstream(answer()) as one,
        gateway(one.url, f"http://127.0.0.1:{closed_port}", log_expected=True) as gw,
    ):
        gw.proxy.dependencies.services["up"].set_down([one.url])
        for _ in range(10):
            assert (await gw.ask("POST", "/a")).status == 200


async def test_the_only_target_gets_requests() -> None:
    async with FaultUpstream(answer()) as one, gateway(one.url) as gw:
        gw.proxy.dependencies.services["up"].set_down([one.url])
        assert (await gw.ask("POST", "/a")).status == 200


def is_up(gw: UnderTest) -> list[bool]:
    return [up for _, up in gw.proxy.dependencies.services["up"].up()]

"""Checks of real targets: what is sent, what counts as down, and what is reported."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from checked_services import check
from faults import (
    FAULTS,
    OK,
    FaultUpstream,
    Peer,
    answer,
    answer_and_hang,
    black_hole,
    until,
)

from gateway import __version__
from gateway.upstream.checks import TargetChecker
from gateway.upstream.dial import Lookup

BUSY = OK.replace(b"200 OK", b"503 Busy")
SOON: dict[str, Any] = {"interval_s": 0.01}


@asynccontextmanager
async def checking(
    lookup: Lookup | None = None,
) -> AsyncIterator[tuple[TargetChecker, list[Any]]]:
    """Yield a checker, and the reports that it makes."""
    reports: list[Any] = []
    here = TargetChecker(lambda *report: reports.append(report), lookup=lookup)
    try:
        yield here, reports
    finally:
        await here.aclose()


@pytest.mark.parametrize(
    "behaviour",
    [
        answer(BUSY),
        FAULTS["close before reply"],
        FAULTS["hang before head"],
        FAULTS["reset in body"],
        FAULTS["hang in body"],
    ],
    ids=["503", "closes", "hangs", "cuts the body", "hangs in the body"],
)
async def test_a_target_that_fails_is_down_and_the_others_are_not(
    behaviour: Any,
) -> None:
    """It is reported once, while its checks go on."""
    async with (
        FaultUpstream(behaviour) as bad,
        FaultUpstream(answer()) as good,
        checking() as (here, reports),
    ):
        here.add(check(targets=(bad.url, good.url), timeout_s=0.2, **SOON))
        await until(lambda: reports and len(bad.requests) >= 4)
        assert reports == [("up", (bad.url,))]
        assert here.down("up") == [bad.url]
        assert not here.services_down()


async def test_a_long_body_is_not_read_to_its_end() -> None:
    """64 KiB of it are enough, so a path that streams may be checked."""
    endless = OK.replace(b"Length: 2", b"Length: 99999999").replace(b"ok", b"x" * 99999)
    async with (
        FaultUpstream(answer_and_hang(endless)) as good,
        FaultUpstream(answer(BUSY)) as bad,
        checking() as (here, reports),
    ):
        here.add(check(targets=(bad.url, good.url), timeout_s=30.0, **SOON))
        await until(lambda: reports and len(good.requests) >= 4)
        assert reports == [("up", (bad.url,))]


async def test_a_target_that_takes_no_connection_is_down(closed_port: int) -> None:
    """It refuses, or never answers; as both do so, the whole service is down."""
    async with black_hole() as port, checking() as (here, reports):
        urls = f"http://127.0.0.1:{closed_port}", f"http://127.0.0.1:{port}"
        here.add(check(targets=urls, timeout_s=0.1, **SOON))
        await until(lambda: len(reports) == 2)
        assert set(here.down("up")) == {*urls}
        assert here.services_down() == ["up"]


async def test_a_target_that_is_well_again_is_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Each change is reported and logged with its event."""
    is_well = False

    async def flaps(peer: Peer) -> None:
        await answer(OK if is_well else BUSY)(peer)

    async with FaultUpstream(flaps) as upstream, checking() as (here, reports):
        here.add(check(targets=(upstream.url,), **SOON))
        await until(lambda: len(reports) == 1)
        is_well = True
        await until(lambda: len(reports) == 2)
        assert reports == [("up", (upstream.url,)), ("up", ())]
        assert not here.services_down()
    assert [record.getMessage() for record in caplog.records] == [
        f"service up: target {upstream.url} is down: its check fails: status 503",
        f"service up: target {upstream.url} is up: its check succeeds",
    ]


@pytest.mark.parametrize("host", [None, "app.internal"])
async def test_what_is_sent(host: str | None) -> None:
    """A GET without a body on a connection of its own, with the service's Host."""
    async with FaultUpstream(answer()) as upstream, checking() as (here, _):
        here.add(check(targets=(upstream.url,), host=host, **SOON))
        await until(lambda: len(upstream.requests) >= 3)
    authority = upstream.url.removeprefix("http://") if host is None else host
    assert (
        upstream.requests[0].head
        == (
            f"GET /healthz HTTP/1.1\r\nHost: {authority}\r\n"
            f"User-Agent: supertokens-gateway/{__version__}\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n"
        ).encode()
    )
    connections = [request.connection for request in upstream.requests]
    assert len(set(connections)) == len(connections)


async def test_states_outlive_a_configuration_and_are_told_to_a_new_checker() -> None:
    """What the checker has found itself counts more than what it is told."""
    async with FaultUpstream(answer(BUSY)) as bad, checking() as (here, reports):
        here.add(check(targets=(bad.url,), **SOON))
        await until(lambda: reports)
        here.begin()
        here.know("up", ())
        slow = check(targets=(bad.url, "http://b:80"), interval_s=3600.0)
        here.add(slow)
        assert here.down("up") == [bad.url]
        async with checking() as (other, _):
            other.begin()
            other.know("up", ["http://b:80"])
            other.add(slow)
            assert other.down("up") == ["http://b:80"]


async def test_what_is_no_longer_configured_is_not_checked() -> None:
    async with FaultUpstream(answer()) as upstream, checking() as (here, _):
        here.add(check(targets=(upstream.url,), **SOON))
        await until(lambda: upstream.requests)
        here.begin()
        await asyncio.sleep(0.02)  # a check that is on its way
        seen = len(upstream.requests)
        await asyncio.sleep(0.05)
        assert len(upstream.requests) == seen


async def test_gateways_that_start_together_do_not_check_together() -> None:
    """The first check is at any point of an interval."""
    async with FaultUpstream(answer()) as upstream, checking() as (here, _):
        here.add(check(targets=(upstream.url,) * 1, interval_s=3600.0))
        await asyncio.sleep(0.05)
        assert not upstream.requests


async def test_each_address_of_a_name_is_checked() -> None:
    """With `resolve: each`. One that leaves is no longer down, and not checked."""
    addresses = ["127.0.0.1", "127.0.0.2"]

    async def lookup(host: str, port: int) -> list[Any]:
        return [(2, 1, 6, "", (address, port)) for address in addresses]

    async with (
        FaultUpstream(answer()) as good,
        FaultUpstream(answer(BUSY), host="127.0.0.2", port=good.port) as bad,
        checking(lookup) as (here, reports),
    ):
        here.know("up", ())
        url = f"http://app.test:{good.port}"
        here.add(check(targets=(url,), resolve_s=0.005, **SOON))
        await until(lambda: reports)
        assert reports == [("up", (bad.url,))]
        assert here.down("up") == [bad.url]
        assert not here.services_down()
        authority = f"app.test:{good.port}".encode()
        assert bad.requests[0].field(b"host") == authority
        addresses.pop()
        await until(lambda: len(reports) == 2)
        assert reports[1] == ("up", ())
        before = len(bad.requests), len(good.requests)
        await until(lambda: len(good.requests) > before[1] + 3)
        assert len(bad.requests) <= before[0] + 1  # a check that was on its way


async def test_an_address_that_was_down_before_a_reload_stays_down() -> None:
    """It is known before its name is looked up."""

    async def lookup(host: str, port: int) -> list[Any]:
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    async with checking(lookup) as (here, reports):
        here.begin()
        here.know("up", ["http://127.0.0.1:81"])
        name = "http://app.test:81"
        here.add(check(targets=(name,), resolve_s=3600.0, interval_s=3600.0))
        await until(lambda: here.down("up"))
        assert here.services_down() == ["up"]
        assert not reports

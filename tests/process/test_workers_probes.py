"""Probes of a real gateway: its start, an outage, lost processes, and its end."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import processes
import pytest
from click.testing import CliRunner
from faults import FaultUpstream
from processes import DEADLINE_S, Process, command, serving, until_refused
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families
from wire import WireReply, ask

from gateway.cli import main
from gateway.dev.core import ThreadedCore
from gateway.process import metric_series

ROOT = Path(__file__).parents[2]
ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  shutdown_delay: ${DELAY:-1ms}
  drain_timeout: 5
  probes: {listen: "127.0.0.1:0", startup_timeout: "${STARTUP:-1h}"}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services:
  up: {targets: ["${UPSTREAM}"]}
  next: {targets: ["${UPSTREAM}"]}
routes:
  - {name: open, path: /open, service: up, protected: false}
  - {name: private, path: /private, service: up}
  - name: both
    path: /both
    service: up
    protected: false
    split: {to: next, weight: 0, sticky: client, override: "header:X-Canary"}
"""
WELL, DEGRADED = (f'{{\n  "status": "{level}"' for level in ("ok", "degraded"))
"""How such an answer begins."""

Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
"""Name and labels → value."""


def series_of(text: str) -> Series:
    """Return the samples of a scrape, read by Prometheus's own parser."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(series: Series, name: str, **labels: str) -> float:
    """Return the sum of the samples that have this name and these labels."""
    return sum(
        value
        for (other, having), value in series.items()
        if other == name and {*labels.items()} <= having
    )


class Probed:
    """A running gateway, and where it answers probes."""

    def __init__(self, process: Process, port: int, probes: int) -> None:
        self.process = process
        self.port = port
        self.probes = probes

    @property
    def workers(self) -> set[int]:
        return processes.workers(self.process.child.pid)

    @property
    def hubs(self) -> set[int]:
        return processes.hubs(self.process.child.pid)

    async def probe(self, path: str) -> WireReply:
        return await ask(self.probes, "GET", path)

    async def scrape(self, accept: str = "") -> Series:
        reply = await ask(self.probes, "GET", "/metrics", ("Accept", accept))
        assert reply.status == 200
        return series_of(reply.body.decode())

    async def until_counted(self, number: float) -> Series:
        """Return the first scrape that has at least so many requests."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                series = await self.scrape()
                if total(series, "gateway_http_requests_total") >= number:
                    return series
                await asyncio.sleep(0.05)

    async def until(self, path: str, status: int, text: str = "") -> WireReply:
        """Return the first answer with this status and *text*."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                reply = await self.probe(path)
                if reply.status == status and text in reply.body.decode():
                    return reply

    def health(self, *args: str) -> tuple[int, str]:
        """Return the exit code and the output of `gateway health`."""
        url = f"http://127.0.0.1:{self.probes}"
        done = CliRunner().invoke(main, ["health", "--url", url, *args])
        return done.exit_code, done.output


Start = Callable[..., Awaitable[Probed]]


@pytest.fixture
async def start(
    tmp_path: Path, st_core: ThreadedCore, upstream: FaultUpstream
) -> AsyncIterator[Start]:
    """Return a function that starts a gateway of two workers with probes."""
    async with AsyncExitStack() as opened:

        async def run(**environ: str) -> Probed:
            path = tmp_path / "routes.yaml"
            path.write_text(ROUTES, encoding="utf-8")
            process = await opened.enter_async_context(
                command(
                    *("serve", "-c", path, "--workers", "2"),
                    cwd=tmp_path,
                    environ={"CORE": st_core.url, "UPSTREAM": upstream.url, **environ},
                )
            )
            port = await serving(process)
            match = await process.until_said(rb"probes on http://127\.0\.0\.1:(\d+)\n")
            return Probed(process, port, int(match[1]))

        yield run


async def test_a_gateway_becomes_ready_and_stops(start: Start) -> None:
    """It is ready until the signal, and then not, while it accepts and lives."""
    gateway = await start(DELAY="1h")
    for path in ("/startupz", "/readyz", "/livez"):
        await gateway.until(path, 200, WELL)
    assert await asyncio.to_thread(gateway.health, "--ready") == (0, "ok\n")
    assert (await ask(gateway.port, "GET", "/open")).status == 200
    gateway.process.signal(signal.SIGTERM)
    await gateway.until("/readyz", 503)
    for path in ("/startupz", "/livez"):
        assert (await gateway.probe(path)).status == 200
    assert (await ask(gateway.port, "GET", "/open")).status == 200
    code, line = await asyncio.to_thread(gateway.health, "--ready")
    assert (code, line) == (1, "failing (draining: the gateway stops)\n")
    assert await asyncio.to_thread(gateway.health) == (0, "ok\n")
    gateway.process.signal(signal.SIGTERM)
    assert await gateway.process.ended() == 130


async def test_the_shutdown_delay_ends(start: Start) -> None:
    """After it, the gateway drains and exits with 0; nothing listens any more."""
    gateway = await start()
    await gateway.until("/readyz", 200)
    gateway.process.signal(signal.SIGTERM)
    await until_refused(gateway.port)
    assert await gateway.process.ended() == 0
    await until_refused(gateway.probes)


async def test_a_core_that_is_away_does_not_take_the_gateway_out(
    start: Start, st_core: ThreadedCore
) -> None:
    """Without keys it hasn't started; with an old set it is ready, and degraded."""
    faults = st_core.core.faults
    faults.disconnect()
    gateway = await start()
    for path in ("/open", "/auth/jwt/jwks.json"):
        await ask(gateway.port, "GET", path)
    await gateway.until("/startupz", 503, "signing keys are awaited")
    reply = await gateway.until("/readyz", 200, "the core can't be reached")
    assert {*reply.json()["checks"]} >= {"core", "keys"}
    assert st_core.url.encode() not in reply.body
    faults.clear()
    await gateway.until("/startupz", 200)
    await gateway.until("/readyz", 200, WELL)


async def test_without_keys_the_start_ends_after_a_time(
    start: Start, st_core: ThreadedCore
) -> None:
    """Public routes are served then."""
    st_core.core.faults.disconnect()
    gateway = await start(STARTUP="1ms")
    await gateway.until("/startupz", 200)
    await gateway.until("/readyz", 200, DEGRADED)
    st_core.core.faults.clear()


async def test_a_hub_that_dies_answers_again(start: Start) -> None:
    """Requests are served meanwhile; the next hub has the same address."""
    gateway = await start()
    await gateway.until("/readyz", 200, WELL)
    for pid in gateway.hubs:
        os.kill(pid, signal.SIGKILL)
    assert (await ask(gateway.port, "GET", "/open")).status == 200
    async with asyncio.timeout(DEADLINE_S):
        while True:
            try:
                reply = await gateway.probe("/startupz")
            except (ConnectionError, asyncio.IncompleteReadError):
                continue  # in the queue of the hub that died
            assert reply.status == 200
            break
    await gateway.until("/readyz", 200, WELL)


async def test_a_worker_that_dies_degrades_the_gateway(start: Start) -> None:
    """It is ready all the same, and the check says since when."""
    gateway = await start()
    well = await gateway.until("/readyz?verbose", 200, WELL)
    before = well.json()["checks"]["accepting"]
    (worker, *_) = sorted(gateway.workers)
    os.kill(worker, signal.SIGSTOP)
    os.kill(worker, signal.SIGKILL)
    reply = await gateway.until("/readyz", 200, "1 of 2 workers accept")
    check = reply.json()["checks"]["accepting"]
    assert check["since"] > before["since"]
    await gateway.until("/readyz", 200, WELL)


async def test_an_address_in_use_ends_the_start(tmp_path: Path) -> None:
    """The message names the key and the option."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        path = tmp_path / "routes.yaml"
        path.write_text(
            'version: 1\ngateway: {listen: "127.0.0.1:0"}\n', encoding="utf-8"
        )
        async with command(
            *("serve", "-c", path, "--probes-listen", f"127.0.0.1:{port}"),
            cwd=tmp_path,
        ) as process:
            assert await process.ended() == 1
    said = process.err.decode()
    assert re.search(rf"port {port} is in use .* gateway.probes.listen or", said)


# --- metrics ----------------------------------------------------------------------


async def test_metrics_count_what_was_served(start: Start) -> None:
    """All workers together, by route, method, status, decision and service."""
    gateway = await start()
    for _ in range(20):
        assert (await ask(gateway.port, "GET", "/open")).status == 200
    for _ in range(3):
        assert (await ask(gateway.port, "GET", "/private")).status == 401
    assert (await ask(gateway.port, "BREW", "/open")).status >= 400
    assert (await ask(gateway.port, "POST", "/open", body=b"12345")).status == 200
    series = await gateway.until_counted(25)
    count = partial(total, series, "gateway_http_requests_total")
    assert count() == 25
    assert count(route="open", method="GET", code="200") == 20
    assert count(route="private", method="GET", code="401") == 3
    assert count(method="_OTHER") == 1
    assert total(series, "gateway_http_request_duration_seconds_count") == 25
    decided = partial(total, series, "gateway_decisions_total")
    assert decided(route="private", decision="denied", reason="unauthorised") == 3
    assert decided(route="open", decision="anonymous", reason="public") == 21
    assert total(series, "gateway_upstream_requests_total", code="200") == 21
    received = partial(total, series, "gateway_http_request_body_bytes_total")
    assert received(route="open") == 5
    assert total(series, "gateway_workers", state="accepting") == 2
    assert total(series, "gateway_config_last_reload_success") == 1
    assert total(series, "gateway_http_active_requests") == 0
    assert total(series, "gateway_keys_fetches_total", outcome="good") >= 1
    assert total(series, "gateway_upstream_connections", state="idle") >= 1
    text = " ".join(
        value for _, labels in series for name, value in labels if name != "target"
    )
    assert "127.0.0.1" not in text


async def test_metrics_count_the_services_of_a_split(start: Start) -> None:
    """By route: both are there before the first request; other routes are not."""
    gateway = await start()
    await gateway.until("/readyz", 200, WELL)
    name = "gateway_split_requests_total"
    series: Series = {}
    async with asyncio.timeout(DEADLINE_S):
        while sum(other == name for other, _ in series) < 2:
            series = await gateway.scrape()
    assert total(series, name) == 0
    for word in ("always", "always", "always", "never", "often"):
        reply = await ask(gateway.port, "GET", "/both", ("X-Canary", word))
        assert reply.status == 200
    assert (await ask(gateway.port, "GET", "/open")).status == 200
    series = await gateway.until_counted(6)
    assert total(series, name, route="both", service="next") == 3
    assert total(series, name, route="both", service="up") == 2
    assert total(series, name) == 5


async def test_metrics_count_calls_to_the_core(
    start: Start, st_core: ThreadedCore
) -> None:
    """By path and outcome."""
    gateway = await start()
    values = {"email": "a@example.com", "password": "x"}
    form = [{"id": name, "value": value} for name, value in values.items()]
    body = json.dumps({"formFields": form}).encode()
    fields = ("Content-Type", "application/json")
    await ask(gateway.port, "POST", "/auth/signin", fields, body=body)
    st_core.core.faults.disconnect()
    await ask(gateway.port, "POST", "/auth/signin", fields, body=body)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            count = partial(
                total, await gateway.scrape(), "gateway_core_requests_total"
            )
            if count(outcome="broken") and count(path="/users/by-accountinfo"):
                break
    assert count(path="/users/by-accountinfo", outcome="200") == 1


async def test_counters_do_not_fall_when_a_worker_dies(start: Start) -> None:
    """What it has counted stays, and the next one adds to it."""
    gateway = await start()
    for _ in range(10):
        await ask(gateway.port, "GET", "/open")
    await gateway.until_counted(10)
    for pid in gateway.workers:
        os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(DEADLINE_S):
        while True:
            series = await gateway.scrape()
            assert total(series, "gateway_http_requests_total") == 10
            if total(series, "gateway_worker_restarts_total", cause="signal") == 2:
                break
    for _ in range(5):
        await ask(gateway.port, "GET", "/open")
    series = await gateway.until_counted(15)
    assert total(series, "gateway_http_requests_total") == 15


async def test_a_reload_loses_no_count(start: Start) -> None:
    """The old workers report their last requests when they end."""
    gateway = await start()
    for _ in range(7):
        await ask(gateway.port, "GET", "/open")
    gateway.process.signal(signal.SIGHUP)
    await gateway.process.until_said(rb"reloaded ")
    async with asyncio.timeout(DEADLINE_S):
        while True:  # the hub may not know of the reload yet
            series = await gateway.scrape()
            if total(series, "gateway_config_generation") == 2 and not total(
                series, "gateway_workers", state="draining"
            ):
                break
    series = await gateway.until_counted(7)
    assert total(series, "gateway_http_requests_total") == 7


async def test_every_series_is_documented(start: Start) -> None:
    """The table in docs/operations.md has each family of a scrape, with its labels."""
    gateway = await start()
    await ask(gateway.port, "GET", "/open")
    await gateway.until_counted(1)
    reply = await ask(gateway.probes, "GET", "/metrics")
    assert reply.one("content-type") == "text/plain; version=0.0.4; charset=utf-8"
    scraped = {
        family.name: family.type
        for family in text_string_to_metric_families(reply.body.decode())
    }
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| `((?:gateway|process)_\w+)(?:\{([^}]*)\})?` \| (\w+) \|",
        page,
        re.MULTILINE,
    )
    documented = {name.removesuffix("_total"): kind for name, _, kind in rows}
    assert documented == scraped
    labels = {
        name.removeprefix("gateway_").removesuffix("_total"): tuple(
            filter(None, labels.split(","))
        )
        for name, labels, _ in rows
    }
    assert labels == {name: shape[1] for name, shape in metric_series.SERIES.items()}


async def test_openmetrics_is_rendered_on_demand(start: Start) -> None:
    """As Prometheus asks for it; its own parser reads it."""
    gateway = await start()
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    reply = await ask(gateway.probes, "GET", "/metrics", ("Accept", accept))
    media_type = "application/openmetrics-text; version=1.0.0; charset=utf-8"
    assert reply.one("content-type") == media_type
    text = reply.body.decode()
    families = openmetrics_families(text)  # type: ignore[no-untyped-call] # no types
    assert "gateway_workers" in {family.name for family in families}

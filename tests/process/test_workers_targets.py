"""Checks of targets in a real gateway of two workers: one process checks for both."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path

from faults import OK, FaultUpstream, Peer, answer, until
from processes import DEADLINE_S, command, hub_of, hubs, serving
from wire import ask

from gateway.dev.core import ThreadedCore

ROUTES = """\
version: 1
gateway:
  listen: 127.0.0.1:0
  drain_timeout: 5
  probes: {listen: "127.0.0.1:0"}
supertokens: {connection_uri: "${CORE}", recipes: {emailpassword: {}}}
services:
  up:
    targets: ["${ONE}", "${OTHER}"]
    balance: round_robin
    health: {active: {path: /healthz, interval: 100ms, up: 1, down: 1}}
routes:
  - {path: /open, service: up, protected: false}
"""
BUSY = OK.replace(b"200 OK", b"503 Busy")


class Ailing(FaultUpstream):
    """Answers requests, and fails its checks while `is_ill`."""

    def __init__(self) -> None:
        super().__init__(self._answer)
        self.is_ill = False

    async def _answer(self, peer: Peer) -> None:
        while True:
            line = (await peer.request()).line
            is_check = line.startswith(b"GET /healthz ")
            await peer.send(BUSY if is_check and self.is_ill else OK)

    @property
    def asked(self) -> int:
        """The requests that aren't checks."""
        return sum(b"/open" in one.line for one in self.requests)


async def test_results_reach_all_workers_and_outlive_the_hub_and_a_reload(
    tmp_path: Path, st_core: ThreadedCore
) -> None:
    """A target that is down gets no request of any worker, old or new."""
    (tmp_path / "routes.yaml").write_text(ROUTES)
    async with Ailing() as one, FaultUpstream(answer()) as other:
        environ = {
            "CORE": st_core.url,
            "ONE": one.url,
            "OTHER": other.url,
            "GATEWAY_WORKERS": "2",
        }
        async with command(
            "serve", "-c", "routes.yaml", cwd=tmp_path, environ=environ
        ) as gateway:
            port = await serving(gateway)
            match = await gateway.until_said(rb"robes[^\n]*:(\d+)")
            probes = int(match[1])

            async def ask_often() -> int:
                """Return how many of 40 requests, each by itself, *one* has got."""
                before = one.asked
                for _ in range(40):
                    assert (await ask(port, "GET", "/open")).status == 200
                return one.asked - before

            assert await ask_often() > 0
            one.is_ill = True
            await gateway.until_said(
                rb"target \S+ is down: its check fails: status 503"
            )
            async with asyncio.timeout(DEADLINE_S):
                while await ask_often():
                    pass  # the message may be on its way
            (tmp_path / "routes.yaml").write_text(ROUTES + "  # changed\n")
            gateway.signal(signal.SIGHUP)
            await gateway.until_said(rb"reloaded")
            assert await ask_often() == 0
            first = await hub_of(gateway.child.pid)
            os.kill(first, signal.SIGKILL)
            await until(lambda: hubs(gateway.child.pid) - {first})
            seen = len(one.requests)
            await until(lambda: len(one.requests) >= seen + 2)
            assert await ask_often() == 0
            assert gateway.err.count(b"is down") == 1
            assert (await ask(probes, "GET", "/readyz")).status == 200
            one.is_ill = False
            await gateway.until_said(rb"target \S+ is up")
            async with asyncio.timeout(DEADLINE_S):
                while not await ask_often():
                    pass
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0


EJECTING = ROUTES.replace(
    "active: {path: /healthz, interval: 100ms, up: 1, down: 1}",
    "passive: {eject: 1h, max_eject: 1h}",
)


async def test_an_ejection_reaches_all_workers_and_outlives_a_reload(
    tmp_path: Path, st_core: ThreadedCore, closed_port: int
) -> None:
    """One worker has found it, after three failures. No other has to, old or new."""
    (tmp_path / "routes.yaml").write_text(EJECTING)
    async with FaultUpstream(answer()) as other:
        environ = {
            "CORE": st_core.url,
            "ONE": f"http://127.0.0.1:{closed_port}",
            "OTHER": other.url,
            "GATEWAY_WORKERS": "2",
        }
        async with command(
            "serve", "-c", "routes.yaml", cwd=tmp_path, environ=environ
        ) as gateway:
            port = await serving(gateway)

            async def ask_once() -> None:
                assert (await ask(port, "GET", "/open")).status == 200

            async with asyncio.timeout(DEADLINE_S):
                while b"is ejected" not in gateway.err:
                    await ask_once()
            await asyncio.sleep(0.2)  # the message is on its way
            for _ in range(60):
                await ask_once()
            (tmp_path / "routes.yaml").write_text(EJECTING + "  # changed\n")
            gateway.signal(signal.SIGHUP)
            await gateway.until_said(rb"reloaded")
            for _ in range(60):
                await ask_once()
            assert gateway.err.count(b"is ejected") == 1
            gateway.signal(signal.SIGTERM)
            assert await gateway.ended() == 0

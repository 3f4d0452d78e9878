"""What an operator does on the second day, under load: `make day-two`.

Clients with and without sessions call a gateway without pause while it is reloaded and
upgraded, its workers are killed, its core is away, its certificate and the folder of
its file are swapped, and it is stopped. One line is printed for each: requests sent,
requests lost, and the longest time without any answer.

Goal: no request is lost, and no WebSocket by a reload. A worker that is killed breaks
the connections it has; their requests are sent once more, as a client may do with a
GET, and must be answered then.

Exits with 1 if one is lost, and with 130 at Ctrl-C. No process is left.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import signal
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from cryptography import x509

from bench.rig.callers import Callers, Outcomes
from bench.rig.core_stage import PASSWORD, Clients, Report, Seen, clients, staged
from bench.rig.innocent import free_port
from bench.rig.processes import CORES, running, worker_pids
from bench.rig.tls_rivals import certificate, renew

_PATIENCE_S = 60.0
"""A step that isn't done by then has failed."""
_SETTLE_S = 0.5
"""Load before the first action of a step, and after the last."""
_DELAY_S = 2
_WEBSOCKETS = 20
_ROUTES = f"""version: 1
gateway:
  listen:
    - "127.0.0.1:{{port}}"
    - {{{{address: "127.0.0.1:TLS", tls: {{{{certificates: [CERTIFICATE]}}}}}}}}
  watch: {{{{interval: 200ms}}}}
  probes: {{{{listen: "127.0.0.1:PROBES"}}}}
  pidfile: PIDFILE
  shutdown_delay: {_DELAY_S}s
  drain_timeout: 10s
supertokens:
  connection_uri: http://127.0.0.1:{{core}}
  recipes: {{{{emailpassword: {{{{}}}}}}}}
services:
  up: {{{{targets: ["http://127.0.0.1:{{upstream}}"]}}}}
  echo: {{{{targets: ["http://127.0.0.1:ECHO"]}}}}
routes:
  - {{{{path: /echo, service: echo, protected: false}}}}
  - {{{{path: /open, service: up, protected: false}}}}
  - {{{{path: /, service: up}}}}
"""


@dataclass(frozen=True)
class Operator:
    """Looks at the gateway as an operator does, and acts."""

    pidfile: Path
    probes: int
    http: aiohttp.ClientSession

    @property
    def pid(self) -> int:
        """The process id of the gateway that serves: an upgrade changes it."""
        return int(self.pidfile.read_text())

    async def metric(self, name: str, **labels: str) -> float:
        """Return the sum of the samples of a metric with these labels."""
        url = f"http://127.0.0.1:{self.probes}/metrics"
        async with self.http.get(url) as reply:
            text = await reply.text()
        having = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if re.match(rf"{name}[{{ ]", line) and all(each in line for each in having)
        )

    async def is_ready(self) -> bool:
        """Return whether a load balancer would send new connections."""
        async with self.http.get(f"http://127.0.0.1:{self.probes}/readyz") as reply:
            return reply.status == 200

    async def reload(self, keeping: int = 0) -> None:
        """Reload, and wait until no worker of the old generation is left.

        *keeping* workers may be left, which keep WebSockets.
        """
        before = await self.metric("gateway_config_generation")
        os.kill(self.pid, signal.SIGHUP)
        await self.until_past(before, keeping)

    async def until_past(self, generation: float, keeping: int = 0) -> None:
        """Wait until a later generation serves, and no other worker is left."""
        await until(lambda: self._is_past(generation, keeping))

    async def upgrade(self) -> None:
        """Upgrade, and wait until the gateway before has ended."""
        before = self.pid
        os.kill(before, signal.SIGUSR2)

        async def is_replaced() -> bool:
            return self.pid != before and not is_running(before)

        await until(is_replaced)

    async def _is_past(self, generation: float, keeping: int) -> bool:
        return (
            await self.metric("gateway_config_generation") > generation
            and await self.metric("gateway_workers", state="draining") <= keeping
        )

    async def kill_a_worker(self, workers: int) -> None:
        """Kill a worker, and wait until all *workers* accept again."""
        killed = min(worker_pids(self.pid))
        restarts = await self.metric("gateway_worker_restarts_total")
        os.kill(killed, signal.SIGKILL)

        async def is_replaced() -> bool:
            return (
                await self.metric("gateway_worker_restarts_total") > restarts
                and await self.metric("gateway_workers", state="accepting") == workers
                and len(worker_pids(self.pid) - {killed}) == workers
            )

        await until(is_replaced)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until *condition* holds.

    Raises:
        TimeoutError: it doesn't in `_PATIENCE_S`.
    """
    async with asyncio.timeout(_PATIENCE_S):
        while not await condition():  # noqa: ASYNC110 - of another process
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def watched(
    report: Report, callers: Callers, what: str, *, repeat: bool = False
) -> AsyncIterator[Outcomes]:
    """Call the gateway while the block runs, and report what became of the requests."""
    began = time.perf_counter()
    async with callers.calling(repeat=repeat) as outcomes:
        await asyncio.sleep(_SETTLE_S)
        yield outcomes
        await asyncio.sleep(_SETTLE_S)
    took_s = time.perf_counter() - began
    report.goal(
        f"{what}, {took_s:.0f} s: {outcomes.words()}", reached=not outcomes.lost
    )


async def keep_websockets(
    report: Report, callers: Callers, operator: Operator, url: str, times: int
) -> None:
    """Reload so many *times*; WebSockets that were opened before echo after each.

    The workers that have them are left, and no others.
    """
    kept = _WEBSOCKETS
    async with contextlib.AsyncExitStack() as opened:
        sockets = [
            await opened.enter_async_context(operator.http.ws_connect(url))
            for _ in range(_WEBSOCKETS)
        ]
        holding = len(worker_pids(operator.pid))
        what = f"reload {times} times with {_WEBSOCKETS} WebSockets"
        async with watched(report, callers, what):
            for _ in range(times):
                await operator.reload(holding)
                kept = min(kept, sum([await echoes(socket) for socket in sockets]))
    text = f"{kept} of {_WEBSOCKETS} WebSockets have survived {times} reloads"
    report.goal(text, reached=kept == _WEBSOCKETS)


async def echoes(socket: aiohttp.ClientWebSocketResponse) -> bool:
    """Return whether a message comes back."""
    try:
        await socket.send_str("hello")
        return await socket.receive_str(timeout=_PATIENCE_S) == "hello"
    except (TypeError, ConnectionError, TimeoutError):  # another kind of message
        return False


async def stop(report: Report, callers: Callers, operator: Operator) -> None:
    """Stop the gateway; the clients go when it says that it isn't ready.

    So does a load balancer, or Kubernetes with a readiness probe.
    """
    what = f"SIGTERM with `shutdown_delay: {_DELAY_S}s`, until not ready"
    async with watched(report, callers, what):
        os.kill(operator.pid, signal.SIGTERM)

        async def is_unready() -> bool:
            return not await operator.is_ready()

        await until(is_unready)


async def swap_certificates(
    report: Report, port: int, bearer: bytes, files: tuple[Path, Path], times: int
) -> None:
    """Replace the certificate while clients connect; each time, wait until it is used.

    No reload is needed for it.
    """
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE

    async def serial() -> int:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        shown = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        return x509.load_der_x509_certificate(shown).serial_number

    callers = Callers(port, bearer, kept=4, fresh=4, tls=context)
    async with watched(report, callers, f"certificate replaced {times} times, TLS"):
        for _ in range(times):
            new = renew(*files)

            async def is_shown(new: int = new) -> bool:
                return await serial() == new

            await until(is_shown)


async def swap_data(
    report: Report, callers: Callers, operator: Operator, file: Path, times: int
) -> None:
    """Swap the folder behind the configuration file, as Kubernetes does."""
    folder = file.parent
    text = await asyncio.to_thread(file.read_text)

    def put(number: int) -> None:
        behind = folder / f"..{number}"
        behind.mkdir()
        name = "{{name: swapped, path: /swapped/{}, service: up}}"
        (behind / file.name).write_text(f"{text}  - {name.format(number)}\n")
        link = folder / "..new"
        link.symlink_to(behind.name)
        link.replace(folder / "..data")

    async def swap(number: int) -> None:
        before = await operator.metric("gateway_config_generation")
        put(number)
        if number == 0:
            link = folder / "link"
            link.symlink_to(Path("..data") / file.name)
            link.replace(file)
        await operator.until_past(before)

    await swap(0)
    async with watched(report, callers, f"`..data` swapped {times} times"):
        for number in range(1, times + 1):
            await swap(number)


async def measure(report: Report, times: float, workers: int) -> None:
    """Do everything with a gateway of *workers* workers, and report it."""

    def often(number: int) -> int:
        return max(1, round(number * times))

    probes, echo, tls = free_port(), free_port(), free_port()
    with tempfile.TemporaryDirectory() as folder, _echo(echo, Path(folder)):
        pidfile = Path(folder) / "gateway.pid"
        routes = _ROUTES.replace("PROBES", str(probes))
        routes = routes.replace("PIDFILE", str(pidfile)).replace("ECHO", str(echo))
        files = certificate(Path(folder))
        names = f'{{{{cert: "{files[0]}", key: "{files[1]}"}}}}'
        routes = routes.replace("TLS", str(tls)).replace("CERTIFICATE", names)
        with staged(Path(folder), workers=workers, tree=None, routes=routes) as stage:
            async with clients(stage) as here, aiohttp.ClientSession() as http:
                operator = Operator(pidfile, probes, http)
                bearer = await _bearer(here)
                callers = Callers(stage.port, bearer, kept=8, fresh=4)
                n = often(20)
                what = f"{workers} workers: reload {n} times"
                async with watched(report, callers, what):
                    for _ in range(n):
                        await operator.reload()
                url = f"http://127.0.0.1:{stage.port}/echo"
                await keep_websockets(report, callers, operator, url, often(5))
                n = often(5)
                async with watched(
                    report, callers, f"{workers} workers: upgrade {n} times"
                ):
                    for _ in range(n):
                        await operator.upgrade()
                if workers == 1:
                    return
                n = often(10)
                what = f"`kill -9` of a worker {n} times"
                async with watched(report, callers, what, repeat=True):
                    for _ in range(n):
                        await operator.kill_a_worker(workers)
                n = often(3)
                what = f"the core is away: reload {n} times, `kill -9` {n} times"
                async with watched(report, callers, what, repeat=True):
                    with _stopped(stage.core_pid):
                        for _ in range(n):
                            await operator.reload()
                            await operator.kill_a_worker(workers)
                await swap_certificates(report, tls, bearer, files, often(5))
                file = Path(folder) / "routes.yaml"
                await swap_data(report, callers, operator, file, often(3))
                await stop(report, callers, operator)


@contextlib.contextmanager
def _echo(port: int, folder: Path) -> Iterator[None]:
    """Run a WebSocket service while the block runs."""
    log = folder / "echo.log"
    command = [sys.executable, "-m", "bench.rig.echo_upstream", str(port)]
    with running(command, core=CORES, port=port, log=log):
        yield


def is_running(pid: int) -> bool:
    """Return whether a process has not ended; one that waits for its parent has."""
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False


@contextlib.contextmanager
def _stopped(pid: int) -> Iterator[None]:
    """Stop a process while the block runs."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


async def _bearer(here: Clients) -> bytes:
    """Return the access token of a new user."""
    tokens = await here.sign(Seen(), "signup", "second@example.com", PASSWORD)
    return tokens["access"].encode()


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scripts.day_two",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="do each thing once")
    chosen = parser.parse_args()
    report = Report()
    try:
        for workers in (1, 2):
            asyncio.run(measure(report, 0.0 if chosen.quick else 1.0, workers))
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(report.missed > 0)


if __name__ == "__main__":
    main()

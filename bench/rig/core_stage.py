"""A core, an upstream and a gateway in processes of their own, and users.

For what happens to session checks, refreshes and sign-ins while the core is under
pressure. The core hashes passwords at the real one's cost.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.rig.innocent import free_port
from bench.rig.processes import CORES, descriptors, running, sockets
from bench.rig.report import percentile

PASSWORD = "correct-horse-1"  # noqa: S105 - of made-up users
_COMMAND = (sys.executable, "-P", "-c", "from gateway.cli import main; main()")
"""Without the working directory on its path: PYTHONPATH says which gateway it is."""

_ROUTES = """version: 1
gateway: {{listen: "127.0.0.1:{port}"}}
supertokens:
  connection_uri: http://127.0.0.1:{core}
services:
  up: {{targets: ["http://127.0.0.1:{upstream}"]}}
routes:
  - {{path: /open, service: up, protected: false}}
  - {{path: /checked, service: up, session: {{check_database: always}}}}
  - {{path: /, service: up}}
"""


@dataclass(frozen=True, slots=True)
class Stage:
    """The running processes, by port and process id."""

    port: int
    pid: int
    core_port: int
    core_pid: int
    upstream_pid: int

    def processes(self) -> list[int]:
        """Return the process ids of the gateway's supervisor, hub and workers."""
        pids = [self.pid]
        for pid in pids:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            pids += map(int, children.read_text().split())
        return pids

    def descriptors(self) -> int:
        """Return how many descriptors the gateway's processes have open."""
        return sum(map(descriptors, self.processes()))

    def sockets(self) -> Counter[str]:
        """Return the sockets to the core that a process holds, by state."""
        return sockets(lambda each: each.remote_port == self.core_port)


@contextlib.contextmanager
def staged(
    folder: Path,
    *,
    workers: int,
    tree: Path | None,
    routes: str = _ROUTES,
    upstream_module: str = "small_upstream",
    core_options: Sequence[str] = ("--real-hashing",),
) -> Iterator[Stage]:
    """Yield the stage. *tree* is another checkout, whose gateway is measured.

    The core's data is `core.sqlite` in the folder.
    """
    port, core, upstream = free_port(), free_port(), free_port()
    config = folder / "routes.yaml"
    config.write_text(routes.format(port=port, core=core, upstream=upstream))
    environ = {} if tree is None else {"PYTHONPATH": str(tree)}
    with (
        running(
            [
                *(*_COMMAND, "core", "--port", str(core), *core_options),
                *("--database", str(folder / "core.sqlite")),
            ],
            core=CORES,
            port=core,
            log=folder / "core.log",
        ) as core_pid,
        running(
            [sys.executable, "-m", f"bench.rig.{upstream_module}", str(upstream)],
            core=CORES,
            port=upstream,
            log=folder / "upstream.log",
        ) as upstream_pid,
        running(
            [*_COMMAND, "serve", "-c", str(config), "--workers", str(workers)],
            core=CORES,
            port=port,
            log=folder / "gateway.log",
            environ=environ,
        ) as pid,
    ):
        yield Stage(port, pid, core, core_pid, upstream_pid)


@dataclass
class Seen:
    """Times of requests in milliseconds, and their statuses."""

    ms: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)

    def words(self) -> str:
        statuses = ", ".join(f"{n} of {what}" for what, n in self.statuses.items())
        p50, p99, most = (percentile(self.ms, share) for share in (0.5, 0.99, 1.0))
        return f"{statuses}; p50 {p50:.0f}, p99 {p99:.0f}, max {most:.0f} ms"

    def only(self, *statuses: str) -> bool:
        return not set(self.statuses) - set(statuses)


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole reply."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def _headers(bearer: str | None, more: Mapping[str, str] | None) -> dict[str, str]:
    authorization = {} if bearer is None else {"Authorization": f"Bearer {bearer}"}
    return {"st-auth-mode": "header", **authorization, **(more or {})}


class Clients:
    """Clients of the gateway, which note what they get."""

    def __init__(self, http: aiohttp.ClientSession, stage: Stage) -> None:
        self.http = http
        self.url = f"http://127.0.0.1:{stage.port}"
        self._core_url = f"http://127.0.0.1:{stage.core_port}"

    async def get(self, seen: Seen, path: str, access: str) -> None:
        """Ask for *path* with an access token."""
        await self._ask(seen, "GET", path, bearer=access)

    async def sign(
        self, seen: Seen, api: str, email: str, password: str
    ) -> dict[str, str]:
        """Sign up or in; return the tokens: none if there are none."""
        form = [{"id": "email", "value": email}, {"id": "password", "value": password}]
        return await self._ask(seen, "POST", f"/auth/{api}", json={"formFields": form})

    async def refresh(self, seen: Seen, refresh: str) -> dict[str, str]:
        """Return new tokens: none if there are none."""
        return await self._ask(seen, "POST", "/auth/session/refresh", bearer=refresh)

    async def users(self) -> int:
        """Return how many users the core has."""
        url = f"{self._core_url}/users/count"
        async with self.http.get(url, headers={"cdi-version": "5.4"}) as reply:
            return int((await reply.json(content_type=None))["count"])

    async def ask_core(self, seen: Seen) -> None:
        """Ask the core itself for a fact of its database, past the gateway."""
        began = time.perf_counter()
        await self.users()
        seen.ms.append((time.perf_counter() - began) * 1000)
        seen.statuses["200"] += 1

    async def _ask(
        self,
        seen: Seen,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        json: object = None,
    ) -> dict[str, str]:
        began = time.perf_counter()
        try:
            reply = await self.send(method, path, bearer=bearer, json=json)
        except (aiohttp.ClientError, TimeoutError) as error:
            seen.statuses[type(error).__name__] += 1
            return {}
        seen.ms.append((time.perf_counter() - began) * 1000)
        what = str(reply.status)
        if path.startswith("/auth/sign") and reply.status == 200:
            status = reply.body.partition(b'"status":"')[2].partition(b'"')[0].decode()
            what += "" if status == "OK" else f" {status}"
        if "Retry-After" in reply.headers:
            what += " with Retry-After"
        seen.statuses[what] += 1
        return {
            name: reply.headers[f"st-{name}-token"]
            for name in ("access", "refresh")
            if f"st-{name}-token" in reply.headers
        }

    async def send(
        self,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        headers: Mapping[str, str] | None = None,
        json: object = None,
        data: bytes | AsyncIterator[bytes] | None = None,
    ) -> Reply:
        """Send a request and read its reply.

        Raises:
            aiohttp.ClientError: there is no whole reply.
            TimeoutError: it took longer than a minute.
        """
        async with self.http.request(
            method,
            self.url + path,
            headers=_headers(bearer, headers),
            json=json,
            data=data,
        ) as reply:
            return Reply(reply.status, reply.headers, await reply.read())

    async def abandon(self, path: str, *, bearer: str) -> None:
        """Close the connection within the reply to a request.

        Raises:
            aiohttp.ClientError: it ended before.
            TimeoutError: it took longer than a minute.
        """
        url = self.url + path
        async with self.http.get(url, headers=_headers(bearer, None)) as reply:
            await reply.content.read(1)
            reply.close()


@contextlib.asynccontextmanager
async def clients(stage: Stage) -> AsyncIterator[Clients]:
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=5),
        timeout=aiohttp.ClientTimeout(total=60),
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as http:
        here = Clients(http, stage)
        while True:  # until the gateway has the core's keys
            seen = Seen()
            tokens = await here.sign(seen, "signup", "first@example.com", PASSWORD)
            tokens = tokens or await here.sign(
                seen, "signin", "first@example.com", PASSWORD
            )
            if tokens:
                await here.get(seen, "/checked", tokens["access"])
                if "200" in seen.statuses:
                    break
            await asyncio.sleep(0.2)
        yield here


class Report:
    """Figures and goals, as lines of Markdown."""

    def __init__(self) -> None:
        self.missed = 0

    def figure(self, text: str) -> None:
        print(f"- {text}", flush=True)

    def goal(self, text: str, *, reached: bool) -> None:
        self.missed += not reached
        print(f"- {text}: {'reached' if reached else 'MISSED'}", flush=True)

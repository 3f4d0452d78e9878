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
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from bench.rig.innocent import free_port
from bench.rig.processes import CORES, running
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

    def workers(self) -> list[int]:
        """Return the process ids of the gateway's supervisor, hub and workers."""
        pids = [self.pid]
        for pid in pids:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            pids += map(int, children.read_text().split())
        return pids

    def descriptors(self) -> int:
        """Return how many descriptors the gateway's processes have open."""
        return sum(
            len(tuple(Path(f"/proc/{pid}/fd").iterdir())) for pid in self.workers()
        )

    def sockets(self) -> Counter[str]:
        """Return the sockets to the core that a process holds, by state."""
        states = {"01": "ESTABLISHED", "08": "CLOSE-WAIT"}
        held_by_none = "06"  # TIME-WAIT
        counts: Counter[str] = Counter()
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, _, remote, state, *_ = line.split()
            port = int(remote.partition(":")[2], 16)
            if port == self.core_port and state != held_by_none:
                counts[states.get(state, state)] += 1
        return counts


@contextlib.contextmanager
def staged(folder: Path, *, workers: int, tree: Path | None) -> Iterator[Stage]:
    """Yield the stage. *tree* is another checkout, whose gateway is measured."""
    port, core, upstream = free_port(), free_port(), free_port()
    config = folder / "routes.yaml"
    config.write_text(_ROUTES.format(port=port, core=core, upstream=upstream))
    environ = {} if tree is None else {"PYTHONPATH": str(tree)}
    with (
        running(
            [
                *(*_COMMAND, "core", "--real-hashing", "--port", str(core)),
                *("--database", str(folder / "core.sqlite")),
            ],
            core=CORES,
            port=core,
            log=folder / "core.log",
        ) as core_pid,
        running(
            [sys.executable, "-m", "bench.rig.small_upstream", str(upstream)],
            core=CORES,
            port=upstream,
            log=folder / "upstream.log",
        ),
        running(
            [*_COMMAND, "serve", "-c", str(config), "--workers", str(workers)],
            core=CORES,
            port=port,
            log=folder / "gateway.log",
            environ=environ,
        ) as pid,
    ):
        yield Stage(port, pid, core, core_pid)


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


class Clients:
    """Clients of the gateway, which note what they get."""

    def __init__(self, http: aiohttp.ClientSession, stage: Stage) -> None:
        self._http = http
        self._url = f"http://127.0.0.1:{stage.port}"
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
        async with self._http.get(url, headers={"cdi-version": "5.4"}) as reply:
            return int((await reply.json(content_type=None))["count"])

    async def _ask(
        self,
        seen: Seen,
        method: str,
        path: str,
        *,
        bearer: str | None = None,
        json: object = None,
    ) -> dict[str, str]:
        headers = {"st-auth-mode": "header"}
        if bearer is not None:
            headers["Authorization"] = f"Bearer {bearer}"
        began = time.perf_counter()
        try:
            async with self._http.request(
                method, self._url + path, headers=headers, json=json
            ) as reply:
                what = str(reply.status)
                body = await reply.text()
        except aiohttp.ClientError as error:
            seen.statuses[type(error).__name__] += 1
            return {}
        seen.ms.append((time.perf_counter() - began) * 1000)
        if path.startswith("/auth/sign") and reply.status == 200:
            status = body.partition('"status":"')[2].partition('"')[0]
            what += "" if status == "OK" else f" {status}"
        if "Retry-After" in reply.headers:
            what += " with Retry-After"
        seen.statuses[what] += 1
        return {
            name: reply.headers[f"st-{name}-token"]
            for name in ("access", "refresh")
            if f"st-{name}-token" in reply.headers
        }


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

"""Requests at half load over several gateways, with sign-outs at random among them.

The rate is half of what the same connections reach without pause. Every request has a
session of its own user, and the service says whom it has seen. Half of the requests
have a session that was signed out within the last second, so its last acceptance is
known to a few milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.rig.core_stage import Report
from bench.rig.ended import Answer, Judge, Session
from bench.rig.processes import open_sockets, worker_pids
from bench.rig.progress import Progress
from bench.rig.replica_stage import PATIENCE_S, Replica, enter
from bench.rig.report import percentile
from bench.rig.visitors import claims

_CONNECTIONS = 8
"""With each gateway; the kernel distributes them to its workers."""
_STAYING = 50
"""Sessions that aren't signed out."""
_RECENT_S = 1.0
_WARM_S = 1.0
_CALIBRATE_S = 3.0
_LAG_S = 2.0
"""How often gateways report the longest delay of their loops since the last time."""
_OWN_LAG_S = 0.05
_LAG = re.compile(r"^gateway_event_loop_lag_seconds\{[^}]*\} (\S+)$", re.MULTILINE)


def request(method: str, path: str, token: str) -> bytes:
    """Return a request without a body."""
    return (
        f"{method} {path} HTTP/1.1\r\nHost: a\r\nst-auth-mode: header\r\n"
        f"Authorization: Bearer {token}\r\nContent-Length: 0\r\n\r\n"
    ).encode()


@dataclass(eq=False, slots=True)
class _Connection:
    gateway: int
    worker: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def ask(self, message: bytes) -> tuple[int, bytes]:
        """Return status and body.

        Raises:
            OSError: the connection is broken.
            asyncio.IncompleteReadError: it was closed.
            ValueError: this is no answer.
        """
        self.writer.write(message)
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"\r\ncontent-length:")
        body = await self.reader.readexactly(int(rest.split(b"\r\n")[0] or 0))
        return int(head.split(None, 2)[1]), body


def _worker_of(pid: int, own_port: int, port: int) -> int:
    """Return the worker of *pid* that serves the connection from *own_port* to *port*.

    Raises:
        LookupError: there is none.
    """
    ports = port, own_port
    (inode,) = (
        each.inode
        for each in open_sockets()
        if (each.local_port, each.remote_port) == ports
    )
    for worker in worker_pids(pid):
        for descriptor in Path(f"/proc/{worker}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                if str(descriptor.readlink()) == f"socket:[{inode}]":
                    return worker
    raise LookupError("no worker has the connection")


async def _connected(number: int, gateway: Replica, token: str) -> _Connection:
    """Return a connection, which is a worker's as soon as it has answered."""
    port = int(gateway.clients.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    one = _Connection(number, 0, reader, writer)
    await one.ask(request("GET", "/", token))
    own_port = writer.get_extra_info("sockname")[1]
    one.worker = await asyncio.to_thread(_worker_of, gateway.pid, own_port, port)
    return one


@dataclass(eq=False)
class _Load:
    gateways: Sequence[Replica]
    idle: Sequence[asyncio.Queue[_Connection]]
    """The connections of each gateway that have no request."""
    live: list[Session]
    recent: deque[Session] = field(default_factory=deque)
    """Those that have ended, the last at the end."""
    judge: Judge = field(default_factory=Judge)
    ms: list[float] = field(default_factory=list)
    """From when a request was due to the end of its answer."""
    sign_outs: int = 0
    failed_sign_outs: int = 0

    def choose(self) -> Session:
        """Return a session that has just ended, or one that lives."""
        now = time.perf_counter()
        while self.recent and now - (self.recent[0].ended_at or now) > _RECENT_S:
            self.recent.popleft()
        if self.recent and random.random() < 0.5:  # noqa: S311 - no secret
            return random.choice(self.recent)  # noqa: S311
        return random.choice(self.live)  # noqa: S311

    async def get(self, session: Session, gateway: int, due: float) -> None:
        """Send a request, and judge its answer."""
        connection = await self.idle[gateway].get()
        sent_at = time.perf_counter()
        status, body = await self._asked(connection, "GET", "/", session.token)
        now = time.perf_counter()
        user = body.partition(b'"user":"')[2].partition(b'"')[0].decode()
        self.ms.append((now - due) * 1000)
        self.judge.judge(
            session,
            Answer(
                status=status,
                user=user,
                gateway=gateway,
                worker=connection.worker,
                sent_at=sent_at,
                got_at=now,
            ),
        )

    async def sign_out(self, session: Session, gateway: int) -> None:
        """Sign out; the session counts as ended when the answer is there."""
        connection = await self.idle[gateway].get()
        session.ended_by = gateway
        path = "/auth/signout"
        status, _ = await self._asked(connection, "POST", path, session.token)
        self.sign_outs += 1
        if status != 200:
            self.failed_sign_outs += 1
            return
        session.ended_at = time.perf_counter()
        self.recent.append(session)

    async def _asked(
        self, connection: _Connection, method: str, path: str, token: str
    ) -> tuple[int, bytes]:
        """Return status and body; status 0 if there is no answer in time."""
        gateway = connection.gateway
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await connection.ask(request(method, path, token))
        except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError):
            found = 0, b""
            connection.writer.transport.abort()
            token = self.live[-1].token  # of one that stays
            connection = await _connected(gateway, self.gateways[gateway], token)
        self.idle[gateway].put_nowait(connection)
        return found

    async def without_pause(self, seconds: float) -> float:
        """Return how many requests a second the connections carry."""
        until = time.perf_counter() + seconds
        count = 0

        async def call(gateway: int) -> None:
            nonlocal count
            while (now := time.perf_counter()) < until:
                await self.get(random.choice(self.live), gateway, now)  # noqa: S311
                count += 1

        began = time.perf_counter()
        numbers = [n for n in range(len(self.gateways)) for _ in range(_CONNECTIONS)]
        await asyncio.gather(*map(call, numbers))
        return count / (time.perf_counter() - began)

    async def at_rate(
        self, rate: float, count: int, leaving: Sequence[Session]
    ) -> None:
        """Send *count* requests; between them sign *leaving* out, at random times."""
        turns = random.sample(range(count), len(leaving))
        ends = dict(zip(turns, leaving, strict=True))
        tasks: set[asyncio.Task[None]] = set()
        progress = Progress(count, "requests")
        began = time.perf_counter()
        for number in range(count):
            due = began + number / rate
            if (wait_s := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait_s)
            gateway = random.randrange(len(self.gateways))  # noqa: S311
            if (session := ends.get(number)) is not None:
                self.live.remove(session)
                calls = [self.sign_out(session, gateway)]
            else:
                calls = []
            other = random.randrange(len(self.gateways))  # noqa: S311
            calls.append(self.get(self.choose(), other, due))
            for call in calls:
                task = asyncio.create_task(call)
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            progress.note(len(self.ms))
        await asyncio.gather(*tasks)


@dataclass(eq=False)
class _Lags:
    """The delays of event loops: the gateways' as they say, and this process's own."""

    gateways_ms: list[float] = field(default_factory=list)
    own_ms: list[float] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def measured(self, gateways: Sequence[Replica]) -> AsyncIterator[None]:
        async def ask() -> None:
            while True:
                await asyncio.sleep(_LAG_S)
                for gateway in gateways:
                    found = _LAG.findall(await gateway.metrics())
                    self.gateways_ms += [float(value) * 1000 for value in found]

        async def own() -> None:
            while True:
                began = time.perf_counter()
                await asyncio.sleep(_OWN_LAG_S)
                late_s = time.perf_counter() - began - _OWN_LAG_S
                self.own_ms.append(late_s * 1000)

        tasks = [asyncio.create_task(each()) for each in (ask, own)]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def _entered(gateways: Sequence[Replica], count: int) -> list[Session]:
    """Sign up so many users, each at one of the gateways."""
    progress = Progress(count, "users")
    found: list[Session] = []

    async def sign_up(number: int) -> Session:
        gateway = gateways[number % len(gateways)]
        token = await enter(gateway, f"half-{number}@example.com")
        return Session(token, str(claims(token)["sub"]))

    for first in range(0, count, len(gateways)):
        some = range(first, min(count, first + len(gateways)))
        found += await asyncio.gather(*map(sign_up, some))
        progress.note(len(found))
    return found


def _shares(values: Sequence[float]) -> str:
    p50, p99, most = (percentile(values or [0.0], at) for at in (0.5, 0.99, 1.0))
    return f"p50 {p50:.0f}, p99 {p99:.0f}, max {most:.0f} ms"


async def measure(
    report: Report,
    gateways: Sequence[Replica],
    *,
    requests: int,
    sign_outs: int,
    goal_ms: float,
) -> None:
    """Send the requests, and report what was accepted after sign-outs."""
    sessions = await _entered(gateways, _STAYING + sign_outs)
    leaving = sessions[:sign_outs]
    idle = [asyncio.Queue[_Connection]() for _ in gateways]
    load = _Load(gateways, idle, sessions)
    for number, gateway in enumerate(gateways):
        for _ in range(_CONNECTIONS):
            one = await _connected(number, gateway, sessions[-1].token)
            idle[number].put_nowait(one)
    await load.without_pause(_WARM_S)
    full = await load.without_pause(_CALIBRATE_S)
    report.figure(f"without pause: {full:.0f} requests/s; half load: {full / 2:.0f}")
    load.ms.clear()
    load.judge = Judge()
    lags = _Lags()
    began = time.perf_counter()
    async with lags.measured(gateways):
        await load.at_rate(full / 2, requests, leaving)
    took_s = time.perf_counter() - began
    never = 0
    for session in leaving:
        for gateway in gateways:
            never += await gateway.status(session.token) == 200
    _say(report, load, lags, leaving, took_s, goal_ms, never)
    for queue in idle:
        while not queue.empty():
            queue.get_nowait().writer.close()


def _say(
    report: Report,
    load: _Load,
    lags: _Lags,
    leaving: Sequence[Session],
    took_s: float,
    goal_ms: float,
    never: int,
) -> None:
    """Print figures and goals."""
    judge = load.judge
    statuses = ", ".join(f"{n:,} of {what}" for what, n in judge.statuses.items())
    each = ", ".join(f"{n:,}" for _, n in sorted(judge.by_gateway.items()))
    report.figure(
        f"{len(load.ms):,} requests in {took_s:.0f} s, to the gateways {each}:"
        f" {statuses}; {_shares(load.ms)}"
    )
    report.goal(
        f"{judge.unexpected} answers that are neither accepted nor the refusal of an"
        f" ended session, {load.failed_sign_outs} of {load.sign_outs} sign-outs failed",
        reached=not judge.unexpected and not load.failed_sign_outs,
    )
    report.goal(
        f"{judge.statuses[200]:,} accepted, {judge.others} as another user",
        reached=not judge.others,
    )
    here = [session.here_s * 1000 for session in leaving]
    elsewhere = [session.elsewhere_s * 1000 for session in leaving]
    report.goal(
        f"last accepted by other gateways after a sign-out's answer:"
        f" {_shares(elsewhere)}",
        reached=max(elsewhere, default=0.0) <= goal_ms,
    )
    report.figure(
        f"delays of event loops: the workers', the longest in {_LAG_S:.0f} s each time:"
        f" {_shares(lags.gateways_ms)}; the load's own: {_shares(lags.own_ms)}"
    )
    report.goal(
        f"last accepted by the same gateway: {_shares(here)}",
        reached=not any(here),
    )
    report.goal(
        f"accepted by a worker that the message had reached: {judge.after_message}",
        reached=not judge.after_message,
    )
    report.goal(f"accepted at the end: {never}", reached=not never)
    for fault in judge.faults:
        report.figure(fault)

"""Requests at a steady rate, answered or not, and their outcomes.

`python -m bench.rig.steady` reads one job as a JSON line and answers with another.
A request's time begins when it was due, so time spent queued is counted.
"""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import time
from collections import Counter, defaultdict, deque
from itertools import cycle
from typing import Any, cast

import uvloop

_HEADERS_END = b"\r\n\r\n"


class _Connection(asyncio.Protocol):
    """One request at a time on a connection that is kept."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.answer: asyncio.Future[tuple[int, bool]] | None = None
        self.closed = False
        self._got = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, end, body = self._got.partition(_HEADERS_END)
        if not end:
            return
        lower = head.lower()
        _, field, rest = lower.partition(b"\r\ncontent-length:")
        if len(body) < (int(rest.partition(b"\r\n")[0]) if field else 0):
            return
        self._got = b""
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((int(head[9:12]), b"\r\nretry-after:" in lower))

    def connection_lost(self, _exc: Exception | None) -> None:
        self.closed = True
        if self.answer is not None and not self.answer.done():
            self.answer.set_result((0, False))


class _Load:
    def __init__(self, job: dict[str, Any]) -> None:
        self._job = job
        self._idle: deque[_Connection] = deque()
        self._open = 0
        self._took: dict[str, list[float]] = defaultdict(list)
        self._counts: Counter[str] = Counter()

    async def run(self) -> dict[str, Any]:
        job = self._job
        loop = asyncio.get_running_loop()
        begin = loop.time() + job["start"] - time.time()
        tasks = set()
        for number, (name, head) in zip(
            range(int(job["rate"] * job["seconds"])), cycle(job["requests"])
        ):
            due = begin + number / job["rate"]
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            raw = head.replace("{forged}", self._forged(number)).encode("latin-1")
            task = asyncio.create_task(self._one(name, raw, due))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=10)
        self._counts["unanswered"] = len(tasks)
        return {
            "counts": dict(self._counts),
            "p50_ms": {name: _at(took, 0.50) for name, took in self._took.items()},
            "p99_ms": {name: _at(took, 0.99) for name, took in self._took.items()},
        }

    def _forged(self, number: int) -> str:
        """Return a token in which only the key id and the signature are wrong."""
        if "payload" not in self._job:
            return ""
        kid = f"d-{int(self._job['start'] * 1e6) + number}"
        header = {"alg": "RS256", "typ": "JWT", "kid": kid, "version": "5"}
        first = base64.urlsafe_b64encode(json.dumps(header).encode()).rstrip(b"=")
        return f"{first.decode()}.{self._job['payload']}.{'A' * 342}"

    async def _one(self, name: str, raw: bytes, due: float) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and self._idle[-1].closed:
            self._idle.pop()
        if self._idle:
            connection = self._idle.pop()
        elif self._open >= self._job["connections"]:
            self._counts[f"{name}: no connection left"] += 1
            return
        else:
            self._open += 1
            _, connection = await loop.create_connection(
                _Connection, "127.0.0.1", self._job["port"]
            )
        connection.answer = loop.create_future()
        connection.transport.write(raw)
        status, has_retry_after = await connection.answer
        self._took[name].append((loop.time() - due) * 1000)
        again = " with Retry-After" if has_retry_after else ""
        self._counts[f"{name}: {status}{again}"] += 1
        if connection.closed:
            self._open -= 1
        else:
            self._idle.append(connection)


def _at(took: list[float], share: float) -> float:
    return sorted(took)[int(len(took) * share)]


if __name__ == "__main__":
    print(json.dumps(uvloop.run(_Load(json.loads(sys.stdin.readline())).run())))

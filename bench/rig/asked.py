"""Requests at a fixed rate, whatever becomes of the ones before, and their outcomes."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.rig.report import percentile

LATE = "given up"
CUT = "cut"
WRONG = "wrong body"


@dataclass(kw_only=True)
class Asked:
    """The requests of one load."""

    ms: list[float] = field(default_factory=list)
    """How long each took from when it was due, failed ones included."""
    outcomes: Counter[str] = field(default_factory=Counter)
    """Statuses, `CUT`, `LATE`, or `WRONG` for a 200 that isn't the target's."""

    @property
    def count(self) -> int:
        return len(self.ms)

    @property
    def failed(self) -> int:
        """Requests that weren't answered in whole and in time, or with 5xx."""
        return sum(n for name, n in self.outcomes.items() if is_failure(name))

    def at(self, share: float) -> float:
        """Return the time in ms that *share* of the requests don't exceed."""
        return percentile(self.ms, share)


def is_failure(outcome: str) -> bool:
    """Return whether a client that got this has an error."""
    return outcome in (CUT, LATE, WRONG) or outcome.startswith("5")


class Load:
    """The requests of clients of one proxy, which keep their connections."""

    def __init__(self, port: int, *, body: bytes, patience_s: float) -> None:
        """A 200 must have this *body*. A client gives up after *patience_s*."""
        self._body = body
        self._port = port
        self._patience_s = patience_s
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(
        self, rate: float, seconds: float, requests: Sequence[bytes]
    ) -> Asked:
        """Send *requests* in turn; return when each was answered or given up."""
        asked = Asked()
        await self.send(rate, seconds, requests, asked)
        await self.ended()
        return asked

    async def send(
        self, rate: float, seconds: float, requests: Sequence[bytes], asked: Asked
    ) -> None:
        """Send *requests* in turn for *seconds*; *asked* gets what becomes of them."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for number in range(int(rate * seconds)):
            due = begun + number / rate
            if (wait_s := due - loop.time()) > 0:
                await asyncio.sleep(wait_s)
            request = requests[number % len(requests)]
            task = asyncio.create_task(self._one(request, due, asked))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        await asyncio.sleep(max(0.0, begun + seconds - loop.time()))

    async def ended(self) -> None:
        """Return when each request was answered or given up."""
        await asyncio.gather(*self._tasks)

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()

    async def _one(self, request: bytes, due: float, asked: Asked) -> None:
        outcome = LATE
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._patience_s):
                outcome = await self._status(request)
        asked.ms.append((asyncio.get_running_loop().time() - due) * 1000)
        asked.outcomes[outcome] += 1

    async def _status(self, request: bytes) -> str:
        try:
            reader, writer = await self._connection()
        except OSError:
            return CUT
        is_whole = False
        try:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            _, _, rest = head.partition(b"\r\ncontent-length:")
            body = await reader.readexactly(int(rest.split(b"\r\n")[0] or 0))
            is_whole = b"\r\nconnection: close" not in head
            status = head.split()[1].decode()
            return WRONG if status == "200" and body != self._body else status
        except (asyncio.IncompleteReadError, OSError, ValueError):
            return CUT
        finally:
            if is_whole:
                self._idle.append((reader, writer))
            else:
                writer.transport.abort()

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof():
                return reader, writer
            writer.close()
        return await asyncio.open_connection("127.0.0.1", self._port)

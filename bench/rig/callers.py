"""Clients that call a gateway without pause while something is done to it.

Each request is answered with 200, or counted as lost with the reason. A client that
keeps its connection obeys `Connection: close`, as every HTTP client does.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

_ANSWER_S = 15.0
"""A request without an answer for so long is lost."""
_PAUSE_S = 0.004
"""Of each client between two requests: the gateway shall not be saturated."""


@dataclass
class Outcomes:
    """What became of the requests."""

    sent: int = 0
    again: int = 0
    """Requests whose connection broke and that were sent a second time."""
    lost: Counter[str] = field(default_factory=Counter)
    longest_gap_s: float = 0.0
    """Between two answers of 200, to whichever clients."""
    _last: float = field(default_factory=time.perf_counter)

    def answered(self) -> None:
        """Note an answer of 200."""
        now = time.perf_counter()
        self.longest_gap_s = max(self.longest_gap_s, now - self._last)
        self._last = now

    def words(self) -> str:
        """Return the outcomes as a part of a line."""
        lost = ", ".join(f"{n} {why}" for why, n in sorted(self.lost.items()))
        again = f", {self.again} sent again" if self.again else ""
        return (
            f"{self.sent} requests{again}, {self.lost.total()} lost"
            f"{f' ({lost})' if lost else ''},"
            f" longest gap {self.longest_gap_s * 1000:.0f} ms"
        )


class Callers:
    """Clients of one gateway: some keep their connection, others don't."""

    def __init__(
        self,
        port: int,
        bearer: bytes,
        *,
        kept: int,
        fresh: int,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """*bearer* is an access token for `/private`; half of the clients send it.

        *tls*: they connect with it.
        """
        self._tls = tls
        self._port = port
        self._bearer = bearer
        self._kinds = [*(True,) * kept, *(False,) * fresh]

    @contextlib.asynccontextmanager
    async def calling(self, *, repeat: bool = False) -> AsyncIterator[Outcomes]:
        """Send requests while the block runs; yield their outcomes.

        *repeat*: a request whose connection broke is sent once more on a new one,
        as RFC 9110 §9.2.2 lets a client do with a GET.
        """
        outcomes = Outcomes()
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            for number, is_kept in enumerate(self._kinds):
                head = self._head(private=number % 2 == 0, is_kept=is_kept)
                group.create_task(self._client(head, outcomes, over, repeat=repeat))
            try:
                yield outcomes
            finally:
                over.set()

    def _head(self, *, private: bool, is_kept: bool) -> bytes:
        return b"".join(
            (
                b"GET /private" if private else b"GET /open",
                b" HTTP/1.1\r\nHost: localhost\r\n",
                b"Authorization: Bearer %b\r\n" % self._bearer if private else b"",
                b"" if is_kept else b"Connection: close\r\n",
                b"\r\n",
            )
        )

    async def _client(
        self, head: bytes, outcomes: Outcomes, over: asyncio.Event, *, repeat: bool
    ) -> None:
        connection = _Connection(self._port, self._tls)
        while not over.is_set():
            outcomes.sent += 1
            for is_last in (not repeat, True):
                try:
                    async with asyncio.timeout(_ANSWER_S):
                        status = await connection.ask(head)
                except (OSError, asyncio.IncompleteReadError) as exc:
                    connection.close()
                    if not is_last:
                        outcomes.again += 1
                        continue
                    outcomes.lost[type(exc).__name__] += 1
                else:
                    if status == b"200":
                        outcomes.answered()
                    else:
                        outcomes.lost[status.decode("latin-1")] += 1
                break
            await asyncio.sleep(_PAUSE_S)
        connection.close()


class _Connection:
    """One connection at a time, made when it is needed."""

    def __init__(self, port: int, tls: ssl.SSLContext | None) -> None:
        self._port = port
        self._tls = tls
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, head: bytes) -> bytes:
        """Return the status of the reply to a request with *head* and no body.

        Raises:
            OSError, IncompleteReadError: there is no whole reply.
        """
        if self._streams is None:
            self._streams = await asyncio.open_connection(
                "127.0.0.1", self._port, ssl=self._tls
            )
        reader, writer = self._streams
        writer.write(head)
        reply = (await reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = reply.partition(b"\r\ncontent-length:")
        await reader.readexactly(int(rest.partition(b"\r\n")[0] or 0))
        if b"\r\nconnection: close\r\n" in reply:
            self.close()
        return reply.split(b" ", 2)[1]

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

"""edge. A reply in progress that may end before its body does."""

from __future__ import annotations

import asyncio

from gateway.errors import StreamSessionEnded
from gateway.upstream.connection import Client
from gateway.upstream.reply import Reply


class Stream:
    """A reply in progress that ends with its session."""

    __slots__ = ("_client", "_reply", "_timer")

    def __init__(self, reply: Reply, client: Client, ends_in_s: float | None) -> None:
        """*ends_in_s* is when the access token expires; None: that ends nothing."""
        self._reply = reply
        self._client = client
        self._timer: asyncio.TimerHandle | None = None
        if ends_in_s is not None:
            self._timer = asyncio.get_running_loop().call_later(
                ends_in_s, self.end, "the access token has expired"
            )

    def end(self, why: str) -> None:
        """Cut the reply on both sides; the coroutine that copies it may run now."""
        self._client.cut(StreamSessionEnded(why))
        self._reply.close(StreamSessionEnded(why))

    def close(self) -> None:
        """Forget the reply: it is over."""
        if self._timer is not None:
            self._timer.cancel()

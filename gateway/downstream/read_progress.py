"""PURE. How a client reads what is sent to it: not at all, too slowly, or well enough.

The kernel's send buffer has megabytes, and the event loop can write to it again only
when a third of it is free. So a client that reads steadily may leave the transport's
buffer as it is for minutes, and only what the kernel holds (`send_queue`) shows that it
reads.
"""

from __future__ import annotations

from gateway.config import LimitsConfig
from gateway.errors import ClientSlow, ClientStalled, GatewayError
from gateway.pace import Pace


class ReadProgress:
    """Follows one client from when bytes first wait for it.

    A client's position is the number of bytes that it has received, from any origin:
    only differences count. TCP shows it in steps of a segment or more.
    """

    __slots__ = ("_moved_at", "_position", "_seen_at", "_taken", "_waited_s")

    def __init__(self, now: float, position: int) -> None:
        """*position* counts from the beginning of the response, if there is one."""
        self._position = position
        self._taken = max(0, position)
        self._moved_at = now
        self._seen_at: float | None = now
        self._waited_s = 0.0

    def pause(self) -> None:
        """No bytes wait for the client: the time until the next `check` isn't its."""
        self._seen_at = None

    def rebase(self, now: float, position: int) -> None:
        """Take *position*, which has another origin than those before it."""
        self._position = position
        self._moved_at = now

    def check(
        self,
        now: float,
        position: int,
        limits: LimitsConfig,
        pace: Pace,
        *,
        min_rate: int,
    ) -> GatewayError | None:
        """Return why the client must be cut off at loop time *now*, None if it mustn't.

        It is `ClientStalled` if nothing was received for `write_idle_timeout`. It is
        `ClientSlow` if the average over the time in which bytes waited for the client
        is below *min_rate* bytes per second, after `pace.reply_rate_grace_s`. The
        average is judged when something was received, so that a client which pauses
        has the whole `write_idle_timeout`.
        """
        if self._seen_at is None:
            self._moved_at = now
        else:
            self._waited_s += now - self._seen_at
        self._seen_at = now
        if position == self._position:
            if now - self._moved_at > limits.write_idle_timeout:
                return ClientStalled(
                    "nothing read for gateway.limits.write_idle_timeout"
                )
            return None
        self._taken += max(0, position - self._position)
        self._position = position
        self._moved_at = now
        if (
            self._waited_s > pace.reply_rate_grace_s
            and self._taken < min_rate * self._waited_s
        ):
            return ClientSlow("response read below gateway.limits.download_min_rate")
        return None

"""edge. Connections that were closed at once because a limit was reached: messages."""

from __future__ import annotations

import logging

from gateway.events import RuntimeEvent, about

_log = logging.getLogger("gateway")


class Rejections:
    """Counts the rejected connections, and reports them without flooding the log."""

    def __init__(self, interval_s: float, what: str = "new connections closed") -> None:
        """Messages about *what* are at least *interval_s* seconds apart."""
        self._what = what
        self.total = 0
        """All that were rejected."""
        self._interval_s = interval_s
        self._quiet_until = 0.0
        self._unreported: dict[str, tuple[int, str]] = {}
        """How many were rejected at each limit since the last report, and the address
        of the last one."""

    def add(self, limit: str, address: str, now: float) -> None:
        """Count a connection from *address* that was rejected at *limit*."""
        self.total += 1
        count, _ = self._unreported.get(limit, (0, ""))
        self._unreported[limit] = count + 1, address
        self.report(now)

    def report(self, now: float) -> None:
        """Report what isn't reported yet, unless the last report is too recent."""
        if not self._unreported or now < self._quiet_until:
            return
        self._quiet_until = now + self._interval_s
        for limit, (count, address) in self._unreported.items():
            _log.warning(
                "%s because of %s: %d, the last one from %s",
                self._what,
                limit,
                count,
                address,
                extra=about(
                    RuntimeEvent.CONNECTIONS_CLOSED,
                    limit=limit,
                    count=count,
                    client=address,
                ),
            )
        self._unreported.clear()

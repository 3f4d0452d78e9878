"""edge. Who may connect: limits for all clients, and for each.

The limits are `max_connections`, `memory` and `per_client.connections`.
"""

from __future__ import annotations

from gateway.clients import Clients
from gateway.config import LimitsConfig
from gateway.downstream.memory import Ledger
from gateway.downstream.rejections import Rejections


class Admission:
    """Counts the connections of a worker, and those of each client."""

    def __init__(
        self,
        limits: LimitsConfig,
        *,
        clients: Clients,
        ledger: Ledger | None,
        rejections: Rejections,
    ) -> None:
        self._limits = limits
        self._clients = clients
        self._ledger = ledger
        self._rejections = rejections
        self.waiting = 0
        """Connections whose client isn't known yet: a PROXY header is awaited."""
        self.open = 0
        """Connections that were admitted and aren't closed."""
        self.by_client: dict[str, int] = {}
        """The number of connections of each client, by its key (`Clients.key`)."""

    def admits(self, address: str, now: float) -> bool:
        """Return whether there is room for another connection; report it if not."""
        if self.open + self.waiting >= self._limits.max_connections:
            self._reject("max_connections", address, now)
            return False
        if self._ledger is not None and not self._ledger.admits:
            self._reject("memory", address, now)
            return False
        return True

    def admit(self, address: str, now: float) -> bool:
        """Count a connection from *address*; return False if there are too many."""
        if not self.admits(address, now):
            return False
        key = self._clients.key(address)
        if key is not None:
            count = self.by_client.get(key, 0)
            if count >= self._limits.per_client.connections:
                self._reject("per_client.connections", address, now)
                return False
            self.by_client[key] = count + 1
        self.open += 1
        return True

    def release(self, address: str) -> None:
        """Forget a connection from *address* that was admitted."""
        self.open -= 1
        key = self._clients.key(address)
        if key is not None:
            count = self.by_client[key] - 1
            if count:
                self.by_client[key] = count
            else:
                del self.by_client[key]

    def _reject(self, limit: str, address: str, now: float) -> None:
        self._rejections.add(f"gateway.limits.{limit}", address, now)

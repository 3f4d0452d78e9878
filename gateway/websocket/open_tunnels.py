"""edge. The tunnels that are open, to be ended all at once or with their session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.websocket.frames import GOING_AWAY, SESSION_ENDED
from gateway.websocket.tunnel import Tunnel

Owner = TypeVar("Owner")


class OpenTunnels(Generic[Owner]):
    """Runs tunnels, and knows whose each is."""

    def __init__(self) -> None:
        self.owners: dict[Tunnel, Owner | None] = {}
        """Open tunnels, each with whose it is; None: it ends with no session."""
        self._are_over = False

    async def run(
        self, tunnel: Tunnel, owner: Owner | None, has_ended: Callable[[Owner], bool]
    ) -> str:
        """Run *tunnel* until it ends; return a word for the reason.

        *has_ended* says whether the session of *owner* is over by now.
        """
        self.owners[tunnel] = owner
        try:
            if self._are_over:
                tunnel.end(GOING_AWAY, "shutting down")
            # The session may have ended before the service replied.
            if owner is not None and has_ended(owner):
                tunnel.end(SESSION_ENDED, "session ended")
            return await tunnel.run()
        finally:
            del self.owners[tunnel]

    def end_sessions(self, has_ended: Callable[[Owner], bool]) -> None:
        """End the tunnels of all owners whose session has ended."""
        for tunnel, owner in self.owners.items():
            if owner is not None and has_ended(owner):
                tunnel.end(SESSION_ENDED, "session ended")

    def close(self) -> None:
        """End all tunnels with 1001, and from now on each that opens."""
        self._are_over = True
        for tunnel in self.owners:
            tunnel.end(GOING_AWAY, "shutting down")

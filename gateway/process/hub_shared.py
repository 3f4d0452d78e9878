"""edge. The store over which gateways share denials, in the hub."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from gateway.process.messages import Message
from gateway.process.shared_messages import ShareDenials, ShareWith, StoreState
from gateway.shared.entries import SharedDenials, batches
from gateway.shared.sharing import Sharing, SharingCounts

_SAID_S: Final = 0.5
"""How often the supervisor is told that all is known."""
_FLUSH_S: Final = 0.5
"""For the last denials of this gateway to reach the store."""


class HubSharing:
    """Shares denials over the store that the supervisor names; over none at first."""

    def __init__(self, send: Callable[[Message], None]) -> None:
        self._send = send
        self._sharing: Sharing | None = None
        self._ending: set[asyncio.Task[None]] = set()
        self._said: tuple[float, bool] = 0.0, False
        """The last word about the store, and when it was said."""

    @property
    def counts(self) -> SharingCounts | None:
        """What is counted; None: no store is used."""
        return None if self._sharing is None else self._sharing.counts

    @property
    def trouble(self) -> str | None:
        """Why the store can't be used; None: it can, or there is none."""
        return None if self._sharing is None else self._sharing.trouble

    def receive(self, message: ShareWith | ShareDenials) -> None:
        """Do what the supervisor says."""
        match message:
            case ShareWith(place):
                self._end()
                self._said = 0.0, False
                if place is not None:
                    self._sharing = Sharing(
                        place, on_denials=self._report, on_state=self._say
                    )
                    self._sharing.start()
            case ShareDenials(denials, is_new):
                if self._sharing is not None:
                    share = self._sharing.deny if is_new else self._sharing.know
                    share(denials)

    def _end(self) -> None:
        """Stop using a store, if one is used."""
        if self._sharing is not None:
            ending = asyncio.create_task(self._sharing.close())
            self._ending.add(ending)
            ending.add_done_callback(self._ending.discard)
        self._sharing = None

    def _report(self, denials: SharedDenials) -> None:
        for part in batches(denials):
            self._send(ShareDenials(part, is_new=True))

    def _say(self, is_known: bool) -> None:
        now = time.monotonic()
        if self._said[1] != is_known or now - self._said[0] >= _SAID_S:
            self._said = now, is_known
            self._send(StoreState(is_known))

    async def close(self) -> None:
        """Send what is to be sent, and stop."""
        if self._sharing is not None:
            await self._sharing.flush(_FLUSH_S)
        self._end()
        if self._ending:
            await asyncio.wait(self._ending)

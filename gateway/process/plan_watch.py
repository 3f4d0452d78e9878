"""PURE. What the hub is told to watch."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.process.admin_messages import WatchFiles


class HubWatch:
    """Which files are watched, and which hub knows it."""

    def __init__(self, wanted: WatchFiles | None) -> None:
        self._wanted = wanted
        self._sent: tuple[int, WatchFiles] | None = None
        """The last message, and the hub that it was sent to."""

    def want(self, wanted: WatchFiles | None) -> None:
        """Watch this from now on: what was read last, served or not."""
        self._wanted = wanted

    def told(self, hub: int) -> Iterator[WatchFiles]:
        """Yield what *hub* has to be told, if it doesn't know it."""
        wanted = self._wanted
        if wanted is None and self._sent is not None and self._sent[0] == hub:
            wanted = WatchFiles((), "", self._sent[1].interval_s)
        if wanted is not None and self._sent != (hub, wanted):
            self._sent = hub, wanted
            yield wanted

    def may_ask(self, hub: int) -> bool:
        """Return whether *hub* has files to watch, or had some until now."""
        return self._sent is not None and self._sent[0] == hub

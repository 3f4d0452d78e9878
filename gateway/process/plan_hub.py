"""PURE. What the hub is told of a generation: each thing once, and each hub anew."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.process.admin_messages import Describe
from gateway.process.messages import AskCore, FetchKeys
from gateway.process.plan_state import Child, Generation


class HubDirections:
    """Remembers what was sent last, and to which hub."""

    def __init__(self) -> None:
        self._fetches: tuple[int, FetchKeys] | None = None
        self._describes: tuple[int, Describe] | None = None
        self._asks: tuple[int, int] | None = None
        """The hub that `AskCore` was sent to last, and the generation of it."""

    def forget_fetches(self) -> None:
        """Have keys fetched anew, whoever has them."""
        self._fetches = None

    def direct(
        self, hub: Child, current: Generation
    ) -> Iterator[Describe | AskCore | FetchKeys]:
        """Yield what *hub* is to be told of the generation that serves.

        It describes the configuration to operators, fetches the keys of the core, and
        asks the core, once for each generation.
        """
        config, source, core = current.config, current.source, current.core
        described = hub.number, Describe(config.generation, config.description)
        if config.description and self._describes != described:
            self._describes = described
            yield described[1]
        if core is not None and self._asks != (hub.number, config.generation):
            self._asks = hub.number, config.generation
            yield core
        if source is None:
            return
        fetch = FetchKeys(source, config.keys_refresh_s, config.keys_timeout_s)
        if self._fetches != (hub.number, fetch):
            self._fetches = hub.number, fetch
            yield fetch

"""PURE. How the gateway is, as the hub is told."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

from gateway.process.messages import RESTART_CAUSES, Status
from gateway.process.plan_state import (
    Child,
    Generation,
    WorkerChild,
    state_in,
    state_of,
)


class GatewayCondition:
    """What is counted and noted for `Status`, besides the children."""

    def __init__(self) -> None:
        self.restarts = dict.fromkeys(RESTART_CAUSES, 0)
        self.hub_restarts = 0
        self.loaded: tuple[bool, float] = (True, 0.0)
        """Whether the file could be served when it was read last, and when one that
        could took over, in seconds since the epoch."""
        self._is_started = False
        self._startup_ends: float | None = None
        """When the start is over even without keys, on the monotonic clock."""

    def check_startup(self, current: Generation, now: float) -> None:
        """Note the end of the start: a worker accepts and has keys, or time is up."""
        if self._is_started:
            return
        if self._startup_ends is None:
            self._startup_ends = now + current.config.startup_timeout_s
        accepting = current.accepting()
        has_keys = any(worker.keys_until > now for worker in accepting)
        self._is_started = bool(accepting) and (has_keys or now >= self._startup_ends)

    def status(
        self, current: Generation, children: Mapping[int, Child], *, is_draining: bool
    ) -> Status:
        """Return the status of a gateway whose generation *current* accepts."""
        workers = {
            number: child
            for number, child in children.items()
            if isinstance(child, WorkerChild)
        }
        others = Counter(
            state_of(worker)
            for worker in workers.values()
            if worker.generation is not current
        )
        until = min(
            (worker.keys_until for worker in current.accepting()), default=-math.inf
        )
        is_loaded, loaded_at = self.loaded
        return Status(
            generation=current.config.generation,
            children=tuple(workers),
            slots=tuple(map(state_in, current.places)),
            others=dict(others),
            is_started=self._is_started,
            is_draining=is_draining,
            keys_until=until if math.isfinite(until) else None,
            is_loaded=is_loaded,
            loaded_at=loaded_at,
            restarts=dict(self.restarts),
            hub_restarts=self.hub_restarts,
        )

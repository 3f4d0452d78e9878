"""PURE. What the supervisor's plan holds: generations, their places, and children."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum, auto

from gateway.process.messages import AskCore, KeySource
from gateway.process.plan_events import LoadedFile


class ChildState(Enum):
    """What the plan expects of a child."""

    STARTING = auto()
    READY = auto()
    ENDING = auto()
    """It drains, or was killed because it isn't needed. It isn't replaced."""
    LOST = auto()
    """It was killed for a fault, or its channel has ended. It is replaced when it has
    exited."""


class Phase(Enum):
    """What the gateway does, for a service manager."""

    STARTING = auto()
    """No worker has been ready yet."""
    RUNNING = auto()
    RELOADING = auto()
    """The file is read again, or the workers of the new one start."""
    STOPPING = auto()


@dataclass(slots=True, eq=False)
class ChildPlace:
    """The position of one child at a time: of a worker, by slot, or of the hub."""

    due: float | None = None
    """When to fork the next child, on the monotonic clock; None: don't."""
    failures: int = 0
    """How many children have ended in a row."""
    child: Child | None = None
    is_hung: bool = False
    """A child was killed because it didn't answer, and none has been ready since."""


@dataclass(slots=True, eq=False)
class Generation:
    """The workers of one load of the file."""

    config: LoadedFile
    places: tuple[ChildPlace, ...]
    """By slot."""
    is_proven: bool = False
    """A worker has been ready, so the configuration can be served."""
    source: KeySource | None = None
    """The core of its keys, as its first worker has reported it."""
    core: AskCore | None = None
    """What the core is asked with, as its first worker has reported it."""
    complete_at: float | None = None
    """When all of its workers were ready for the first time, on the monotonic clock."""

    def workers(self) -> Iterator[WorkerChild]:
        """Yield the workers that haven't exited."""
        children = (place.child for place in self.places)
        return (child for child in children if isinstance(child, WorkerChild))

    def ready(self) -> dict[int, WorkerChild]:
        """Return the workers that can serve, by slot, in order."""
        return {
            worker.slot: worker
            for worker in self.workers()
            if worker.state is ChildState.READY
        }

    def is_complete(self, now: float, *, must_have_keys: bool) -> bool:
        """Return whether all of its workers are ready, perhaps with keys."""
        ready = self.ready().values()
        if len(ready) < len(self.places):
            return False
        if self.complete_at is None:
            self.complete_at = now
        return not must_have_keys or all(worker.keys_until > now for worker in ready)

    def accepting(self) -> list[WorkerChild]:
        """Return the workers that accept."""
        return [worker for worker in self.ready().values() if worker.sockets]


@dataclass(slots=True, kw_only=True, eq=False)
class Child:
    """A process that was forked and hasn't exited: a worker or the hub."""

    number: int
    name: str
    place: ChildPlace
    since: float
    """When it was forked or, later, started to drain, on the monotonic clock."""
    drain_s: float
    """How long it may drain before it is killed, after its WebSockets were closed."""
    state: ChildState = ChildState.STARTING
    silent_ticks: int = 0
    """Ticks since its last message."""
    reason: str | None = None
    """The reason why it couldn't start or was killed."""
    cause: str | None = None
    """The same as one of `RESTART_CAUSES`, if it was killed for a fault."""
    is_closed: bool = False
    """Its channel has ended."""
    is_killed: bool = False
    is_discarded: bool = False
    """It was killed because it isn't needed."""


@dataclass(slots=True, kw_only=True, eq=False)
class WorkerChild(Child):
    """A worker of a generation."""

    generation: Generation
    slot: int
    sockets: tuple[int, ...] = ()
    """The numbers of the sockets in the last `Accept` sent to it."""
    keys_until: float = -math.inf
    """Until when it has keys, on the monotonic clock."""
    websockets_s: float = 0.0
    """How long it may keep WebSockets while it drains, from `since` on."""


@dataclass(slots=True, kw_only=True, eq=False)
class Peer(Child):
    """The other gateway of an upgrade: the next one, or the one before.

    Denials pass between the two until one has exited.
    """


def state_of(worker: WorkerChild) -> str:
    """Return the state of *worker* as one of `WORKER_STATES`."""
    match worker.state:
        case ChildState.STARTING:
            return "starting"
        case ChildState.READY:
            return "accepting" if worker.sockets else "ready"
        case ChildState.ENDING:
            return "draining"
        case ChildState.LOST:
            return "lost"


def state_in(place: ChildPlace) -> str:
    """Return the state of the worker in *place* as one of `WORKER_STATES`."""
    child = place.child
    if place.is_hung and (child is None or child.state is not ChildState.ENDING):
        return "hanging"
    return state_of(child) if isinstance(child, WorkerChild) else "waiting"

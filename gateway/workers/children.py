"""What a supervisor knows of its workers, and what follows from it."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

from gateway import control
from gateway.settings import Settings

_FIRST_DELAY_S = 0.1
_MAX_DELAY_S = 30.0
"""How soon a worker that ended is replaced: doubled each time, up to this."""


def shares(sockets: int, slots: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return for each of *slots*, where workers are ready, its sockets' numbers.

    Everyone has the socket of its own slot. Those of the other slots are dealt out. A
    single socket is everyone's.
    """
    if sockets == 1:
        return dict.fromkeys(slots, (0,))
    dealt = {slot: [slot] for slot in slots}
    if slots:
        orphans = (number for number in range(sockets) if number not in dealt)
        for turn, number in enumerate(orphans):
            dealt[slots[turn % len(slots)]].append(number)
    return {slot: tuple(numbers) for slot, numbers in dealt.items()}


def delay_s(failures: int) -> float:
    """Return how long to wait after so many workers of a slot have ended in a row."""
    return min(_MAX_DELAY_S, _FIRST_DELAY_S * 2.0 ** min(failures - 1, 32))


def how_it_ended(status: int) -> str:
    """Return in words what `waitpid` says of a process."""
    code = os.waitstatus_to_exitcode(status)
    if code >= 0:
        return f"ended with exit code {code}"
    with contextlib.suppress(ValueError):
        return f"was ended by {signal.Signals(-code).name}"
    return f"was ended by signal {-code}"


def name_of(slot: int) -> str:
    """Return what operators read of the worker of a slot."""
    return f"worker {slot + 1}"


class State(Enum):
    STARTING = auto()
    READY = auto()
    LEAVING = auto()
    """It drains, or is of no more use; its slot is somebody else's."""
    MUTE = auto()
    """Its channel has ended and it hasn't, yet."""


@dataclass(slots=True, kw_only=True, eq=False)
class Child:
    """A worker as its supervisor sees it."""

    pid: int
    slot: int
    generation: Generation
    channel: socket.socket
    decoder: control.Decoder = field(default_factory=control.Decoder)
    unsent: bytearray = field(default_factory=bytearray)
    since: float
    """When it was started, or told to drain, on the monotonic clock."""
    state: State = State.STARTING
    silent: int = 0
    """Ticks since it last said something."""
    sockets: tuple[int, ...] = ()
    """What it accepts on."""
    reason: str | None = None
    """Why it couldn't be started, or was ended."""
    is_discarded: bool = False
    """It was ended because nobody needs it."""

    def __str__(self) -> str:
        return f"{name_of(self.slot)} (pid {self.pid})"

    @property
    def is_heard(self) -> bool:
        return self.channel.fileno() >= 0


@dataclass(slots=True, kw_only=True, eq=False)
class Generation:
    """The workers of one reading of the file."""

    settings: Settings
    children: dict[int, Child] = field(default_factory=dict)
    """By slot."""
    due: dict[int, float] = field(default_factory=dict)
    """When a slot gets a worker, on the monotonic clock."""
    failures: dict[int, int] = field(default_factory=dict)
    """How many workers of a slot have ended in a row."""
    is_proven: bool = False
    """A worker has been ready: the configuration can be served."""

    def ready(self) -> dict[int, Child]:
        """Return the workers that can serve, by slot, in order."""
        return {
            slot: child
            for slot, child in sorted(self.children.items())
            if child.state is State.READY
        }

"""PURE. What the supervisor does next, decided apart from doing it.

`Plan.on` takes one event and returns the actions that follow from it. The plan keeps
all that a supervisor has to remember: generations, back-off, who accepts from which
socket, the deny-list, drain deadlines. It owns no process, socket or clock.

What holds after every event, in whatever order they come:
- While a worker is ready, every socket is accepted from.
- Only one generation accepts.
- A denial reaches every worker, and a new one before it accepts.
- A worker that keeps crashing is replaced later each time.
- A drain ends: whoever exceeds its time is killed.
- The hub is kept running, and whatever it does changes nothing for workers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum, auto

from gateway.pace import backoff_s
from gateway.process.messages import (
    Accept,
    Deny,
    Drain,
    Failed,
    Message,
    Ping,
    Ready,
    Report,
    batches,
)
from gateway.session.deny_list import DenyList


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorPace:
    """The times a plan goes by."""

    tick_s: float = 1.0
    """Between two pings."""
    silent_ticks: int = 15
    """A child that answers none of so many pings is killed: a worker that hangs serves
    nobody and misses sign-outs. Counted, not timed: after the machine has slept, nobody
    is late."""
    start_ticks: int = 60
    """The same while it starts: a `config_module` may take its time."""
    drain_extra_s: float = 10.0
    """Beyond `drain_timeout`, for cut requests and the log. Then a worker is killed."""
    first_delay_s: float = 0.1
    """Until a child that ended is replaced (`backoff_s`)."""
    max_delay_s: float = 30.0
    hub_end_s: float = 2.0
    """For the hub to exit when no worker is left. Then it is killed."""
    steady_s: float = 30.0
    """A child that lived so long begins with the first delay again."""

    def delay_s(self, failures: int) -> float:
        """Return the delay after so many children of a place have ended in a row."""
        return backoff_s(self.first_delay_s, failures, self.max_delay_s)


def shares(sockets: int, slots: Sequence[int]) -> dict[int, tuple[int, ...]]:
    """Return for each of *slots*, where workers are ready, its sockets' numbers.

    A slot's own socket comes first. The sockets of slots without a ready worker are
    dealt out. A single socket is shared by all.
    """
    if sockets == 1:
        return dict.fromkeys(slots, (0,))
    dealt = {slot: [slot] for slot in slots}
    if slots:
        orphans = (number for number in range(sockets) if number not in dealt)
        for turn, number in enumerate(orphans):
            dealt[slots[turn % len(slots)]].append(number)
    return {slot: tuple(numbers) for slot, numbers in dealt.items()}


def name_of(slot: int) -> str:
    """Return what operators call the worker of a slot."""
    return f"worker {slot + 1}"


# --- what comes in ----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Now:
    """The time of an event."""

    monotonic: float
    """In seconds, for delays and deadlines."""
    epoch: float
    """In seconds since 1970, for the ends of sessions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedFile:
    """What the plan needs to know of one reading of the file."""

    generation: int
    """Its number: who performs the actions keeps the settings under it."""
    path: str
    listen: str
    drain_s: float


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class Heard:
    """A child has sent a message."""

    child: int
    message: Message


@dataclass(frozen=True, slots=True)
class Closed:
    """A child's channel has ended, or was given up for *reason*."""

    child: int
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Unread:
    """A child leaves more unread than can be kept for it."""

    child: int


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A fork has failed."""

    child: int
    reason: str


@dataclass(frozen=True, slots=True)
class Exited:
    """A child's process has ended. All that it sent was heard before."""

    child: int
    pid: int
    code: int
    """Its exit code; negative: the signal that killed it."""
    how: str
    """The same in words."""


class Signal(Enum):
    """What a signal asks for."""

    RELOAD = auto()
    STOP = auto()
    """Drain; the second time, end at once."""
    HANG_UP = auto()
    """The terminal was closed: drain. Both system and shell say so: never at once."""


@dataclass(frozen=True, slots=True)
class Signalled:
    """The supervisor has got a signal."""

    signal: Signal


@dataclass(frozen=True, slots=True)
class FileLoaded:
    """The file was read again and can be served."""

    config: LoadedFile


@dataclass(frozen=True, slots=True)
class FileRefused:
    """The file was read again and can't be served."""

    problems: tuple[str, ...]


Event = (
    Tick
    | Heard
    | Closed
    | Unread
    | NotStarted
    | Exited
    | Signalled
    | FileLoaded
    | FileRefused
)


# --- what is to be done -------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fork:
    """Start a worker. `NotStarted` tells if it can't be done."""

    child: int
    slot: int
    generation: int


@dataclass(frozen=True, slots=True)
class ForkHub:
    """Start a hub. `NotStarted` tells if it can't be done."""

    child: int


@dataclass(frozen=True, slots=True)
class Send:
    """Send a child a message; nothing, if it has ended or closed its channel."""

    child: int
    message: Message


@dataclass(frozen=True, slots=True)
class Kill:
    """End a child's process at once."""

    child: int


@dataclass(frozen=True, slots=True)
class Load:
    """Read the file again. No child is forked until it is loaded or refused."""


@dataclass(frozen=True, slots=True)
class Say:
    """Write a line for operators."""

    text: str


@dataclass(frozen=True, slots=True)
class Announce:
    """Say that the gateway serves."""


@dataclass(frozen=True, slots=True)
class CloseSockets:
    """Close the listening sockets; the workers have their own copies."""


@dataclass(frozen=True, slots=True)
class Exit:
    """No child is left: end with this exit code."""

    code: int


Action = Fork | ForkHub | Send | Kill | Load | Say | Announce | CloseSockets | Exit


# --- what is remembered -------------------------------------------------------------


class _State(Enum):
    STARTING = auto()
    READY = auto()
    LEAVING = auto()
    """It drains, or is of no more use. It isn't replaced."""
    LOST = auto()
    """It was killed, or its channel has ended. It is replaced when it has exited."""


@dataclass(slots=True, eq=False)
class _Place:
    """What one child after the other fills."""

    due: float | None = None
    """When the next child is forked, on the monotonic clock."""
    failures: int = 0
    """How many children have ended in a row."""
    child: _Child | None = None


@dataclass(slots=True, eq=False)
class _Generation:
    """The workers of one reading of the file."""

    config: LoadedFile
    places: tuple[_Place, ...]
    """By slot."""
    is_proven: bool = False
    """One of its workers was ready: the configuration can be served."""

    def workers(self) -> Iterator[_Worker]:
        children = (place.child for place in self.places)
        return (child for child in children if isinstance(child, _Worker))

    def ready(self) -> dict[int, _Worker]:
        """Return the workers that can serve, by slot, in order."""
        return {
            worker.slot: worker
            for worker in self.workers()
            if worker.state is _State.READY
        }


@dataclass(slots=True, kw_only=True, eq=False)
class _Child:
    """A process that was forked and hasn't exited: a worker or the hub."""

    number: int
    name: str
    place: _Place
    since: float
    """When it was forked, or began to drain, on the monotonic clock."""
    drain_s: float
    """How long it may drain."""
    state: _State = _State.STARTING
    silent: int = 0
    """Ticks since its last message."""
    reason: str | None = None
    """Why it couldn't start, or was killed."""
    is_closed: bool = False
    """Its channel has ended."""
    is_killed: bool = False
    is_discarded: bool = False
    """It was killed because it isn't needed."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Worker(_Child):
    generation: _Generation
    slot: int
    sockets: tuple[int, ...] = ()
    """Where it was told to accept."""


class Plan:
    """Turns events into actions, from the start of a supervisor to its end."""

    def __init__(
        self,
        config: LoadedFile,
        *,
        workers: int,
        sockets: int,
        pace: SupervisorPace | None = None,
    ) -> None:
        """The first `Tick` forks the first worker."""
        self._pace = pace or SupervisorPace()
        self._workers = workers
        self._sockets = sockets
        self._serving = self._generation(config)
        self._serving.places[0].due = -math.inf
        self._coming: _Generation | None = None
        """What takes over when its workers are ready."""
        self._hub = _Place()
        self._children: dict[int, _Child] = {}
        self._forked = 0
        self._denied = DenyList()
        self._now = Now(-math.inf, 0.0)
        self._next_tick = -math.inf
        self._is_reload_asked = False
        self._is_loading = False
        self._is_stopping = False
        self._is_over = False
        self._exit_code = 0
        self._actions: list[Action] = []

    @property
    def generation(self) -> int:
        """The number of the generation that serves."""
        return self._serving.config.generation

    @property
    def due(self) -> float:
        """When a `Tick` is due if nothing else happens, on the monotonic clock."""
        due = self._next_tick
        if not self._is_stopping and not self._is_loading:
            for place in self._places():
                if place.due is not None:
                    due = min(due, place.due)
        return due

    def on(self, event: Event, now: Now) -> list[Action]:
        """Return what follows from *event*, in order."""
        self._now = now
        match event:
            case Tick():
                self._on_tick()
            case Heard(number, message):
                if child := self._children.get(number):
                    self._on_message(child, message)
            case Closed(number, reason):
                if child := self._children.get(number):
                    self._on_closed(child, reason)
            case Unread(number):
                if number in self._children:
                    self._on_unread(self._children[number])
            case NotStarted(number, reason):
                if child := self._children.get(number):
                    self._on_not_started(child, reason)
            case Exited(number):
                if child := self._children.get(number):
                    self._on_exit(child, event)
            case Signalled(signal):
                self._on_signal(signal)
            case FileLoaded(config):
                self._on_loaded(config)
            case FileRefused(problems):
                self._on_refused(problems)
        self._go_on()
        actions, self._actions = self._actions, []
        return actions

    # --- events -------------------------------------------------------------------

    def _on_tick(self) -> None:
        """Ping every child; kill those that are silent or late."""
        now = self._now.monotonic
        if now < self._next_tick:
            return
        self._next_tick = now + self._pace.tick_s
        for child in tuple(self._children.values()):
            child.silent += 1
            if child.silent > self._silent_ticks(child):
                self._kill(child, "it didn't answer")
            elif child.state is _State.LEAVING and now > child.since + child.drain_s:
                self._kill(child, "it didn't finish in time")
            else:
                self._send(child, Ping())

    def _silent_ticks(self, child: _Child) -> int:
        if child.state is _State.STARTING:
            return self._pace.start_ticks
        return self._pace.silent_ticks

    def _on_message(self, child: _Child, message: Message) -> None:
        child.silent = 0
        match message:
            case Ping():
                pass  # it isn't silent
            case Ready() if child.state is _State.STARTING:
                child.state = _State.READY
                if isinstance(child, _Worker):
                    self._report(child, message)
                    self._on_ready(child.generation)
            case Ready() if child.state is _State.LEAVING or child.is_killed:
                pass  # sent before it could know
            case Deny(ends) if isinstance(child, _Worker):
                news = self._denied.add(ends, self._now.epoch)
                for denied in batches(ends.items()):
                    self._report(child, denied)
                for denied in batches(news.items()):
                    self._deny(child, denied)
            case Failed(reason) if isinstance(child, _Worker):
                self._report(child, message)
                child.reason = reason
            case _:
                kind = "worker" if isinstance(child, _Worker) else "hub"
                self._kill(child, f"it said what no {kind} says")

    def _report(self, worker: _Worker, message: Deny | Ready | Failed) -> None:
        """Relay to the hub what a worker has sent."""
        if self._hub.child is not None:
            self._send(self._hub.child, Report(worker.number, worker.slot, message))

    def _deny(self, source: _Worker, news: Deny) -> None:
        """Pass on to the other workers what they don't know."""
        for child in self._children.values():
            if isinstance(child, _Worker) and child is not source:
                self._send(child, news)

    def _on_ready(self, generation: _Generation) -> None:
        if not generation.is_proven:
            # The others start only now, so that a bad configuration is told once.
            generation.is_proven = True
            for place in generation.places[1:]:
                place.due = self._now.monotonic
            if generation is self._serving:
                self._actions.append(Announce())
                self._hub.due = self._now.monotonic
        self._deal()

    def _on_closed(self, child: _Child, reason: str | None) -> None:
        child.is_closed = True
        child.silent = 0
        if reason is not None:
            self._kill(child, reason)
        self._lose(child)

    def _on_unread(self, child: _Child) -> None:
        """Kill a hub that doesn't read. A worker may be busy until it is silent."""
        if child is self._hub.child:
            self._kill(child, "it didn't read")

    def _on_not_started(self, child: _Child, reason: str) -> None:
        self._remove(child)
        if child.state is not _State.LEAVING:
            self._replace(child, f"{child.name} can't be started: {reason}")

    def _on_exit(self, child: _Child, exited: Exited) -> None:
        self._remove(child)
        ending = f"{child.name} (pid {exited.pid}) {exited.how}"
        if child.reason is not None:
            ending = f"{ending}: {child.reason}"
        if child.state is _State.LEAVING:
            if exited.code != 0 and not child.is_discarded:
                self._say(ending)
        elif (
            isinstance(child, _Worker)
            and not child.generation.is_proven
            and exited.code >= 0
        ):
            self._give_up(child.generation, child.reason or ending)
        else:
            if self._now.monotonic - child.since >= self._pace.steady_s:
                child.place.failures = 0
            self._replace(child, ending)

    def _on_signal(self, signal: Signal) -> None:
        match signal:
            case Signal.RELOAD:
                self._is_reload_asked = True
            case Signal.STOP if self._is_stopping:
                self._exit_code = 130
                for child in tuple(self._children.values()):
                    self._discard(child)
            case Signal.STOP | Signal.HANG_UP:
                self._stop()

    def _on_loaded(self, config: LoadedFile) -> None:
        self._is_loading = False
        if not self._is_stopping:
            self._coming = self._generation(config)
            self._coming.places[0].due = self._now.monotonic

    def _on_refused(self, problems: Sequence[str]) -> None:
        self._is_loading = False
        if not self._is_stopping:
            self._say_not_reloaded(problems)

    # --- what follows -------------------------------------------------------------

    def _go_on(self) -> None:
        """Do what was waiting and now can be done."""
        if self._is_stopping:
            self._end()
        elif not self._is_loading:
            self._fork_due(self._serving)
            if self._coming is not None:
                self._fork_due(self._coming)
            if self._is_due(self._hub):
                self._fork_hub()
            can_load = self._serving.is_proven and self._coming is None
            if self._is_reload_asked and can_load:
                self._is_reload_asked = False
                self._is_loading = True
                self._actions.append(Load())

    def _end(self) -> None:
        """Exit when no worker is left, after the hub."""
        if any(isinstance(child, _Worker) for child in self._children.values()):
            return
        hub = self._hub.child
        if hub is None:
            if not self._is_over:
                self._is_over = True
                self._actions.append(Exit(self._exit_code))
        elif hub.state is _State.LOST:
            self._discard(hub)
        elif hub.state is not _State.LEAVING:
            self._let_leave(hub)

    def _is_due(self, place: _Place) -> bool:
        """Return whether a child is to be forked for *place* now; then it is once."""
        if place.due is None or place.due > self._now.monotonic:
            return False
        place.due = None
        return True

    def _fork_due(self, generation: _Generation) -> None:
        config = generation.config
        for slot, place in enumerate(generation.places):
            if not self._is_due(place):
                continue
            worker = _Worker(
                number=self._number(),
                name=name_of(slot),
                place=place,
                since=self._now.monotonic,
                drain_s=config.drain_s + self._pace.drain_extra_s,
                generation=generation,
                slot=slot,
            )
            self._children[worker.number] = place.child = worker
            self._actions.append(Fork(worker.number, slot, config.generation))
            for denied in batches(self._denied.live(self._now.epoch)):
                self._send(worker, denied)

    def _fork_hub(self) -> None:
        hub = _Child(
            number=self._number(),
            name="hub",
            place=self._hub,
            since=self._now.monotonic,
            drain_s=self._pace.hub_end_s,
        )
        self._children[hub.number] = self._hub.child = hub
        self._actions.append(ForkHub(hub.number))

    def _number(self) -> int:
        self._forked += 1
        return self._forked

    def _deal(self) -> None:
        """Have every socket accepted from: by its own worker, or by another one.

        While no worker is ready, clients wait in the sockets' queues. A generation
        takes over when all of its workers are ready; earlier if nothing else serves.
        """
        coming = self._coming
        if coming is not None:
            ready = len(coming.ready())
            if ready == self._workers or (ready and not self._serving.ready()):
                self._change_to(coming)
                return
        workers = self._serving.ready()
        for slot, numbers in shares(self._sockets, tuple(workers)).items():
            child = workers[slot]
            if child.sockets != numbers:
                child.sockets = numbers
                self._send(child, Accept(numbers))

    def _change_to(self, generation: _Generation) -> None:
        """Let *generation* accept, and the one before it drain."""
        before = self._serving
        self._serving, self._coming = generation, None
        self._deal()
        self._drain(before)
        self._say(f"reloaded {generation.config.path}")
        if generation.config.listen != before.config.listen:
            self._say("gateway.listen has changed: that needs a restart")

    def _give_up(self, generation: _Generation, why: str) -> None:
        """Give up a configuration that can't be served."""
        if generation is self._coming:
            self._coming = None
            for worker in tuple(generation.workers()):
                self._discard(worker)
            self._say_not_reloaded((why,))
        else:
            self._say(why)
            self._exit_code = 1
            self._stop()

    def _replace(self, child: _Child, ending: str) -> None:
        """Have another child forked in the place of one that was lost."""
        if isinstance(child, _Worker) and child.generation is self._coming:
            self._give_up(child.generation, ending)
            return
        if self._is_stopping:  # the hub, while workers drain
            self._say(ending)
            return
        place = child.place
        place.failures += 1
        wait_s = self._pace.delay_s(place.failures)
        place.due = self._now.monotonic + wait_s
        self._say(f"{ending}; another one starts in {wait_s:.1f} s")
        self._deal()

    def _lose(self, child: _Child) -> None:
        """Count no longer on a child: others accept in its place."""
        if child.state is not _State.LEAVING:
            child.state = _State.LOST
            self._deal()

    def _kill(self, child: _Child, reason: str) -> None:
        """Kill a child that can't be trusted."""
        child.reason = child.reason or reason
        if not child.is_killed:
            child.is_killed = True
            self._actions.append(Kill(child.number))
            self._lose(child)

    def _discard(self, child: _Child) -> None:
        """Kill a child that isn't needed."""
        child.state = _State.LEAVING
        child.is_discarded = True
        if not child.is_killed:
            child.is_killed = True
            self._actions.append(Kill(child.number))

    def _drain(self, generation: _Generation) -> None:
        """Let the workers of *generation* finish what they have begun."""
        for worker in tuple(generation.workers()):
            if worker.state is _State.READY:
                self._let_leave(worker)
            elif worker.state is not _State.LEAVING:
                self._discard(worker)

    def _let_leave(self, child: _Child) -> None:
        child.state = _State.LEAVING
        child.since = self._now.monotonic
        self._send(child, Drain())

    def _stop(self) -> None:
        """Accept nothing more, and exit when all workers have drained."""
        if self._is_stopping:
            return
        self._is_stopping = True
        self._actions.append(CloseSockets())
        coming, self._coming = self._coming, None
        self._drain(self._serving)
        if coming is not None:
            self._drain(coming)

    # --- small things -------------------------------------------------------------

    def _generation(self, config: LoadedFile) -> _Generation:
        return _Generation(config, tuple(_Place() for _ in range(self._workers)))

    def _places(self) -> Iterator[_Place]:
        """Yield the places that are filled when they are due."""
        yield self._hub
        yield from self._serving.places
        if self._coming is not None:
            yield from self._coming.places

    def _remove(self, child: _Child) -> None:
        del self._children[child.number]
        if child.place.child is child:
            child.place.child = None

    def _send(self, child: _Child, message: Message) -> None:
        if not child.is_closed:
            self._actions.append(Send(child.number, message))

    def _say(self, text: str) -> None:
        self._actions.append(Say(text))

    def _say_not_reloaded(self, problems: Sequence[str]) -> None:
        for problem in problems:
            self._say(problem)
        self._say("not reloaded: what was served before goes on")

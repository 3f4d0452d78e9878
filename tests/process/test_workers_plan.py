"""The supervisor's decisions: properties in any order of events, and single cases.

There is no process, socket or clock: events go into a `Plan`, actions come out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from gateway.admin.bodies import LogChange
from gateway.config.diff import ConfigChange
from gateway.events import RuntimeEvent, Severity
from gateway.observe.meters import Sample
from gateway.process import plan_denials
from gateway.process.admin_messages import (
    Describe,
    DrainWanted,
    FilesChanged,
    LogAs,
    LogChangeWanted,
    Reloaded,
    ReloadWanted,
    WatchFiles,
)
from gateway.process.messages import (
    Accept,
    AskCore,
    Deny,
    DenyDone,
    Drain,
    Failed,
    FetchKeys,
    Keys,
    KeySource,
    KeysUntil,
    Message,
    Notice,
    Ping,
    Ready,
    Report,
    Snapshot,
    Status,
)
from gateway.process.plan import Plan
from gateway.process.plan_drains import MAX_DRAINING
from gateway.process.plan_events import (
    Action,
    Announce,
    Closed,
    CloseSockets,
    EndGateway,
    Event,
    Exit,
    Exited,
    FileLoaded,
    FileRefused,
    Fork,
    ForkGateway,
    ForkHub,
    HandOver,
    Kill,
    Load,
    LoadedFile,
    LogLine,
    NoteReload,
    NotStarted,
    Now,
    Received,
    Send,
    Signal,
    Signalled,
    TakeOver,
    Tick,
    Unread,
    WriteFrom,
)
from gateway.process.plan_pace import SupervisorPace
from gateway.process.plan_places import shares
from gateway.session.deny_list import UserDenial, UserScope

EPOCH = 1_700_000_000.0
PACE = SupervisorPace(silent_ticks=3, start_ticks=6, drain_extra_s=2, steady_s=5)
DRAIN_S = 4.0
WEBSOCKETS_S = 30.0
DELAY_S = 3.0
STARTUP_S = 6.0
HUB = 0
"""The hub's number in place of a generation."""
T = TypeVar("T")


SOURCES = tuple(KeySource((f"http://core-{n}",), "http://gateway/auth") for n in "ab")
ASKS = tuple(AskCore(source.hosts, "key", 5.0) for source in SOURCES)
KEYS_S = 20.0
"""How long the keys of a worker can be used, in the tests of any order of events."""


def config(
    generation: int = 1,
    listen: str = "a:1",
    *,
    probes: str | None = None,
    pidfile: str | None = None,
    sdk: object = "one",
    shutdown_delay_s: float = 0.0,
    websocket_drain_s: float = 0.0,
) -> LoadedFile:
    return LoadedFile(
        generation=generation,
        path="routes.yaml",
        listen=listen,
        probes=probes,
        pidfile=pidfile,
        drain_s=DRAIN_S,
        websocket_drain_s=websocket_drain_s,
        shutdown_delay_s=shutdown_delay_s,
        startup_timeout_s=STARTUP_S,
        sdk=sdk,
        keys_refresh_s=300.0,
        keys_timeout_s=3.0,
    )


def fetch(source: KeySource) -> FetchKeys:
    return FetchKeys(source, 300.0, 3.0)


# --- any order of events ----------------------------------------------------------


@dataclass(slots=True)
class Process:
    """A child process: the messages that it has received, and its state."""

    number: int
    slot: int
    generation: int
    is_ready: bool = False
    is_closed: bool = False
    is_killed: bool = False
    is_draining: bool = False
    keeps_until: float = 0.0
    """Until when it keeps WebSockets although it drains."""
    accepts: tuple[int, ...] = ()
    denied: dict[str, float] = field(default_factory=dict)
    unacknowledged: list[int] = field(default_factory=list)
    """The numbers of denials that it has received."""
    keys: Keys | None = None
    """The keys that were handed to it."""
    keys_until: float = 0.0
    fetches: KeySource | None = None
    """What the hub was told to fetch."""
    asked: set[int] = field(default_factory=set)
    """The generations whose core the hub was told to ask."""
    status: Status | None = None
    """What the hub was told of the gateway."""

    @property
    def is_hub(self) -> bool:
        return self.generation == HUB

    @property
    def works(self) -> bool:
        """Whether it reads its messages."""
        return not (self.is_closed or self.is_killed)

    @property
    def can_accept(self) -> bool:
        is_serving = self.is_ready and not self.is_draining
        return self.works and is_serving and not self.is_hub

    @property
    def accepting(self) -> tuple[int, ...]:
        return self.accepts if self.can_accept else ()


WRONG: list[Message] = [
    *(Failed("x"), Ready(), Accept((0,)), Report(1, 0, Ready())),
    *(SOURCES[0], ASKS[0], fetch(SOURCES[0])),
]


class World(RuleBasedStateMachine):
    """Performs a plan's actions, and feeds it any event that can happen."""

    def __init__(self) -> None:
        super().__init__()
        self.monotonic = 1000.0
        self.processes: dict[int, Process] = {}
        self.generations = 1
        self.settings = {1: (SOURCES[0], "one")}
        """The core and the SDK's settings of each generation."""
        self.keys: Keys | None = None
        """The last keys that a hub has reported of the serving generation's core."""
        self.serving = 1
        self.denials = 0
        self.is_outcome_due = False
        """A reload has begun, and its outcome hasn't been noted."""
        self.unconfirmed: dict[tuple[int, int], set[int]] = {}
        """Source and number of a denial → those that haven't acknowledged it."""
        self.denial: tuple[int, int] | None = None
        """The denial that is being relayed."""
        self.relayed: dict[int, tuple[int, int]] = {}
        """The plan's number of a denial → its source and the source's number."""
        self.denied: dict[str, float] = {}
        self.crashes: dict[tuple[int, int], list[float]] = {}
        """The times of consecutive crashes of a generation's slot."""
        self.started: dict[int, float] = {}
        self.can_fork = True
        self.is_loading = False
        self.is_stopping = False
        self.leave_at: float | None = None
        """When connections are accepted no more."""
        self.is_forced = False
        self.code: int | None = None

    @initialize(
        workers=st.integers(1, 3),
        is_shared=st.booleans(),
        delay_s=st.sampled_from([0.0, DELAY_S]),
        websockets_s=st.sampled_from([0.0, WEBSOCKETS_S]),
    )
    def begin(
        self, workers: int, is_shared: bool, delay_s: float, websockets_s: float
    ) -> None:
        self.workers = workers
        self.sockets = 1 if is_shared else workers
        self.delay_s = delay_s
        self.websockets_s = websockets_s
        self.plan = Plan(
            config(shutdown_delay_s=delay_s, websocket_drain_s=websockets_s),
            workers=workers,
            sockets=self.sockets,
            pace=PACE,
        )
        self.feed(Tick())

    # --- performing actions -----------------------------------------------------

    def feed(self, event: Event) -> None:
        """Feed the plan an event, and perform its actions."""
        events = deque([event])
        while events:
            now = Now(self.monotonic, EPOCH + self.monotonic)
            for action in self.plan.on(events.popleft(), now):
                assert self.code is None, f"{action} after the end"
                events.extend(self.perform(action))

    def perform(self, action: Action) -> Iterable[Event]:
        match action:
            case Fork() | ForkHub():
                number = action.child
                slot, generation = (
                    (action.slot, action.generation)
                    if isinstance(action, Fork)
                    else (0, HUB)
                )
                assert not self.is_loading
                assert not self.is_stopping
                assert number not in self.started
                assert generation <= self.generations
                place = (generation, slot)
                assert not [
                    p
                    for p in self.processes.values()
                    if (p.generation, p.slot) == place
                ]
                self.assert_is_late_enough(place)
                self.started[number] = self.monotonic
                if not self.can_fork:
                    self.crashed(place)
                    return [NotStarted(number, "out of memory")]
                self.processes[number] = Process(number, slot, generation)
            case Send(number, message):
                if number in self.processes:
                    self.receive(self.processes[number], message)
            case Kill(number):
                if number in self.processes:
                    self.processes[number].is_killed = True
            case Load():
                assert not self.is_loading
                assert not self.is_stopping
                assert self.leave_at is None
                assert not self.is_outcome_due
                self.is_loading = self.is_outcome_due = True
            case NoteReload():
                assert self.is_outcome_due
                self.is_outcome_due = False
            case CloseSockets():
                is_early = (self.leave_at or 0.0) > self.monotonic
                assert self.is_forced or not is_early
                self.is_stopping = True
            case Exit(code):
                assert not self.processes
                assert self.is_stopping
                self.code = code
            case ForkGateway() | EndGateway() | HandOver() | TakeOver():
                raise AssertionError("nobody has asked for an upgrade")
            case Announce() | LogLine() | WriteFrom():
                pass
        return []

    def receive(self, process: Process, message: Message) -> None:
        assert not process.is_closed
        match message:
            case Accept(sockets):
                assert process.is_ready
                assert self.missing_denials(process) == {}
                self.note_serving(process)
                assert all(number in range(self.sockets) for number in sockets)
                process.accepts = sockets
            case Drain(websockets_s):
                if process.is_draining:
                    assert process.keeps_until > self.monotonic
                    assert websockets_s == 0
                    assert self.is_stopping or len(self.keeping()) > MAX_DRAINING
                process.is_draining = True
                process.keeps_until = self.monotonic + websockets_s
                assert not self.is_stopping or not websockets_s
                assert not process.is_hub or not self.workers_left()
            case Deny(ends, number):
                assert not process.is_hub
                for handle, until in ends.items():  # none is shortened
                    process.denied[handle] = max(until, process.denied.get(handle, 0.0))
                if number:
                    assert self.denial is not None
                    assert self.relayed.setdefault(number, self.denial) == self.denial
                    process.unacknowledged.append(number)
            case DenyDone(number):
                assert self.unconfirmed.pop((process.number, number)) == set()
            case Keys(source, fetched_at):
                assert not process.is_hub
                assert not process.is_ready
                assert source == self.settings[process.generation][0]
                assert self.settings[process.generation] == self.settings[self.serving]
                assert fetched_at <= self.monotonic
                assert self.keys == message
                process.keys = message
            case FetchKeys(source):
                assert process.is_hub
                process.fetches = source
            case AskCore(hosts):
                assert process.is_hub
                assert hosts == self.settings[self.plan.generation][0].hosts
                assert self.plan.generation not in process.asked
                process.asked.add(self.plan.generation)
            case Status():
                assert process.is_hub
                assert message != process.status
                process.status = message
            case Report(child, slot):
                assert process.is_hub
                assert self.processes[child].slot == slot
            case _:
                assert message == Ping()

    def keeping(self) -> set[int]:
        """Return the generations that keep WebSockets although they drain."""
        return {
            process.generation
            for process in self.processes.values()
            if process.keeps_until > self.monotonic and not process.is_killed
        }

    def note_serving(self, process: Process) -> None:
        """Note the generation of a worker that is told to accept."""
        if process.generation == self.serving:
            return
        old = [
            p
            for p in self.processes.values()
            if p.can_accept and p.generation == self.serving
        ]
        if any(p.keys_until > self.monotonic for p in old):
            new = [p for p in self.workers_left() if p.generation == process.generation]
            assert all(p.keys_until > self.monotonic for p in new)
        if self.settings[self.serving] != self.settings[process.generation]:
            self.keys = None
        self.serving = process.generation

    def start(self, process: Process) -> None:
        """Have a child start, and say that it is ready."""
        if not process.is_hub:
            source = self.settings[process.generation][0]
            self.feed(Received(process.number, source))
            asks = ASKS[SOURCES.index(source)]
            self.feed(Received(process.number, asks))
            if self.settings[process.generation] == self.settings[self.serving]:
                assert process.keys == self.keys or not process.works
        process.is_ready = True
        self.feed(Received(process.number, Ready()))

    def workers_left(self) -> list[Process]:
        return [p for p in self.processes.values() if not p.is_hub]

    def missing_denials(self, process: Process) -> dict[str, float]:
        return {
            handle: until
            for handle, until in self.denied.items()
            if until > EPOCH + self.monotonic
            and process.denied.get(handle, 0.0) < until
        }

    def assert_is_late_enough(self, place: tuple[int, int]) -> None:
        if crashes := self.crashes.get(place):
            assert self.monotonic >= crashes[-1] + PACE.delay_s(len(crashes))

    def crashed(self, place: tuple[int, int], *, was_steady: bool = False) -> None:
        if was_steady:
            self.crashes[place] = []
        self.crashes.setdefault(place, []).append(self.monotonic)

    def acknowledge(self, process: Process) -> None:
        """Have a worker acknowledge all denials that it has received."""
        numbers, process.unacknowledged = process.unacknowledged, []
        for number in numbers:
            missing = self.unconfirmed.get(self.relayed[number], set())
            missing.discard(process.number)
            self.feed(Received(process.number, DenyDone(number)))

    def exit(self, process: Process, code: int) -> None:
        del self.processes[process.number]
        for (source, number), missing in tuple(self.unconfirmed.items()):
            missing.discard(process.number)
            if source == process.number:
                del self.unconfirmed[source, number]
        lived_s = self.monotonic - self.started[process.number]
        self.crashed(
            (process.generation, process.slot), was_steady=lived_s >= PACE.steady_s
        )
        self.feed(Exited(process.number, 1, code, "ended"))

    def some(self, data: st.DataObject, processes: Iterable[Process]) -> Process | None:
        candidates = sorted(processes, key=lambda process: process.number)
        return data.draw(st.sampled_from(candidates)) if candidates else None

    # --- events -------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 3.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.monotonic += seconds
        self.feed(Tick())

    @rule(data=st.data())
    def one_is_ready(self, data: st.DataObject) -> None:
        new = (p for p in self.processes.values() if p.works and not p.is_ready)
        if process := self.some(data, new):
            self.start(process)

    @rule()
    def all_are_ready(self) -> None:
        for process in tuple(self.processes.values()):
            if process.works and not process.is_ready:
                self.start(process)

    @rule(data=st.data(), lasts_s=st.sampled_from([-1.0, 1.0, KEYS_S]))
    def one_has_keys(self, data: st.DataObject, lasts_s: float) -> None:
        working = (p for p in self.workers_left() if p.works and p.is_ready)
        if process := self.some(data, working):
            process.keys_until = self.monotonic + lasts_s
            self.feed(Received(process.number, KeysUntil(process.keys_until)))

    @rule(source=st.sampled_from(SOURCES), age_s=st.sampled_from([-100.0, 0.0, 9.0]))
    def the_hub_reports_keys(self, source: KeySource, age_s: float) -> None:
        for process in tuple(self.processes.values()):
            if process.is_hub and process.works and process.fetches is not None:
                keys = Keys(source, self.monotonic - age_s, f"{self.monotonic}")
                is_news = self.keys is None or self.keys.fetched_at <= keys.fetched_at
                if source == self.settings[self.serving][0] and is_news:
                    at = min(keys.fetched_at, self.monotonic)
                    self.keys = Keys(source, at, keys.jwks)
                self.feed(Received(process.number, keys))

    @rule(
        data=st.data(),
        wait_s=st.sampled_from([0.1, 0.15, 0.3, 3.0]),
        lives_s=st.sampled_from([0.0, 3.0]),
    )
    def a_slot_crashes_repeatedly(
        self, data: st.DataObject, wait_s: float, lives_s: float
    ) -> None:
        if process := self.some(data, self.processes.values()):
            place = (process.generation, process.slot)
            for _ in range(4):
                self.time_passes(lives_s)
                for each in tuple(self.processes.values()):
                    if (each.generation, each.slot) == place:
                        self.exit(each, -9)
                self.time_passes(wait_s)

    @rule(code=st.sampled_from([0, -9]))
    def all_that_accept_exit(self, code: int) -> None:
        for process in tuple(self.processes.values()):
            if process.accepting:
                self.exit(process, code)

    @rule()
    def all_answer(self) -> None:
        for process in tuple(self.processes.values()):
            if process.works:
                self.feed(Received(process.number, Ping()))

    @rule(
        data=st.data(),
        handle=st.sampled_from("abc"),
        lasts_s=st.integers(-1, 50),
        is_confirmed=st.booleans(),
    )
    def one_denies(
        self, data: st.DataObject, handle: str, lasts_s: int, is_confirmed: bool
    ) -> None:
        working = (p for p in self.workers_left() if not p.is_closed)
        if process := self.some(data, working):
            until = EPOCH + self.monotonic + lasts_s
            process.denied[handle] = max(until, process.denied.get(handle, 0.0))
            self.denied[handle] = max(until, self.denied.get(handle, 0.0))
            self.denials += is_confirmed
            number = self.denials if is_confirmed else 0
            if is_confirmed:
                self.denial = process.number, number
                self.unconfirmed[self.denial] = {
                    p.number for p in self.workers_left() if p.is_ready and p != process
                }
            self.feed(Received(process.number, Deny({handle: until}, number)))

    @rule(data=st.data())
    def one_acknowledges(self, data: st.DataObject) -> None:
        working = (p for p in self.workers_left() if not p.is_closed)
        if process := self.some(data, working):
            self.acknowledge(process)

    @rule(data=st.data(), message=st.sampled_from(WRONG))
    def one_sends_a_wrong_message(self, data: st.DataObject, message: Message) -> None:
        talking = (p for p in self.processes.values() if not p.is_closed)
        if process := self.some(data, talking):
            # A worker that starts is believed about the core of its own configuration.
            is_starting = not (process.is_hub or process.is_ready)
            assume(not (is_starting and isinstance(message, AskCore | KeySource)))
            process.is_ready |= message == Ready()
            self.feed(Received(process.number, message))
            if process.is_hub and message != Ready():
                assert process.is_killed

    @rule(data=st.data())
    def one_does_not_read(self, data: st.DataObject) -> None:
        if process := self.some(data, self.processes.values()):
            self.feed(Unread(process.number))

    @rule(data=st.data(), reason=st.sampled_from([None, "a message isn't JSON"]))
    def a_channel_ends(self, data: st.DataObject, reason: str | None) -> None:
        talking = (p for p in self.processes.values() if not p.is_closed)
        if process := self.some(data, talking):
            process.is_closed = True
            self.feed(Closed(process.number, reason))

    @rule(data=st.data(), code=st.sampled_from([0, 1, -9, -11]))
    def one_exits(self, data: st.DataObject, code: int) -> None:
        if process := self.some(data, self.processes.values()):
            self.exit(process, -9 if process.is_killed else code)

    @rule(can_fork=st.booleans())
    def forks_work_or_fail(self, can_fork: bool) -> None:
        self.can_fork = can_fork

    @rule()
    def reload(self) -> None:
        self.feed(Signalled(Signal.RELOAD))

    @rule()
    def reload_a_good_file(self) -> None:
        self.feed(Signalled(Signal.RELOAD))
        if self.is_loading:
            self.the_file_is_read(is_good=True, source=SOURCES[0], sdk="one")

    @precondition(lambda self: self.is_loading)
    @rule(
        is_good=st.booleans(),
        source=st.sampled_from(SOURCES),
        sdk=st.sampled_from(["one", "one", "two"]),
    )
    def the_file_is_read(self, is_good: bool, source: KeySource, sdk: str) -> None:
        self.is_loading = False
        if is_good:
            self.generations += 1
            self.settings[self.generations] = (source, sdk)
            loaded = config(
                self.generations,
                sdk=sdk,
                shutdown_delay_s=self.delay_s,
                websocket_drain_s=self.websockets_s,
            )
            self.feed(FileLoaded(loaded))
        else:
            self.feed(FileRefused(("routes.yaml:1:1: bad",)))

    @rule(signal=st.sampled_from([Signal.STOP, Signal.HANG_UP]), dice=st.integers(0, 9))
    def stop(self, signal: Signal, dice: int) -> None:
        if dice == 0:
            self.leave(signal)

    def leave(self, signal: Signal) -> None:
        is_first = not self.is_stopping and self.leave_at is None
        is_second = not is_first and signal is Signal.STOP
        self.is_forced |= is_second and self.code is None
        if is_first and self.delay_s and any(p.can_accept for p in self.serving_now()):
            self.leave_at = self.monotonic + self.delay_s
        self.feed(Signalled(signal))
        if is_first:
            assert self.is_stopping == (self.leave_at is None)

    def serving_now(self) -> list[Process]:
        """Return the workers of the generation that accepts."""
        return [p for p in self.workers_left() if p.generation == self.plan.generation]

    @rule(number=st.integers(100, 105))
    def events_of_an_unknown_child(self, number: int) -> None:
        if number not in self.started:
            self.feed(Received(number, Ready()))
            self.feed(Closed(number))
            self.feed(Exited(number, 1, 0, "ended"))

    # --- invariants -----------------------------------------------------------------

    @invariant()
    def every_socket_is_accepted_from_if_one_can(self) -> None:
        if any(process.can_accept for process in self.processes.values()):
            accepted = {n for p in self.processes.values() for n in p.accepting}
            assert accepted == {*range(self.sockets)}

    @invariant()
    def one_generation_accepts(self) -> None:
        accepting = {p.generation for p in self.processes.values() if p.accepting}
        assert len(accepting) <= 1

    @invariant()
    def few_generations_keep_websockets_and_none_after_a_stop(self) -> None:
        keeping = {
            process.generation
            for process in self.processes.values()
            if process.keeps_until > self.monotonic and process.works
        }
        assert len(keeping) <= (0 if self.is_stopping else MAX_DRAINING)

    @invariant()
    def a_socket_of_several_is_one_worker_s(self) -> None:
        taken = [n for p in self.processes.values() for n in p.accepting]
        assert self.sockets == 1 or len(taken) == len(set(taken))

    @invariant()
    def no_denial_is_lost(self) -> None:
        for process in self.processes.values():
            if process.works and not process.is_hub:
                assert self.missing_denials(process) == {}

    @invariant()
    def something_is_always_due(self) -> None:
        if self.processes and self.code is None:
            assert self.plan.due <= self.monotonic + PACE.max_delay_s

    @invariant()
    def connections_are_accepted_until_the_delay_is_over(self) -> None:
        if self.leave_at is not None and not self.is_stopping:
            assert self.plan.due <= self.leave_at

    @invariant()
    def the_hub_has_the_present_status(self) -> None:
        for process in self.processes.values():
            if not process.is_hub or process.is_closed:
                continue
            status = process.status
            assert status is not None
            assert status.generation == self.plan.generation
            assert len(status.slots) == self.workers
            assert status.is_draining == (self.is_stopping or self.leave_at is not None)
            accepting = [p for p in self.workers_left() if p.accepting]
            assert status.slots.count("accepting") == len(accepting)
            has_keys = accepting and all(p.keys_until for p in accepting)
            until = min(p.keys_until for p in accepting) if has_keys else None
            assert status.keys_until == until
            others = [
                p for p in self.workers_left() if p.generation != status.generation
            ]
            assert sum(status.others.values()) == len(others)
            assert {*status.children} == {p.number for p in self.workers_left()}

    @invariant()
    def it_ends_when_all_have_ended(self) -> None:
        if self.is_stopping and not self.processes:
            assert self.code in ({130} if self.is_forced else {0, 1})

    # --- the end of an example --------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "plan"):
            self.assert_recovery()
            self.assert_end()

    def assert_recovery(self) -> None:
        """Without further faults, one generation's workers accept, and a hub runs."""
        self.can_fork = True
        if self.is_loading:
            self.the_file_is_read(is_good=False, source=SOURCES[0], sdk="one")
        for _ in range(60):
            for process in tuple(self.processes.values()):
                if process.is_killed or process.is_closed or process.is_draining:
                    self.exit(process, -9 if process.is_killed else 0)
                elif not process.is_ready:
                    self.start(process)
                else:
                    self.acknowledge(process)
                    self.feed(Received(process.number, Ping()))
            if self.is_loading:
                self.the_file_is_read(is_good=True, source=SOURCES[0], sdk="one")
            self.time_passes(1.0)
        assert not self.unconfirmed
        if not self.is_stopping:
            workers = self.workers_left()
            assert len({worker.generation for worker in workers}) == 1
            assert len(workers) == self.workers
            assert all(worker.accepting for worker in workers)
            assert len(self.processes) == self.workers + 1  # and the hub

    def assert_end(self) -> None:
        """After a stop, the supervisor exits, even if no worker obeys `Drain`."""
        if self.code is None and not self.is_stopping:
            self.leave(Signal.HANG_UP)
        most_s = DELAY_S + DRAIN_S + PACE.drain_extra_s + PACE.hub_end_s
        for _ in range(int(most_s) + 6):
            for process in tuple(self.processes.values()):
                if process.is_killed:
                    self.exit(process, -9)
                elif not process.is_closed:
                    self.feed(Received(process.number, Ping()))
            self.time_passes(1.0)
        assert self.code is not None


World.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None
)
test_any_order_of_events = World.TestCase


# --- shares of the sockets --------------------------------------------------------


@given(st.integers(1, 20), st.sets(st.integers(0, 19)))
def test_every_socket_has_a_worker(sockets: int, ready: set[int]) -> None:
    """Each socket has one worker, its own if that is ready; shares are equal."""
    slots = sorted(ready & set(range(sockets)))
    dealt = shares(sockets, slots)
    assert sorted(dealt) == slots
    if sockets == 1 or not slots:
        return
    assert sorted(number for share in dealt.values() for number in share) == [
        *range(sockets)
    ]
    assert all(share[0] == slot for slot, share in dealt.items())
    sizes = {len(share) for share in dealt.values()}
    assert max(sizes) - min(sizes) <= 1


def test_a_single_socket_is_shared_by_all() -> None:
    """A single socket, without SO_REUSEPORT, is shared by all ready workers."""
    assert shares(1, (0, 2)) == {0: (0,), 2: (0,)}


@given(st.integers(1, 9), st.sets(st.integers(0, 19), min_size=1))
def test_fewer_sockets_than_workers_are_shared(sockets: int, ready: set[int]) -> None:
    """As after an upgrade to more workers: no socket and no worker is left out."""
    dealt = shares(sockets, sorted(ready))
    assert dealt.keys() == ready
    assert {number for share in dealt.values() for number in share} == {*range(sockets)}
    assert all(share for share in dealt.values())


def test_restarts_after_crashes_are_delayed() -> None:
    """The delay doubles from 0.1 s to 30 s."""
    waits = [SupervisorPace().delay_s(failures) for failures in range(1, 2000)]
    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits == sorted(waits)
    assert waits[-1] == 30


# --- single cases -----------------------------------------------------------------


class Driver:
    """Feeds events to a plan at given times; keeps the actions of the last one.

    The hub starts, answers and ends as it should, unless the test is about it. Actions
    on the hub are left out of `actions`.
    """

    def __init__(
        self,
        *,
        workers: int = 2,
        is_serving: bool = True,
        shutdown_delay_s: float = 0.0,
    ) -> None:
        self.at = 0.0
        self.hub = 0
        self.statuses: list[Status] = []
        """What the hub was told of the gateway."""
        first = config(shutdown_delay_s=shutdown_delay_s)
        self.plan = Plan(first, workers=workers, sockets=workers, pace=PACE)
        self.actions = self.on(Tick())
        if is_serving:
            for child in range(1, workers + 1):
                self.receives(child, Ready())

    def on(self, event: Event, *, after_s: float = 0.0) -> list[Action]:
        self.actions = []
        for action in self.feed(event, after_s=after_s):
            match action:
                case ForkHub(child):
                    self.hub = child
                    self.feed(Received(child, Ready()))
                case Send(self.hub, Drain()) | Kill(self.hub):
                    self.actions += self.feed(Exited(self.hub, 99, 0, "ended"))
                case Send(self.hub, Ping()):
                    self.feed(Received(self.hub, Ping()))
                case Send(self.hub):
                    pass
                case _:
                    self.actions.append(action)
        return self.actions

    def feed(self, event: Event, *, after_s: float = 0.0) -> list[Action]:
        """Feed *event* to the plan; return all actions, also those on the hub.

        A `Status` is put into `statuses` instead.
        """
        self.at += after_s
        actions = []
        for action in self.plan.on(event, Now(self.at, EPOCH + self.at)):
            match action:
                case Send(_, Status() as status):
                    self.statuses.append(status)
                case _:
                    actions.append(action)
        return actions

    @property
    def status(self) -> Status:
        return self.statuses[-1]

    def receives(self, child: int, message: Message) -> list[Action]:
        return self.on(Received(child, message))

    def exits(
        self, child: int, code: int = -9, *, after_s: float = 0.0
    ) -> list[Action]:
        how = "was ended by SIGKILL" if code == -9 else f"ended with exit code {code}"
        return self.on(Exited(child, 100 + child, code, how), after_s=after_s)

    def reloads(
        self,
        listen: str = "a:1",
        *,
        probes: str | None = None,
        pidfile: str | None = None,
        sdk: object = "one",
    ) -> list[Action]:
        assert self.on(Signalled(Signal.RELOAD)) == [Load()]
        loaded = config(2, listen, probes=probes, pidfile=pidfile, sdk=sdk)
        return self.on(FileLoaded(loaded))


def of(actions: list[Action], kind: type[T]) -> list[T]:
    return [action for action in actions if isinstance(action, kind)]


STOPPING = "stopping: requests in flight are finished"


def lines_of(actions: list[Action]) -> list[str]:
    return [action.message for action in of(actions, LogLine)]


def shown(actions: list[Action]) -> list[Action | str]:
    """Return *actions*, with the messages of lines in place of these.

    Without the notes of reloads.
    """
    return [
        action.message if isinstance(action, LogLine) else action
        for action in actions
        if not isinstance(action, NoteReload)
    ]


def test_the_first_worker_starts_before_the_others() -> None:
    """The others start when the first is ready, so that an error is logged once."""
    driver = Driver(workers=3, is_serving=False)
    assert driver.actions == [Fork(1, 0, 1)]
    assert driver.receives(1, Ready()) == [
        Announce(),
        Send(1, Accept((0, 1, 2))),
        Fork(2, 1, 1),
        Fork(3, 2, 1),
    ]
    assert driver.receives(3, Ready()) == [
        Send(1, Accept((0, 1))),
        Send(3, Accept((2,))),
    ]
    assert driver.receives(2, Ready()) == [Send(1, Accept((0,))), Send(2, Accept((1,)))]


@pytest.mark.parametrize(
    ("failed", "line"),
    [
        (None, "worker 1 (pid 101) ended with exit code 3"),
        ("recipes.totp: too old", "recipes.totp: too old"),
    ],
)
def test_a_configuration_that_no_worker_can_serve(
    failed: str | None, line: str
) -> None:
    """The error is logged once, and the exit code is 1."""
    driver = Driver(is_serving=False)
    if failed:
        driver.receives(1, Failed(failed))
    assert shown(driver.exits(1, 3)) == [line, CloseSockets(), Exit(1)]


def test_a_first_worker_that_was_killed_is_started_again() -> None:
    """A first worker that was killed is restarted, as after a lack of memory.

    The delay doubles with each crash, and is reset after `steady_s`.
    """
    driver = Driver(is_serving=False)
    line = "worker 1 (pid 101) was ended by SIGKILL; another one starts in 0.1 s"
    assert shown(driver.exits(1)) == [line]
    assert driver.plan.due == pytest.approx(0.1)
    assert driver.on(Tick(), after_s=0.05) == []
    assert driver.on(Tick(), after_s=0.06) == [Fork(2, 0, 1)]
    assert lines_of(driver.exits(2)) == [
        line.replace("101", "102").replace("0.1 s", "0.2 s")
    ]
    driver.on(Tick(), after_s=1.0)
    line = "worker 1 (pid 103) was ended by SIGKILL; another one starts in 0.1 s"
    assert lines_of(driver.exits(3, after_s=PACE.steady_s)) == [line]


def test_a_fork_that_fails_is_tried_again() -> None:
    """A fork that fails is logged and tried again after the delay of a crash."""
    driver = Driver(is_serving=False)
    line = "worker 1 can't be started: no memory; another one starts in 0.1 s"
    assert shown(driver.on(NotStarted(1, "no memory"))) == [line]
    assert driver.on(Tick(), after_s=0.1) == [Fork(2, 0, 1)]


def test_the_sockets_of_a_dead_worker_move_to_another() -> None:
    """Another worker accepts on them when its channel closes, until it is replaced."""
    driver = Driver()
    assert driver.on(Closed(1)) == [Send(2, Accept((1, 0)))]
    driver.exits(1)
    driver.on(Tick(), after_s=0.5)
    assert of(driver.actions, Fork) == [Fork(4, 0, 1)]
    assert driver.receives(4, Ready()) == [Send(4, Accept((0,))), Send(2, Accept((1,)))]


@pytest.mark.parametrize(
    ("is_ready", "ticks"), [(True, PACE.silent_ticks), (False, PACE.start_ticks)]
)
def test_a_worker_that_hangs_is_killed(is_ready: bool, ticks: int) -> None:
    """A worker is killed after `silent_ticks` pings without an answer.

    One that isn't ready yet is killed after `start_ticks`.
    """
    driver = Driver(workers=1, is_serving=is_ready)
    for _ in range(ticks):
        assert driver.on(Tick(), after_s=1.0) == [Send(1, Ping())]
    assert driver.on(Tick(), after_s=1.0) == [Kill(1)]
    driver.on(Tick(), after_s=1.0)
    assert not of(driver.actions, Kill)
    (line,) = lines_of(driver.exits(1))
    assert line.startswith("worker 1 (pid 101) was ended by SIGKILL: it didn't answer;")


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Received(1, Drain()), "it sent a message that a worker doesn't send"),
        (Received(1, Ready()), "it sent a message that a worker doesn't send"),
        (
            Received(1, LogChangeWanted(1, LogChange("error"))),
            "it sent a message that a worker doesn't send",
        ),
        (Received(1, LogAs()), "it sent a message that a worker doesn't send"),
        (Closed(1, "a message isn't JSON"), "a message isn't JSON"),
    ],
)
def test_a_worker_that_misbehaves_is_killed(event: Event, why: str) -> None:
    """A worker with an invalid message is killed, and another accepts on its socket."""
    driver = Driver()
    assert driver.on(event) == [Kill(1), Send(2, Accept((1, 0)))]
    (line,) = lines_of(driver.exits(1))
    assert f"SIGKILL: {why};" in line


def test_a_denial_is_sent_to_every_worker() -> None:
    """A new denial is sent to all other workers, and to later ones when forked."""
    driver = Driver()
    denial = Deny({"a": EPOCH + 100})
    assert driver.receives(1, denial) == [Send(2, denial)]
    assert driver.receives(2, denial) == []
    driver.exits(1)
    driver.on(Tick(), after_s=0.5)
    assert driver.actions == [Fork(4, 0, 1), Send(4, denial)]


def test_a_denial_is_confirmed_when_all_others_know_it() -> None:
    """Each worker acknowledges it once; one that exits isn't waited for."""
    driver = Driver(workers=3)
    ends = {"a": EPOCH + 100}
    for number in (7, 8):  # also when the denial isn't new
        assert driver.receives(1, Deny(ends, number)) == [
            Send(2, Deny(ends, number - 6)),
            Send(3, Deny(ends, number - 6)),
        ]
    assert driver.receives(2, DenyDone(1)) == []
    assert driver.receives(2, DenyDone(1)) == []
    assert driver.receives(3, DenyDone(1)) == [Send(1, DenyDone(7))]
    assert driver.receives(2, DenyDone(2)) == []
    assert Send(1, DenyDone(8)) in driver.exits(3)
    assert driver.receives(2, DenyDone(2)) == []


def test_a_single_worker_s_denial_is_confirmed_at_once() -> None:
    """Workers that start aren't waited for: they know it before they accept."""
    driver = Driver(workers=1)
    driver.reloads()
    denial = Deny({"a": EPOCH + 100}, 5)
    assert driver.receives(1, denial) == [
        Send(3, Deny(denial.ends, 1)),
        Send(1, DenyDone(5)),
    ]
    assert driver.receives(3, DenyDone(1)) == []


def test_a_long_denial_is_confirmed_after_its_last_part() -> None:
    """Workers read in order, so the last part is the one to acknowledge."""
    driver = Driver()
    ends = {f"{number:01000}": EPOCH + 9 for number in range(100)}
    parts = [action.message for action in of(driver.receives(1, Deny(ends, 1)), Send)]
    assert [part.number for part in parts if isinstance(part, Deny)] == [0, 1]
    assert driver.receives(2, DenyDone(1)) == [Send(1, DenyDone(1))]


def test_unconfirmed_denials_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that floods gets no confirmations beyond the limit."""
    monkeypatch.setattr(plan_denials, "MAX_UNCONFIRMED", 3)
    driver = Driver()
    for number in range(1, 6):
        driver.receives(1, Deny({f"{number}": EPOCH + 9}, number))
    sent = [driver.receives(2, DenyDone(number)) for number in range(1, 6)]
    assert sent == [*([Send(1, DenyDone(number))] for number in (1, 2, 3)), [], []]


def test_a_reload_takes_over_when_all_are_ready() -> None:
    """The old workers then drain, and one that exceeds the time is killed."""
    driver = Driver()
    assert driver.reloads("b:2", probes="c:3", pidfile="d") == [Fork(4, 0, 2)]
    assert driver.receives(4, Ready()) == [Fork(5, 1, 2)]
    assert shown(driver.receives(5, Ready())) == [
        Send(4, Accept((0,))),
        Send(5, Accept((1,))),
        Send(1, Drain()),
        Send(2, Drain()),
        "reloaded routes.yaml: nothing has changed",
        "gateway.listen has changed: that needs a restart",
        "gateway.probes.listen has changed: that needs a restart",
        "gateway.pidfile has changed: that needs a restart",
    ]
    assert driver.exits(1, 0) == []
    for _ in range(int(DRAIN_S + PACE.drain_extra_s)):
        driver.on(Tick(), after_s=1.0)
        for child in (2, 4, 5):
            driver.receives(child, Ping())
    assert of(driver.on(Tick(), after_s=1.0), Kill) == [Kill(2)]
    (line,) = lines_of(driver.exits(2))
    assert line == "worker 2 (pid 102) was ended by SIGKILL: it didn't finish in time"


def test_a_reload_takes_over_at_once_if_no_old_worker_serves() -> None:
    """When no old worker is left, the first ready worker of a reload accepts."""
    driver = Driver()
    driver.reloads()
    driver.receives(4, Ready())
    driver.on(Closed(1))
    assert Send(4, Accept((0, 1))) in driver.on(Closed(2))
    assert lines_of(driver.actions) == ["reloaded routes.yaml: nothing has changed"]


@pytest.mark.parametrize("code", [1, -9])
def test_a_reload_whose_worker_ends_fails(code: int) -> None:
    """The old configuration stays in use, and the next reload loads the file again."""
    driver = Driver()
    driver.reloads()
    lines = lines_of(driver.exits(4, code))
    assert len(lines) == 2
    assert lines[1] == "not reloaded: the old configuration stays in use"
    assert driver.on(Signalled(Signal.RELOAD)) == [Load()]
    assert shown(driver.on(FileRefused(("1:1: bad",)))) == [
        "1:1: bad",
        lines[1],
    ]


def test_the_outcome_of_each_reload_is_noted() -> None:
    """Once: what it has changed, or why it hasn't taken over."""
    driver = Driver()
    driver.on(Signalled(Signal.RELOAD))
    assert of(driver.on(FileRefused(("1:1: bad",))), NoteReload) == [
        NoteReload(("1:1: bad",), ())
    ]
    driver.reloads()
    (note,) = of(driver.exits(4, 1), NoteReload)
    assert note.problems
    assert driver.on(Signalled(Signal.RELOAD)) == [Load()]
    found = (ConfigChange("added", "route a"),)
    driver.on(FileLoaded(replace(config(3, "a:1"), changes=found)))
    assert of(driver.receives(5, Ready()), NoteReload) == []
    assert of(driver.receives(6, Ready()), NoteReload) == [NoteReload((), found)]


def test_signals_during_a_reload_cause_one_more() -> None:
    """Any number of signals during a reload cause exactly one reload after it."""
    driver = Driver(workers=1)
    driver.reloads()
    for _ in range(5):
        assert driver.on(Signalled(Signal.RELOAD)) == []
    assert driver.receives(3, Ready())[-1] == Load()


def test_nothing_is_forked_while_the_file_is_read() -> None:
    """No worker is forked meanwhile: it would copy the locks of the reading thread."""
    driver = Driver()
    driver.on(Signalled(Signal.RELOAD))
    driver.exits(1)
    assert not of(driver.on(Tick(), after_s=20.0), Fork)
    assert of(driver.on(FileRefused(("bad",))), Fork) == [Fork(4, 0, 1)]


def test_a_stop_drains_and_a_second_one_kills() -> None:
    """The first SIGHUP of a closed terminal drains; only another signal kills.

    The system and the shell send a SIGHUP each.
    """
    driver = Driver()
    drains = [CloseSockets(), Send(1, Drain()), Send(2, Drain())]
    assert shown(driver.on(Signalled(Signal.HANG_UP))) == [STOPPING, *drains]
    assert driver.on(Signalled(Signal.HANG_UP)) == []
    assert driver.exits(1, 0) == []
    assert driver.on(Signalled(Signal.STOP)) == [Kill(2)]
    assert driver.exits(2) == [Exit(130)]


def test_a_stop_during_a_reload() -> None:
    """Workers that serve drain, and one that starts is killed."""
    driver = Driver()
    driver.reloads()
    assert shown(driver.on(Signalled(Signal.STOP))) == [
        STOPPING,
        CloseSockets(),
        Send(1, Drain()),
        Send(2, Drain()),
        Kill(4),
    ]
    for child, code in ((1, 0), (4, -9)):
        assert driver.exits(child, code) == []
    assert driver.exits(2, 0) == [Exit(0)]


def test_a_file_that_is_read_after_a_stop() -> None:
    """A file that is loaded after a stop is ignored."""
    driver = Driver(workers=1)
    driver.on(Signalled(Signal.RELOAD))
    driver.on(Signalled(Signal.STOP))
    assert driver.on(FileLoaded(config(2))) == []
    assert driver.exits(1, 0) == [Exit(0)]


# --- keys -------------------------------------------------------------------------


def with_keys() -> tuple[Driver, Keys]:
    """Return a plan of two workers, 1 and 2, with keys that the hub, 3, fetched."""
    driver = Driver(is_serving=False)
    driver.receives(1, SOURCES[0])
    assert Send(3, fetch(SOURCES[0])) in driver.feed(Received(1, Ready()))
    driver.hub = 3
    driver.receives(3, Ready())
    driver.receives(2, SOURCES[0])
    driver.receives(2, Ready())
    keys = Keys(SOURCES[0], driver.at, "{}")
    driver.receives(3, keys)
    for child in (1, 2):
        driver.receives(child, KeysUntil(driver.at + 100))
    return driver, keys


def test_a_new_worker_gets_the_last_keys() -> None:
    """A worker that replaces a dead one gets them before it accepts, with their age.

    So does each worker of a reload with the same core and the same SDK settings.
    """
    driver, keys = with_keys()
    driver.exits(1)
    driver.on(Tick(), after_s=2.0)
    assert driver.receives(4, SOURCES[0]) == [Send(4, keys)]
    assert of(driver.receives(4, Ready()), Send)[0] == Send(4, Accept((0,)))
    driver.receives(4, KeysUntil(100.0))
    driver.reloads()
    assert driver.receives(5, SOURCES[0]) == [Send(5, keys)]


@pytest.mark.parametrize(
    ("source", "sdk"), [(SOURCES[1], "one"), (SOURCES[0], "two")], ids=["core", "sdk"]
)
def test_keys_of_another_core_are_not_handed_over(source: KeySource, sdk: str) -> None:
    """A reload with another core or other SDK settings gets no keys, now or later."""
    driver, keys = with_keys()
    driver.reloads(sdk=sdk)
    assert driver.receives(4, source) == []
    driver.receives(4, KeysUntil(100.0))
    driver.receives(4, Ready())
    driver.receives(5, KeysUntil(100.0))
    sent = driver.feed(Received(5, Ready()))
    assert "reloaded routes.yaml: nothing has changed" in lines_of(sent)
    assert Send(3, fetch(source)) in sent
    if source != SOURCES[0]:
        driver.receives(3, keys)  # it was on its way
    driver.exits(4)
    driver.on(Tick(), after_s=2.0)
    assert driver.receives(6, source) == []


def test_keys_stay_if_a_reload_has_not_said_whose_it_needs() -> None:
    """A worker says it before it is ready; if none did, a later one is compared."""
    driver, keys = with_keys()
    driver.reloads()
    driver.receives(4, KeysUntil(100.0))
    driver.receives(4, Ready())
    driver.receives(5, KeysUntil(100.0))
    assert "reloaded routes.yaml: nothing has changed" in lines_of(
        driver.feed(Received(5, Ready()))
    )
    driver.exits(4)
    driver.on(Tick(), after_s=2.0)
    assert driver.receives(6, SOURCES[0]) == [Send(6, keys)]


def test_the_time_of_a_fetch_is_not_in_the_future() -> None:
    """A hub can't make keys last longer than from now."""
    driver, keys = with_keys()
    driver.receives(3, Keys(SOURCES[0], driver.at + 1e9, "{}"))
    driver.exits(1)
    at = driver.at
    driver.on(Tick(), after_s=2.0)
    assert driver.receives(4, SOURCES[0]) == [Send(4, Keys(SOURCES[0], at, "{}"))]
    assert keys.fetched_at == at


def test_a_restarted_hub_fetches_and_the_last_keys_stay() -> None:
    """Keys outlive the hub that fetched them; the next hub fetches the same core's."""
    driver, keys = with_keys()
    driver.exits(3)
    assert driver.feed(Tick(), after_s=0.1)[-2:] == [
        ForkHub(4),
        Send(4, fetch(SOURCES[0])),
    ]
    driver.exits(1)
    driver.on(Tick(), after_s=2.0)
    assert driver.receives(5, SOURCES[0]) == [Send(5, keys)]


def asked(actions: list[Action]) -> list[Action]:
    """Return the actions that have a hub ask the core."""
    return [one for one in of(actions, Send) if isinstance(one.message, AskCore)]


def test_the_hub_asks_the_core_once_for_a_start_and_for_each_reload() -> None:
    """Not once for each worker; again when the hub was replaced."""
    driver = Driver(is_serving=False)
    assert asked(driver.feed(Received(1, ASKS[0]))) == []
    assert asked(driver.feed(Received(1, Ready()))) == [Send(3, ASKS[0])]
    driver.receives(3, Ready())
    assert asked(driver.feed(Received(2, ASKS[1]))) == []
    assert asked(driver.feed(Received(2, Ready()))) == []
    driver.exits(1)
    driver.on(Tick(), after_s=2.0)
    assert asked(driver.feed(Received(4, ASKS[1]))) == []
    assert asked(driver.feed(Received(4, Ready()))) == []
    driver.exits(3)
    assert asked(driver.feed(Tick(), after_s=2.0)) == [Send(5, ASKS[0])]
    driver.receives(5, Ready())
    driver.reloads()
    assert asked(driver.feed(Received(6, ASKS[1]))) == []
    driver.receives(6, Ready())
    driver.receives(7, ASKS[1])
    sent = driver.feed(Received(7, Ready()))
    assert "reloaded routes.yaml: nothing has changed" in lines_of(sent)
    assert asked(sent) == [Send(5, ASKS[1])]


@pytest.mark.parametrize(
    "message", [Keys(SOURCES[0], 0.0, "{}"), SOURCES[0], SOURCES[1], ASKS[1]], ids=str
)
def test_a_worker_that_serves_can_say_nothing_about_keys(message: Message) -> None:
    """A worker that has met clients may be compromised: keys of it are never taken."""
    driver, _ = with_keys()
    assert of(driver.receives(2, message), Kill) == [Kill(2)]


def test_a_reload_without_keys_waits_and_fails() -> None:
    """The old workers serve while they have keys and the new ones have none.

    The reload fails after a time in which the new ones should have fetched theirs.
    """
    driver, _ = with_keys()
    driver.reloads(sdk="two")
    driver.receives(4, Ready())
    assert driver.receives(5, Ready()) == []
    assert driver.receives(5, KeysUntil(100.0)) == []
    wait_s = 3.0 + PACE.keys_extra_s
    assert not of(driver.on(Tick(), after_s=wait_s), Kill)
    for child in (1, 2, 4, 5):
        driver.receives(child, Ping())
    actions = driver.on(Tick(), after_s=1.0)
    assert of(actions, Kill) == [Kill(4), Kill(5)]
    assert lines_of(actions) == [
        "the new workers can't fetch the core's signing keys",
        "not reloaded: the old configuration stays in use",
    ]


@pytest.mark.parametrize("how", ["fetched", "stale"])
def test_a_reload_takes_over_when_nothing_is_lost(how: str) -> None:
    """It takes over once the new workers have keys, or the old ones none any more."""
    driver, _ = with_keys()
    for child in (1, 2):
        driver.receives(child, KeysUntil(driver.at + 2.0))
    driver.reloads(sdk="two")
    driver.receives(4, Ready())
    driver.receives(5, Ready())
    if how == "fetched":
        assert driver.receives(4, KeysUntil(100.0)) == []
        actions = driver.receives(5, KeysUntil(100.0))
    else:
        assert "reloaded routes.yaml: nothing has changed" not in lines_of(
            driver.on(Tick(), after_s=1.0)
        )
        actions = driver.on(Tick(), after_s=1.0)
    assert "reloaded routes.yaml: nothing has changed" in lines_of(actions)


# --- the hub ----------------------------------------------------------------------


def test_the_hub_starts_when_the_first_worker_is_ready() -> None:
    """The hub is forked when the first worker is ready, and is sent workers' reports.

    Pings aren't reports.
    """
    driver = Driver(is_serving=False)
    assert ForkHub(3) in driver.feed(Received(1, Ready()))
    snapshot = Snapshot((Sample("gauge", ("a",), (1.0,)),))
    for message in (Ready(), Deny({"a": EPOCH + 9}), Failed("x"), snapshot):
        sent = driver.feed(Received(2, message))
        assert Send(3, Report(2, 1, message)) in sent
    assert not [a for a in of(driver.feed(Received(2, Ping())), Send) if a.child == 3]


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Unread(3), "it didn't read"),
        (
            Received(3, Deny({"a": EPOCH + 9})),
            "it sent a message that a hub doesn't send",
        ),
        (Closed(3, "a message isn't JSON"), "a message isn't JSON"),
    ],
)
def test_a_hub_that_misbehaves_is_replaced(event: Event, why: str) -> None:
    """The hub is killed and forked again, without a message to any worker."""
    driver = Driver()
    assert driver.feed(event) == [Kill(3)]
    line = f"hub (pid 103) was ended by SIGKILL: {why}; another one starts in 0.1 s"
    assert shown(driver.exits(3)) == [line]
    assert ForkHub(4) in driver.feed(Tick(), after_s=0.1)
    assert lines_of(driver.exits(4, 1)) == [
        "hub (pid 104) ended with exit code 1; another one starts in 0.2 s"
    ]


def test_the_hub_ends_last() -> None:
    """The hub drains when no worker is left, and is killed after `hub_end_s`."""
    driver = Driver(workers=1)
    stop = driver.feed(Signalled(Signal.STOP))
    assert shown(stop) == [STOPPING, CloseSockets(), Send(1, Drain())]
    assert driver.feed(Exited(1, 101, 0, "ended")) == [Send(2, Drain())]
    assert driver.feed(Tick(), after_s=PACE.hub_end_s) == [Send(2, Ping())]
    assert driver.feed(Tick(), after_s=1.0) == [Kill(2)]
    assert lines_of(driver.feed(Exited(2, 102, -9, "was ended by SIGKILL"))) == [
        "hub (pid 102) was ended by SIGKILL: it didn't finish in time"
    ]
    assert driver.plan.on(Tick(), Now(driver.at, EPOCH)) == []


def test_a_hub_that_dies_while_workers_drain_is_not_replaced() -> None:
    """A hub that dies after a stop is logged and not replaced."""
    driver = Driver(workers=1)
    driver.feed(Signalled(Signal.STOP))
    assert shown(driver.exits(2)) == ["hub (pid 102) was ended by SIGKILL"]
    assert driver.exits(1, 0) == [Exit(0)]


def test_a_hub_that_has_closed_its_channel_is_killed_at_the_end() -> None:
    """A hub without a channel can't receive `Drain`, so it is killed."""
    driver = Driver(workers=1)
    assert driver.feed(Closed(2)) == []
    driver.feed(Signalled(Signal.STOP))
    assert driver.feed(Exited(1, 101, 0, "ended")) == [Kill(2)]
    assert driver.feed(Exited(2, 102, -9, "was ended by SIGKILL")) == [Exit(0)]


# --- the delay before a stop ------------------------------------------------------


def test_connections_are_accepted_until_the_shutdown_delay_is_over() -> None:
    """Until then, a worker that dies is replaced, and SIGHUP does nothing."""
    driver = Driver(workers=1, shutdown_delay_s=DELAY_S)
    line = "stopping: connections are accepted for another 3 s"
    assert shown(driver.on(Signalled(Signal.STOP))) == [line]
    assert driver.status.is_draining
    assert driver.status.slots == ("accepting",)
    assert driver.on(Signalled(Signal.HANG_UP)) == []
    assert driver.on(Signalled(Signal.RELOAD)) == []
    driver.exits(1)
    assert of(driver.on(Tick(), after_s=1.0), Fork) == [Fork(3, 0, 1)]
    assert driver.receives(3, Ready()) == [Send(3, Accept((0,)))]
    assert driver.plan.due <= DELAY_S
    assert driver.on(Tick(), after_s=1.9) == [Send(3, Ping())]
    assert driver.on(Tick(), after_s=0.1) == [CloseSockets(), Send(3, Drain())]
    assert driver.exits(3, 0) == [Exit(0)]


def test_a_second_signal_ends_the_shutdown_delay() -> None:
    """It kills the workers, as it does without a delay."""
    driver = Driver(workers=1, shutdown_delay_s=DELAY_S)
    driver.on(Signalled(Signal.STOP))
    ended = driver.on(Signalled(Signal.STOP))
    assert ended == [CloseSockets(), Send(1, Drain()), Kill(1)]
    assert driver.exits(1) == [Exit(130)]


def test_without_a_ready_worker_there_is_no_shutdown_delay() -> None:
    """Nobody accepts connections, so there is nothing to wait for."""
    driver = Driver(workers=1, is_serving=False, shutdown_delay_s=DELAY_S)
    stop = driver.on(Signalled(Signal.STOP))
    assert shown(stop) == [STOPPING, CloseSockets(), Kill(1)]


def test_a_file_that_was_being_read_is_not_served_after_a_signal() -> None:
    """A reload that has read its file only after the signal starts no worker."""
    driver = Driver(workers=1, shutdown_delay_s=DELAY_S)
    assert driver.on(Signalled(Signal.RELOAD)) == [Load()]
    driver.on(Signalled(Signal.STOP))
    assert driver.on(FileLoaded(config(2))) == []
    assert driver.on(FileRefused(("bad",))) == []


# --- what the hub is told ---------------------------------------------------------


def test_the_status_has_the_state_of_each_worker() -> None:
    """The states follow the workers through a reload; the old ones are counted."""
    driver = Driver()
    assert driver.status.slots == ("accepting", "accepting")
    driver.on(Closed(1))
    assert driver.status.slots == ("lost", "accepting")
    driver.exits(1)
    assert driver.status.slots == ("waiting", "accepting")
    driver.on(Tick(), after_s=0.5)
    assert driver.status.slots == ("starting", "accepting")
    driver.receives(4, Ready())
    driver.reloads()
    assert driver.status.others == {"starting": 1}
    driver.receives(5, Ready())
    assert driver.status.others == {"ready": 1, "starting": 1}
    driver.receives(6, Ready())
    assert driver.status.generation == 2
    assert driver.status.slots == ("accepting", "accepting")
    assert driver.status.others == {"draining": 2}


def test_the_status_has_the_outcome_of_the_last_load() -> None:
    """The start counts as one. A reload counts when its workers have taken over."""
    driver = Driver()
    assert (driver.status.is_loaded, driver.status.loaded_at) == (True, EPOCH)
    driver.on(Signalled(Signal.RELOAD))
    driver.on(FileRefused(("bad",)), after_s=5.0)
    assert (driver.status.is_loaded, driver.status.loaded_at) == (False, EPOCH)
    driver.reloads()
    driver.receives(4, Ready())
    assert not driver.status.is_loaded
    driver.on(Tick(), after_s=1.0)
    driver.receives(5, Ready())
    assert (driver.status.is_loaded, driver.status.loaded_at) == (True, EPOCH + 6)


@pytest.mark.parametrize(
    ("events", "cause"),
    [
        ([Exited(1, 101, 3, "ended")], "exit"),
        ([Exited(1, 101, 0, "ended")], "exit"),
        ([Exited(1, 101, -9, "was ended")], "signal"),
        ([Closed(1), Exited(1, 101, -11, "was ended")], "signal"),
        ([Closed(1, "no JSON"), Exited(1, 101, -9, "was ended")], "misbehaviour"),
        ([Received(1, Drain()), Exited(1, 101, -9, "was ended")], "misbehaviour"),
        ([NotStarted(1, "no memory")], "fork"),
    ],
)
def test_restarts_are_counted_by_cause(events: list[Event], cause: str) -> None:
    """A worker that the supervisor kills isn't counted as killed by a signal."""
    driver = Driver()
    for event in events:
        driver.on(event)
    assert {c: n for c, n in driver.status.restarts.items() if n} == {cause: 1}
    driver.on(Closed(3))
    driver.exits(3)
    driver.on(Tick(), after_s=1.0)
    assert driver.status.hub_restarts == 1


def test_a_place_hangs_until_a_worker_is_ready_there() -> None:
    """The replacement may hang as well, so the place hangs while it starts."""
    driver = Driver(workers=1)
    for _ in range(PACE.silent_ticks + 1):
        assert driver.status.slots == ("accepting",)
        driver.on(Tick(), after_s=1.0)
    assert driver.status.slots == ("hanging",)
    driver.exits(1)
    assert driver.status.restarts["hang"] == 1
    driver.on(Tick(), after_s=1.0)
    assert driver.status.slots == ("hanging",)
    driver.receives(3, Ready())
    assert driver.status.slots == ("accepting",)


def test_the_start_is_over_when_a_worker_has_keys() -> None:
    """It stays over whatever happens later, and without keys it ends after a time."""
    driver = Driver()
    assert not driver.status.is_started
    driver.receives(1, KeysUntil(1.0))
    assert driver.status.is_started
    assert driver.status.keys_until is None
    driver.receives(2, KeysUntil(2.0))
    assert driver.status.keys_until == 1.0
    driver.exits(1)
    driver.on(Tick(), after_s=50.0)
    assert driver.status.is_started
    assert driver.status.keys_until == 2.0

    without_keys = Driver()
    without_keys.on(Tick(), after_s=STARTUP_S - 0.1)
    assert not without_keys.status.is_started
    without_keys.on(Tick(), after_s=1.0)
    assert without_keys.status.is_started


# --- what each worker notices by itself -------------------------------------------


def proxy(peer: str) -> Notice:
    return Notice(RuntimeEvent.PROXY_NOT_TRUSTED, f"from {peer}", {"peer": peer})


def unlicensed(feature: str) -> Notice:
    return Notice(RuntimeEvent.CORE_UNLICENSED, feature, {})


def test_what_several_workers_notice_is_reported_once() -> None:
    """One line for the first proxy, one for each feature; again after a reload."""
    driver = Driver()
    notices = [proxy("a"), proxy("b"), unlicensed("mfa"), unlicensed("tenants")]
    for round_ in range(2):
        lines = [
            line
            for notice in notices
            for worker in ((1, 2), (4, 5))[round_]
            for line in lines_of(driver.receives(worker, notice))
        ]
        assert lines == ["from a", "mfa", "tenants"]
        if round_ == 0:
            driver.reloads()
            driver.receives(4, Ready())
            driver.receives(5, Ready())


def test_a_worker_can_t_fill_the_log_with_notices() -> None:
    """The number of lines is limited, whatever a worker sends."""
    driver = Driver()
    lines = [
        line
        for number in range(1000)
        for line in lines_of(driver.receives(1, unlicensed(str(number))))
    ]
    assert len(lines) == 64


def test_the_hub_sends_no_notices() -> None:
    """A hub that sends one is killed, as for any message that isn't its own."""
    driver = Driver()
    assert of(driver.feed(Received(3, unlicensed("mfa"))), Kill) == [Kill(3)]


# --- what operators ask the hub for -----------------------------------------------


def administered() -> Driver:
    """Return a serving plan whose hub has an admin listener."""
    driver = Driver(is_serving=False)
    first = replace(config(), description={"config": "x"})
    driver.plan = Plan(first, workers=2, sockets=2, pace=PACE)
    driver.on(Tick())
    for child in (1, 2):
        driver.receives(child, Ready())
    return driver


USER = UserDenial(UserScope("u"), EPOCH, EPOCH + 9)


def test_an_operator_s_denial_reaches_every_worker() -> None:
    """The hub is told when all have acknowledged it; later workers get it first."""
    driver = administered()
    sent = driver.feed(Received(driver.hub, Deny({"a": EPOCH + 9}, 7, (USER,))))
    assert sent == [
        *(Send(child, Deny({"a": EPOCH + 9})) for child in (1, 2)),
        *(Send(child, Deny({}, 1, (USER,))) for child in (1, 2)),
    ]
    assert driver.feed(Received(1, DenyDone(1))) == []
    assert driver.feed(Received(2, DenyDone(1))) == [Send(driver.hub, DenyDone(7))]
    driver.on(Exited(1, 99, 1, "ended"))
    driver.on(Tick(), after_s=1.0)
    about = [a for a in driver.actions if isinstance(a, Send | Fork) and a.child == 4]
    assert about == [
        Fork(4, 0, 1),
        Send(4, Deny({"a": EPOCH + 9})),
        Send(4, Deny({}, users=(USER,))),
    ]


def test_a_worker_denies_no_user() -> None:
    """A worker that was taken over can't lock users out by name: it is killed."""
    driver = administered()
    actions = driver.feed(Received(1, Deny({}, 1, (USER,))))
    assert Kill(1) in actions


@pytest.mark.parametrize(
    "message",
    [
        *(ReloadWanted(1), DrainWanted(), Deny({"a": 9e9})),
        LogChangeWanted(1, LogChange("error")),
    ],
)
def test_a_hub_without_operators_asks_for_nothing(message: Message) -> None:
    """Without an admin listener, nobody can have asked."""
    driver = Driver()
    assert Kill(driver.hub) in driver.feed(Received(driver.hub, message))


def test_a_reload_is_answered_when_it_serves() -> None:
    """And one that is asked for while a file is read waits for the next one."""
    driver = administered()
    assert driver.feed(Received(driver.hub, ReloadWanted(5))) == [Load()]
    assert driver.feed(Received(driver.hub, ReloadWanted(6))) == []
    actions = driver.feed(FileRefused(("no",)))
    assert Send(driver.hub, Reloaded(5, 1, ("no",))) in actions
    assert Load() in actions
    new = replace(config(generation=2), description={"config": "y"})
    driver.on(FileLoaded(new))
    driver.receives(4, Ready())
    actions = driver.feed(Received(5, Ready()))
    assert Send(driver.hub, Describe(2, {"config": "y"})) in actions
    assert Send(driver.hub, Reloaded(6, 2, ())) in actions


def test_an_operator_s_word_on_logging_holds_until_a_reload_takes_over() -> None:
    """Workers that start later hear it before they accept. A refused file ends nothing.

    The line about the reload is still written or left out as the operator has said.
    """
    driver = administered()
    now = LogAs(Severity.WARNING, True, True)
    asked = LogChangeWanted(5, LogChange("warning", "all"))
    assert driver.feed(Received(driver.hub, asked)) == [
        *(WriteFrom(Severity.WARNING), Send(1, now), Send(2, now)),
        Send(driver.hub, replace(now, number=5)),
    ]
    driver.on(Exited(1, 99, 1, "ended"))
    assert Send(4, now) in driver.feed(Tick(), after_s=1.0)
    driver.feed(Received(driver.hub, ReloadWanted(5)))
    driver.feed(FileRefused(("no",)))
    driver.feed(Received(driver.hub, ReloadWanted(6)))
    assert Send(5, now) in driver.feed(FileLoaded(config(generation=2)))
    driver.receives(5, Ready())
    actions = driver.feed(Received(6, Ready()))
    first = next(a for a in actions if isinstance(a, LogLine | WriteFrom))
    assert first == LogLine(
        RuntimeEvent.RELOAD_DONE,
        "reloaded routes.yaml: nothing has changed",
        {"file": "routes.yaml", "changes": "nothing has changed"},
    )
    assert WriteFrom(Severity.INFO) in actions
    for number in (2, 5, 6, driver.hub):
        assert Send(number, LogAs()) in actions


def test_the_hub_asks_for_a_reload_if_it_watches() -> None:
    """It watches what was read last, served or refused; otherwise, it is killed."""
    driver = Driver()
    assert Kill(driver.hub) in driver.feed(Received(driver.hub, FilesChanged()))

    first, second = (WatchFiles(("=:a",), digest, 5.0) for digest in "12")
    driver = Driver()
    driver.on(Signalled(Signal.RELOAD))
    assert Send(driver.hub, first) in driver.feed(FileRefused(("no",), first))
    assert driver.feed(Received(driver.hub, FilesChanged())) == [Load()]
    actions = driver.feed(FileLoaded(replace(config(generation=2), watch=second)))
    assert Send(driver.hub, second) in actions
    assert Kill(1) in driver.feed(Received(1, FilesChanged()))


def test_an_operator_stops_the_gateway() -> None:
    """As a signal does."""
    driver = administered()
    actions = driver.feed(Received(driver.hub, DrainWanted()))
    assert CloseSockets() in actions
    assert Send(1, Drain()) in actions

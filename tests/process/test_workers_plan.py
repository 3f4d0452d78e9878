"""What the supervisor decides: any order of events, and single cases in tables.

No process, socket or clock: events go into a `Plan`, actions come out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from gateway.process.messages import (
    Accept,
    Deny,
    Drain,
    Failed,
    Message,
    Ping,
    Ready,
    Report,
)
from gateway.process.plan import (
    Action,
    Announce,
    Closed,
    CloseSockets,
    Event,
    Exit,
    Exited,
    FileLoaded,
    FileRefused,
    Fork,
    ForkHub,
    Kill,
    Load,
    LoadedFile,
    LogLine,
    NotStarted,
    Now,
    Plan,
    Received,
    Send,
    Signal,
    Signalled,
    SupervisorPace,
    Tick,
    Unread,
    shares,
)

EPOCH = 1_700_000_000.0
PACE = SupervisorPace(silent_ticks=3, start_ticks=6, drain_extra_s=2, steady_s=5)
DRAIN_S = 4.0
HUB = 0
"""Instead of a generation."""
T = TypeVar("T")


def config(generation: int = 1, listen: str = "a:1") -> LoadedFile:
    return LoadedFile(
        generation=generation, path="routes.yaml", listen=listen, drain_s=DRAIN_S
    )


# --- any order of events ----------------------------------------------------------


@dataclass(slots=True)
class Process:
    """A child as the world sees it: what it was told, and whether it still lives."""

    number: int
    slot: int
    generation: int
    is_ready: bool = False
    is_closed: bool = False
    is_killed: bool = False
    is_draining: bool = False
    accepts: tuple[int, ...] = ()
    denied: dict[str, float] = field(default_factory=dict)

    @property
    def is_hub(self) -> bool:
        return self.generation == HUB

    @property
    def works(self) -> bool:
        """Whether it reads what it is sent."""
        return not (self.is_closed or self.is_killed)

    @property
    def can_accept(self) -> bool:
        is_serving = self.is_ready and not self.is_draining
        return self.works and is_serving and not self.is_hub

    @property
    def accepting(self) -> tuple[int, ...]:
        return self.accepts if self.can_accept else ()


WRONG: list[Message] = [Failed("x"), Ready(), Accept((0,)), Report(1, 0, Ready())]


class World(RuleBasedStateMachine):
    """Performs a plan's actions, and lets happen whatever can."""

    def __init__(self) -> None:
        super().__init__()
        self.monotonic = 1000.0
        self.processes: dict[int, Process] = {}
        self.generations = 1
        self.denied: dict[str, float] = {}
        self.ends: dict[tuple[int, int], list[float]] = {}
        """When the crashes of a place came, in a row."""
        self.begun: dict[int, float] = {}
        self.can_fork = True
        self.is_loading = False
        self.is_stopping = False
        self.is_forced = False
        self.code: int | None = None

    @initialize(workers=st.integers(1, 3), is_shared=st.booleans())
    def begin(self, workers: int, is_shared: bool) -> None:
        self.workers = workers
        self.sockets = 1 if is_shared else workers
        self.plan = Plan(config(), workers=workers, sockets=self.sockets, pace=PACE)
        self.feed(Tick())

    # --- the world --------------------------------------------------------------

    def feed(self, event: Event) -> None:
        """Give the plan an event, and do what it says."""
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
                assert number not in self.begun
                assert generation <= self.generations
                place = (generation, slot)
                assert not [
                    p
                    for p in self.processes.values()
                    if (p.generation, p.slot) == place
                ]
                self.must_be_late_enough(place)
                self.begun[number] = self.monotonic
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
                self.is_loading = True
            case CloseSockets():
                self.is_stopping = True
            case Exit(code):
                assert not self.processes
                assert self.is_stopping
                self.code = code
            case Announce() | LogLine():
                pass
        return []

    def receive(self, process: Process, message: Message) -> None:
        assert not process.is_closed
        match message:
            case Accept(sockets):
                assert process.is_ready
                assert self.unknown_to(process) == {}
                assert all(number in range(self.sockets) for number in sockets)
                process.accepts = sockets
            case Drain():
                process.is_draining = True
                assert not process.is_hub or not self.workers_left()
            case Deny(ends):
                assert not process.is_hub
                process.denied |= ends
            case Report(child, slot):
                assert process.is_hub
                assert self.processes[child].slot == slot
            case _:
                assert message == Ping()

    def workers_left(self) -> list[Process]:
        return [p for p in self.processes.values() if not p.is_hub]

    def unknown_to(self, process: Process) -> dict[str, float]:
        return {
            handle: until
            for handle, until in self.denied.items()
            if until > EPOCH + self.monotonic
            and process.denied.get(handle, 0.0) < until
        }

    def must_be_late_enough(self, place: tuple[int, int]) -> None:
        if ends := self.ends.get(place):
            assert self.monotonic >= ends[-1] + PACE.delay_s(len(ends))

    def crashed(self, place: tuple[int, int], *, was_steady: bool = False) -> None:
        if was_steady:
            self.ends[place] = []
        self.ends.setdefault(place, []).append(self.monotonic)

    def exit(self, process: Process, code: int) -> None:
        del self.processes[process.number]
        lived_s = self.monotonic - self.begun[process.number]
        self.crashed(
            (process.generation, process.slot), was_steady=lived_s >= PACE.steady_s
        )
        self.feed(Exited(process.number, 1, code, "ended"))

    def some(self, data: st.DataObject, processes: Iterable[Process]) -> Process | None:
        found = sorted(processes, key=lambda process: process.number)
        return data.draw(st.sampled_from(found)) if found else None

    # --- what can happen ----------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 0.05, 0.1, 0.2, 0.5, 1.0, 1.0, 3.0, 40.0]))
    def time_passes(self, seconds: float) -> None:
        self.monotonic += seconds
        self.feed(Tick())

    @rule(data=st.data())
    def one_is_ready(self, data: st.DataObject) -> None:
        new = (p for p in self.processes.values() if p.works and not p.is_ready)
        if process := self.some(data, new):
            process.is_ready = True
            self.feed(Received(process.number, Ready()))

    @rule()
    def all_are_ready(self) -> None:
        for process in tuple(self.processes.values()):
            if process.works and not process.is_ready:
                process.is_ready = True
                self.feed(Received(process.number, Ready()))

    @rule(
        data=st.data(),
        wait_s=st.sampled_from([0.1, 0.15, 0.3, 3.0]),
        lives_s=st.sampled_from([0.0, 3.0]),
    )
    def a_place_crashes_again_and_again(
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

    @rule(data=st.data(), handle=st.sampled_from("abc"), lasts_s=st.integers(-1, 50))
    def one_denies(self, data: st.DataObject, handle: str, lasts_s: int) -> None:
        working = (p for p in self.workers_left() if not p.is_closed)
        if process := self.some(data, working):
            until = EPOCH + self.monotonic + lasts_s
            process.denied[handle] = max(until, process.denied.get(handle, 0.0))
            self.denied[handle] = max(until, self.denied.get(handle, 0.0))
            self.feed(Received(process.number, Deny({handle: until})))

    @rule(data=st.data(), message=st.sampled_from(WRONG))
    def one_says_what_it_should_not(
        self, data: st.DataObject, message: Message
    ) -> None:
        talking = (p for p in self.processes.values() if not p.is_closed)
        if process := self.some(data, talking):
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
    def memory_is_short_or_not(self, can_fork: bool) -> None:
        self.can_fork = can_fork

    @rule()
    def reload(self) -> None:
        self.feed(Signalled(Signal.RELOAD))

    @rule()
    def reload_a_good_file(self) -> None:
        self.feed(Signalled(Signal.RELOAD))
        if self.is_loading:
            self.the_file_is_read(is_good=True)

    @precondition(lambda self: self.is_loading)
    @rule(is_good=st.booleans())
    def the_file_is_read(self, is_good: bool) -> None:
        self.is_loading = False
        if is_good:
            self.generations += 1
            self.feed(FileLoaded(config(self.generations)))
        else:
            self.feed(FileRefused(("routes.yaml:1:1: bad",)))

    @rule(signal=st.sampled_from([Signal.STOP, Signal.HANG_UP]), dice=st.integers(0, 9))
    def stop(self, signal: Signal, dice: int) -> None:
        if dice == 0:
            is_second = self.is_stopping and signal is Signal.STOP
            self.is_forced |= is_second and self.code is None
            self.feed(Signalled(signal))

    @rule(number=st.integers(100, 105))
    def news_of_a_child_that_is_none(self, number: int) -> None:
        if number not in self.begun:
            self.feed(Received(number, Ready()))
            self.feed(Closed(number))
            self.feed(Exited(number, 1, 0, "ended"))

    # --- what always holds ----------------------------------------------------------

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
    def a_socket_of_several_is_one_worker_s(self) -> None:
        taken = [n for p in self.processes.values() for n in p.accepting]
        assert self.sockets == 1 or len(taken) == len(set(taken))

    @invariant()
    def no_denial_is_lost(self) -> None:
        for process in self.processes.values():
            if process.works and not process.is_hub:
                assert self.unknown_to(process) == {}

    @invariant()
    def something_is_always_due(self) -> None:
        if self.processes and self.code is None:
            assert self.plan.due <= self.monotonic + PACE.max_delay_s

    @invariant()
    def it_ends_when_all_have_ended(self) -> None:
        if self.is_stopping and not self.processes:
            assert self.code in ({130} if self.is_forced else {0, 1})

    # --- what becomes of it -----------------------------------------------------------

    def teardown(self) -> None:
        if hasattr(self, "plan"):
            self.all_is_well_again()
            self.all_ends()

    def all_is_well_again(self) -> None:
        """Without further trouble, a whole generation accepts, and only one."""
        self.can_fork = True
        if self.is_loading:
            self.the_file_is_read(is_good=False)
        for _ in range(60):
            for process in tuple(self.processes.values()):
                if process.is_killed or process.is_closed or process.is_draining:
                    self.exit(process, -9 if process.is_killed else 0)
                elif not process.is_ready:
                    process.is_ready = True
                    self.feed(Received(process.number, Ready()))
                else:
                    self.feed(Received(process.number, Ping()))
            if self.is_loading:
                self.the_file_is_read(is_good=True)
            self.time_passes(1.0)
        if not self.is_stopping:
            workers = self.workers_left()
            assert len({worker.generation for worker in workers}) == 1
            assert len(workers) == self.workers
            assert all(worker.accepting for worker in workers)
            assert len(self.processes) == self.workers + 1  # and the hub

    def all_ends(self) -> None:
        """Even if no worker does what it is told."""
        if self.code is None and not self.is_stopping:
            self.feed(Signalled(Signal.STOP))
        for _ in range(int(DRAIN_S + PACE.drain_extra_s + PACE.hub_end_s) + 6):
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


# --- who accepts where ------------------------------------------------------------


@given(st.integers(1, 20), st.sets(st.integers(0, 19)))
def test_no_socket_is_left_alone(sockets: int, ready: set[int]) -> None:
    """While a worker is ready, each socket is one worker's: its own, if it is ready."""
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
    """Where the system doesn't spread connections over several."""
    assert shares(1, (0, 2)) == {0: (0,), 2: (0,)}


def test_a_loop_of_crashes_gets_slower() -> None:
    """From a tenth of a second to half a minute, and no further."""
    waits = [SupervisorPace().delay_s(failures) for failures in range(1, 2000)]
    assert waits[:3] == [0.1, 0.2, 0.4]
    assert waits == sorted(waits)
    assert waits[-1] == 30


# --- single cases -----------------------------------------------------------------


class Told:
    """A plan that is told things at a time, and what it said to do last.

    The hub does what it is told unless the test is about it: what becomes of it is
    left out of the answers.
    """

    def __init__(self, *, workers: int = 2, is_serving: bool = True) -> None:
        self.at = 0.0
        self.hub = 0
        self.plan = Plan(config(), workers=workers, sockets=workers, pace=PACE)
        self.does = self.on(Tick())
        if is_serving:
            for child in range(1, workers + 1):
                self.hears(child, Ready())

    def on(self, event: Event, *, after_s: float = 0.0) -> list[Action]:
        self.does = []
        for action in self.told(event, after_s=after_s):
            match action:
                case ForkHub(child):
                    self.hub = child
                    self.told(Received(child, Ready()))
                case Send(self.hub, Drain()) | Kill(self.hub):
                    self.does += self.told(Exited(self.hub, 99, 0, "ended"))
                case Send(self.hub, Ping()):
                    self.told(Received(self.hub, Ping()))
                case Send(self.hub):
                    pass
                case _:
                    self.does.append(action)
        return self.does

    def told(self, event: Event, *, after_s: float = 0.0) -> list[Action]:
        """Tell the plan *event*; return all that it does."""
        self.at += after_s
        return self.plan.on(event, Now(self.at, EPOCH + self.at))

    def hears(self, child: int, message: Message) -> list[Action]:
        return self.on(Received(child, message))

    def exits(
        self, child: int, code: int = -9, *, after_s: float = 0.0
    ) -> list[Action]:
        how = "was ended by SIGKILL" if code == -9 else f"ended with exit code {code}"
        return self.on(Exited(child, 100 + child, code, how), after_s=after_s)

    def asks_to_reload(self, listen: str = "a:1") -> list[Action]:
        assert self.on(Signalled(Signal.RELOAD)) == [Load()]
        return self.on(FileLoaded(config(2, listen)))


def of(actions: list[Action], kind: type[T]) -> list[T]:
    return [action for action in actions if isinstance(action, kind)]


def said(actions: list[Action]) -> list[str]:
    return [action.text for action in of(actions, LogLine)]


def test_the_first_worker_goes_before_the_others() -> None:
    """What is wrong with a configuration is then told once."""
    told = Told(workers=3, is_serving=False)
    assert told.does == [Fork(1, 0, 1)]
    assert told.hears(1, Ready()) == [
        Announce(),
        Send(1, Accept((0, 1, 2))),
        Fork(2, 1, 1),
        Fork(3, 2, 1),
    ]
    assert told.hears(3, Ready()) == [Send(1, Accept((0, 1))), Send(3, Accept((2,)))]
    assert told.hears(2, Ready()) == [Send(1, Accept((0,))), Send(2, Accept((1,)))]


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
    """It is told once, and the exit code is 1."""
    told = Told(is_serving=False)
    if failed:
        told.hears(1, Failed(failed))
    assert told.exits(1, 3) == [LogLine(line), CloseSockets(), Exit(1)]


def test_a_first_worker_that_was_killed_is_started_again() -> None:
    """Nothing is wrong with the configuration: the machine was short of memory, say."""
    told = Told(is_serving=False)
    line = "worker 1 (pid 101) was ended by SIGKILL; another one starts in 0.1 s"
    assert told.exits(1) == [LogLine(line)]
    assert told.plan.due == pytest.approx(0.1)
    assert told.on(Tick(), after_s=0.05) == []
    assert told.on(Tick(), after_s=0.06) == [Fork(2, 0, 1)]
    assert said(told.exits(2)) == [line.replace("101", "102").replace("0.1 s", "0.2 s")]
    told.on(Tick(), after_s=1.0)
    line = "worker 1 (pid 103) was ended by SIGKILL; another one starts in 0.1 s"
    assert said(told.exits(3, after_s=PACE.steady_s)) == [line]


def test_a_worker_that_cannot_be_forked_is_tried_again() -> None:
    """Later each time, as one that has crashed."""
    told = Told(is_serving=False)
    line = "worker 1 can't be started: no memory; another one starts in 0.1 s"
    assert told.on(NotStarted(1, "no memory")) == [LogLine(line)]
    assert told.on(Tick(), after_s=0.1) == [Fork(2, 0, 1)]


def test_the_sockets_of_a_dead_worker_are_another_one_s() -> None:
    """From the moment when its channel ends; its own again when it is replaced."""
    told = Told()
    assert told.on(Closed(1)) == [Send(2, Accept((1, 0)))]
    told.exits(1)
    told.on(Tick(), after_s=0.5)
    assert of(told.does, Fork) == [Fork(4, 0, 1)]
    assert told.hears(4, Ready()) == [Send(4, Accept((0,))), Send(2, Accept((1,)))]


@pytest.mark.parametrize(
    ("is_ready", "ticks"), [(True, PACE.silent_ticks), (False, PACE.start_ticks)]
)
def test_a_worker_that_hangs_is_killed(is_ready: bool, ticks: int) -> None:
    """After so many pings without an answer; one that starts may take longer."""
    told = Told(workers=1, is_serving=is_ready)
    for _ in range(ticks):
        assert told.on(Tick(), after_s=1.0) == [Send(1, Ping())]
    assert told.on(Tick(), after_s=1.0) == [Kill(1)]
    told.on(Tick(), after_s=1.0)
    assert not of(told.does, Kill)
    (line,) = said(told.exits(1))
    assert line.startswith("worker 1 (pid 101) was ended by SIGKILL: it didn't answer;")


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (Received(1, Drain()), "it sent a message that a worker doesn't send"),
        (Received(1, Ready()), "it sent a message that a worker doesn't send"),
        (Closed(1, "a message isn't JSON"), "a message isn't JSON"),
    ],
)
def test_a_worker_that_misbehaves_is_killed(event: Event, why: str) -> None:
    """Another one accepts in its place at once."""
    told = Told()
    assert told.on(event) == [Kill(1), Send(2, Accept((1, 0)))]
    (line,) = said(told.exits(1))
    assert f"SIGKILL: {why};" in line


def test_a_denial_goes_to_every_worker() -> None:
    """To those that are there if it is news, and to a later one before it accepts."""
    told = Told()
    denial = Deny({"a": EPOCH + 100})
    assert told.hears(1, denial) == [Send(2, denial)]
    assert told.hears(2, denial) == []
    told.exits(1)
    told.on(Tick(), after_s=0.5)
    assert told.does == [Fork(4, 0, 1), Send(4, denial)]


def test_a_reload_takes_over_when_all_are_ready() -> None:
    """Then the old workers drain, and whoever exceeds its time is killed."""
    told = Told()
    assert told.asks_to_reload("b:2") == [Fork(4, 0, 2)]
    assert told.hears(4, Ready()) == [Fork(5, 1, 2)]
    assert told.hears(5, Ready()) == [
        Send(4, Accept((0,))),
        Send(5, Accept((1,))),
        Send(1, Drain()),
        Send(2, Drain()),
        LogLine("reloaded routes.yaml"),
        LogLine("gateway.listen has changed: that needs a restart"),
    ]
    assert told.exits(1, 0) == []
    for _ in range(int(DRAIN_S + PACE.drain_extra_s)):
        told.on(Tick(), after_s=1.0)
        for child in (2, 4, 5):
            told.hears(child, Ping())
    assert of(told.on(Tick(), after_s=1.0), Kill) == [Kill(2)]
    (line,) = said(told.exits(2))
    assert line == "worker 2 (pid 102) was ended by SIGKILL: it didn't finish in time"


def test_a_reload_takes_over_at_once_if_nothing_else_serves() -> None:
    """Its first worker has shown that the configuration is good."""
    told = Told()
    told.asks_to_reload()
    told.hears(4, Ready())
    told.on(Closed(1))
    assert Send(4, Accept((0, 1))) in told.on(Closed(2))
    assert said(told.does) == ["reloaded routes.yaml"]


@pytest.mark.parametrize("code", [1, -9])
def test_a_reload_whose_worker_ends_is_given_up(code: int) -> None:
    """The old generation goes on, and the next reload is a fresh one."""
    told = Told()
    told.asks_to_reload()
    lines = said(told.exits(4, code))
    assert len(lines) == 2
    assert lines[1] == "not reloaded: the old configuration stays in use"
    assert told.on(Signalled(Signal.RELOAD)) == [Load()]
    assert told.on(FileRefused(("1:1: bad",))) == [
        LogLine("1:1: bad"),
        LogLine(lines[1]),
    ]


def test_signals_in_one_reload_are_one_more() -> None:
    """Nothing that was written meanwhile is missed, and loads don't pile up."""
    told = Told(workers=1)
    told.asks_to_reload()
    for _ in range(5):
        assert told.on(Signalled(Signal.RELOAD)) == []
    assert told.hears(3, Ready())[-1] == Load()


def test_nothing_is_forked_while_the_file_is_read() -> None:
    """A fork would copy what the reading thread has locked."""
    told = Told()
    told.on(Signalled(Signal.RELOAD))
    told.exits(1)
    assert not of(told.on(Tick(), after_s=20.0), Fork)
    assert of(told.on(FileRefused(("bad",))), Fork) == [Fork(4, 0, 1)]


def test_a_stop_drains_and_a_second_one_kills() -> None:
    """A closed terminal never kills: system and shell send a SIGHUP each."""
    told = Told()
    drains = [CloseSockets(), Send(1, Drain()), Send(2, Drain())]
    assert told.on(Signalled(Signal.HANG_UP)) == drains
    assert told.on(Signalled(Signal.HANG_UP)) == []
    assert told.exits(1, 0) == []
    assert told.on(Signalled(Signal.STOP)) == [Kill(2)]
    assert told.exits(2) == [Exit(130)]


def test_a_stop_during_a_reload() -> None:
    """Who serves finishes, who starts is killed."""
    told = Told()
    told.asks_to_reload()
    assert told.on(Signalled(Signal.STOP)) == [
        CloseSockets(),
        Send(1, Drain()),
        Send(2, Drain()),
        Kill(4),
    ]
    for child, code in ((1, 0), (4, -9)):
        assert told.exits(child, code) == []
    assert told.exits(2, 0) == [Exit(0)]


def test_a_file_that_was_read_too_late() -> None:
    """The stop goes on."""
    told = Told(workers=1)
    told.on(Signalled(Signal.RELOAD))
    told.on(Signalled(Signal.STOP))
    assert told.on(FileLoaded(config(2))) == []
    assert told.exits(1, 0) == [Exit(0)]


# --- the hub ----------------------------------------------------------------------


def test_the_hub_starts_when_the_first_worker_is_ready() -> None:
    """It takes nothing from the start; then it is sent what workers report."""
    told = Told(is_serving=False)
    assert ForkHub(3) in told.told(Received(1, Ready()))
    for message in (Ready(), Deny({"a": EPOCH + 9}), Failed("x")):
        sent = told.told(Received(2, message))
        assert Send(3, Report(2, 1, message)) in sent
    assert not [a for a in of(told.told(Received(2, Ping())), Send) if a.child == 3]


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
    """And nothing else happens: no worker hears of it."""
    told = Told()
    assert told.told(event) == [Kill(3)]
    line = f"hub (pid 103) was ended by SIGKILL: {why}; another one starts in 0.1 s"
    assert told.exits(3) == [LogLine(line)]
    assert ForkHub(4) in told.told(Tick(), after_s=0.1)
    assert said(told.exits(4, 1)) == [
        "hub (pid 104) ended with exit code 1; another one starts in 0.2 s"
    ]


def test_the_hub_ends_last() -> None:
    """When no worker is left; one that doesn't end is killed."""
    told = Told(workers=1)
    assert told.told(Signalled(Signal.STOP)) == [CloseSockets(), Send(1, Drain())]
    assert told.told(Exited(1, 101, 0, "ended")) == [Send(2, Drain())]
    assert told.told(Tick(), after_s=PACE.hub_end_s) == [Send(2, Ping())]
    assert told.told(Tick(), after_s=1.0) == [Kill(2)]
    assert said(told.told(Exited(2, 102, -9, "was ended by SIGKILL"))) == [
        "hub (pid 102) was ended by SIGKILL: it didn't finish in time"
    ]
    assert told.plan.on(Tick(), Now(told.at, EPOCH)) == []


def test_a_hub_that_dies_while_workers_drain_is_not_replaced() -> None:
    """Nobody would ask it anything any more."""
    told = Told(workers=1)
    told.told(Signalled(Signal.STOP))
    assert told.exits(2) == [LogLine("hub (pid 102) was ended by SIGKILL")]
    assert told.exits(1, 0) == [Exit(0)]


def test_a_hub_that_has_closed_its_channel_is_killed_at_the_end() -> None:
    """It couldn't be told."""
    told = Told(workers=1)
    assert told.told(Closed(2)) == []
    told.told(Signalled(Signal.STOP))
    assert told.told(Exited(1, 101, 0, "ended")) == [Kill(2)]
    assert told.told(Exited(2, 102, -9, "was ended by SIGKILL")) == [Exit(0)]

"""An upgrade's decisions: two plans that talk to each other, in any order of events.

test_workers_upgrade.py upgrades real processes.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import pytest
from checked_services import loaded
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
    DenyDone,
    Drain,
    Keys,
    KeySource,
    KeysUntil,
    Message,
    Ping,
    Ready,
)
from gateway.process.plan import Plan
from gateway.process.plan_events import (
    Action,
    Announce,
    Closed,
    EndGateway,
    Event,
    Exit,
    Exited,
    Fork,
    ForkGateway,
    ForkHub,
    HandOver,
    Inherited,
    Kill,
    LoadedFile,
    LogLine,
    Now,
    Received,
    Send,
    Signal,
    Signalled,
    TakeOver,
    Tick,
)
from gateway.process.plan_pace import SupervisorPace
from gateway.process.plan_state import ChildState, Phase
from gateway.process.plan_upgrade import Upgrade
from gateway.session.deny_list import UserDenial, UserScope

EPOCH = 1_700_000_000.0
PACE = SupervisorPace(silent_ticks=9, start_ticks=9, upgrade_s=6.0, upgrade_end_s=3.0)
SOURCE = KeySource(("http://core",), "issuer")
KEYS = Keys(SOURCE, 1.0, "{}")
BEFORE = 1
"""The child's number of the gateway before."""


def config() -> LoadedFile:
    return replace(loaded(1), drain_s=4.0, startup_timeout_s=6.0)


@dataclass(slots=True, eq=False)
class OneWorker:
    """A worker of one of the gateways: what it has been told."""

    number: int
    is_ready: bool = False
    is_draining: bool = False
    has_accepted: bool = False
    denied: set[str] = field(default_factory=set)
    to_acknowledge: list[int] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class OneGateway:
    """A plan, and the processes that it believes in."""

    name: str
    plan: Plan
    workers: dict[int, OneWorker] = field(default_factory=dict)
    hub: int | None = None
    peer: int | None = None
    """The number that the other gateway has here; None: there is none."""
    is_told_to_end: bool = False
    is_killed: bool = False
    code: int | None = None
    told: list[Action] = field(default_factory=list)
    """The actions about the upgrade."""
    confirmed: set[int] = field(default_factory=set)
    """The workers' denials that were confirmed."""
    unread: deque[Message] = field(default_factory=deque)
    """Sent to it before it has begun."""

    @property
    def is_running(self) -> bool:
        return self.code is None and not self.is_killed

    @property
    def accepting(self) -> list[OneWorker]:
        return [
            one
            for one in self.workers.values()
            if one.has_accepted and not one.is_draining
        ]


class TwoGateways(RuleBasedStateMachine):
    """Performs both plans' actions, and feeds them what can happen."""

    @initialize(workers=st.integers(1, 2), has_keys=st.booleans())
    def begin(self, workers: int, has_keys: bool) -> None:
        self.monotonic = 1000.0
        self.count = workers
        self.denials = 0
        plan = Plan(config(), workers=workers, sockets=workers, pace=PACE)
        self.old = OneGateway("old", plan)
        self.new: OneGateway | None = None
        self.starting: OneGateway | None = None
        """A next gateway that hasn't read what it was handed."""
        self.denied: set[str] = set()
        self.feed(self.old, Tick())
        while len(self.old.accepting) < workers:
            for one in list(self.old.workers.values()):
                if not one.is_ready:
                    self.is_ready(self.old, one)
            self.feed(self.old, Tick())
        if has_keys:
            for one in self.old.workers.values():
                self.feed(self.old, Received(one.number, KeysUntil(1e9)))

    def feed(self, gateway: OneGateway, event: Event) -> None:
        now = Now(self.monotonic, EPOCH + self.monotonic)
        for action in gateway.plan.on(event, now):
            self.perform(gateway, action)

    def other(self, gateway: OneGateway) -> OneGateway | None:
        return (self.new or self.starting) if gateway is self.old else self.old

    def perform(self, gateway: OneGateway, action: Action) -> None:
        match action:
            case Fork(number):
                gateway.workers[number] = OneWorker(number)
            case ForkHub(number):
                assert gateway.peer is None or gateway is self.old or self.has_switched
                gateway.hub = number
            case ForkGateway(number):
                assert self.other(gateway) is None
                gateway.peer = number
                plan = Plan(
                    config(),
                    workers=self.count,
                    sockets=self.count,
                    pace=PACE,
                    is_upgrade=True,
                )
                self.starting = OneGateway("new", plan, peer=BEFORE)
            case Send(number, message) if number == gateway.peer:
                self.pass_on(gateway, message)
            case Send(number, message) if number in gateway.workers:
                self.receive(gateway, gateway.workers[number], message)
            case Kill(number) | EndGateway(number) if number == gateway.peer:
                other = self.other(gateway)
                assert other is not None
                assert not self.has_switched, "it serves"
                other.is_told_to_end = True
                other.is_killed |= isinstance(action, Kill)
            case Exit(code):
                assert not gateway.workers
                gateway.code = code
            case HandOver() | TakeOver() | Announce():
                gateway.told.append(action)
            case LogLine() if "upgraded" in action.message:
                gateway.told.append(action)
            case _:
                pass

    def pass_on(self, gateway: OneGateway, message: Message) -> None:
        other = self.other(gateway)
        if other is not None and other is self.starting:
            other.unread.append(message)
        elif other is not None and other.is_running:
            assert other.peer is not None
            self.feed(other, Received(other.peer, message))

    def receive(self, gateway: OneGateway, one: OneWorker, message: Message) -> None:
        match message:
            case Accept():
                if gateway is self.new:
                    assert self.has_switched
                    assert one.denied >= self.denied, "it would let one in"
                one.has_accepted = True
            case Drain():
                one.is_draining = True
            case Deny(ends, number):
                one.denied |= ends.keys()
                if number:
                    one.to_acknowledge.append(number)
            case DenyDone(number):
                gateway.confirmed.add(number)
            case _:
                pass

    def is_ready(self, gateway: OneGateway, one: OneWorker) -> None:
        one.is_ready = True
        self.feed(gateway, Received(one.number, Ready()))

    @property
    def gateways(self) -> list[OneGateway]:
        both = [self.old] if self.new is None else [self.old, self.new]
        return [gateway for gateway in both if gateway.is_running]

    @property
    def has_switched(self) -> bool:
        return any(isinstance(one, HandOver) for one in self.old.told)

    # --- what can happen --------------------------------------------------------

    @rule()
    def a_signal_asks_for_an_upgrade(self) -> None:
        self.feed(self.old, Signalled(Signal.UPGRADE))

    @precondition(lambda self: self.starting is not None)
    @rule(must_have_keys=st.booleans())
    def the_next_one_begins(self, must_have_keys: bool) -> None:
        new, self.new, self.starting = self.starting, self.starting, None
        assert new is not None
        handed = []
        while (message := new.unread.popleft()) != Ping():
            handed.append(message)
        denied = tuple(one for one in handed if isinstance(one, Deny))
        self.feed(new, Inherited(denied, None, must_have_keys))
        while new.unread:
            self.feed(new, Received(BEFORE, new.unread.popleft()))
        self.feed(new, Tick())

    @rule(data=st.data(), keys=st.booleans())
    def a_worker_is_ready(self, data: st.DataObject, keys: bool) -> None:
        ready = [
            (gateway, one)
            for gateway in self.gateways
            for one in gateway.workers.values()
            if not one.is_ready
        ]
        if ready:
            gateway, one = data.draw(st.sampled_from(ready))
            if keys:
                self.feed(gateway, Received(one.number, KeysUntil(1e9)))
            self.is_ready(gateway, one)

    @rule(data=st.data())
    def a_worker_denies(self, data: st.DataObject) -> None:
        """Only one that has clients."""
        sources = [
            (gateway, one)
            for gateway in self.gateways
            for one in gateway.workers.values()
            if one.has_accepted
        ]
        if sources:
            gateway, one = data.draw(st.sampled_from(sources))
            self.denials += 1
            handle = f"session-{self.denials}"
            self.denied.add(handle)
            one.denied.add(handle)
            deny = Deny({handle: EPOCH * 2}, self.denials)
            self.feed(gateway, Received(one.number, deny))

    @rule()
    def all_acknowledge(self) -> None:
        for _ in range(4):  # there and back
            for gateway in self.gateways:
                for one in tuple(gateway.workers.values()):
                    numbers, one.to_acknowledge = one.to_acknowledge, []
                    for number in numbers:
                        self.feed(gateway, Received(one.number, DenyDone(number)))

    @rule(data=st.data(), code=st.sampled_from([0, 1, -9]))
    def a_worker_ends(self, data: st.DataObject, code: int) -> None:
        found = [(g, one) for g in self.gateways for one in g.workers.values()]
        if found:
            gateway, one = data.draw(st.sampled_from(found))
            del gateway.workers[one.number]
            self.feed(gateway, Exited(one.number, 7, code, "ended"))

    @rule(seconds=st.sampled_from([1.0, 8.0]))
    def time_passes(self, seconds: float) -> None:
        self.monotonic += seconds
        for gateway in self.gateways:
            self.feed(gateway, Tick())

    @rule()
    def the_next_one_ends(self) -> None:
        new = self.new or self.starting
        if new is not None:
            self.new = self.starting = None
            new.is_killed = True
            if self.old.is_running and self.old.peer is not None:
                peer, self.old.peer = self.old.peer, None
                self.feed(self.old, Exited(peer, 8, 1, "ended with exit code 1"))

    @precondition(lambda self: self.new is not None)
    @rule()
    def the_old_one_is_killed(self) -> None:
        self.old.is_killed = True
        if self.new is not None and self.new.is_running:
            self.feed(self.new, Closed(BEFORE))

    @rule(data=st.data(), dice=st.integers(0, 9))
    def one_is_stopped(self, data: st.DataObject, dice: int) -> None:
        if dice == 0 and self.gateways:
            gateway = data.draw(st.sampled_from(self.gateways))
            self.feed(gateway, Signalled(Signal.STOP))

    # --- what holds -------------------------------------------------------------

    @invariant()
    def one_gateway_accepts(self) -> None:
        if self.new is not None and self.new.accepting:
            assert not self.old.accepting

    @invariant()
    def every_worker_with_clients_knows_every_denial(self) -> None:
        """As long as both gateways, or the only one, are there to relay it."""
        if not self.old.is_killed:
            for gateway in self.gateways:
                for one in gateway.accepting:
                    assert one.denied >= self.denied

    @invariant()
    def the_new_one_is_silent_until_it_serves(self) -> None:
        if self.new is not None and not self.has_switched:
            assert self.new.told == []
            assert self.new.plan.phase in (Phase.STARTING, Phase.STOPPING)

    def teardown(self) -> None:
        """Whatever has happened, an old gateway alone stops when it is asked to."""
        if not hasattr(self, "old"):
            return
        self.the_next_one_ends()
        for _ in range(20):
            if not self.old.is_running:
                return
            self.feed(self.old, Signalled(Signal.STOP))
            for number in tuple(self.old.workers):
                del self.old.workers[number]
                self.feed(self.old, Exited(number, 7, 0, "ended"))
            if self.old.hub is not None:
                hub, self.old.hub = self.old.hub, None
                self.feed(self.old, Exited(hub, 7, 0, "ended"))
            self.monotonic += 2.0
            self.feed(self.old, Tick())
        raise AssertionError("the old gateway is still there")


test_any_order_of_events_in_an_upgrade = TwoGateways.TestCase


# --- single cases -----------------------------------------------------------------


def words(actions: list[Action]) -> list[str]:
    return [one.message for one in actions if isinstance(one, LogLine)]


def started() -> tuple[Upgrade, list[Action]]:
    upgrade = Upgrade(PACE, None)
    assert [*upgrade.request(is_leaving=False)] == []
    denied = Deny({"a": 9.0}, users=(UserDenial(UserScope("u"), 1.0, 2.0),))
    return upgrade, upgrade.start(4, 1.0, [denied], KEYS)


def test_the_next_gateway_knows_all_before_its_marker() -> None:
    """Denials and keys are sent first; `Ping` says that they are complete."""
    upgrade, actions = started()
    assert upgrade.is_under_way
    fork, *sent, last = actions
    assert (fork, last) == (ForkGateway(4), Send(4, Ping()))
    assert [type(one.message) for one in sent if isinstance(one, Send)] == [Deny, Keys]


@pytest.mark.parametrize(
    ("is_leaving", "why"),
    [(True, "this gateway stops"), (False, "another upgrade is under way")],
)
def test_another_signal_is_ignored_with_a_line(is_leaving: bool, why: str) -> None:
    upgrade, _ = started()
    (line,) = upgrade.request(is_leaving=is_leaving)
    assert line.message == f"not upgraded: {why}. This gateway goes on"
    assert not upgrade.is_requested


def test_it_is_handed_over_once_it_is_ready() -> None:
    """The files and the service manager first. Another message hands over nothing."""
    upgrade, _ = started()
    peer = upgrade.next
    assert peer is not None
    assert upgrade.hand_over(peer, Ping()) == []
    handed, accept, line = upgrade.hand_over(peer, Ready())
    assert (handed, accept) == (HandOver(4), Send(4, Accept(())))
    assert isinstance(line, LogLine)
    assert not upgrade.is_under_way
    assert upgrade.hand_over(peer, Ready()) == []
    assert [*upgrade.end_next("x", 2.0), *upgrade.abandon(2.0)] == []
    assert upgrade.lost(peer, "it ended") == []


def test_a_signal_after_the_upgrade_forces_nothing() -> None:
    """Ctrl-C reaches both gateways: the first one is the next gateway's."""
    upgrade, _ = started()
    assert not upgrade.is_first_signal()
    assert upgrade.next is not None
    upgrade.hand_over(upgrade.next, Ready())
    assert [upgrade.is_first_signal() for _ in range(3)] == [True, False, False]


def test_a_late_one_is_ended_then_killed() -> None:
    """It has `upgrade_s` to be ready, and `upgrade_end_s` to end."""
    upgrade, _ = started()
    peer = upgrade.next
    assert peer is not None
    assert [*upgrade.on_tick(peer, 7.0)] == []
    assert [*upgrade.on_tick(peer, 7.1)] == [EndGateway(4)]
    assert upgrade.hand_over(peer, Ready()) == []
    assert [*upgrade.on_tick(peer, 10.0)] == []
    assert [*upgrade.on_tick(peer, 10.2)] == [Kill(4)]
    assert [*upgrade.on_tick(peer, 10.3)] == []
    assert words(upgrade.lost(peer, "it ended: it wasn't ready in 6 s")) == [
        "not upgraded: it ended: it wasn't ready in 6 s. This gateway goes on"
    ]
    assert not upgrade.is_under_way


def test_a_stop_ends_the_next_one_without_a_complaint() -> None:
    upgrade, _ = started()
    peer = upgrade.next
    assert peer is not None
    assert [*upgrade.abandon(2.0)] == [EndGateway(4)]
    assert [*upgrade.abandon(2.0)] == []
    assert upgrade.is_under_way
    assert upgrade.lost(peer, "it ended") == []


def test_the_next_one_waits_for_its_turn() -> None:
    """It offers once, and only the gateway before lets it accept."""
    upgrade = Upgrade(PACE, BEFORE)
    before = upgrade.before
    assert before is not None
    assert before.state is ChildState.READY
    assert upgrade.is_waiting
    assert [*upgrade.offer()] == [Send(BEFORE, Ready())]
    assert [*upgrade.offer()] == []
    assert upgrade.take_over(before, Ready()) == []
    assert upgrade.take_over(before, Accept(())) == [TakeOver(), Announce()]
    assert upgrade.take_over(before, Accept(())) == []


def test_an_ordinary_start_offers_nothing() -> None:
    upgrade = Upgrade(PACE, None)
    assert not upgrade.is_waiting
    assert [*upgrade.offer()] == []

"""The shared store in the plan: nobody accepts before it was read; denials reach it."""

from __future__ import annotations

from dataclasses import replace

from checked_services import loaded

from gateway.config import StoreAddress
from gateway.process.messages import Accept, Deny, Message, Ping, Ready
from gateway.process.plan import Plan
from gateway.process.plan_events import (
    Announce,
    Event,
    Exited,
    FileLoaded,
    Fork,
    ForkHub,
    Inherited,
    Kill,
    LoadedFile,
    Now,
    Received,
    Send,
    Signal,
    Signalled,
    Tick,
)
from gateway.process.plan_pace import SupervisorPace
from gateway.process.plan_shared import FIRST_WORD_S
from gateway.process.plan_state import Phase
from gateway.process.shared_messages import (
    RefuseSessions,
    ShareDenials,
    ShareWith,
    StoreState,
)
from gateway.session.deny_list import UserDenial, UserScope
from gateway.shared.entries import SharedDenials
from gateway.shared.place import StorePlace

EPOCH = 1_700_000_000.0
PACE = SupervisorPace()
GRACE_S = 5.0
LOCAL = StorePlace(
    address=StoreAddress(host="r", port=1), key="k", ca_file=None, grace_s=None
)
REFUSE = replace(LOCAL, grace_s=GRACE_S)
UNTIL = EPOCH + 10_000.0
USER = UserDenial(UserScope("u"), EPOCH, UNTIL)


class Scene:
    """A plan, and what its children were sent."""

    def __init__(
        self, place: StorePlace | None = LOCAL, *, is_upgrade: bool = False
    ) -> None:
        self.now = 1000.0
        self.file = replace(loaded(1), shared=place)
        self.plan = Plan(
            self.file, workers=1, sockets=1, pace=PACE, is_upgrade=is_upgrade
        )
        self.sent: dict[int, list[Message]] = {}
        self.workers: list[int] = []
        self.hubs: list[int] = []
        self.announced = 0
        if is_upgrade:
            self.feed(Inherited((Deny({"old": UNTIL}),), None, must_have_keys=False))
        self.feed(Tick())

    def feed(self, event: Event) -> None:
        for action in self.plan.on(event, Now(self.now, EPOCH)):
            match action:
                case Fork(child):
                    self.workers.append(child)
                case ForkHub(child):
                    self.hubs.append(child)
                case Send(child, message):
                    self.sent.setdefault(child, []).append(message)
                case Announce():
                    self.announced += 1
                case _:
                    pass

    def hear(self, child: int, message: Message) -> None:
        self.feed(Received(child, message))

    def pass_s(self, seconds: float, *, is_known: bool | None = None) -> None:
        """Let time pass, with a tick each second, and the hub's word if it has one."""
        for _ in range(int(seconds)):
            self.now += 1.0
            for child in (*self.workers, *self.hubs):
                self.hear(child, Ping())
            if is_known is not None:
                self.hear(self.hubs[-1], StoreState(is_known))
            self.feed(Tick())

    def of(self, child: int, *kinds: type) -> list[Message]:
        return [one for one in self.sent.get(child, []) if isinstance(one, kinds)]

    @property
    def has_accepted(self) -> bool:
        return any(self.of(worker, Accept) for worker in self.workers)

    def start(self) -> None:
        """Let the worker be ready, and the store be read."""
        self.hear(self.workers[0], Ready())
        self.hear(self.hubs[0], StoreState(is_known=True))


def test_no_worker_accepts_before_the_store_was_read() -> None:
    """What the hub reads reaches a worker before it accepts; then all is announced."""
    here = Scene()
    here.hear(here.workers[0], Ready())
    assert here.hubs
    assert not here.has_accepted
    assert (here.announced, here.plan.phase) == (0, Phase.STARTING)
    assert here.of(here.hubs[0], ShareWith) == [ShareWith(LOCAL)]
    here.hear(here.hubs[0], ShareDenials(SharedDenials({"a": UNTIL}, (USER,)), True))
    here.hear(here.hubs[0], StoreState(is_known=True))
    assert (here.announced, here.plan.phase) == (1, Phase.RUNNING)
    sent = here.sent[here.workers[0]]
    denied = [sent.index(one) for one in here.of(here.workers[0], Deny)]
    assert denied
    assert max(denied) < sent.index(Accept((0,)))
    here.pass_s(2, is_known=True)
    assert here.announced == 1


def test_a_store_that_is_away_is_awaited_no_longer() -> None:
    """The hub's first word counts, or else its time is over."""
    here = Scene()
    here.hear(here.workers[0], Ready())
    here.hear(here.hubs[0], StoreState(is_known=False))
    assert here.has_accepted
    silent = Scene()
    silent.hear(silent.workers[0], Ready())
    silent.pass_s(FIRST_WORD_S - 1)
    assert not silent.has_accepted
    silent.pass_s(1)
    assert silent.has_accepted
    assert silent.announced == 1
    assert not silent.of(silent.workers[0], RefuseSessions)


def test_without_the_key_nothing_is_awaited_or_told() -> None:
    here = Scene(None)
    here.hear(here.workers[0], Ready())
    assert here.has_accepted
    here.hear(here.workers[0], Deny({"a": UNTIL}, 1))
    assert not here.of(here.hubs[0], ShareWith, ShareDenials)


def test_each_denial_of_this_gateway_reaches_the_hub_once() -> None:
    """Not those that it has read in the store, and a new hub gets all in force."""
    here = Scene()
    here.start()
    worker, hub = here.workers[0], here.hubs[0]
    here.hear(worker, Deny({"mine": UNTIL}, 1))
    here.hear(hub, ShareDenials(SharedDenials({"theirs": UNTIL}), True))
    assert here.of(hub, ShareDenials) == [
        ShareDenials(SharedDenials({"mine": UNTIL}), True)
    ]
    assert Deny({"theirs": UNTIL}) in here.sent[worker]
    here.feed(Exited(hub, 1, -9, "killed"))
    here.hear(worker, Deny({"between": UNTIL}, 2))
    here.pass_s(2)
    known = [
        handle
        for one in here.of(here.hubs[1], ShareDenials)
        if isinstance(one, ShareDenials) and not one.is_new
        for handle in one.denials.ends
    ]
    assert known == ["mine", "theirs", "between"]


def test_only_the_hub_is_believed_about_the_store() -> None:
    """A worker that speaks of it is killed."""
    for message in (
        StoreState(is_known=True),
        ShareDenials(SharedDenials({"a": UNTIL}), True),
        ShareWith(None),
        RefuseSessions(False),
    ):
        here = Scene()
        here.hear(here.workers[0], Ready())
        actions = here.plan.on(Received(here.workers[0], message), Now(here.now, EPOCH))
        assert Kill(here.workers[0]) in actions
        assert not here.has_accepted


def test_refuse_counts_from_the_last_word() -> None:
    """A store that is away, or a hub that says nothing, for the grace."""
    here = Scene(REFUSE)
    here.start()
    worker = here.workers[0]
    here.pass_s(20, is_known=True)
    assert not here.of(worker, RefuseSessions)
    here.pass_s(GRACE_S, is_known=False)
    assert not here.of(worker, RefuseSessions)
    here.pass_s(1, is_known=False)
    assert here.of(worker, RefuseSessions) == [RefuseSessions(True)]
    here.hear(here.hubs[0], StoreState(is_known=True))
    assert here.of(worker, RefuseSessions)[1:] == [RefuseSessions(False)]


def test_refuse_holds_from_the_start_if_the_store_is_away() -> None:
    """The worker refuses before it accepts, and so does the next one in its place."""
    here = Scene(REFUSE)
    worker = here.workers[0]
    here.hear(worker, Ready())
    here.hear(here.hubs[0], StoreState(is_known=False))
    sent = here.sent[worker]
    assert {RefuseSessions(True), Accept((0,))} <= {*sent}
    here.feed(Exited(worker, 1, -9, "killed"))
    here.now += 1
    here.feed(Tick())
    assert here.sent[here.workers[1]][0] == RefuseSessions(True)


def test_a_reload_that_adds_a_store_has_its_grace() -> None:
    """The hub is told all that is in force, and no worker refuses meanwhile."""
    here = Scene(None)
    here.hear(here.workers[0], Ready())
    here.hear(here.workers[0], Deny({"a": UNTIL}, 1))
    here.feed(Signalled(Signal.RELOAD))
    here.feed(FileLoaded(_second(REFUSE)))
    here.hear(here.workers[-1], Ready())
    hub = here.hubs[0]
    assert here.of(hub, ShareWith) == [ShareWith(REFUSE)]
    assert here.of(hub, ShareDenials) == [
        ShareDenials(SharedDenials({"a": UNTIL}), False)
    ]
    here.pass_s(GRACE_S)
    assert not here.of(here.workers[-1], RefuseSessions)
    here.pass_s(1)
    assert here.of(here.workers[-1], RefuseSessions) == [RefuseSessions(True)]


def test_a_reload_that_removes_the_store_ends_refusals() -> None:
    here = Scene(REFUSE)
    here.hear(here.workers[0], Ready())
    here.hear(here.hubs[0], StoreState(is_known=False))
    here.feed(Signalled(Signal.RELOAD))
    here.feed(FileLoaded(_second(None)))
    here.hear(here.workers[-1], Ready())
    assert here.of(here.hubs[0], ShareWith) == [ShareWith(REFUSE), ShareWith(None)]
    assert here.of(here.workers[-1], RefuseSessions)[-1] == RefuseSessions(False)


def test_after_an_upgrade_nothing_is_awaited() -> None:
    """The gateway before has handed its denials over; the new hub is told them."""
    here = Scene(REFUSE, is_upgrade=True)
    here.hear(here.workers[0], Ready())
    assert not here.of(here.workers[0], RefuseSessions)
    here.hear(1, Accept(()))
    assert here.has_accepted
    assert not here.of(here.workers[0], RefuseSessions)
    here.feed(Tick())
    assert here.of(here.hubs[0], ShareDenials) == [
        ShareDenials(SharedDenials({"old": UNTIL}), False)
    ]
    here.hear(1, Deny({"later": UNTIL}, 3))
    assert here.of(here.hubs[0], ShareDenials)[1:] == [
        ShareDenials(SharedDenials({"later": UNTIL}), True)
    ]


def _second(place: StorePlace | None) -> LoadedFile:
    return replace(loaded(2), shared=place)

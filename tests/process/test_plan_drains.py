"""How long children drain, and which keep WebSockets: in a plan, and of each child.

test_workers_plan.py has the same rules in any order of events, and
test_workers_websockets.py real processes.
"""

from __future__ import annotations

import pytest

from gateway.process.messages import Accept, Drain, Ping, Ready
from gateway.process.plan import Plan
from gateway.process.plan_drains import MAX_DRAINING, begin, is_overdue, keeping
from gateway.process.plan_events import (
    Action,
    Event,
    Exited,
    FileLoaded,
    Fork,
    ForkHub,
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
from gateway.process.plan_state import (
    Child,
    ChildPlace,
    ChildState,
    Generation,
    WorkerChild,
)

PACE = SupervisorPace(drain_extra_s=2.0)
DRAIN_S = 4.0
WEBSOCKETS_S = 30.0
LIMIT_S = DRAIN_S + PACE.drain_extra_s


def config(generation: int, websocket_drain_s: float = WEBSOCKETS_S) -> LoadedFile:
    return LoadedFile(
        generation=generation,
        path="routes.yaml",
        listen="a:1",
        probes=None,
        pidfile=None,
        drain_s=DRAIN_S,
        websocket_drain_s=websocket_drain_s,
        shutdown_delay_s=0.0,
        startup_timeout_s=6.0,
        sdk="one",
        keys_refresh_s=300.0,
        keys_timeout_s=3.0,
    )


# --- each child -------------------------------------------------------------------


def worker(number: int = 1, generation: int = 1) -> WorkerChild:
    place = ChildPlace()
    return WorkerChild(
        number=number,
        name="worker 1",
        place=place,
        since=0.0,
        drain_s=LIMIT_S,
        state=ChildState.READY,
        generation=Generation(config(generation), (place,)),
        slot=0,
    )


@pytest.mark.parametrize(
    ("websockets_s", "after_s", "keeps", "overdue"),
    [
        (0.0, 0.0, False, False),
        (0.0, LIMIT_S, False, False),
        (0.0, LIMIT_S + 0.1, False, True),
        (30.0, 29.9, True, False),
        (30.0, 30.0, False, False),
        (30.0, 30.0 + LIMIT_S, False, False),
        (30.0, 30.1 + LIMIT_S, False, True),
    ],
)
def test_websockets_come_before_the_drain(
    websockets_s: float, after_s: float, *, keeps: bool, overdue: bool
) -> None:
    """A worker has the time of its WebSockets, and then that of an ordinary drain."""
    one = worker()
    assert not keeping([one], 100.0)
    assert begin(one, 100.0, websockets_s) == Drain(websockets_s)
    now = 100.0 + after_s
    assert keeping([one], now) == [one] * keeps
    assert is_overdue(one, now) is overdue
    one.is_killed = True
    assert not keeping([one], now)


def test_a_hub_keeps_none() -> None:
    """It drains like any child."""
    hub = Child(number=1, name="hub", place=ChildPlace(), since=0.0, drain_s=2.0)
    assert begin(hub, 5.0) == Drain()
    assert not keeping([hub], 5.0)
    assert not is_overdue(hub, 7.0)
    assert is_overdue(hub, 7.1)


# --- in a plan --------------------------------------------------------------------


class OneWorkerPlan:
    """A plan with a single worker at a time, whose children start and answer."""

    def __init__(self, websocket_drain_s: float = WEBSOCKETS_S) -> None:
        self.websocket_drain_s = websocket_drain_s
        self.at = 0.0
        self.generation = 1
        self.worker = 0
        """The number of the worker that was forked last."""
        self.alive: set[int] = set()
        first = config(1, websocket_drain_s)
        self.plan = Plan(first, workers=1, sockets=1, pace=PACE)
        self.feed(Tick())

    def feed(self, event: Event) -> list[Action]:
        """Feed *event*; return the drains and kills of workers."""
        seen: list[Action] = []
        for action in self.plan.on(event, Now(self.at, self.at)):
            match action:
                case Fork(child):
                    self.worker = child
                    self.alive.add(child)
                    seen += self.feed(Received(child, Ready()))
                case ForkHub(child):
                    self.alive.add(child)
                    self.feed(Received(child, Ready()))
                case Send(_, Drain()) | Kill():
                    seen.append(action)
                case _:
                    pass
        return seen

    def reload(self) -> list[Action]:
        self.generation += 1
        seen = self.feed(Signalled(Signal.RELOAD))
        loaded = config(self.generation, self.websocket_drain_s)
        return seen + self.feed(FileLoaded(loaded))

    def wait(self, seconds: float) -> list[Action]:
        """Let time pass, second by second, while all children answer pings."""
        seen: list[Action] = []
        end = self.at + seconds
        while self.at < end:
            self.at = min(end, self.at + 1.0)
            seen += self.feed(Tick())
            for child in self.alive:
                seen += self.feed(Received(child, Ping()))
        return seen


def test_a_worker_is_killed_after_both_times() -> None:
    """Not before: it may have WebSockets up to the end of the first."""
    one = OneWorkerPlan()
    old = one.worker
    assert one.reload() == [Send(old, Drain(WEBSOCKETS_S))]
    assert one.wait(WEBSOCKETS_S + LIMIT_S) == []
    assert one.wait(1.0) == [Kill(old)]


def test_a_further_reload_shortens_nothing() -> None:
    """Until too many generations keep WebSockets: the oldest closes them at once.

    It then has the time of an ordinary drain.
    """
    one = OneWorkerPlan()
    replaced = []
    for _ in range(MAX_DRAINING):
        replaced.append(one.worker)
        assert one.reload() == [Send(replaced[-1], Drain(WEBSOCKETS_S))]
    last = one.worker
    assert one.reload() == [
        Send(last, Drain(WEBSOCKETS_S)),
        Send(replaced[0], Drain()),
    ]
    assert one.wait(LIMIT_S) == []
    assert one.wait(1.0) == [Kill(replaced[0])]


def test_generations_that_are_over_do_not_count() -> None:
    """A worker that has exited keeps no WebSockets, nor does one whose time is over."""
    one = OneWorkerPlan()
    first = one.worker
    one.reload()
    one.wait(WEBSOCKETS_S)
    second = one.worker
    one.reload()
    one.feed(Exited(second, 1, 0, "ended"))
    for _ in range(MAX_DRAINING):
        replaced = one.worker
        assert one.reload() == [Send(replaced, Drain(WEBSOCKETS_S))]
    assert first in one.alive


def test_a_stop_closes_the_websockets_of_all_workers() -> None:
    """Also of those that drain for a reload, within the ordinary drain."""
    one = OneWorkerPlan()
    old = one.worker
    one.reload()
    one.wait(5.0)
    new = one.worker
    assert one.feed(Signalled(Signal.STOP)) == [Send(old, Drain()), Send(new, Drain())]
    assert one.wait(LIMIT_S) == []
    assert one.wait(1.0) == [Kill(old), Kill(new)]


def test_a_stop_gives_no_worker_more_time() -> None:
    """One whose WebSockets were closed before isn't told again."""
    one = OneWorkerPlan()
    old = one.worker
    one.reload()
    one.wait(WEBSOCKETS_S)
    assert one.feed(Signalled(Signal.STOP)) == [Send(one.worker, Drain())]
    one.feed(Exited(one.worker, 1, 0, "ended"))
    assert one.wait(LIMIT_S + 1.0) == [Kill(old)]


def test_a_worker_that_drains_accepts_no_more() -> None:
    """A worker that keeps WebSockets isn't told to accept when another one dies."""
    one = OneWorkerPlan()
    old = one.worker
    one.reload()
    actions = one.plan.on(Exited(one.worker, 1, -9, "died"), Now(one.at, one.at))
    assert not [a for a in actions if isinstance(a, Send) and a.child == old]
    assert not [a for a in actions if isinstance(a, Send) and a.message == Accept((0,))]

"""Messages about leases pass between workers and the hub, and nowhere else."""

from __future__ import annotations

import pytest

from gateway.process.lease_messages import DrawLeases, LeaseMessage, LeasesDrawn
from gateway.process.plan_events import Send
from gateway.process.plan_leases import relayed
from gateway.process.plan_state import Child, ChildPlace, Generation, Peer, WorkerChild

PLACE = ChildPlace()
HUB = Child(number=1, name="hub", place=PLACE, since=0.0, drain_s=1.0)
PEER = Peer(number=3, name="next", place=PLACE, since=0.0, drain_s=1.0)


def worker(number: int) -> WorkerChild:
    generation: Generation = object.__new__(Generation)
    return WorkerChild(
        number=number,
        name="worker",
        place=PLACE,
        since=0.0,
        drain_s=1.0,
        generation=generation,
        slot=0,
    )


ONE = worker(2)
CHILDREN = {1: HUB, 2: ONE, 3: PEER}


def sends(message: LeaseMessage, sender: Child, hub: Child | None) -> list[Send] | None:
    found = relayed(message, sender, hub, CHILDREN)
    return None if found is None else [*found]


def test_a_worker_reaches_the_hub_under_its_own_number() -> None:
    """Whatever it says: the answer can't go to another worker."""
    assert sends(DrawLeases((), 9), ONE, HUB) == [Send(1, DrawLeases((), 2))]


def test_the_hub_reaches_the_worker_that_asked() -> None:
    """A worker that is gone gets nothing."""
    assert sends(LeasesDrawn((), 2), HUB, HUB) == [Send(2, LeasesDrawn(()))]
    assert sends(LeasesDrawn((), 99), HUB, HUB) == []
    assert sends(LeasesDrawn((), 3), HUB, HUB) == []


def test_without_a_hub_nothing_is_sent() -> None:
    """The worker goes on by itself."""
    assert sends(DrawLeases(()), ONE, None) == []


@pytest.mark.parametrize(
    ("message", "sender"),
    [
        (LeasesDrawn((), 2), ONE),
        (DrawLeases(()), HUB),
        (DrawLeases(()), PEER),
        (LeasesDrawn((), 2), PEER),
    ],
)
def test_nobody_else_may_send_them(message: LeaseMessage, sender: Child) -> None:
    """The plan takes them for messages that such a child doesn't send."""
    assert sends(message, sender, HUB) is None

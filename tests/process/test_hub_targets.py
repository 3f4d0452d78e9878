"""What operators are shown of targets: of checks, workers and connections."""

from __future__ import annotations

from gateway.observe.meters import MAX_LABEL, POOL, TARGET, Sample
from gateway.process.hub_targets import targets_shown
from gateway.process.totals import Totals

NO_CONNECTIONS = {"in_use": 0, "idle": 0, "waiting": 0}


def counted(*samples: tuple[Sample, ...]) -> Totals:
    """Return the totals of workers that have sent these samples."""
    totals = Totals()
    for worker, sent in enumerate(samples, 1):
        totals.update(worker, 0, list(sent))
    return totals


def sends(service: str, target: str, *, is_up: bool) -> Sample:
    return Sample(TARGET, (service, target), (float(is_up),))


def test_each_target_is_shown_once() -> None:
    """With the workers that send it requests, and with what checks say of it."""
    totals = counted(
        (
            sends("b", "http://b:1", is_up=True),
            sends("a", "http://a:1", is_up=True),
            Sample(POOL, ("http://a:1",), (3.0, 2.0, 1.0)),
        ),
        (sends("b", "http://b:1", is_up=True), sends("a", "http://a:1", is_up=False)),
    )
    checks = {"b": {"http://b:1": True, "http://b:2": False}}
    assert targets_shown(totals, checks) == [
        {
            "service": "a",
            "target": "http://a:1",
            "check": None,
            "workers_that_send": 1,
            "connections": {"in_use": 3, "idle": 2, "waiting": 1},
        },
        {
            "service": "b",
            "target": "http://b:1",
            "check": "up",
            "workers_that_send": 2,
            "connections": NO_CONNECTIONS,
        },
        {
            "service": "b",
            "target": "http://b:2",
            "check": "down",
            "workers_that_send": 0,
            "connections": NO_CONNECTIONS,
        },
    ]


def test_a_long_name_is_one_target() -> None:
    """Workers report cut names; what checks say belongs to the same target."""
    name = f"http://{'a' * MAX_LABEL}:1"
    (shown,) = targets_shown(Totals(), {"a": {name: True}})
    cut = str(shown["target"])
    (again,) = targets_shown(
        counted((sends("a", cut, is_up=True),)), {"a": {name: True}}
    )
    assert (again["workers_that_send"], again["check"]) == (1, "up")

"""What is rendered of the gateway's status; the workers' counts are in test_totals."""

from __future__ import annotations

import time

import pytest
from health_facts import with_status
from prometheus_client.parser import text_string_to_metric_families

from gateway.observe.meters import BUCKETS, Sample
from gateway.process.messages import Status
from gateway.process.metrics import form_of, render
from gateway.process.totals import Totals


def values(status: Status, totals: Totals, name: str) -> list[float]:
    text = render(status, totals, form_of("text/plain"), (0, 0)).decode()
    return [
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name
    ]


@pytest.mark.parametrize(
    ("slots", "left_s", "least", "most"),
    [
        (("accepting", "accepting"), 3600.0, 3500.0, 3600.0),
        (("accepting", "starting"), 3600.0, 3500.0, 3600.0),
        (("accepting",), -5.0, 0.0, 0.0),
        (("accepting",), None, 0.0, 0.0),
    ],
)
def test_keys_are_usable_as_long_as_those_that_accept_have_some(
    slots: tuple[str, ...], left_s: float | None, least: float, most: float
) -> None:
    """A worker that starts has no keys yet: no reload may look like an outage."""
    now = time.monotonic()
    until = None if left_s is None else now + left_s
    totals = Totals()
    totals.update(1, 0, [Sample("gauge", ("keys_age_s",), (1.0,))])
    status = with_status(slots=slots, keys_until=until).status
    assert status is not None
    (value,) = values(status, totals, "gateway_keys_usable_seconds")
    assert least <= value <= most


def test_nothing_is_known_of_the_keys_while_no_worker_accepts() -> None:
    """At the start, and while all workers are replaced."""
    status = with_status(slots=("starting",), keys_until=None).status
    assert status is not None
    assert values(status, Totals(), "gateway_keys_usable_seconds") == []


def test_services_with_limits_have_the_sums_of_all_workers() -> None:
    """A worker that has ended has none; a refusal is a failure of the service."""
    totals = Totals()
    for child, numbers in enumerate([(3.0, 1.0), (2.0, 0.0), (9.0, 9.0)]):
        totals.update(child, child, [Sample("service", ("app",), numbers)])
    totals.keep((0, 1))
    labels = ("r", "GET", "503", "allowed", "service_overloaded", "app")
    refused = Sample("requests", labels, (4.0, *(0.0,) * (BUCKETS + 2)))
    totals.update(2, 2, [refused])
    status = with_status(slots=("accepting",)).status
    assert status is not None
    assert values(status, totals, "gateway_service_in_flight") == [5]
    assert values(status, totals, "gateway_service_pending") == [1]
    assert values(status, totals, "gateway_upstream_failures_total") == [4]

"""What is logged of the core's signing keys."""

from __future__ import annotations

import pytest

from gateway.events import RuntimeEvent
from gateway.session.key_reports import KeyReports


class Keys:
    """Keys that last as long as a test says."""

    def __init__(self) -> None:
        self.left_s = 0.0
        self.reports = KeyReports(lambda: self.left_s)


def events(caplog: pytest.LogCaptureFixture) -> list[RuntimeEvent]:
    return [record.event for record in caplog.records]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("is_core_lost", "begin", "end"),
    [
        (True, RuntimeEvent.CORE_LOST, RuntimeEvent.CORE_BACK),
        (False, RuntimeEvent.KEYS_STALE, RuntimeEvent.KEYS_FRESH),
    ],
)
def test_an_outage_has_a_begin_and_an_end(
    caplog: pytest.LogCaptureFixture,
    is_core_lost: bool,
    begin: RuntimeEvent,
    end: RuntimeEvent,
) -> None:
    """A core that doesn't answer is another event than one that answers otherwise."""
    keys = Keys()
    keys.left_s = 60.0
    keys.reports.succeeded()
    for now in (0.0, 1.0):
        keys.reports.failed("why", is_core_lost=is_core_lost, now=now)
    keys.reports.succeeded()
    assert events(caplog) == [begin, end]


def test_keys_that_are_too_old_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """They are told again only after there were usable ones, which ends an outage."""
    keys = Keys()
    keys.reports.check_expiry()  # there were none yet, which `failed` reports
    for left_s in (60.0, 0.0, -1.0, 60.0, -1.0):
        keys.left_s = left_s
        keys.reports.check_expiry()
    assert events(caplog) == [RuntimeEvent.KEYS_EXPIRED] * 2
    assert {record.levelname for record in caplog.records} == {"ERROR"}


def test_an_expiry_is_told_while_fetches_fail(caplog: pytest.LogCaptureFixture) -> None:
    """Each failed fetch looks whether the keys are still usable."""
    keys = Keys()
    keys.left_s = 60.0
    keys.reports.succeeded()
    keys.reports.failed("why", is_core_lost=True, now=0.0)
    keys.left_s = 0.0
    keys.reports.failed("why", is_core_lost=True, now=30.0)
    assert events(caplog) == [RuntimeEvent.CORE_LOST, RuntimeEvent.KEYS_EXPIRED]

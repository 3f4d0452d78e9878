"""What each check means, which probe fails for which, and since when it is so."""

from __future__ import annotations

from dataclasses import replace

import pytest
from health_facts import EPOCH, FACTS, NOW, with_status

from gateway.process.health import (
    CHECKS,
    PROBES,
    SUPERVISOR_SILENT_S,
    Board,
    Facts,
    Health,
    Level,
)
from gateway.process.messages import WORKER_STATES

SILENT = replace(FACTS, heard_at=NOW - SUPERVISOR_SILENT_S)
OK, DEGRADED, FAILING = Level
CASES: dict[str, tuple[Facts, Level, Level, Level]] = {
    "all is well": (FACTS, OK, OK, OK),
    "a worker is away": (
        with_status(slots=("accepting", "waiting")),
        *(OK, DEGRADED, OK),
    ),
    "a worker hangs": (with_status(slots=("hanging", "accepting")), OK, DEGRADED, OK),
    "no worker accepts": (with_status(slots=("lost", "starting")), OK, FAILING, OK),
    "all workers hang": (with_status(slots=("hanging",) * 2), FAILING, FAILING, OK),
    "the gateway stops": (with_status(is_draining=True), OK, FAILING, OK),
    "no keys": (with_status(keys_until=None), OK, DEGRADED, OK),
    "the keys are too old": (with_status(keys_until=NOW), OK, DEGRADED, OK),
    "the core is away": (replace(FACTS, core_trouble="away"), OK, DEGRADED, OK),
    "a certificate is valid for two weeks": (
        replace(FACTS, certificate_left_s=14 * 86400.0),
        *(OK, OK, OK),
    ),
    "a certificate is valid for less": (
        replace(FACTS, certificate_left_s=14 * 86400.0 - 1),
        *(OK, DEGRADED, OK),
    ),
    "a certificate has expired": (
        replace(FACTS, certificate_left_s=-1.0),
        *(OK, DEGRADED, OK),
    ),
    "all targets of a service are down": (
        replace(FACTS, services_down=("app",)),
        *(OK, DEGRADED, OK),
    ),
    "the shared store is away": (
        replace(FACTS, store_trouble="it doesn't answer"),
        *(OK, DEGRADED, OK),
    ),
    "a bad file": (with_status(is_loaded=False), OK, OK, OK),
    "the start isn't over": (
        with_status(is_started=False, keys_until=None),
        *(OK, DEGRADED, FAILING),
    ),
    "the supervisor is silent": (SILENT, FAILING, OK, OK),
    "the supervisor was silent for less": (
        replace(SILENT, now=NOW - 0.1),
        *(OK, OK, OK),
    ),
}


def probed(board: Board, path: str, *exclude: str) -> Health:
    return board.health(path, 1, exclude=exclude)


@pytest.mark.parametrize(
    ("facts", "live", "ready", "startup"), CASES.values(), ids=CASES
)
def test_each_probe_fails_for_what_it_is_about(
    facts: Facts, live: Level, ready: Level, startup: Level
) -> None:
    """An outage of what all gateways share degrades them, and takes none out."""
    board = Board()
    board.update(facts, EPOCH)
    levels = [probed(board, path).level for path in ("/livez", "/readyz", "/startupz")]
    assert levels == [live, ready, startup]
    for path in PROBES:
        for check in probed(board, path).checks.values():
            assert check.is_ok == (check.finding.reason == "")


@pytest.mark.parametrize("state", WORKER_STATES)
def test_a_gateway_is_ready_only_while_a_worker_accepts(state: str) -> None:
    """No other state of the only worker serves a client."""
    board = Board()
    board.update(with_status(slots=(state,)), EPOCH)
    assert probed(board, "/readyz").is_failing == (state != "accepting")


def test_every_check_belongs_to_one_probe() -> None:
    """So `since` has one meaning, and no check is judged for nothing."""
    assert sorted(CHECKS) == sorted(name for names in PROBES.values() for name in names)


def test_a_check_that_is_excluded_does_not_count() -> None:
    """The rest decide."""
    board = Board()
    board.update(with_status(is_draining=True, keys_until=None), EPOCH)
    assert probed(board, "/readyz").level is FAILING
    assert probed(board, "/readyz", "draining").level is DEGRADED
    health = probed(board, "/readyz", "draining", "keys")
    assert health.level is OK
    left = ["accepting", "core", "certificates", "services", "shared"]
    assert list(health.checks) == left
    assert probed(board, "/livez", *PROBES["/livez"]).level is OK


def test_a_check_has_the_time_of_its_last_change() -> None:
    """Another reason at the same level is no change."""
    board = Board()
    three = "accepting", "waiting", "waiting"
    for at, slots in enumerate(
        [("accepting",) * 3, three, ("accepting", "accepting", "waiting"), ("lost",)]
    ):
        board.update(with_status(slots=slots), EPOCH + at)
        check = probed(board, "/readyz").checks["accepting"]
        assert check.since == EPOCH + [0, 1, 1, 3][at]
        assert check.last_ok == EPOCH
    fresh = Board()
    fresh.update(with_status(slots=three), EPOCH)
    assert probed(fresh, "/readyz").checks["accepting"].last_ok is None

"""What gets old while a function is frozen, and what a copy of it makes anew."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sdk_reset
from lambda_events import event
from runtime_api import Service, serving
from test_aws_function import ROUTES, Answered

from gateway import settings
from gateway.aws.events import EventKind
from gateway.aws.kept import EventLog, KeptGateway, WallClock
from gateway.aws.serving import LambdaFunction
from gateway.config import LogConfig
from gateway.dev.core import ThreadedCore
from gateway.observe import Record


class Ample:
    """An invocation with much time."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


class Kept:
    """A function in this process, whose clock the test moves."""

    def __init__(self, path: Path, core: str, service: Service) -> None:
        environ = {"CORE": core, "UPSTREAM": service.url}
        path.write_text(ROUTES, encoding="utf-8")
        self.ahead_s = 0.0
        self.records: list[Record] = []
        self.gateway = KeptGateway(
            settings.load(path, environ), self, lambda: time.time() + self.ahead_s
        )
        self.gateway.open()
        self.function = LambdaFunction(self.gateway)

    def observe(self, record: Record) -> None:
        self.records.append(record)

    def ask(self, target: str) -> Answered:
        sent = event(EventKind.HTTP_2, "GET", target)
        return Answered(self.function(sent, Ample()))

    def keys(self) -> Any:
        return self.gateway.app.keys.state()

    @property
    def dialled(self) -> int:
        return sum(pool.dialled for pool in self.gateway.app.upstreams.pools)


Make = Callable[[str], Kept]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    made: list[Kept] = []
    sdk_reset.reset()
    with serving() as service:

        def make_one(core: str) -> Kept:
            made.append(Kept(tmp_path / "routes.yaml", core, service))
            return made[-1]

        yield make_one
        for each in made:
            each.gateway.close()
    sdk_reset.reset()


def test_keys_are_there_before_the_first_event(
    make: Make, shared_core: ThreadedCore
) -> None:
    """And they are fetched again when that is due by the wall clock, not before."""
    kept = make(shared_core.url)
    before = kept.keys()
    assert before.keys > 0
    kept.ahead_s = 299
    assert kept.ask("/public").status == 200
    assert kept.keys().fetches == before.fetches
    kept.ahead_s = 301
    assert kept.ask("/public").status == 200
    assert kept.keys().fetches == before.fetches + 1
    assert kept.keys().age_s < 1


def test_keys_that_are_too_old_are_not_used(
    make: Make, shared_core: ThreadedCore
) -> None:
    """Frozen time counts for `keys.max_stale`."""
    kept = make(shared_core.url)
    assert kept.gateway.app.keys.usable_for_s() > 0
    kept.ahead_s = 4 * 3600 + 1
    assert kept.gateway.app.keys.usable_for_s() <= 0


def test_connections_that_were_idle_for_long_are_closed(
    make: Make, shared_core: ThreadedCore
) -> None:
    """The service may have closed them unnoticed."""
    kept = make(shared_core.url)
    for _ in range(2):
        assert kept.ask("/public").status == 200
    assert kept.dialled == 1
    kept.ahead_s = 3600
    assert kept.ask("/public").status == 200
    assert kept.dialled == 2


def test_a_copy_makes_everything_anew(make: Make, shared_core: ThreadedCore) -> None:
    """Other request ids, fresh keys, connections of its own (SnapStart)."""
    kept = make(shared_core.url)
    first = kept.ask("/public").one("X-Request-Id") or ""
    app = kept.gateway.app
    kept.gateway.restored()
    assert kept.gateway.app is not app
    assert kept.keys().fetches >= 1
    assert not any(pool.open for pool in app.upstreams.pools)
    second = kept.ask("/public").one("X-Request-Id") or ""
    assert first[:16] != second[:16]
    assert kept.ask("/orders").status == 401


def test_a_core_that_is_away(make: Make, closed_port: int) -> None:
    """The function starts, and serves what needs no key."""
    kept = make(f"http://127.0.0.1:{closed_port}")
    assert kept.keys().keys == 0
    assert kept.ask("/public").status == 200
    assert kept.ask("/orders").status == 401


def test_refused_events_are_recorded(make: Make, shared_core: ThreadedCore) -> None:
    """As all requests are, with the id that the client gets."""
    kept = make(shared_core.url)
    sent = event(EventKind.HTTP_2, "GET", "/ws", [("Upgrade", "websocket")])
    answered = Answered(kept.function(sent, Ample()))
    assert answered.status == 501
    (record,) = kept.records
    assert (record.status, record.reason) == (501, "upgrade_not_supported")
    assert record.request_id == answered.one("X-Request-Id")


def test_a_clock_never_goes_back() -> None:
    """Keys would seem to be from the future."""
    times = iter([5.0, 3.0, 6.0])
    clock = WallClock(lambda: next(times))
    assert [clock(), clock(), clock()] == [5.0, 5.0, 6.0]


@pytest.mark.parametrize("form", ["text", "json", "ecs", "none"])
def test_a_line_is_written_at_once(
    form: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The process may be frozen afterwards."""
    record = Record.begin(0.0, "192.0.2.7", "GET")
    EventLog(form, LogConfig()).observe(record)
    written = capsys.readouterr().out
    assert written.count("\n") == (0 if form == "none" else 1)
    if form == "json":
        assert json.loads(written)["pid"]

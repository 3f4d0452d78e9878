"""The arithmetic of `make fleet`, and that its inputs are the gateway's own."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from bench.rig import store_costs
from bench.scripts import fleet as model
from bench.scripts.fleet import COSTS, FIGURES, LIMITS, Fleet
from gateway.config import LimitsConfig
from gateway.shared import store

ONE = Fleet(replicas=1, workers=1, targets=1, sessions=3_600, lifetime=3_600)


@pytest.mark.parametrize(
    ("figure", "fleet", "expected"),
    [
        (model.refreshes, ONE, 1.0),
        (model.refreshes, replace(ONE, replicas=10), 10.0),
        (model.sign_ins, replace(ONE, session_hours=1), 1.0),
        (model.sign_outs, replace(ONE, session_hours=1, sign_outs=0.25), 0.25),
        (model.key_fetches, replace(ONE, replicas=100, workers=2), 1.0),
        (model.core_calls, replace(ONE, session_hours=1, sign_outs=1), 3 + 2 / 300),
        (model.core_calls, replace(ONE, rate=1, asks=1, sign_outs=0), 3601.048),
        (model.store_commands, replace(ONE, sign_outs=0), 4.0),
        (model.store_commands, replace(ONE, session_hours=1, sign_outs=1), 7.0),
        (model.store_connections, replace(ONE, replicas=7), 14.0),
        (model.checks_of_a_target, replace(ONE, replicas=100), 10.0),
        (model.checks, replace(ONE, replicas=100, targets=3), 30.0),
        (model.checks, replace(ONE, checks_interval=0), 0.0),
        (model.connections_of_a_target, replace(ONE, rate=0), 0.0),
        (model.connections_of_a_target, replace(ONE, rate=1), 181.0),
        (model.connections, replace(ONE, rate=1, targets=2), 182.0),
    ],
)
def test_figures(figure: object, fleet: Fleet, expected: float) -> None:
    """Each case can be done in one's head."""
    assert callable(figure)
    assert figure(fleet) == pytest.approx(expected, rel=1e-3)


def test_each_sign_out_wakes_each_replica() -> None:
    """So the reads grow with the square of the replicas, as sessions grow with them."""
    busy = replace(ONE, session_hours=1, sign_outs=1)
    ten, hundred = (model.with_replicas(busy, count) for count in (10, 100))
    assert model.store_reads(ten) == 10 * (1 + 10)
    assert model.store_reads(hundred) == 100 * (1 + 100)


def test_a_stream_keeps_no_more_than_its_bound() -> None:
    """Its memory stays; what it would need says that denials are lost."""
    many = replace(ONE, replicas=1_000, session_hours=1, sign_outs=1)
    assert model.wanted_entries(many) > COSTS["entries"].value
    bound = COSTS["entries"].value * COSTS["entry_memory"].value / 2**20
    assert model.store_memory(many) == bound


@pytest.mark.parametrize(
    ("fleet", "expected"),
    [
        (replace(ONE, rate=0), 1.0),
        (replace(ONE, rate=1, sessions=10), 1 / 61),
        (replace(ONE, rate=1, sessions=40_000), 1 - 0.5 * 60 / 61),
    ],
)
def test_tokens_that_a_worker_does_not_remember(fleet: Fleet, expected: float) -> None:
    """A session's first request in each `cache_age`, and what the cache can't hold."""
    assert model.new_tokens(fleet) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("limit", LIMITS, ids=lambda limit: limit.name)
def test_a_limit_breaks_at_the_first_count_above_it(limit: model.Limit) -> None:
    """One replica fewer is carried; None means that a million are."""
    count = model.breaks_at(limit, Fleet())
    if count is None:
        assert limit.use(model.with_replicas(Fleet(), model.MANY)) <= 1
    else:
        assert limit.use(model.with_replicas(Fleet(), count)) > 1
        assert limit.use(model.with_replicas(Fleet(), max(1, count - 1))) <= 1


def test_what_breaks_first_stands_first() -> None:
    """With checks every 100 ms, a target's checks are it."""
    (count, limit), *_ = model.breaking(Fleet(checks_interval=0.1))
    assert (count, limit.name) == (6, "checks of a target")


def test_inputs_are_the_gateways_defaults() -> None:
    """A changed default changes the table."""
    assert COSTS["read_interval"].value == store._BLOCK_S
    assert COSTS["entries"].value == store._MAX_ENTRIES
    assert LimitsConfig().max_connections >= Fleet().sessions / Fleet().workers


def test_the_page_explains_each_figure() -> None:
    """Formula, cost and source; without `explain`, the figures only."""
    text = model.page(Fleet(), [10, 1_000], explain=True)
    for figure in FIGURES:
        assert f"| {figure.name} | {figure.formula} |" in text
    for name, cost in COSTS.items():
        assert f"| {name} | " in text
        assert cost.source in text
    short = model.page(Fleet(), [10, 1_000], explain=False)
    assert text.startswith(short)
    assert "| replicas | 10 | 1,000 |" in short
    assert "formula" not in short


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--replicas", "0"), "--replicas: at least 1"),
        (("--lifetime", "0"), "--lifetime: 0.0 isn't possible"),
        (("--sign-outs", "-1"), "--sign-outs: -1.0 isn't possible"),
        (("--rate", "nan"), "--rate: nan isn't possible"),
    ],
)
def test_impossible_options_are_refused(args: tuple[str, ...], message: str) -> None:
    """With 2 and the option's name."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.scripts.fleet", *args],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout.strip()) == (2, message)


def test_costs_of_redis_can_be_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a real server: each cost that is said to be measured, and no other."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server isn't installed")
    monkeypatch.setattr(store_costs, "_ENTRIES", 500)
    monkeypatch.setattr(store_costs, "_ROUNDS", 100)
    found = store_costs.measured()
    said = {name for name, cost in COSTS.items() if "--measure" in cost.source}
    assert found.keys() == said
    assert all(value > 0 and math.isfinite(value) for value in found.values())
    assert found["entry_memory"] == pytest.approx(COSTS["entry_memory"].value, rel=0.25)

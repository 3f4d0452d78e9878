"""What is counted of each request, under which labels, and the bounds of both."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.observe import AccessLog, CountedOnly, Record
from gateway.observe.meters import (
    BOUNDS_MS,
    BUCKETS,
    CHECKS,
    CORE,
    MAX_LABEL,
    MAX_ROWS,
    OTHER,
    REQUESTS,
    UPSTREAMS,
    Meters,
    Numbers,
    is_sample,
)

IN, OUT = BUCKETS + 1, BUCKETS + 2


def record(**values: object) -> Record:
    usual: dict[str, object] = {
        "started": 1.0,
        "method": "GET",
        "status": 200,
        "route": "orders",
        "decision": "allowed",
        "reason": "cached",
        "upstream": "shop",
        "duration_ms": 20.0,
        "verify_at": 1.0,
        "verified_at": 1.001,
        "replied_at": 1.010,
    }
    return Record(**(usual | values))  # type: ignore[arg-type]


def counted(*records: Record) -> dict[tuple[str, ...], Numbers]:
    """Return the samples of a worker that has served *records*, by kind and labels."""
    meters = Meters()
    meters.count((one, 0.0) for one in records)
    samples = [*meters.samples()]
    assert all(map(is_sample, samples))
    return {(kind, *labels): numbers for kind, labels, numbers in samples}


def test_a_request_is_counted_and_logged() -> None:
    """With its duration, its bytes, and the durations of the check and the upstream."""
    one, written = record(bytes_in=5, bytes_out=7), io.StringIO()
    meters = Meters()
    assert meters.log_lines_lost == 0
    log = AccessLog("text", written, meters=meters)
    log.observe(one)
    samples = {(kind, *labels): n for kind, labels, n in meters.samples()}
    request = samples[REQUESTS, "orders", "GET", "200", "allowed", "cached", "shop"]
    assert request == (0, 0, 1, *(0,) * (BUCKETS - 3), 0.02, 5, 7)
    assert samples[CHECKS, "cached"] == (1, *(0,) * (BUCKETS - 1), 0.001)
    assert samples[UPSTREAMS, "shop"] == (0, 1, *(0,) * (BUCKETS - 2), 0.009)
    log.close()
    assert "orders" in written.getvalue()
    assert meters.log_lines_lost == log.dropped == 0


def test_calls_to_the_core_are_counted() -> None:
    """By path and outcome, each with its duration."""
    meters = Meters()
    meters.count_core_call("/recipe/session/verify", "200", 0.004)
    meters.count_core_call("/recipe/session/verify", "200", 0.006)
    meters.count_core_call("/recipe/session/verify", "unreachable", 60.0)
    samples = {sample[:2]: sample.numbers for sample in meters.samples()}
    good = samples[CORE, ("/recipe/session/verify", "200")]
    assert good == (1, 1, *(0,) * (BUCKETS - 2), 0.01)
    lost = samples[CORE, ("/recipe/session/verify", "unreachable")]
    assert lost == (*(0,) * (BUCKETS - 1), 1, 60.0)


def test_what_was_sent_is_known_by_route_and_service() -> None:
    """Whatever the method, the status and the decision."""
    meters = Meters()
    ones = [record(), record(method="PUT"), record(status=502), record(upstream=None)]
    meters.count((one, 0.0) for one in [*ones, record(upstream="canary")])
    sent = meters.sent()
    assert sent == {
        ("orders", "shop"): 3,
        ("orders", "canary"): 1,
        ("orders", None): 1,
    }
    assert sent["orders", "other"] == 0


def test_few_paths_of_the_core_are_counted_apart() -> None:
    """All beyond `MAX_ROWS` are counted together."""
    meters = Meters()
    for number in range(MAX_ROWS + 10):
        meters.count_core_call(f"/recipe/{number}", "200", 0.001)
    samples = {sample.labels: sample.numbers for sample in meters.samples()}
    assert len(samples) == MAX_ROWS + 1
    assert samples[OTHER, OTHER][0] == 10


def test_without_a_log_requests_are_counted() -> None:
    """`--log-format none` writes nothing, and keeps few records."""
    meters = Meters()
    log = CountedOnly(meters)
    for _ in range(1000):
        log.observe(record())
    assert len(log._pending) < 1000
    ((*_, numbers),) = (s for s in meters.samples() if s.kind == REQUESTS)
    assert sum(numbers[:BUCKETS]) == 1000
    assert log._pending == []


@pytest.mark.parametrize(
    ("values", "source"),
    [
        ({}, "cached"),
        ({"reason": "core"}, "core"),
        ({"decision": "denied", "reason": "token_expired"}, "denied"),
        ({"decision": "undecided", "reason": "keys_unavailable"}, "undecided"),
        ({"verified_at": 0.0}, None),
    ],
)
def test_the_check_of_a_session_has_its_source(
    values: dict[str, object], source: str | None
) -> None:
    """An allowed one says where the verdict came from; others say what it was."""
    checks = [name[1] for name in counted(record(**values)) if name[0] == CHECKS]
    assert checks == ([] if source is None else [source])


def test_an_upstream_without_a_reply_has_no_duration() -> None:
    """Connecting is part of the duration."""
    failed = counted(record(status=502, reason="upstream_closed", replied_at=0.0))
    assert not [name for name in failed if name[0] == UPSTREAMS]
    one = record(connect_ms=4.0)
    assert counted(one)[UPSTREAMS, "shop"][BUCKETS] == pytest.approx(0.009)


@given(st.floats(0, 1e6))
def test_each_duration_is_in_one_bucket(duration_ms: float) -> None:
    """A bound belongs to the bucket below it, as Prometheus's `le` says."""
    (numbers,) = (
        n
        for name, n in counted(record(duration_ms=duration_ms)).items()
        if name[0] == REQUESTS
    )
    buckets = numbers[:BUCKETS]
    assert sum(buckets) == 1
    at = buckets.index(1)
    assert at == BUCKETS - 1 or duration_ms <= BOUNDS_MS[at]
    assert at == 0 or duration_ms > BOUNDS_MS[at - 1]


def test_methods_that_clients_invent_have_one_label() -> None:
    """And nothing is remembered of them."""
    meters = Meters()
    for number in range(2 * MAX_ROWS):
        meters.count([(record(method=f"M{number}", status=501), 0.0)])
    meters.count([(record(method="-", status=400), 0.0)])
    rows = [sample.labels for sample in meters.samples() if sample.kind == REQUESTS]
    assert [labels[1] for labels in rows] == [OTHER, OTHER]


def test_the_rows_are_bounded() -> None:
    """What has no row of its own is counted all the same."""
    requests = [record(status=number) for number in range(MAX_ROWS + 50)]
    rows = {n: v for n, v in counted(*requests).items() if n[0] == REQUESTS}
    assert len(rows) == MAX_ROWS + 1
    other = rows[REQUESTS, OTHER, OTHER, "0", OTHER, OTHER, ""]
    assert sum(other[:BUCKETS]) == 50
    services = [record(upstream=f"s{number}") for number in range(MAX_ROWS + 50)]
    upstreams = {n: v for n, v in counted(*services).items() if n[0] == UPSTREAMS}
    assert len(upstreams) <= MAX_ROWS
    checks = [record(reason=f"r{number}") for number in range(MAX_ROWS + 50)]
    assert len([n for n in counted(*checks) if n[0] == CHECKS]) <= MAX_ROWS + 1


def test_labels_are_short_and_hold_no_path_or_user() -> None:
    """Only the fields of the key become labels."""
    one = record(
        route="r" * 500, path="/secret", user_id="ann", client="192.0.2.1", note="x"
    )
    (labels,) = (name for name in counted(one) if name[0] == REQUESTS)
    assert labels[1] == "r" * MAX_LABEL
    (odd,) = (
        name for name in counted(record(route="naïve\x80")) if name[0] == REQUESTS
    )
    assert odd[1] == "na?ve?"
    assert not {"/secret", "ann", "192.0.2.1", "x"} & {*labels}

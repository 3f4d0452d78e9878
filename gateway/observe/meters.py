"""PURE. What a worker counts of its requests, for metrics.

The access log has its batches counted. A request costs one look-up by route, method,
status, decision, reason and service. Neither a path nor a user becomes a label.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple, Protocol

from gateway.observe.record import Record

BOUNDS_MS: Final = (
    *(5.0, 10.0, 25.0, 50.0, 75.0, 100.0, 250.0, 500.0, 750.0, 1000.0, 2500.0),
    *(5000.0, 7500.0, 10000.0),
)
"""The upper bounds of the buckets of a duration; one more bucket has the rest.

Source: OpenTelemetry, semantic conventions for HTTP metrics.
"""
BUCKETS: Final = len(BOUNDS_MS) + 1
OTHER: Final = "_OTHER"
"""The label of unknown methods, and of all that has no room."""
METHODS: Final = frozenset(
    ("CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "TRACE")
)
"""The methods with a label of their own. Source: RFC 9110 §9, RFC 5789."""
POOL_STATES: Final = ("in_use", "idle", "waiting")
"""Connections to a target with an exchange or being dialled, those without one, and
requests that wait for a connection."""
MAX_ROWS: Final = 500
"""The combinations of labels that one worker counts apart. Clients can make some: a
service may answer with any status."""
MAX_LABEL: Final = 100
"""Of a label, in characters; longer ones are cut, and others than ASCII replaced, so
that the samples of a worker fit into one message."""

_SUM = BUCKETS
_IN = BUCKETS + 1
_OUT = BUCKETS + 2

Numbers = tuple[float, ...]


class Sample(NamedTuple):
    """Numbers with their labels."""

    kind: str
    labels: tuple[str, ...]
    numbers: Numbers


REQUESTS: Final = "requests"
CHECKS: Final = "checks"
UPSTREAMS: Final = "upstreams"
CORE: Final = "core"
POOL: Final = "pool"
CERTIFICATE: Final = "certificate"
"""When a certificate expires, in seconds since the epoch, by address and name."""
TARGET: Final = "target"
SERVICE: Final = "service"
MIRRORED: Final = "mirrored"
SPLIT: Final = "split"
"""The requests of a split route that one of its services has got."""
RATE_LIMITED: Final = "rate_limited"
"""The requests that a rate limit has refused, by its name."""
GAUGES: Final = frozenset(("gauge", POOL, CERTIFICATE, TARGET, SERVICE))
"""The kinds that may fall: they say nothing once their worker has ended."""
SHAPES: Final[dict[str, tuple[int, int]]] = {
    REQUESTS: (6, BUCKETS + 3),
    CHECKS: (1, BUCKETS + 1),
    UPSTREAMS: (1, BUCKETS + 1),
    CORE: (2, BUCKETS + 1),
    POOL: (1, len(POOL_STATES)),
    CERTIFICATE: (2, 1),
    TARGET: (2, 1),
    SERVICE: (1, 2),
    MIRRORED: (3, 1),
    SPLIT: (2, 1),
    RATE_LIMITED: (1, 1),
    "counter": (1, 1),
    "gauge": (1, 1),
}
"""Kind → how many labels and numbers its samples have.

A duration is `BUCKETS` counts and the sum in seconds. `requests` have route, method,
status, decision, reason and service, and after the duration the bytes in and out. A
`counter` never falls in the life of a worker, a `gauge` may. `core` has the path of a
call to the core and its outcome, `pool` a target and the `POOL_STATES` of its
connections, `target` a service and its target, with 1 if the worker sends it requests,
else 0. `service` has a service with limits, and the numbers of its requests that are in
progress and that wait. `mirrored` counts copies: of a service, to another one, by
outcome. `split` has a route and one of its services.
"""


def is_sample(sample: Sample) -> bool:
    """Return whether a sample has as many labels and numbers as its kind asks for."""
    return SHAPES.get(sample.kind) == (len(sample.labels), len(sample.numbers))


class Log(Protocol):
    """An access log that has its records counted."""

    @property
    def dropped(self) -> int:
        """The lines that were lost."""

    def flush(self) -> None:
        """Have the records that are still here counted."""


_Key = tuple[str | None, str, int, str, str, str | None]


class Meters:
    """Counts records, a batch at a time: a call for each would cost twice as much."""

    def __init__(self) -> None:
        self.log: Log | None = None
        """Where the records come from."""
        self._rows: dict[
            _Key, tuple[list[float], list[float] | None, list[float] | None]
        ] = {}
        """Key → its own numbers, and where the durations of the session check and of
        the upstream are counted, if there are some."""
        self._checks: dict[str, list[float]] = {}
        """By `source`: the reason of an allowed request, else the decision."""
        self._upstreams: dict[str, list[float]] = {}
        """By service."""
        self._core: dict[tuple[str, str], list[float]] = {}
        """By path and outcome."""

    @property
    def log_lines_lost(self) -> int:
        """Lines of the access log that were lost."""
        return 0 if self.log is None else self.log.dropped

    def count(self, batch: Iterable[tuple[Record, float]]) -> None:
        """Count records, each of which has the time of its end."""
        rows, find, bounds, at_sum = self._rows, bisect_left, BOUNDS_MS, _SUM
        first = bounds[0]
        for record, _ in batch:
            key = (
                record.route,
                record.method,
                record.status,
                record.decision,
                record.reason,
                record.upstream,
            )
            numbers, check, upstream = rows.get(key) or self._new_row(key)
            # Most durations are in the first bucket, which needs no search.
            took_ms = record.duration_ms
            numbers[0 if took_ms <= first else find(bounds, took_ms)] += 1
            numbers[at_sum] += took_ms
            if bytes_in := record.bytes_in:
                numbers[_IN] += bytes_in
            numbers[_OUT] += record.bytes_out
            verified_at = record.verified_at
            if verified_at and check is not None:
                took_ms = (verified_at - record.verify_at) * 1000.0
                check[0 if took_ms <= first else find(bounds, took_ms)] += 1
                check[at_sum] += took_ms
            if upstream is not None and (replied_at := record.replied_at):
                took_ms = (replied_at - (verified_at or record.started)) * 1000.0
                upstream[0 if took_ms <= first else find(bounds, took_ms)] += 1
                upstream[at_sum] += took_ms

    def count_core_call(self, path: str, outcome: str, took_s: float) -> None:
        """Count a call to the core: its path without a tenant, and how it ended."""
        key = path, outcome
        if key not in self._core and len(self._core) >= MAX_ROWS:
            key = OTHER, OTHER
        numbers = self._core.setdefault(key, [*(0,) * BUCKETS, 0.0])
        took_ms = took_s * 1000.0
        numbers[bisect_left(BOUNDS_MS, took_ms)] += 1
        numbers[_SUM] += took_ms

    def _new_row(
        self, key: _Key
    ) -> tuple[list[float], list[float] | None, list[float] | None]:
        """Return the row of *key*, or of all that have no row of their own."""
        route, method, status, decision, reason, service = key
        if method not in METHODS:
            # Not kept under the method itself: a client may send any.
            method = OTHER
            key = route, method, status, decision, reason, service
        if key not in self._rows and len(self._rows) >= MAX_ROWS:
            key = OTHER, OTHER, 0, OTHER, OTHER, None
            decision, service = OTHER, None
        row = self._rows.get(key)
        if row is None:
            source = reason if decision == "allowed" else decision
            row = self._rows[key] = (
                [*(0,) * BUCKETS, 0.0, 0, 0],
                _numbers_of(self._checks, source),
                None if service is None else _numbers_of(self._upstreams, service),
            )
        return row

    def samples(self) -> Iterator[Sample]:
        """Yield all that was counted, in seconds and bytes."""
        if self.log is not None:
            self.log.flush()
        for key, (numbers, _, _) in self._rows.items():
            labels = ("" if value is None else str(value) for value in key)
            yield Sample(REQUESTS, tuple(map(shown, labels)), _seconds(numbers))
        for kind, durations in ((CHECKS, self._checks), (UPSTREAMS, self._upstreams)):
            for label, numbers in durations.items():
                if any(numbers):
                    yield Sample(kind, (shown(label),), _seconds(numbers))
        for (path, outcome), numbers in self._core.items():
            yield Sample(CORE, (shown(path), shown(outcome)), _seconds(numbers))

    def sent(self) -> Counter[tuple[str | None, str | None]]:
        """Return how many requests were sent, by route and service."""
        sums: Counter[tuple[str | None, str | None]] = Counter()
        for (route, *_, service), (numbers, _, _) in self._rows.items():
            sums[route, service] += int(sum(numbers[:BUCKETS]))
        return sums


def shown(label: str) -> str:
    """Return *label* as it is sent and shown: cut, and ASCII."""
    return label[:MAX_LABEL].encode("ascii", "replace").decode()


def _numbers_of(durations: dict[str, list[float]], label: str) -> list[float]:
    """Return the numbers of *label*; those of `OTHER` beyond the greatest number."""
    if label not in durations and len(durations) >= MAX_ROWS:
        label = OTHER
    return durations.setdefault(label, [*(0,) * BUCKETS, 0.0])


def _seconds(numbers: list[float]) -> Numbers:
    """Return *numbers* with the sum of the durations in seconds."""
    return (
        *numbers[:_SUM],
        max(0.0, round(numbers[_SUM] / 1000, 6)),
        *numbers[_IN:],
    )

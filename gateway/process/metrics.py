"""edge. `/metrics`: what the hub has, as Prometheus text or OpenMetrics.

Rendering takes 0.1 ms for each histogram, so it happens here and not in a worker.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Final

from prometheus_client.core import (
    CollectorRegistry,
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from gateway import __version__
from gateway.errors import ServiceOverloaded
from gateway.observe.meters import (
    BOUNDS_MS,
    BUCKETS,
    CERTIFICATE,
    CHECKS,
    CORE,
    MIRRORED,
    POOL,
    POOL_STATES,
    RATE_LIMITED,
    REQUESTS,
    SERVICE,
    SPLIT,
    TARGET,
    UPSTREAMS,
    Numbers,
)
from gateway.process.messages import WORKER_STATES, Status
from gateway.process.metering import usage
from gateway.process.metric_series import SERIES
from gateway.process.plan_places import name_of
from gateway.process.totals import Totals
from gateway.shared.rates import RateStoreCounts
from gateway.shared.sharing import SharingCounts

Values = Mapping[tuple[str, ...], float]
Durations = Mapping[tuple[str, ...], Numbers]

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_OPENMETRICS: Final = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_BOUNDS: Final = (*(f"{bound / 1000:g}" for bound in BOUNDS_MS), "+Inf")
_IN, _OUT = BUCKETS + 1, BUCKETS + 2

_SHARED: Final = tuple(name for name in SERIES if name.startswith("shared_"))


def _of_rates(rates: RateStoreCounts | None) -> list[Values]:
    """Return the values of shared limits; none before the first one is drawn from."""
    if rates is None or not (rates.by_store or rates.without_store):
        return [{}, {}]
    by: Values = {("store",): rates.by_store, ("failure",): rates.without_store}
    return [{(): rates.is_connected}, by]


def _name(name: str) -> str:
    return name if name.startswith("process_") else f"gateway_{name}"


def _family(name: str, values: Values) -> Metric:
    kind, labels, text = SERIES[name]
    make = CounterMetricFamily if kind == "counter" else GaugeMetricFamily
    family = make(_name(name), text, labels=labels)
    for label_values, value in sorted(values.items()):
        family.add_metric(label_values, value)
    return family


def _histogram(name: str, durations: Durations) -> Metric:
    _, labels, text = SERIES[name]
    family = HistogramMetricFamily(_name(name), text, labels=labels)
    for label_values, numbers in sorted(durations.items()):
        buckets, count = [], 0.0
        for bound, number in zip(_BOUNDS, numbers[:BUCKETS], strict=True):
            count += number
            buckets.append((bound, count))
        family.add_metric(label_values, buckets, numbers[BUCKETS])
    return family


class _Requests:
    """Sums over the samples of requests, by some of their labels."""

    def __init__(self, totals: Totals) -> None:
        self._samples = totals.of(REQUESTS)

    def by(
        self,
        label: Callable[[Sequence[str]], tuple[str, ...] | None],
        numbers: Collection[int] = range(BUCKETS),
    ) -> Values:
        """Return the sums of these *numbers* by *label*; None: left out."""
        sums: dict[tuple[str, ...], float] = {}
        for labels, sample in self._samples.items():
            name = label(labels)
            if name is not None:
                value = sum(sample[number] for number in numbers)
                sums[name] = sums.get(name, 0.0) + value
        return sums

    def durations(self) -> Durations:
        """Return the durations by route, method and status."""
        sums: dict[tuple[str, ...], Numbers] = {}
        for labels, sample in self._samples.items():
            before = sums.get(labels[:3], (0.0,) * (BUCKETS + 1))
            numbers = zip(before, sample[: BUCKETS + 1], strict=True)
            sums[labels[:3]] = tuple(a + b for a, b in numbers)
        return sums


def _upstream(labels: Sequence[str]) -> tuple[str, ...] | None:
    _, _, code, _, _, service = labels
    return (service, code) if service else None


def _failure(labels: Sequence[str]) -> tuple[str, ...] | None:
    *_, reason, service = labels
    is_failure = reason.startswith("upstream_") or reason == ServiceOverloaded.code
    return (service, reason) if service and is_failure else None


class _Metrics(Collector):
    """Collects all series from the status and the totals."""

    def __init__(
        self,
        status: Status,
        totals: Totals,
        fetches: tuple[int, int],
        shared: SharingCounts | None,
        rates: RateStoreCounts | None,
    ) -> None:
        self._shared = shared
        self._rates = rates
        self._status = status
        self._fetches = fetches
        self._totals = totals

    def collect(self) -> Iterator[Metric]:
        """Yield every family of series."""
        yield from self._requests()
        yield from self._targets()
        yield from self._core()
        yield from self._workers()
        yield from self._sharing()
        yield from self._configuration()
        yield from self._processes()

    def _requests(self) -> Iterator[Metric]:
        requests = _Requests(self._totals)
        yield _family("http_requests", requests.by(lambda labels: tuple(labels[:3])))
        yield _histogram("http_request_duration_seconds", requests.durations())
        for name, number in (
            ("http_request_body_bytes", _IN),
            ("http_response_bytes", _OUT),
        ):
            by_route = requests.by(lambda labels: (labels[0],), (number,))
            yield _family(name, by_route)
        yield _family(
            "decisions", requests.by(lambda labels: (labels[0], *labels[3:5]))
        )
        yield _histogram("session_check_duration_seconds", self._totals.of(CHECKS))
        yield _family("upstream_requests", requests.by(_upstream))
        yield _histogram(
            "upstream_request_duration_seconds", self._totals.of(UPSTREAMS)
        )
        yield _family("upstream_failures", requests.by(_failure))
        limited = self._totals.of(RATE_LIMITED)
        yield _family("rate_limited", {policy: n for policy, (n,) in limited.items()})

    def _targets(self) -> Iterator[Metric]:
        connections: dict[tuple[str, ...], float] = {
            (target, state): number
            for (target,), numbers in self._totals.of(POOL).items()
            for state, number in zip(POOL_STATES, numbers, strict=True)
        }
        yield _family("upstream_connections", connections)
        copies = self._totals.of(MIRRORED)
        yield _family("mirrored_requests", {name: n for name, (n,) in copies.items()})
        parts = self._totals.of(SPLIT)
        yield _family("split_requests", {name: n for name, (n,) in parts.items()})
        up = self._totals.of(TARGET)
        yield _family("upstream_target_up", {name: n > 0 for name, (n,) in up.items()})
        limited = self._totals.of(SERVICE).items()
        yield _family("service_in_flight", {name: n for name, (n, _) in limited})
        yield _family("service_pending", {name: n for name, (_, n) in limited})

    def _core(self) -> Iterator[Metric]:
        counts: dict[tuple[str, ...], float] = {}
        durations: dict[tuple[str, ...], Numbers] = {}
        for (path, outcome), numbers in self._totals.of(CORE).items():
            counts[path, outcome] = sum(numbers[:BUCKETS])
            before = durations.get((path,), (0.0,) * len(numbers))
            added = zip(before, numbers, strict=True)
            durations[path,] = tuple(a + b for a, b in added)
        yield _family("core_requests", counts)
        yield _histogram("core_request_duration_seconds", durations)
        yield from self._one("core_sign_ins_waiting", "sign_ins_waiting", sum)
        good, failed = self._fetches
        good += int(self._counter("keys_fetched"))
        failed += int(self._counter("key_fetches_failed"))
        yield _family("keys_fetches", {("good",): good, ("failed",): failed})

    def _workers(self) -> Iterator[Metric]:
        status = self._status
        yield from self._one("keys_age_seconds", "keys_age_s", max)
        # Not the workers' own words: one that starts has no keys yet, and no clients.
        usable: Values = {}
        if "accepting" in status.slots:
            until = status.keys_until
            left_s = 0.0 if until is None else until - time.monotonic()
            usable = {(): max(0.0, left_s)}
        yield _family("keys_usable_seconds", usable)
        yield from self._one("token_cache_entries", "remembered", sum)
        yield from self._one("denylist_entries", "denied", max)
        yield _family("cert_not_after_seconds", self._totals.least(CERTIFICATE))
        yield from self._one("client_connections", "connections", sum)
        yield from self._one("http_active_requests", "active", sum)
        yield from self._one("websockets_active", "websockets", sum)
        yield _family("event_loop_lag_seconds", self._by_worker("lag_s"))
        yield _family("overload_refused_share", self._by_worker("refused_share"))
        yield _family("log_lines_lost", {(): self._counter("log_lines_lost")})
        states = [*status.slots]
        yield _family(
            "workers",
            {
                (state,): states.count(state) + status.others.get(state, 0)
                for state in WORKER_STATES
            },
        )
        restarts = status.restarts.items()
        yield _family("worker_restarts", {(cause,): n for cause, n in restarts})
        yield _family("hub_restarts", {(): status.hub_restarts})

    def _sharing(self) -> Iterator[Metric]:
        """Yield the families of the shared store; they are empty without one."""
        counts = self._shared
        values: list[Values] = [{}] * len(_SHARED)
        if counts is not None:
            values = [
                {(): counts.is_connected},
                {("sent",): counts.sent, ("received",): counts.received},
                {(): counts.skipped},
                {(): counts.waiting},
                {} if counts.lag_s is None else {(): counts.lag_s},
                *_of_rates(self._rates),
            ]
        for name, value in zip(_SHARED, values, strict=True):
            yield _family(name, value)

    def _configuration(self) -> Iterator[Metric]:
        status = self._status
        name = "config_last_reload_success"
        yield _family("config_generation", {(): status.generation})
        yield _family(name, {(): status.is_loaded})
        yield _family(f"{name}_timestamp_seconds", {(): status.loaded_at})
        yield _family("build_info", {(__version__, platform.python_version()): 1})

    def _processes(self) -> Iterator[Metric]:
        own = {sample.labels[0]: sample.numbers[0] for sample in usage()}
        yield _family(
            "process_cpu_seconds",
            {
                ("hub",): own["cpu_seconds"],
                ("workers",): self._counter("cpu_seconds"),
            },
        )
        for name, gauge in (
            ("process_resident_memory_bytes", "resident_bytes"),
            ("process_open_fds", "open_fds"),
            ("process_max_fds", "max_fds"),
        ):
            values = dict(self._by_worker(gauge))
            if gauge in own:
                values["hub",] = own[gauge]
            yield _family(name, values)

    def _one(
        self, name: str, gauge: str, join: Callable[[Iterable[float]], float]
    ) -> Iterator[Metric]:
        """Yield the joined values of all workers, if one has sent a value."""
        values = [value for _, value in self._totals.gauges(gauge)]
        yield _family(name, {(): join(values)} if values else {})

    def _by_worker(self, gauge: str) -> Values:
        """Return the greatest value in each slot: a reload has two workers there."""
        values: dict[tuple[str, ...], float] = {}
        for slot, value in self._totals.gauges(gauge):
            name = (name_of(slot),)
            values[name] = max(value, values.get(name, 0.0))
        return values

    def _counter(self, name: str) -> float:
        return sum(self._totals.of("counter").get((name,), (0.0,)))


def form_of(accept: str) -> str:
    """Return the media type for a client with *accept*."""
    return _OPENMETRICS if "application/openmetrics-text" in accept else _TEXT


def render(
    status: Status,
    totals: Totals,
    form: str,
    fetches: tuple[int, int],
    shared: SharingCounts | None = None,
    rates: RateStoreCounts | None = None,
) -> bytes:
    """Return the metrics in one of the media types of `form_of`.

    *fetches* are the hub's own fetches of keys: the good and the failed ones. *shared*
    and *rates* are what it counts of the shared store, if there is one.
    """
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Metrics(status, totals, fetches, shared, rates))
    if form == _OPENMETRICS:
        encoded: bytes = openmetrics.generate_latest(registry)  # type: ignore[no-untyped-call] # the library has no types there
        return encoded
    return generate_latest(registry)

"""What many replicas cost the store, the core and the targets: `make fleet`.

Computed, not measured: from the costs in `COSTS`, each of which names where it comes
from, and from what you say of your traffic. `--explain` prints each figure's formula.
`--measure` measures the costs of Redis again, with a server of its own, and ends.

Everything grows with the replicas: sessions are counted for each, so 1,000 replicas
with 5,000 sessions each are 5 million sessions.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Final

from bench.rig.store_costs import measured
from gateway.session.deny_list import MAX_SESSIONS
from gateway.shared.ledger import TRIM_MARGIN_S
from gateway.shared.sharing import PACE

MANY: Final = 1_000_000
"""Replicas. What carries so many isn't named as what breaks."""


@dataclass(frozen=True, slots=True)
class Cost:
    """One input, and where it comes from."""

    value: float
    unit: str
    source: str


_MEASURED: Final = "make fleet ARGS=--measure"
COSTS: Final = {
    "entry_memory": Cost(120, "bytes", _MEASURED),
    "read_cpu": Cost(86, "µs", _MEASURED),
    "read_bytes": Cost(290, "bytes", _MEASURED),
    "check_cpu": Cost(193, "µs", _MEASURED),
    "check_bytes": Cost(537, "bytes", _MEASURED),
    "write_cpu": Cost(106, "µs", _MEASURED),
    "write_bytes": Cost(267, "bytes", _MEASURED),
    "check_interval": Cost(PACE.check_s, "s", "gateway/shared/sharing.py"),
    "read_interval": Cost(1, "s", "gateway/shared/store.py"),
    "entries": Cost(MAX_SESSIONS, "entries", "gateway/session/deny_list.py"),
    "margin": Cost(TRIM_MARGIN_S, "s", "gateway/shared/ledger.py"),
    "request_cpu": Cost(31, "µs", "make bench: docs/performance.md"),
    "verify_cpu": Cost(82, "µs", "make bench: a new token's 113 less 31"),
    "base_memory": Cost(72, "MiB", "docs/performance.md, memory"),
    "worker_memory": Cost(29, "MiB", "docs/performance.md, memory"),
    "client_memory": Cost(1.7, "KiB", "make bench ARGS='--part idle'"),
    "redis_clients": Cost(10_000, "connections", "Redis's default of maxclients"),
    "cache_size": Cost(20_000, "tokens", "supertokens.cache.size"),
    "cache_age": Cost(60, "s", "supertokens.cache.max_age"),
    "keep_alive": Cost(4, "s", "services.<name>.keep_alive"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fleet:
    """What you say of your replicas and traffic. Each field is an option."""

    replicas: int = 10
    workers: int = 2
    """Of each replica."""
    targets: int = 20
    """Of all services."""
    sessions: float = 5_000
    """Active ones, for each replica."""
    rate: float = 0.1
    """Requests of a session in a second."""
    latency: float = 0.05
    """Of a service, in seconds."""
    lifetime: float = 3_600
    """Of an access token, in seconds: it is refreshed so often."""
    session_hours: float = 24
    """Between two sign-ins of a user."""
    sign_outs: float = 0.5
    """The share of sessions that end with a sign-out."""
    asks: float = 0.0
    """The share of requests for which the core is asked (`check_database`)."""
    keys_interval: float = 300
    """`supertokens.keys.refresh_interval`, in seconds."""
    checks_interval: float = 10
    """`health.active.interval`, in seconds. 0: no active checks."""
    core_calls: float = 1_000
    """What your core can take in a second. Assumed: measure it."""
    target_checks: float = 50
    """Checks in a second that a target may get. Assumed."""
    target_connections: float = 1_000
    """Connections that a target can hold. Assumed."""
    store_share: float = 0.5
    """Of one CPU, that Redis may use."""
    gateway_share: float = 0.5
    """Of one CPU for each worker, that requests may use."""


def _cost(name: str) -> float:
    return COSTS[name].value


def all_sessions(fleet: Fleet) -> float:
    """Return the active sessions of all replicas."""
    return fleet.replicas * fleet.sessions


def requests(fleet: Fleet) -> float:
    """Return the requests in a second, of all replicas."""
    return all_sessions(fleet) * fleet.rate


def sign_ins(fleet: Fleet) -> float:
    """Return the sign-ins in a second."""
    return all_sessions(fleet) / (fleet.session_hours * 3_600)


def sign_outs(fleet: Fleet) -> float:
    """Return the sign-outs in a second."""
    return sign_ins(fleet) * fleet.sign_outs


def refreshes(fleet: Fleet) -> float:
    """Return the refreshes in a second."""
    return all_sessions(fleet) / fleet.lifetime


def key_fetches(fleet: Fleet) -> float:
    """Return the fetches of keys in a second: each worker and hub has its own."""
    return fleet.replicas * (fleet.workers + 1) / fleet.keys_interval


def core_calls(fleet: Fleet) -> float:
    """Return the core's calls in a second, of all kinds."""
    asked = requests(fleet) * fleet.asks
    users = refreshes(fleet) + sign_ins(fleet) + sign_outs(fleet)
    return users + key_fetches(fleet) + asked


def store_reads(fleet: Fleet) -> float:
    """Return the reads in a second: each sign-out wakes each replica's."""
    return fleet.replicas * (1 / _cost("read_interval") + sign_outs(fleet))


def store_checks(fleet: Fleet) -> float:
    """Return the checks in a second, of three commands each."""
    return fleet.replicas / _cost("check_interval")


def store_commands(fleet: Fleet) -> float:
    """Return the commands in a second."""
    return store_reads(fleet) + 3 * store_checks(fleet) + 2 * sign_outs(fleet)


def store_bytes(fleet: Fleet) -> float:
    """Return the bytes in a second, in both directions."""
    return (
        store_reads(fleet) * _cost("read_bytes")
        + store_checks(fleet) * _cost("check_bytes")
        + sign_outs(fleet) * _cost("write_bytes")
    )


def store_cpu(fleet: Fleet) -> float:
    """Return the share of one CPU that Redis uses."""
    used_us = (
        store_reads(fleet) * _cost("read_cpu")
        + store_checks(fleet) * _cost("check_cpu")
        + sign_outs(fleet) * _cost("write_cpu")
    )
    return used_us / 1e6


def wanted_entries(fleet: Fleet) -> float:
    """Return the entries that the stream would need for all denials in force."""
    return sign_outs(fleet) * (fleet.lifetime + _cost("margin"))


def store_memory(fleet: Fleet) -> float:
    """Return the memory of the stream, in MiB."""
    entries = min(wanted_entries(fleet), _cost("entries"))
    return entries * _cost("entry_memory") / 2**20


def store_connections(fleet: Fleet) -> float:
    """Return Redis's connections."""
    return 2.0 * fleet.replicas


def checks_of_a_target(fleet: Fleet) -> float:
    """Return the active checks that one target gets in a second."""
    return fleet.replicas / fleet.checks_interval if fleet.checks_interval else 0.0


def checks(fleet: Fleet) -> float:
    """Return the active checks of all targets in a second."""
    return checks_of_a_target(fleet) * fleet.targets


def connections_of_a_target(fleet: Fleet) -> float:
    """Return about the connections that one target has open.

    Those in use (Little's law), and one that each worker keeps if it has sent a request
    within `keep_alive`; requests come at random.
    """
    workers = fleet.replicas * fleet.workers
    of_target = requests(fleet) / fleet.targets
    kept = workers * -math.expm1(-of_target / workers * _cost("keep_alive"))
    return of_target * fleet.latency + kept


def connections(fleet: Fleet) -> float:
    """Return about the open connections to all targets."""
    return connections_of_a_target(fleet) * fleet.targets


def new_tokens(fleet: Fleet) -> float:
    """Return the share of requests whose token a worker doesn't remember.

    Requests go to a worker at random, and come at random. A worker remembers a token
    for `cache_age`, and `cache_size` of them.
    """
    workers = fleet.replicas * fleet.workers
    in_an_age = fleet.rate / workers * _cost("cache_age")
    seen = all_sessions(fleet) * -math.expm1(-in_an_age)
    fits = min(1.0, _cost("cache_size") / seen) if seen else 1.0
    return 1 - fits * in_an_age / (1 + in_an_age)


def gateway_cpu(fleet: Fleet) -> float:
    """Return the share of its CPU that each worker needs for requests."""
    of_worker = requests(fleet) / (fleet.replicas * fleet.workers)
    cost_us = _cost("request_cpu") + new_tokens(fleet) * _cost("verify_cpu")
    return of_worker * cost_us / 1e6


def replica_memory(fleet: Fleet) -> float:
    """Return the memory of a replica in MiB, if each session has a connection."""
    clients_mib = fleet.sessions * _cost("client_memory") / 1024
    return _cost("base_memory") + fleet.workers * _cost("worker_memory") + clients_mib


def total_memory(fleet: Fleet) -> float:
    """Return the memory of all replicas, in GiB."""
    return fleet.replicas * replica_memory(fleet) / 1024


@dataclass(frozen=True, slots=True)
class Figure:
    """A row of the table."""

    name: str
    compute: Callable[[Fleet], float]
    formula: str


FIGURES: Final = (
    Figure("sessions", all_sessions, "replicas * sessions"),
    Figure("requests/s", requests, "all sessions * rate"),
    Figure("core: refreshes/s", refreshes, "all sessions / lifetime"),
    Figure("core: sign-ins/s", sign_ins, "all sessions / (session_hours * 3600)"),
    Figure("core: sign-outs/s", sign_outs, "sign-ins * sign_outs"),
    Figure(
        "core: key fetches/s", key_fetches, "replicas * (workers + 1) / keys_interval"
    ),
    Figure(
        "core: all calls/s",
        core_calls,
        "refreshes + sign-ins + sign-outs + key fetches + requests * asks",
    ),
    Figure(
        "redis: commands/s",
        store_commands,
        "replicas * (1 / read_interval + sign-outs) + 3 * replicas / check_interval"
        " + 2 * sign-outs",
    ),
    Figure(
        "redis: bytes/s",
        store_bytes,
        "reads * read_bytes + checks * check_bytes + sign-outs * write_bytes",
    ),
    Figure(
        "redis: CPUs",
        store_cpu,
        "(reads * read_cpu + checks * check_cpu + sign-outs * write_cpu) / 10^6",
    ),
    Figure("redis: connections", store_connections, "2 * replicas"),
    Figure(
        "redis: stream, MiB",
        store_memory,
        "min(entries, sign-outs * (lifetime + margin)) * entry_memory / 2^20",
    ),
    Figure("targets: checks/s, one", checks_of_a_target, "replicas / checks_interval"),
    Figure("targets: checks/s, all", checks, "checks of one * targets"),
    Figure(
        "targets: connections, one",
        connections_of_a_target,
        "r * latency + w * (1 - e^(-r / w * keep_alive)), with r = requests / targets"
        " and w = replicas * workers",
    ),
    Figure("targets: connections, all", connections, "connections of one * targets"),
    Figure(
        "gateway: new tokens, share",
        new_tokens,
        "1 - min(1, cache_size / s) * a / (1 + a), with a = rate * cache_age /"
        " (replicas * workers) and s = all sessions * (1 - e^-a)",
    ),
    Figure(
        "gateway: CPU of a worker",
        gateway_cpu,
        "requests / (replicas * workers) * (request_cpu + new tokens * verify_cpu)"
        " / 10^6",
    ),
    Figure(
        "gateway: MiB a replica",
        replica_memory,
        "base_memory + workers * worker_memory + sessions * client_memory / 1024",
    ),
    Figure("gateway: GiB in total", total_memory, "replicas * MiB a replica / 1024"),
)


@dataclass(frozen=True, slots=True)
class Limit:
    """What can break: its use may not be above 1."""

    name: str
    use: Callable[[Fleet], float]
    formula: str


LIMITS: Final = (
    Limit("the core's calls", lambda f: core_calls(f) / f.core_calls, "core_calls"),
    Limit("Redis's CPU", lambda f: store_cpu(f) / f.store_share, "store_share"),
    Limit(
        "Redis's connections",
        lambda f: store_connections(f) / _cost("redis_clients"),
        "redis_clients",
    ),
    Limit(
        "the stream's length: the oldest denials are lost",
        lambda f: wanted_entries(f) / _cost("entries"),
        "entries",
    ),
    Limit(
        "checks of a target",
        lambda f: checks_of_a_target(f) / f.target_checks,
        "target_checks",
    ),
    Limit(
        "connections of a target",
        lambda f: connections_of_a_target(f) / f.target_connections,
        "target_connections",
    ),
    Limit(
        "the workers' CPU", lambda f: gateway_cpu(f) / f.gateway_share, "gateway_share"
    ),
)


def with_replicas(fleet: Fleet, replicas: int) -> Fleet:
    """Return *fleet* with so many replicas."""
    values = {one.name: getattr(fleet, one.name) for one in fields(fleet)}
    return Fleet(**{**values, "replicas": replicas})


def breaks_at(limit: Limit, fleet: Fleet) -> int | None:
    """Return the least number of replicas that *limit* doesn't carry; None: any."""
    if limit.use(with_replicas(fleet, MANY)) <= 1:
        return None
    low, high = 0, MANY
    while high - low > 1:
        middle = (low + high) // 2
        if limit.use(with_replicas(fleet, middle)) > 1:
            high = middle
        else:
            low = middle
    return high


def breaking(fleet: Fleet) -> list[tuple[int, Limit]]:
    """Return what breaks and at how many replicas, the first one first."""
    found = ((breaks_at(limit, fleet), limit) for limit in LIMITS)
    broken = [(count, limit) for count, limit in found if count is not None]
    return sorted(broken, key=lambda pair: pair[0])


def number(value: float) -> str:
    """Return *value* with three digits that count, or whole."""
    if value >= 100 or value == int(value):
        return f"{value:,.0f}"
    return f"{value:.3g}"


def page(fleet: Fleet, counts: Sequence[int], *, explain: bool) -> str:
    """Return the tables."""
    lines = [
        "| replicas | " + " | ".join(f"{count:,}" for count in counts) + " |",
        "|---" * (len(counts) + 1) + "|",
    ]
    for figure in FIGURES:
        values = (figure.compute(with_replicas(fleet, count)) for count in counts)
        lines.append(f"| {figure.name} | " + " | ".join(map(number, values)) + " |")
    lines += ["", "| breaks | with replicas | option or cost |", "|---|---|---|"]
    lines += [
        f"| {limit.name} | {count:,} | `{limit.formula}` |"
        for count, limit in breaking(fleet)
    ]
    if explain:
        lines += ["", "| figure | formula |", "|---|---|"]
        lines += [f"| {one.name} | {one.formula} |" for one in FIGURES]
        lines += ["", "| cost | value | source |", "|---|---|---|"]
        lines += [
            f"| {name} | {number(one.value)} {one.unit} | {one.source} |"
            for name, one in COSTS.items()
        ]
        lines += ["", "| option | value |", "|---|---|"]
        lines += [
            f"| {one.name} | {number(getattr(fleet, one.name))} |"
            for one in fields(fleet)
            if one.name != "replicas"
        ]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """Return what reads the command line."""
    found = argparse.ArgumentParser(
        prog="python -m bench.scripts.fleet",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    found.add_argument(
        "--replicas", type=int, nargs="+", default=[10, 100, 1_000], metavar="N"
    )
    for one in fields(Fleet):
        if one.name != "replicas":
            kind = int if one.name in ("workers", "targets") else float
            option = f"--{one.name.replace('_', '-')}"
            text = f"default: {number(float(str(one.default)))}"
            found.add_argument(option, type=kind, default=one.default, help=text)
    found.add_argument("--explain", action="store_true", help="formulas and costs")
    found.add_argument("--measure", action="store_true", help="costs of Redis, anew")
    return found


def main() -> int:
    """Print the tables, or the costs of Redis."""
    given = parser().parse_args()
    if given.measure:
        for name, value in measured().items():
            print(f"{name}: {number(value)} {COSTS[name].unit}")
        return 0
    values = {
        one.name: getattr(given, one.name)
        for one in fields(Fleet)
        if one.name != "replicas"
    }
    may_be_zero = ("sign_outs", "asks", "checks_interval", "rate", "latency")
    for name, value in values.items():
        is_missing = not value and name not in may_be_zero
        if not math.isfinite(value) or value < 0 or is_missing:
            print(f"--{name.replace('_', '-')}: {value} isn't possible")
            return 2
    if min(given.replicas) < 1:
        print("--replicas: at least 1")
        return 2
    print(page(Fleet(**values), given.replicas, explain=given.explain))
    return 0


if __name__ == "__main__":
    sys.exit(main())

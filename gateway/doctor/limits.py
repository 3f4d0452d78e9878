"""PURE. What the limits of this machine or container mean for a gateway."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from gateway.config import GatewayConfig, ListenAddress, same_host
from gateway.doctor.diagnosis import Diagnosis, fail, ok, warn
from gateway.routes import Service

SHARED_BYTES: Final = 75 * 1024**2
"""Of all processes together: what they share, supervisor and hub."""
WORKER_BYTES: Final = 30 * 1024**2
"""Of each worker that has called the core (docs/operations.md, "Memory")."""
TOKEN_BYTES: Final = 12 * 1024
"""Of a remembered token, at most (docs/operations.md, "What clients can make …")."""
SPARE_DESCRIPTORS: Final = 64
"""Of a worker, for what is neither a client nor a service."""
LOW_DISK_BYTES: Final = 100 * 1024**2


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineFacts:
    """What this process may use, and where it runs."""

    in_container: bool
    descriptors: int | None
    """The hard limit, to which `serve` raises its own; None: unlimited."""
    cpus: int
    memory_bytes: int | None
    """What the control group allows; None: no limit."""
    workers: int
    """How many `serve` would run."""
    stop_timeout_s: float | None = None
    """How long whatever stops the gateway waits; None: not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenFacts:
    """Whether an address could be listened on."""

    address: ListenAddress
    trouble: str = ""
    """Why it can't be; empty: it can, or somebody listens there already."""
    is_in_use: bool = False


def listening(facts: ListenFacts, *, in_container: bool) -> Diagnosis:
    """Return whether an address can be listened on, and whether others reach it.

    A container's loopback is right for a sidecar, so it is no failure. For probes it is
    as good as any other address: pass *in_container* False.
    """
    address = facts.address
    if facts.trouble:
        return fail("listen", facts.trouble, "Choose another address or port")
    is_local = not address.is_unix and same_host(address.host) == "localhost"
    if in_container and is_local:
        return warn(
            "listen",
            f"{address} is reached from inside this container only",
            f"Listen on 0.0.0.0:{address.port}; the container's network decides who"
            " reaches it",
        )
    if facts.is_in_use:
        return warn(
            "listen",
            f"{address} is in use, by a running gateway or by something else",
            "If this gateway doesn't run yet, stop what listens there",
        )
    return ok("listen", f"{address} can be listened on")


def descriptors(
    machine: MachineFacts, gateway: GatewayConfig, services: Iterable[Service]
) -> Diagnosis:
    """Return whether a worker can hold as many connections as the file allows it."""
    clients = gateway.limits.max_connections
    upstream = sum(each.max_connections * len(each.targets) for each in services)
    need = clients + upstream + SPARE_DESCRIPTORS
    limit = machine.descriptors
    if limit is None or limit >= need:
        shown = "unlimited" if limit is None else str(limit)
        return ok(
            "descriptors", f"the limit is {shown}, and a worker takes up to {need}"
        )
    worse = fail if limit < upstream + SPARE_DESCRIPTORS else warn
    return worse(
        "descriptors",
        f"the limit is {limit}, and a worker takes up to {need}: {clients} for clients,"
        f" {upstream} for services",
        f"Raise the limit to {need} or more (ulimit -n, LimitNOFILE, ulimits.nofile),"
        " or lower gateway.limits.max_connections",
    )


def processors(machine: MachineFacts) -> Diagnosis:
    """Return whether each worker has a CPU."""
    text = f"workers: {machine.workers}, usable CPUs: {machine.cpus}"
    if machine.workers > machine.cpus:
        return warn(
            "cpus", text, "Lower --workers or GATEWAY_WORKERS, or raise the CPU limit"
        )
    return ok("cpus", text)


def memory(machine: MachineFacts, *, tokens: int, per_worker: int | None) -> Diagnosis:
    """Return whether the memory limit holds what the workers may come to hold.

    *tokens* are remembered by each worker; *per_worker* is `gateway.limits.memory`.
    """
    if machine.memory_bytes is None:
        return ok("memory", "no limit is set")
    rest = SHARED_BYTES + machine.workers * WORKER_BYTES
    need = rest + machine.workers * (tokens * TOKEN_BYTES + (per_worker or 0))
    text = (
        f"the limit is {_mib(machine.memory_bytes)}; with {machine.workers} workers,"
        f" the gateway takes {_mib(rest)} at rest, and up to {_mib(need)} with all"
        " tokens remembered"
    )
    if machine.memory_bytes < rest:
        return fail("memory", text, "Raise the limit, or run fewer workers")
    if machine.memory_bytes < need:
        return warn(
            "memory",
            text,
            "Raise the limit, run fewer workers, or lower supertokens.cache.size or"
            " gateway.limits.memory",
        )
    if per_worker is None:
        return warn(
            "memory",
            f"{text}. What slow clients make it hold comes on top, and has no limit",
            "Set gateway.limits.memory, for each worker",
        )
    return ok("memory", text)


def stopping(machine: MachineFacts, longest_s: float) -> Diagnosis:
    """Return whether a stop may take as long as it needs, *longest_s*."""
    text = f"a stop takes up to {longest_s:g} s"
    if machine.stop_timeout_s is None:
        return ok("stop", f"{text}; give --stop-timeout to compare it with a limit")
    if machine.stop_timeout_s <= longest_s:
        return fail(
            "stop",
            f"{text}, and the gateway is killed after {machine.stop_timeout_s:g} s",
            f"Raise what stops it (stop_grace_period, TimeoutStopSec,"
            f" terminationGracePeriodSeconds) above {longest_s:g} s, or lower"
            " gateway.drain_timeout",
        )
    return ok("stop", f"{text}, and may take {machine.stop_timeout_s:g} s")


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkFacts:
    """Where the standard output leads, to which the access log is written."""

    trouble: str = ""
    """Why it can't be written; empty: it can."""
    free_bytes: int | None = None
    """On its disk, if it is a file."""


def sink(facts: SinkFacts) -> Diagnosis:
    """Return whether the access log can be written where this command writes."""
    if facts.trouble:
        return warn(
            "log", f"standard output: {facts.trouble}", "Lead it to a file or a program"
        )
    if facts.free_bytes is not None and facts.free_bytes < LOW_DISK_BYTES:
        return warn(
            "log",
            f"standard output: {_mib(facts.free_bytes)} are left on its disk",
            "Free space there, or rotate the log",
        )
    return ok("log", "standard output can be written")


def _mib(size: int) -> str:
    return f"{size / 1024**2:.0f} MiB"

"""PURE. Health: the checks, what each one means, and the answer of each probe.

Everything is judged from what the supervisor and the hub know already. No probe asks
the core, a service or a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from gateway.process.messages import Status
from gateway.tls.certificates import SOON_S

SUPERVISOR_SILENT_S: Final = 15.0
"""The supervisor sends a ping each second. After this long without one, it hangs."""


class Level(IntEnum):
    """How good something is; the highest of several counts."""

    OK = 0
    DEGRADED = 1
    """Some requests are served and others not. Answered with 200: an outage of what all
    gateways share must not take all of them out of a load balancer."""
    FAILING = 2
    """Answered with 503."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known when a probe is answered."""

    status: Status
    heard_at: float
    """When the supervisor sent its last message, on the monotonic clock."""
    core_trouble: str | None
    """What is wrong with the core, without its address; None: nothing is known."""
    now: float
    """On the monotonic clock."""
    certificate_left_s: float | None = None
    """Until the first certificate expires; None: there is none, or it isn't known."""
    services_down: tuple[str, ...] = ()
    """The services of which all targets fail their checks."""
    store_trouble: str | None = None
    """Why the store that gateways share can't be used, without its address; None: it
    can, or there is none."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The result of a check."""

    level: Level
    reason: str = ""


_OK: Final = CheckResult(Level.OK)


def _supervisor(facts: Facts) -> CheckResult:
    silent_s = facts.now - facts.heard_at
    if silent_s < SUPERVISOR_SILENT_S:
        return _OK
    return CheckResult(Level.FAILING, f"no message for {silent_s:.0f} s")


def _workers(facts: Facts) -> CheckResult:
    slots = facts.status.slots
    if slots and all(state == "hanging" for state in slots):
        return CheckResult(Level.FAILING, "no worker answers")
    return _OK


def _accepting(facts: Facts) -> CheckResult:
    slots = facts.status.slots
    accepting = slots.count("accepting")
    if not accepting:
        return CheckResult(Level.FAILING, "no worker accepts")
    if accepting < len(slots):
        return CheckResult(
            Level.DEGRADED, f"{accepting} of {len(slots)} workers accept"
        )
    return _OK


def _draining(facts: Facts) -> CheckResult:
    if facts.status.is_draining:
        return CheckResult(Level.FAILING, "the gateway stops")
    return _OK


def _keys(facts: Facts) -> CheckResult:
    until = facts.status.keys_until
    if until is None or until <= facts.now:
        return CheckResult(
            Level.DEGRADED,
            "a worker has no signing keys: its protected routes answer 503",
        )
    return _OK


def _core(facts: Facts) -> CheckResult:
    if facts.core_trouble is None:
        return _OK
    return CheckResult(Level.DEGRADED, facts.core_trouble)


def _certificates(facts: Facts) -> CheckResult:
    left_s = facts.certificate_left_s
    if left_s is None or left_s >= SOON_S:
        return _OK
    if left_s <= 0:
        return CheckResult(Level.DEGRADED, "a certificate has expired")
    days = int(left_s // 86400)
    return CheckResult(Level.DEGRADED, f"a certificate expires in {days} days")


def _services(facts: Facts) -> CheckResult:
    down = facts.services_down
    if not down:
        return _OK
    others = f" and {len(down) - 1} more" if len(down) > 1 else ""
    return CheckResult(
        Level.DEGRADED, f"all targets of service {down[0]}{others} fail their checks"
    )


def _shared(facts: Facts) -> CheckResult:
    if facts.store_trouble is None:
        return _OK
    return CheckResult(
        Level.DEGRADED, f"the shared store can't be used: {facts.store_trouble}"
    )


def _started(facts: Facts) -> CheckResult:
    status = facts.status
    if status.is_started:
        return _OK
    if "accepting" in status.slots:
        return CheckResult(Level.FAILING, "the core's signing keys are awaited")
    return CheckResult(Level.FAILING, "no worker has accepted yet")


CHECKS: Final[Mapping[str, Callable[[Facts], CheckResult]]] = {
    "supervisor": _supervisor,
    "workers": _workers,
    "accepting": _accepting,
    "draining": _draining,
    "keys": _keys,
    "core": _core,
    "certificates": _certificates,
    "services": _services,
    "shared": _shared,
    "started": _started,
}

PROBES: Final[Mapping[str, tuple[str, ...]]] = {
    "/livez": ("supervisor", "workers"),
    "/readyz": (
        *("accepting", "draining", "keys", "core", "certificates", "services"),
        "shared",
    ),
    "/startupz": ("started",),
}
"""Path → the checks that it answers for."""


@dataclass(frozen=True, slots=True)
class HealthCheck:
    """A check with its history. Times are in seconds since the epoch."""

    finding: CheckResult
    since: float
    """When it began to be at this level."""
    last_ok: float | None
    """When it was seen OK for the last time; None: never by this hub."""

    @property
    def is_ok(self) -> bool:
        return self.finding.level is Level.OK


@dataclass(frozen=True, slots=True)
class Health:
    """The answer of a probe."""

    level: Level
    generation: int
    checks: Mapping[str, HealthCheck]

    @property
    def is_failing(self) -> bool:
        return self.level is Level.FAILING


class Board:
    """Remembers since when each check is as it is."""

    def __init__(self) -> None:
        self._checks: dict[str, HealthCheck] = {}

    def update(self, facts: Facts, epoch: float) -> None:
        """Judge *facts* now, at *epoch* in seconds since 1970."""
        for name, judge in CHECKS.items():
            finding = judge(facts)
            before = self._checks.get(name)
            last_ok = None if before is None else before.last_ok
            if finding.level is Level.OK:
                last_ok = epoch
            is_same = before is not None and before.finding.level is finding.level
            since = before.since if before is not None and is_same else epoch
            self._checks[name] = HealthCheck(finding, since, last_ok)

    def health(
        self, path: str, generation: int, *, exclude: Collection[str] = ()
    ) -> Health:
        """Return the answer of the probe at *path*, without the checks in *exclude*."""
        checks = {
            name: self._checks[name] for name in PROBES[path] if name not in exclude
        }
        level = max((check.finding.level for check in checks.values()), default=0)
        return Health(Level(level), generation, checks)

"""PURE. What the hub knows of services' targets, for operators."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.observe.meters import POOL, POOL_STATES, TARGET, shown
from gateway.process.totals import Totals


def targets_shown(
    totals: Totals, checks: Mapping[str, Mapping[str, bool]]
) -> list[dict[str, object]]:
    """Return one JSON object for each target of each service, in alphabetical order.

    *totals* has what the workers count. *checks* has, by service and target, whether
    `health.active` finds it well.
    """
    sending = {name: int(n) for name, (n,) in totals.of(TARGET).items()}
    connections = {
        target: dict(zip(POOL_STATES, map(int, numbers), strict=True))
        for (target,), numbers in totals.of(POOL).items()
    }
    well = {
        (shown(service), shown(target)): is_well
        for service, found in checks.items()
        for target, is_well in found.items()
    }
    return [
        {
            "service": service,
            "target": target,
            "check": _word(well.get((service, target))),
            "workers_that_send": sending.get((service, target), 0),
            "connections": connections.get(target, dict.fromkeys(POOL_STATES, 0)),
        }
        for service, target in sorted({*sending, *well})
    ]


def _word(is_well: bool | None) -> str | None:
    return None if is_well is None else "up" if is_well else "down"

"""Facts of a gateway that is well, and of others."""

from __future__ import annotations

from dataclasses import replace

from gateway.process.health import Facts
from gateway.process.messages import Status

EPOCH = 1_700_000_000.0
NOW = 100.0
WELL = Status(
    generation=1,
    children=(1, 2),
    slots=("accepting", "accepting"),
    others={},
    is_started=True,
    is_draining=False,
    keys_until=NOW + 1,
    is_loaded=True,
    loaded_at=EPOCH,
    restarts={},
    hub_restarts=0,
)
FACTS = Facts(status=WELL, heard_at=NOW, core_trouble=None, now=NOW)


def with_status(**changes: object) -> Facts:
    return replace(FACTS, status=replace(WELL, **changes))  # type: ignore[arg-type]

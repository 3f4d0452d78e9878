"""PURE. How long a stop takes at most, for what kills a gateway that takes longer."""

from __future__ import annotations

from gateway.config import GatewayConfig
from gateway.process.plan_pace import SupervisorPace


def longest_stop_s(gateway: GatewayConfig, pace: SupervisorPace | None = None) -> float:
    """Return the longest time from SIGTERM to the end of the last process, in seconds.

    Whatever kills the gateway after a time of its own (Docker's stop_grace_period,
    systemd's TimeoutStopSec, a pod's terminationGracePeriodSeconds) must wait longer.
    """
    pace = pace or SupervisorPace()
    return (
        (gateway.shutdown_delay or 0.0)
        + gateway.drain_timeout
        + pace.drain_extra_s
        + pace.hub_end_s
    )

"""The longest time that a stop takes."""

from __future__ import annotations

from gateway.config import GatewayConfig
from gateway.process.plan_pace import SupervisorPace
from gateway.process.stopping import longest_stop_s


def test_it_is_the_sum_of_all_waits() -> None:
    """The delay, the drain, cancelled requests and the log, and the hub."""
    pace = SupervisorPace(drain_extra_s=4, hub_end_s=8)
    gateway = GatewayConfig(drain_timeout=2)
    assert longest_stop_s(gateway, pace) == 14
    delayed = GatewayConfig(drain_timeout=2, shutdown_delay=1)
    assert longest_stop_s(delayed, pace) == 15
    assert longest_stop_s(GatewayConfig()) == 42

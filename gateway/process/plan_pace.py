"""PURE. The times and counts of the supervisor's plan."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.pace import backoff_s


@dataclass(frozen=True, slots=True, kw_only=True)
class SupervisorPace:
    """The times and counts that a plan uses."""

    tick_s: float = 1.0
    """Between two pings."""
    silent_ticks: int = 15
    """Unanswered pings after which a child is killed: a worker that hangs serves no
    requests and misses sign-outs. Counted, not timed, so that no child is late after
    the machine has slept."""
    start_ticks: int = 60
    """The same while a child starts: a `config_module` may be slow."""
    drain_extra_s: float = 10.0
    """Beyond `drain_timeout`, to end cancelled requests and write the log. Then a
    worker is killed."""
    first_delay_s: float = 0.1
    """The delay before a child that ended is replaced, doubled each time
    (`backoff_s`)."""
    max_delay_s: float = 30.0
    """The longest such delay."""
    keys_extra_s: float = 5.0
    """Beyond `keys.timeout`, for the workers of a reload to fetch their first keys.
    Then the reload fails."""
    hub_end_s: float = 2.0
    """For the hub to exit when no worker is left. Then it is killed."""
    upgrade_s: float = 60.0
    """For the next gateway of an upgrade to be ready. Then it is ended."""
    upgrade_end_s: float = 10.0
    """For a next gateway to exit when it isn't wanted. Then it is killed."""
    steady_s: float = 30.0
    """The uptime of a child that resets the delay to `first_delay_s`."""

    def delay_s(self, failures: int) -> float:
        """Return the delay after *failures* children of a place ended in a row."""
        return backoff_s(self.first_delay_s, failures, self.max_delay_s)

    def most_silent(self, *, is_starting: bool) -> int:
        """Return how many pings a child may leave unanswered."""
        return self.start_ticks if is_starting else self.silent_ticks

"""PURE. The checks of a service's targets: what is asked, and what follows from it."""

from __future__ import annotations

from dataclasses import dataclass

_GOOD = range(200, 400)


def is_good(status: int) -> bool:
    """Return whether a target that answers with *status* is well.

    A redirection is good, as for Kubernetes: the service is there to redirect.
    """
    return status in _GOOD


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceCheck:
    """How the targets of one service are checked (`health.active`)."""

    service: str
    targets: tuple[str, ...]
    """Their URLs."""
    resolve_s: float | None
    """How often names are looked up for all their addresses, each of which is checked;
    None: a name is one target."""
    path: str
    interval_s: float
    timeout_s: float
    up: int
    """Good checks in a row after which a target is up."""
    down: int
    """Failed ones in a row after which it is down."""
    host: str | None
    """For the Host field; None: the target's authority."""
    ca_file: str | None
    server_name: str | None
    verify: bool


class CheckedTarget:
    """The state of one target. A target that hasn't been judged yet is up."""

    __slots__ = ("_check", "_row", "is_down")

    def __init__(self, check: ServiceCheck, *, is_down: bool = False) -> None:
        self._check = check
        self.is_down = is_down
        self._row = 0
        """Results in a row that speak against the state."""

    def note(self, *, is_well: bool) -> bool:
        """Note the result of a check; return whether it changes the state."""
        if is_well is not self.is_down:
            self._row = 0
            return False
        self._row += 1
        if self._row < (self._check.up if self.is_down else self._check.down):
            return False
        self.is_down, self._row = not self.is_down, 0
        return True

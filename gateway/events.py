"""PURE. The events that the gateway reports of itself on standard error.

Each line there has the code of one event. docs/operations.md has the same table, and a
test compares them, and the facts that the code gives with each event.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum, StrEnum
from typing import Final

Fact = str | int | float | bool | None | Sequence[str]
"""A value that belongs to an event."""


class Severity(StrEnum):
    """How much an event, or a request, needs an operator."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


_INFO, _WARNING, _ERROR = Severity.INFO, Severity.WARNING, Severity.ERROR


class RuntimeEvent(Enum):
    """What can happen to a gateway: code, severity, and the names of its facts."""

    READY = "ready", _INFO, ("url", "probes", "file", "version", "workers")
    SHUTDOWN = "shutdown", _INFO, ("delay_s", "drain_s")
    CONFIG_PROBLEM = "config_problem", _ERROR, ("file", "line", "column", "key", "hint")
    CONFIG_WARNING = (
        "config_warning",
        _WARNING,
        ("file", "line", "column", "key", "hint"),
    )
    START_REFUSED = "start_refused", _ERROR, ("problems",)
    RELOAD_DONE = "reload_done", _INFO, ("file", "changes")
    RELOAD_REFUSED = "reload_refused", _ERROR, ("problems",)
    UPGRADE_DONE = "upgrade_done", _INFO, ()
    UPGRADE_REFUSED = "upgrade_refused", _ERROR, ("reason",)
    RESTART_NEEDED = "restart_needed", _WARNING, ("key",)
    WORKER_LOST = (
        "worker_lost",
        _ERROR,
        ("lost", "lost_pid", "reason", "restart_in_s"),
    )
    HUB_LOST = "hub_lost", _WARNING, ("lost_pid", "reason", "restart_in_s")
    CORE_LOST = "core_lost", _WARNING, ("reason", "keys_until")
    CORE_BACK = "core_back", _INFO, ()
    CORE_REFUSING = "core_refusing", _ERROR, ("reason",)
    CORE_ACCEPTING = "core_accepting", _INFO, ()
    CORE_UNLICENSED = "core_unlicensed", _ERROR, ()
    KEYS_STALE = "keys_stale", _WARNING, ("reason", "keys_until")
    KEYS_FRESH = "keys_fresh", _INFO, ()
    KEYS_EXPIRED = "keys_expired", _ERROR, ()
    CERTIFICATES_CHANGED = "certificates_changed", _INFO, ("address",)
    CERTIFICATES_REFUSED = "certificates_refused", _ERROR, ("address",)
    TARGET_EJECTED = (
        "target_ejected",
        _WARNING,
        ("service", "target", "reason", "ejected_s"),
    )
    TARGET_BACK = "target_back", _INFO, ("service", "target")
    TARGET_DOWN = "target_down", _WARNING, ("service", "target", "reason")
    TARGET_UP = "target_up", _INFO, ("service", "target")
    NAME_LOST = "name_lost", _WARNING, ("service", "target", "reason", "addresses")
    NAME_BACK = "name_back", _INFO, ("service", "target")
    ADDRESSES_LEFT_OUT = (
        "addresses_left_out",
        _WARNING,
        ("service", "target", "addresses"),
    )
    SHARED_STORE_LOST = "shared_store_lost", _WARNING, ("store", "reason")
    SHARED_STORE_CONNECTED = "shared_store_connected", _INFO, ("store", "key")
    SHARED_LIMITS_LOST = "shared_limits_lost", _WARNING, ("store", "reason")
    SHARED_LIMITS_CONNECTED = "shared_limits_connected", _INFO, ("store", "key")
    PROXY_NOT_TRUSTED = "proxy_not_trusted", _WARNING, ("peer",)
    ADMIN_ACTION = "admin_action", _INFO, ("peer", "action", "status")
    CONNECTIONS_CLOSED = (
        "connections_closed",
        _WARNING,
        ("limit", "count", "client"),
    )
    OVERLOADED = "overloaded", _WARNING, ("lag_s",)
    OVERLOAD_OVER = "overload_over", _INFO, ()
    OUT_OF_DESCRIPTORS = "out_of_descriptors", _ERROR, ()
    LOG_LINES_LOST = "log_lines_lost", _WARNING, ("reason",)
    LOG_LINES_COUNTED = "log_lines_counted", _WARNING, ("count",)
    MESSAGES_LOST = "messages_lost", _WARNING, ("count",)
    SPANS_LOST = "spans_lost", _WARNING, ()
    SPANS_EXPORTED = "spans_exported", _INFO, ()
    MAIL_WITHHELD = "mail_withheld", _WARNING, ("kind",)
    REQUEST_FAILED = "request_failed", _ERROR, ("request_id",)
    CONNECTION_FAILED = "connection_failed", _ERROR, ()
    VERIFICATION_FAILED = "verification_failed", _ERROR, ()
    OTHER = "other", _WARNING, ("logger",)
    """A message of a library, or of one that has no event of its own."""

    def __init__(
        self, code: str, severity: Severity, fact_names: tuple[str, ...]
    ) -> None:
        self.code = code
        self.severity = severity
        self.fact_names = fact_names


ONCE: Final = frozenset((RuntimeEvent.CORE_UNLICENSED, RuntimeEvent.PROXY_NOT_TRUSTED))
"""Events of the whole gateway that each worker notices by itself. The supervisor
reports the first of equal ones."""
ONCE_CODES: Final = {event.code: event for event in ONCE}


_RANKS: Final = {severity: rank for rank, severity in enumerate(Severity)}
_AT_EACH_LEVEL: Final = frozenset((RuntimeEvent.ADMIN_ACTION,))
"""Who has acted on the gateway stays known, also if that was to write less."""


def is_written(event: RuntimeEvent, least: Severity) -> bool:
    """Return whether *event* has a line; *least* is the least severity that has one."""
    return event in _AT_EACH_LEVEL or _RANKS[event.severity] >= _RANKS[least]


def about(event: RuntimeEvent, **facts: Fact) -> dict[str, object]:
    """Return what a call of `logging` gets as *extra*: the event and its facts."""
    return {"event": event, "facts": facts}

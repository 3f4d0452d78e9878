"""edge. What the boundaries for unexpected failures log."""

from __future__ import annotations

import logging

from gateway.events import RuntimeEvent, about
from gateway.observe.record import Record

_log = logging.getLogger("gateway")


def log_unexpected(record: Record) -> None:
    """Log the exception that is handled now, with the id of the request that failed."""
    _log.exception(
        "request %s failed",
        record.request_id,
        extra=about(RuntimeEvent.REQUEST_FAILED, request_id=record.request_id),
    )

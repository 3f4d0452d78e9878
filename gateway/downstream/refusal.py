"""edge. The response to a request whose head was refused, before any handler."""

from __future__ import annotations

import time
from dataclasses import replace

from gateway import responses
from gateway.errors import GatewayError
from gateway.observe import Observer, Record


def refusal(
    error: GatewayError, client: str, request_id: str, observer: Observer
) -> responses.Response:
    """Record the request of *client* for *observer*; return the response."""
    observer.observe(
        Record(
            started=time.perf_counter(),
            client=client,
            request_id=request_id,
            status=error.status,
            side=error.side,
            reason=error.code,
            note=error.detail,
        )
    )
    answer = responses.failure(error, request_id)
    id_field = (b"X-Request-Id", request_id.encode())
    return replace(answer, fields=(*answer.fields, id_field))

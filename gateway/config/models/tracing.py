"""PURE. The keys below `tracing`."""

from __future__ import annotations

from typing import Literal

from gateway.config.forms import Flag
from gateway.config.models.base import Model


class TracingConfig(Model):
    """Traces; see docs/operations.md. OpenTelemetry's variables OTEL_* say which spans
    are exported, and where to."""

    inbound: Literal["restart", "continue"] = "restart"
    """What happens to the `traceparent` of a client that isn't a trusted proxy. With
    `restart` a new trace begins; with `continue` the client's goes on, without its flag
    and its `tracestate`. The traces of trusted proxies always go on.

    Risk: with `continue`, clients choose the trace ids in your logs and services.
    """
    user_id: Flag = False
    """Put the user's id into exported spans, as `enduser.id`."""

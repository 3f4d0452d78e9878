"""PURE. The keys below `gateway`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from gateway.config.findings import Finding
from gateway.config.forms import Bytes, Cidr, Listen, OwnPath, Positive, Seconds
from gateway.config.models.base import Model


class LimitsConfig(Model):
    """What one client may ask of the listener. See docs/proxying.md for reasons."""

    head_timeout: Seconds = 10.0
    """From the first byte of a request to the end of its head."""
    keep_alive: Seconds = 75.0
    """How long an idle client connection is kept."""
    body_idle_timeout: Seconds = 30.0
    """The longest gap between two pieces of a request body."""
    body_min_rate: Bytes = 256
    """Bytes a second that a request body must reach on average, after 10 s; 0: off."""
    max_target_size: Bytes = 8192
    """Path and query of a request."""
    max_field_size: Bytes = 16384
    """One header field, name and value."""
    max_head_size: Bytes = 65536
    """The request line and all header fields."""
    max_fields: Positive = 100
    """How many header fields a request has."""
    max_body_size: Bytes = 100 * 1024**2
    """One request body. Routes change it with `request.max_body_size`."""
    drain_body: Bytes = 65536
    """How much of a refused request's body is read to keep the connection."""
    write_idle_timeout: Seconds = 30.0
    """How long a client may take nothing of what was written to it."""
    max_connections: Positive = 10000
    """Of each worker. Further clients are cut off at once. Each takes a descriptor."""

    def conflicts(self) -> Iterator[Finding]:
        """A part of the head can't be larger than the whole."""
        for name in ("max_target_size", "max_field_size"):
            if getattr(self, name) > self.max_head_size:
                yield Finding(loc=(name,), message="is more than max_head_size")


class GatewayConfig(Model):
    """The gateway's own side: where it listens and what it lets clients do."""

    listen: Listen = "127.0.0.1:8000"
    """`host:port`; port 0 takes a free one. `[::1]:8000` for IPv6."""
    user_path: OwnPath = "/user"
    """Where the gateway answers with the session's user."""
    trusted_proxies: tuple[Cidr, ...] = ()
    """CIDRs of peers whose X-Forwarded-* fields count. Empty: nobody's do.

    Risk: whoever connects from there can claim any client address, host and https.
    """
    drain_timeout: Seconds = 30.0
    """How long requests in flight may take after SIGTERM, or a reload."""
    near_misses: Literal["refuse", "forward"] = "refuse"
    """What becomes of a path that a service may read as that of a stricter route, as
    `/Admin` for `/admin`. See docs/security.md.

    Risk: with `forward`, whoever writes the path of a guarded route in another way
    passes its guard, at every service that reads more loosely than the route table.
    """
    limits: LimitsConfig = LimitsConfig()

"""PURE. The keys below `gateway`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from gateway.config.findings import Finding
from gateway.config.forms import (
    AbsolutePath,
    Bytes,
    Cidr,
    Flag,
    Listen,
    OwnPath,
    Positive,
    Seconds,
    Share,
    TrustedPeer,
)
from gateway.config.listens import listen_address
from gateway.config.models.admin import AdminConfig
from gateway.config.models.assertions import AssertionConfig
from gateway.config.models.base import Model
from gateway.config.models.decision import DecisionConfig
from gateway.config.models.listens import ListenConfig, short_listens
from gateway.config.models.shared import SharedConfig

_MIN_INTERVAL_S = 0.1


class PerClientConfig(Model):
    """What one client may take of what all clients share.

    A client is the address in the access log, or its network of 64 bits in IPv6.
    Addresses in `gateway.trusted_proxies` have no share of their own.
    """

    connections: Positive = 1000
    """Most connections of one client to each worker; further ones are closed at once.
    """
    share: Share = 0.5
    """Share of a service's connections that one client is sure of.

    It takes effect only when few of the service's connections are left. It is also the
    share of `memory`: above it, a client's connections are cut first.
    """
    exempt: tuple[Cidr, ...] = ()
    """Networks without a share of their own, such as a load balancer that isn't in
    `gateway.trusted_proxies`."""


_REQUEST_BYTES = 2 * 1024**2
"""What one request may take besides its head, with room to spare: docs/operations.md
has the bounds."""


class LimitsConfig(Model):
    """Limits on client connections and requests. docs/proxying.md gives the reasons."""

    head_timeout: Seconds = 10.0
    """Longest time from the first byte of a request to the end of its head."""
    keep_alive: Seconds = 75.0
    """How long an idle client connection stays open."""
    body_idle_timeout: Seconds = 30.0
    """Longest gap between two pieces of a request body."""
    body_min_rate: Bytes = 256
    """Lowest average rate of a request body in bytes per second, after 10 s; 0: off."""
    max_target_size: Bytes = 8192
    """Largest request target: path and query together."""
    max_field_size: Bytes = 16384
    """Largest header field: name and value together."""
    max_head_size: Bytes = 65536
    """Largest request head: the request line and all header fields."""
    max_fields: Positive = 100
    """Most header fields of a request."""
    max_body_size: Bytes = 100 * 1024**2
    """Largest request body. A route overrides it with `request.max_body_size`."""
    drain_body: Bytes = 65536
    """How much of a refused request's body is read to keep the connection open."""
    write_idle_timeout: Seconds = 30.0
    """How long a client may read nothing of a reply before its connection is closed."""
    download_min_rate: Bytes = 256
    """Lowest average rate in bytes per second at which a client reads, after 10 s of
    waiting for it; 0: off."""
    max_connections: Positive = 10000
    """Most client connections of each worker; further ones are closed at once.

    Each uses a file descriptor.
    """
    per_client: PerClientConfig = PerClientConfig()
    """What one client may take."""
    memory: Bytes | None = None
    """Budget for what clients make each worker hold; unset: none.

    It covers unfinished heads, bodies that their service hasn't taken, and replies that
    their client hasn't read. When 90 % of it is used, new connections are closed, and
    then connections without a verified session are cut. See docs/operations.md.
    """

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each limit that contradicts another one."""
        least = self.max_head_size + _REQUEST_BYTES
        if self.memory is not None and self.memory < least:
            yield Finding(
                loc=("memory",),
                message=f"must be at least {least} bytes: one request may take"
                " max_head_size + 2 MiB",
                hint="Raise it, or lower max_head_size",
            )
        for name in ("max_target_size", "max_field_size"):
            if getattr(self, name) > self.max_head_size:
                yield Finding(
                    loc=(name,),
                    message="this is more than max_head_size",
                    hint="Lower it, or raise max_head_size",
                )


class OverloadConfig(Model):
    """What a worker does when it gets more requests than it can serve.

    It refuses a share of them with 503 and Retry-After, before it checks their
    sessions. The share grows while the overload lasts, and shrinks afterwards. Requests
    of critical routes, refreshes of sessions and sign-outs are never refused.
    """

    lag: Seconds = 0.25
    """How long requests wait for the worker, at the shortest in a second, before some
    are refused: the delay of its event loop."""
    max_share: Share = 0.9
    """The greatest share of the other requests that is refused."""


class ForwardedConfig(Model):
    """Fields that tell services where a request comes from, besides X-Forwarded-*.

    A client's own are removed. A trusted proxy's are, too, where one is set here.
    """

    real_ip: Flag = False
    """Send X-Real-IP: the client's address, as in the access log."""
    rfc7239: Flag = False
    """Send Forwarded, with one element: the client's address, the host and the scheme
    that it used."""


class ProbesConfig(Model):
    """Health and metrics; see docs/operations.md."""

    listen: Listen | None = None
    """Where to answer `/livez`, `/readyz`, `/startupz` and `/metrics`, and nothing
    else: a `host:port` of its own; unset: nowhere.

    Risk: everyone who reaches it can read how the gateway is, the names of routes and
    services, and how much they are used. Do not publish it.
    """
    startup_timeout: Seconds = 30.0
    """How long `/startupz` waits for the core's signing keys. After that it is 200
    without them, so that public routes are served while the core is away."""


class WatchConfig(Model):
    """Reloads without a signal."""

    interval: Seconds = 5.0
    """How often the files of the configuration are compared with what was loaded. They
    are loaded when a change has been seen twice; at least 100 ms."""

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for an interval that would only cost."""
        if self.interval < _MIN_INTERVAL_S:
            yield Finding(
                loc=("interval",),
                message="this is less than 100 ms",
                hint="Write 1s, or leave it out for 5 s",
            )


class GatewayConfig(Model):
    """The gateway itself: its address, its own path, trusted proxies and limits."""

    listen: Annotated[
        tuple[ListenConfig, ...],
        Field(min_length=1),
        BeforeValidator(
            short_listens,
            json_schema_input_type=str | list[str | ListenConfig],
        ),
    ] = (ListenConfig(address="127.0.0.1:8000"),)
    """Where to listen: `host:port`, `unix:/path`, or a list of these and of keys."""
    user_path: OwnPath = "/user"
    """Path at which the gateway answers with the session's user."""
    user_access: Flag = False
    """Answer `POST` at `user_path` followed by `/access`, too: which of a list of
    requests the session may make."""
    trusted_proxies: tuple[TrustedPeer, ...] = ()
    """Networks of the proxies whose X-Forwarded-* fields are used. Empty: none. `unix`:
    all that connect to a Unix socket of the gateway.

    Risk: a client in one of these networks can claim any client address, any host and
    https.
    """
    forwarded: ForwardedConfig = ForwardedConfig()
    drain_timeout: Seconds = 30.0
    """How long requests in flight may run after SIGTERM or a reload."""
    websocket_drain: Seconds = 600.0
    """How long open WebSockets stay with the old workers after a reload. Then, and at
    SIGTERM at once, they are closed with 1001."""
    shutdown_delay: Seconds | None = None
    """How long the gateway accepts connections after SIGTERM while `/readyz` is 503, so
    that load balancers can notice; unset: it stops accepting at once."""
    pidfile: AbsolutePath | None = None
    """File with the process id of the running gateway, for `gateway reload`,
    `gateway status` and `gateway stop`; unset: none. Its folder must be writable for
    the gateway, such as a `RuntimeDirectory` of systemd.
    """
    watch: WatchConfig | None = None
    """Load the configuration again when one of its files changes; unset: on SIGHUP
    only. `{}` is every 5 s."""
    probes: ProbesConfig = ProbesConfig()
    admin: AdminConfig = AdminConfig()
    decision: DecisionConfig | None = None
    """Where other proxies ask whether a request may pass; unset: nowhere."""
    shared: SharedConfig | None = None
    """Where replicas learn of each other's sessions that have ended; unset: nowhere. A
    sign-out at one is known at another only when the access token has expired."""
    assertion: AssertionConfig | None = None
    """Unset: services get no signed identity."""
    near_misses: Literal["refuse", "forward"] = "refuse"
    """What happens to a request whose path its service may read as that of a stricter
    route, such as `/Admin` for `/admin`. See docs/security.md.

    Risk: with `forward`, another spelling of a guarded route's path passes its guard at
    every service that reads paths more loosely than the route table.
    """
    limits: LimitsConfig = LimitsConfig()
    overload: OverloadConfig | None = None
    """Refuse some requests rather than serve all of them late; unset: none is refused.
    `{}` has the defaults."""

    @property
    def access_path(self) -> str | None:
        """Where clients ask what a session may do; None: nowhere."""
        return f"{self.user_path.rstrip('/')}/access" if self.user_access else None

    def https_port(self, listen: ListenConfig) -> int | None:
        """Return the port to which *listen* redirects, None if it doesn't."""
        if listen.redirect_to_https is not True:
            return listen.redirect_to_https or None
        ports = (other.parsed.port for other in self.listen if other.tls is not None)
        return next((port for port in ports if port), None)

    def conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each address that another one contains."""
        for index, listen in enumerate(self.listen):
            for other in self.listen[:index]:
                if listen.parsed.overlaps(other.parsed):
                    yield Finding(
                        loc=("listen", index, "address"),
                        message="another item of gateway.listen has this address",
                        hint="Remove one of them, or choose another port",
                    )
                    break
            if listen.redirect_to_https is True and self.https_port(listen) is None:
                yield Finding(
                    loc=("listen", index, "redirect_to_https"),
                    message="no address with TLS has a port to redirect to",
                    hint="Write the port at which clients use https, such as 443",
                )
        if self.probes.listen is not None:
            probes = listen_address(self.probes.listen)
            if any(probes.overlaps(listen.parsed) for listen in self.listen):
                yield Finding(
                    loc=("probes", "listen"),
                    message="gateway.listen has this address",
                    hint="Choose another port",
                )
        yield from self._admin_conflicts()
        yield from self._decision_conflicts()

    def _admin_conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each address that is the admin listener's, too."""
        if self.admin.listen is None:
            return
        admin = listen_address(self.admin.listen)
        others = [("gateway.listen", one.parsed) for one in self.listen]
        if self.probes.listen is not None:
            others.append(("gateway.probes.listen", listen_address(self.probes.listen)))
        for name, other in others:
            if admin.overlaps(other):
                yield Finding(
                    loc=("admin", "listen"),
                    message=f"{name} has this address",
                    hint="Choose another port, or another path",
                )

    def _decision_conflicts(self) -> Iterator[Finding]:
        """Yield a finding for each address that is the decision listener's, too."""
        if self.decision is None:
            return
        others = [("gateway.listen", str(one)) for one in self.listen]
        others += [
            ("gateway.probes.listen", self.probes.listen or ""),
            ("gateway.admin.listen", self.admin.listen or ""),
        ]
        for key, place in self.decision.places():
            for name, other in others:
                if other and place.overlaps(listen_address(other)):
                    yield Finding(
                        loc=("decision", key),
                        message=f"{name} has this address",
                        hint="Choose another port, or another path",
                    )
            others.append((f"gateway.decision.{key}", str(place)))

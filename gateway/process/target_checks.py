"""PURE. From the configuration to the checks of targets."""

from __future__ import annotations

from gateway.config import Config
from gateway.routes import RouteTable
from gateway.upstream.address import UpstreamTarget
from gateway.upstream.checked import ServiceCheck


def service_checks(config: Config, table: RouteTable) -> tuple[ServiceCheck, ...]:
    """Return how the services that routes use are checked (`health.active`).

    With `host_header: preserve` there is no client whose Host could be kept: the check
    has the target's own.
    """
    checks = []
    for service in table.services():
        active = service.health.active
        if active is None:
            continue
        host: str | None = (
            config.services[service.name].host_header or config.defaults.host_header
        )
        if host in ("upstream", "preserve"):
            host = None
        checks.append(
            ServiceCheck(
                service=service.name,
                targets=tuple(str(UpstreamTarget.of(one)) for one in service.targets),
                resolve_s=service.resolve_s,
                path=active.path,
                interval_s=active.interval,
                timeout_s=active.timeout,
                up=active.up,
                down=active.down,
                host=host,
                ca_file=service.tls.ca_file,
                server_name=service.tls.server_name,
                verify=service.tls.verify,
            )
        )
    return tuple(checks)

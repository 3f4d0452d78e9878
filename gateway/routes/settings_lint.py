"""PURE. Doubtful settings of services and of the session's cookies.

Each rule is a function. `gateway check` warns of what they yield, and `gateway audit`
reports it with a severity.
"""

from __future__ import annotations

from collections.abc import Iterator

from gateway import config
from gateway.config import Config, Finding
from gateway.routes.table import RouteTable


def other_sites(settings: Config) -> Iterator[Finding]:
    """Yield a finding if nothing keeps other sites from acting for users."""
    supertokens = settings.supertokens
    if supertokens.cookie.same_site == "none" and supertokens.anti_csrf == "NONE":
        yield Finding(
            loc=("supertokens", "anti_csrf"),
            message="other sites can act for your users: browsers add the cookies"
            " to their requests (same_site: none), and nothing checks for CSRF",
            hint="Remove anti_csrf",
        )


def unsent_cookies(settings: Config) -> Iterator[Finding]:
    """Yield a finding if browsers drop the session's cookies, or don't send them."""
    supertokens = settings.supertokens
    place = ("supertokens", "cookie", "secure")
    if supertokens.cookie.same_site == "none" and supertokens.cookie.secure is False:
        yield Finding(
            loc=place,
            message="browsers drop same_site: none without secure: true",
            hint="Set secure: true",
        )
    if supertokens.api_domain.startswith("http:") and supertokens.cookie.secure:
        yield Finding(
            loc=place,
            message="browsers don't send secure cookies to an http api_domain",
            hint="Use an https api_domain",
        )


def readable_sessions(settings: Config) -> Iterator[Finding]:
    """Yield a finding if browsers send sessions without TLS over a network."""
    api_domain = settings.supertokens.api_domain
    host = config.origin_host(api_domain)
    if api_domain.startswith("http:") and config.same_host(host) != "localhost":
        yield Finding(
            loc=("supertokens", "api_domain"),
            message="this isn't https: sessions can be read on the network",
            hint="Use https",
        )


def unused_services(settings: Config, table: RouteTable) -> Iterator[Finding]:
    """Yield a finding for each service that gets no request."""
    used = {service.name for service in table.services()}
    for name in settings.services:
        if name not in used:
            yield Finding(
                loc=("services", name),
                message="no route uses this service",
                hint="Remove it, or add a route",
            )


def unverified_services(settings: Config) -> Iterator[Finding]:
    """Yield a finding for each service whose certificate isn't verified."""
    for name, service in settings.services.items():
        if not service.tls.verify:
            yield Finding(
                loc=("services", name, "tls", "verify"),
                message="an attacker on the network can pose as this service",
                hint="Remove verify: false, and set ca_file if needed",
            )

"""PURE. Rules about services, proxies, cookies, limits and origins."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final

from gateway.audit.findings import Audited, AuditSeverity, Hit
from gateway.config import Address, Config, Loc, origin_host, same_host
from gateway.headers.forwarded import UNIX_PEER
from gateway.http.target import is_ip
from gateway.routes import settings_lint

_MIN_BITS: Final = {4: 16, 6: 48}
"""Of a network of proxies, by version: wider ones are more than one site has."""


def unused_services(audited: Audited) -> Iterator[Hit]:
    """GW006: a service that gets no request."""
    for finding in settings_lint.unused_services(audited.config, audited.table):
        yield Hit.of(finding, str(finding.loc[1]))


def unverified_services(audited: Audited) -> Iterator[Hit]:
    """GW007: a service whose certificate isn't verified."""
    for finding in settings_lint.unverified_services(audited.config):
        yield Hit.of(finding, str(finding.loc[1]))


def readable_sessions(audited: Audited) -> Iterator[Hit]:
    """GW008: sessions that browsers send without TLS."""
    for finding in settings_lint.readable_sessions(audited.config):
        yield Hit.of(finding)


def credentials_in_clear(audited: Audited) -> Iterator[Hit]:
    """GW009: a route that sends sessions to its service without TLS."""
    for route, _ in audited.routes:
        if not route.headers.forward_credentials:
            continue
        for service in route.services:
            if any(map(_is_clear, service.targets)):
                yield Hit(
                    loc=(*route.loc, "forward_credentials"),
                    message=f"cookies and tokens are sent to {service.name} over plain"
                    " http: who reads them can act as the user",
                    remedy="Remove forward_credentials, or use https targets",
                    route=route,
                    counterpart=service.name,
                )


def _is_clear(target: Address) -> bool:
    """Return whether what is sent to *target* can be read on a network."""
    return target.scheme == "http" and same_host(target.host) != "localhost"


def wide_proxies(audited: Audited) -> Iterator[Hit]:
    """GW010: proxies that are more machines than the operator's own."""
    for number, cidr in enumerate(audited.config.gateway.trusted_proxies):
        if cidr == UNIX_PEER:
            continue
        network = ipaddress.ip_network(cidr)
        is_wide = network.prefixlen < _MIN_BITS[network.version]
        if not is_wide and not network.is_global:
            continue
        kind = "wide" if is_wide else "public"
        yield Hit(
            loc=("gateway", "trusted_proxies", number),
            message=f"this network is {kind}: every machine in it can claim any"
            " client address, any host and https",
            remedy="List the addresses of your own proxies",
            counterpart=cidr,
            severity=AuditSeverity.LOW if network.num_addresses == 1 else None,
        )


def default_limits(audited: Audited) -> Iterator[Hit]:
    """GW015: a file that sets no limit."""
    settings = audited.config
    has_limits = (
        settings.gateway.limits.model_fields_set
        or settings.gateway.overload is not None
        or any(service.limits is not None for service in settings.services.values())
        or any(route.limits is not None for route, _ in audited.routes)
    )
    if not has_limits:
        yield Hit(
            loc=("gateway",),
            message="all limits are the defaults, which suit no service in particular",
            remedy="Set gateway.limits, or limits of the services: docs/proxying.md has"
            " the reasons",
        )


def doubtful_cookies(audited: Audited) -> Iterator[Hit]:
    """GW017: cookies that more hosts get than need them, or that other sites use."""
    for finding in settings_lint.other_sites(audited.config):
        yield Hit.of(finding)
    supertokens = audited.config.supertokens
    domain = (supertokens.cookie.domain or "").removeprefix(".")
    if not domain or supertokens.config_module is not None:
        return
    hosts = [origin_host(supertokens.api_domain)]
    website = origin_host(supertokens.website_domain)
    if audited.site(supertokens.api_domain) == audited.site(supertokens.website_domain):
        hosts.append(website)
    needed = _common(hosts)
    if needed != domain and needed.endswith(f".{domain}"):
        yield Hit(
            loc=("supertokens", "cookie", "domain"),
            message=f"every host below {domain} gets the session's cookies, and"
            f" {needed} would be enough",
            remedy=f"Write {needed}, or leave it out for the API's host only",
            severity=AuditSeverity.MEDIUM,
        )


def _common(hosts: Sequence[str]) -> str:
    """Return the longest domain that all *hosts* are, or are below."""
    first, *others = hosts
    if is_ip(first):
        return first
    labels = first.split(".")
    for start in range(len(labels)):
        domain = ".".join(labels[start:])
        if all(f".{one}".endswith(f".{domain}") for one in others):
            return domain
    return first


def foreign_origins(audited: Audited) -> Iterator[Hit]:
    """GW023: a page that may act for users, of another site or without TLS."""
    supertokens = audited.config.supertokens
    is_known = supertokens.config_module is None and (
        "website_domain" in supertokens.model_fields_set
    )
    own = {
        audited.site(origin)
        for origin in (supertokens.website_domain, supertokens.api_domain)
    }
    for loc, origins in _origins(audited.config):
        for number, origin in enumerate(origins):
            plain = origin.replace("://*.", "://", 1)
            if origin == "*":
                continue
            if is_known and audited.site(plain) not in own:
                message = "pages of this other site can act for signed-in users"
                remedy = "Remove it, unless the site is yours"
            elif (
                plain.startswith("http:")
                and same_host(origin_host(plain)) != "localhost"
            ):
                message = "pages of this origin come without TLS: who changes them on"
                message += " the network can act for signed-in users"
                remedy = "Use https"
            else:
                continue
            yield Hit(
                loc=(*loc, number),
                message=message,
                remedy=remedy,
                counterpart=origin,
            )


def _origins(settings: Config) -> Iterator[tuple[Loc, Sequence[str]]]:
    """Yield each list of origins in the file, with its place."""
    key = ("cors", "allow_origins")
    yield key, settings.cors.allow_origins or ()
    for name, service in settings.services.items():
        yield ("services", name, *key), service.cors.allow_origins or ()
    for index, route in enumerate(settings.routes):
        yield ("routes", index, *key), route.cors.allow_origins or ()
    for number, group in enumerate(settings.groups):
        yield ("groups", number, *key), group.cors.allow_origins or ()
        for index, route in enumerate(group.routes):
            loc = ("groups", number, "routes", index, *key)
            yield loc, route.cors.allow_origins or ()

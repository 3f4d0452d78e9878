"""PURE. The rules of `gateway audit`, each with its code and severity."""

from __future__ import annotations

from typing import Final

from gateway.audit import route_rules, secret_rules, setting_rules
from gateway.audit.findings import AuditRule, AuditSeverity

_HIGH, _MEDIUM, _LOW = AuditSeverity

RULES: Final = tuple(
    AuditRule(id=code, severity=severity, title=title, find=find)
    for code, severity, title, find in (
        (
            "GW001",
            _MEDIUM,
            "public or optional below a guard",
            route_rules.open_below_guard,
        ),
        (
            "GW002",
            _HIGH,
            "a more specific route requires less",
            route_rules.asks_less,
        ),
        (
            "GW003",
            _MEDIUM,
            "a more specific route requires something else",
            route_rules.asks_other,
        ),
        (
            "GW004",
            _HIGH,
            "public only by `defaults`",
            route_rules.public_by_default,
        ),
        (
            "GW005",
            _MEDIUM,
            "public, and takes writes with the default body limit",
            route_rules.public_writes,
        ),
        ("GW006", _LOW, "unused service", setting_rules.unused_services),
        (
            "GW007",
            _HIGH,
            "a service's certificate isn't verified",
            setting_rules.unverified_services,
        ),
        ("GW008", _HIGH, "`api_domain` with http", setting_rules.readable_sessions),
        (
            "GW009",
            _HIGH,
            "credentials forwarded over plain http",
            setting_rules.credentials_in_clear,
        ),
        (
            "GW010",
            _MEDIUM,
            "trusted proxies in a wide or public network",
            setting_rules.wide_proxies,
        ),
        (
            "GW011",
            _MEDIUM,
            "a role or permission one edit from another",
            route_rules.similar_names,
        ),
        (
            "GW012",
            _HIGH,
            "near misses forwarded to a laxer route",
            route_rules.forwarded_near_misses,
        ),
        (
            "GW013",
            _LOW,
            "no `max_age` where a role or permission is required",
            route_rules.no_max_age,
        ),
        ("GW014", _LOW, "writes with the core never asked", route_rules.unasked_core),
        ("GW015", _LOW, "all limits are the defaults", setting_rules.default_limits),
        (
            "GW016",
            _LOW,
            "WebSockets without `max_lifetime`",
            route_rules.endless_websockets,
        ),
        (
            "GW017",
            _HIGH,
            "cookies for more hosts or sites than needed",
            setting_rules.doubtful_cookies,
        ),
        ("GW018", _LOW, "needless regex", route_rules.needless_regex),
        ("GW019", _MEDIUM, "`upstream_401: pass`", route_rules.passed_401),
        (
            "GW021",
            _MEDIUM,
            "an exact host falls to a wildcard host's route",
            route_rules.other_host,
        ),
        (
            "GW022",
            _HIGH,
            "a secret in the file, or a static signing key",
            secret_rules.secrets_in_file,
        ),
        (
            "GW023",
            _MEDIUM,
            "a CORS origin with http, or of another site",
            setting_rules.foreign_origins,
        ),
        ("GW024", _LOW, "more than ten unnamed routes", route_rules.many_unnamed),
    )
)
"""All rules but that of acceptances (`report.ACCEPTANCE`)."""

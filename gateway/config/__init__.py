"""PURE. The schema of `routes.yaml`: frozen models, each default written once.

`models` has the keys, with their units and why the defaults are safe; `forms` the forms
of single values; `findings` the messages about mistakes. Nothing here reads a file or
the environment; see `settings`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from gateway.config.effective import EffectiveRoute, effective, generated_name
from gateway.config.findings import (
    Finding,
    InvalidConfig,
    Loc,
    did_you_mean,
    explain,
    path,
)
from gateway.config.forms import RECIPES
from gateway.config.listens import ListenAddress, listen_address
from gateway.config.mirrors import mirror_flaws
from gateway.config.models.admin import AdminConfig
from gateway.config.models.always import AlwaysConfig
from gateway.config.models.answers import OnUnauthenticatedConfig
from gateway.config.models.assertions import AssertionConfig
from gateway.config.models.audit import AUDIT_RULES, AcceptanceConfig, AuditConfig
from gateway.config.models.config import Config
from gateway.config.models.cors import CorsConfig
from gateway.config.models.decision import (
    DecisionConfig,
    DecisionListen,
    GrpcListen,
    decision_listens,
)
from gateway.config.models.gateway import (
    GatewayConfig,
    LimitsConfig,
    OverloadConfig,
    WatchConfig,
)
from gateway.config.models.listens import HstsConfig, ListenConfig, ListenTlsConfig
from gateway.config.models.log import LogConfig, LogExclusionConfig
from gateway.config.models.matching import (
    MatchConfig,
    PathForm,
    PathMatchConfig,
    RewriteConfig,
)
from gateway.config.models.messages import (
    ReplyEditsConfig,
    RequestConfig,
    RequestEditsConfig,
)
from gateway.config.models.policies import (
    AnyAll,
    ClaimConfig,
    ClientsConfig,
    ConditionsConfig,
    IdentityConfig,
    RequireConfig,
    SessionConfig,
    SessionPatch,
)
from gateway.config.models.rate_limits import (
    AuthRateLimitsConfig,
    RateLimitConfig,
    RateUseConfig,
)
from gateway.config.models.routes import (
    DefaultsConfig,
    GroupConfig,
    RouteConfig,
    RouteSettings,
    WebSocketConfig,
)
from gateway.config.models.services import (
    HealthConfig,
    PathsConfig,
    RetryConfig,
    ServiceConfig,
    ServiceLimitsConfig,
    TargetConfig,
    TimeoutsConfig,
    TimeoutsPatch,
    TlsConfig,
)
from gateway.config.models.shared import SharedConfig
from gateway.config.models.splits import SplitConfig
from gateway.config.models.supertokens import (
    CacheConfig,
    CookieConfig,
    CoreConfig,
    KeysConfig,
    SmtpConfig,
    SuperTokensConfig,
)
from gateway.config.models.tests import (
    NOBODY,
    CaseConfig,
    ExpectedConfig,
    PersonConfig,
    RouteTestsConfig,
)
from gateway.config.origins import origins
from gateway.config.pruning import is_within, pruned
from gateway.config.rate_names import unknown_limits
from gateway.config.schema import json_schema
from gateway.config.stores import StoreAddress
from gateway.config.urls import (
    Address,
    address,
    core_addresses,
    origin_host,
    same_host,
)

__all__ = [
    "AUDIT_RULES",
    "NOBODY",
    "RECIPES",
    "AcceptanceConfig",
    "Address",
    "AdminConfig",
    "AlwaysConfig",
    "AnyAll",
    "AssertionConfig",
    "AuditConfig",
    "AuthRateLimitsConfig",
    "CacheConfig",
    "CaseConfig",
    "ClaimConfig",
    "ClientsConfig",
    "ConditionsConfig",
    "Config",
    "CookieConfig",
    "CoreConfig",
    "CorsConfig",
    "DecisionConfig",
    "DecisionListen",
    "DefaultsConfig",
    "EffectiveRoute",
    "ExpectedConfig",
    "Finding",
    "GatewayConfig",
    "GroupConfig",
    "GrpcListen",
    "HealthConfig",
    "HstsConfig",
    "IdentityConfig",
    "InvalidConfig",
    "KeysConfig",
    "LimitsConfig",
    "ListenAddress",
    "ListenConfig",
    "ListenTlsConfig",
    "Loc",
    "LogConfig",
    "LogExclusionConfig",
    "MatchConfig",
    "OnUnauthenticatedConfig",
    "OverloadConfig",
    "PathForm",
    "PathMatchConfig",
    "PathsConfig",
    "PersonConfig",
    "RateLimitConfig",
    "RateUseConfig",
    "ReplyEditsConfig",
    "RequestConfig",
    "RequestEditsConfig",
    "RequireConfig",
    "RetryConfig",
    "RewriteConfig",
    "RouteConfig",
    "RouteSettings",
    "RouteTestsConfig",
    "ServiceConfig",
    "ServiceLimitsConfig",
    "SessionConfig",
    "SessionPatch",
    "SharedConfig",
    "SmtpConfig",
    "SplitConfig",
    "StoreAddress",
    "SuperTokensConfig",
    "TargetConfig",
    "TimeoutsConfig",
    "TimeoutsPatch",
    "TlsConfig",
    "WatchConfig",
    "WebSocketConfig",
    "address",
    "core_addresses",
    "decision_listens",
    "effective_routes",
    "generated_name",
    "json_schema",
    "listen_address",
    "origin_host",
    "origins",
    "parse",
    "path",
    "rest_of",
    "same_host",
]


def parse(data: object) -> Config:
    """Return the configuration in *data*, the content of the file.

    Raises:
        InvalidConfig: *data* isn't valid. The error has all problems, not only the
            first.
    """
    findings = list(_contradictions(data))
    try:
        config = Config.model_validate(data)
    except ValidationError as exc:
        findings += explain(exc, Config, data)
    else:
        routes, more = effective(config)
        findings += more
        if not findings:
            config.keep(routes)
            return config
    raise InvalidConfig(findings)


def rest_of(data: object, findings: Iterable[Finding]) -> tuple[Config, Rest] | None:
    """Return what *data* is without its mistakes, *findings*; None if it is nothing.

    With it, the mistakes that only a whole configuration shows can be reported, too:
    `Rest.of` keeps those that don't follow from the first ones.
    """
    rest, gone = pruned(data, findings)
    try:
        config = Config.model_validate(rest)
    except ValidationError:
        return None
    more = _apart(effective(config)[1], gone)
    if more:
        rest, also = pruned(rest, more)
        gone += also
        try:
            config = Config.model_validate(rest)
        except ValidationError:
            return None
        if effective(config)[1]:
            return None
    return config, Rest(gone, tuple(more))


@dataclass(frozen=True, slots=True)
class Rest:
    """What is missing from a configuration without its mistakes."""

    gone: tuple[Loc, ...]
    found: tuple[Finding, ...]
    """Mistakes that were found on the way."""

    def of(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return those of *findings* that are about what the file has."""
        return _apart(findings, self.gone)


def _apart(findings: Iterable[Finding], gone: Sequence[Loc]) -> list[Finding]:
    """Return those of *findings* that have nothing to do with the places *gone*."""
    return [
        finding
        for finding in findings
        if not is_within(finding.loc, gone)
        and not is_within(finding.see or ("",), gone)
        # Nor what is missing somewhere because it was left out.
        and not any(is_within(place, (finding.loc,)) for place in gone)
    ]


def effective_routes(config: Config) -> list[EffectiveRoute]:
    """Return the routes of a configuration that `parse` has returned."""
    if config.kept is None:
        config.keep(effective(config)[0])
    routes: list[EffectiveRoute] = config.kept
    return routes


def _contradictions(data: object) -> Iterator[Finding]:
    """Yield findings about names that nothing or more than one thing has.

    It reads the raw data, so that a mistake elsewhere doesn't hide these.
    """
    services = _mapping(_mapping(data).get("services"))
    names: dict[object, Loc] = {}
    yield from mirror_flaws(services)
    own: list[tuple[Loc, Mapping[Any, Any]]] = [
        (("services", str(name)), _mapping(keys)) for name, keys in services.items()
    ]
    yield from unknown_limits(_mapping(data), [*own, *_raw_routes(data)])
    for loc, keys in _raw_routes(data):
        service = keys.get("service")
        to = _mapping(keys.get("split")).get("to")
        or_else = "Add it to services"
        for at, named, hint in (
            (("service",), service, f"{or_else}, or use upstream with a URL"),
            (("split", "to"), to, or_else),
        ):
            if isinstance(named, str) and named not in services:
                yield Finding(
                    loc=(*loc, *at),
                    message="there is no service of this name",
                    hint=did_you_mean(named, map(str, services)) or hint,
                )
        name = keys.get("name")
        if isinstance(name, str):
            if name in names:
                yield Finding(
                    loc=(*loc, "name"),
                    message="another route has this name",
                    hint="Give one of them another name",
                    see=(*names[name], "name"),
                )
            names.setdefault(name, loc)


def _raw_routes(data: object) -> Iterator[tuple[Loc, Mapping[Any, Any]]]:
    """Yield the groups and all routes of the file, with their places."""
    top = _mapping(data)
    for index, route in enumerate(_list(top.get("routes"))):
        yield ("routes", index), _mapping(route)
    for number, group in enumerate(_list(top.get("groups"))):
        yield ("groups", number), _mapping(group)
        for index, route in enumerate(_list(_mapping(group).get("routes"))):
            yield ("groups", number, "routes", index), _mapping(route)


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else ()

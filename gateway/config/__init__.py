"""PURE. The schema of `routes.yaml`: frozen models, each default written once.

`models` has the keys, with their units and why the defaults are safe; `forms` the forms
of single values; `findings` the messages about mistakes. Nothing here reads a file or
the environment; see `settings`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from gateway.config.findings import (
    Finding,
    InvalidConfig,
    Loc,
    did_you_mean,
    explain,
    path,
)
from gateway.config.forms import RECIPES
from gateway.config.models.config import Config
from gateway.config.models.cors import CorsConfig
from gateway.config.models.gateway import GatewayConfig, LimitsConfig
from gateway.config.models.matching import (
    MatchConfig,
    PathMatchConfig,
    RewriteConfig,
)
from gateway.config.models.policies import (
    AnyAll,
    ClaimConfig,
    IdentityConfig,
    RequireConfig,
    SessionConfig,
    SessionPatch,
)
from gateway.config.models.routes import (
    DefaultsConfig,
    RequestConfig,
    RetryConfig,
    RouteConfig,
    WebSocketConfig,
)
from gateway.config.models.services import (
    PathsConfig,
    ServiceConfig,
    TargetConfig,
    TimeoutsConfig,
    TimeoutsPatch,
    TlsConfig,
)
from gateway.config.models.supertokens import (
    CacheConfig,
    CookieConfig,
    CoreConfig,
    KeysConfig,
    SmtpConfig,
    SuperTokensConfig,
)
from gateway.config.schema import json_schema
from gateway.config.urls import (
    Address,
    address,
    core_addresses,
    origin_host,
    same_host,
)

__all__ = [
    "RECIPES",
    "Address",
    "AnyAll",
    "CacheConfig",
    "ClaimConfig",
    "Config",
    "CookieConfig",
    "CoreConfig",
    "CorsConfig",
    "DefaultsConfig",
    "Finding",
    "GatewayConfig",
    "IdentityConfig",
    "InvalidConfig",
    "KeysConfig",
    "LimitsConfig",
    "Loc",
    "MatchConfig",
    "PathMatchConfig",
    "PathsConfig",
    "RequestConfig",
    "RequireConfig",
    "RetryConfig",
    "RewriteConfig",
    "RouteConfig",
    "ServiceConfig",
    "SessionConfig",
    "SessionPatch",
    "SmtpConfig",
    "SuperTokensConfig",
    "TargetConfig",
    "TimeoutsConfig",
    "TimeoutsPatch",
    "TlsConfig",
    "WebSocketConfig",
    "address",
    "core_addresses",
    "json_schema",
    "origin_host",
    "parse",
    "path",
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
        findings += explain(exc, Config)
    else:
        if not findings:
            return config
    raise InvalidConfig(findings)


def _contradictions(data: object) -> Iterator[Finding]:
    """Yield findings about routes that contradict other parts of the file.

    It reads the raw data, so that a mistake elsewhere doesn't hide these.
    """
    top = _mapping(data)
    services = _mapping(top.get("services"))
    default = _mapping(top.get("defaults")).get("protected", True)
    routes = top.get("routes")
    names: dict[object, int] = {}
    for index, route in enumerate(routes if isinstance(routes, list | tuple) else ()):
        keys = _mapping(route)
        service = keys.get("service")
        if isinstance(service, str) and service not in services:
            yield Finding(
                loc=("routes", index, "service"),
                message="there is no service of this name",
                hint=did_you_mean(service, map(str, services))
                or "Add it to services, or use upstream with a URL",
            )
        if keys.get("protected", default) in (False, "optional") and keys.get(
            "require"
        ):
            yield Finding(
                loc=("routes", index, "require"),
                message="nothing can be required here: the route needs no session",
                hint="Set protected: true, or remove require",
            )
        name = keys.get("name")
        if isinstance(name, str):
            if name in names:
                yield Finding(
                    loc=("routes", index, "name"),
                    message="another route has this name",
                    hint="Give one of them another name",
                    see=("routes", names[name], "name"),
                )
            names.setdefault(name, index)


def _mapping(value: object) -> Mapping[Any, Any]:
    return value if isinstance(value, Mapping) else {}

"""PURE. The keys of `routes.yaml`, each with its type, default and reason.

There is a file for each section. The string below a key is its documentation, which
`gateway schema` and docs/configuration.md show.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from gateway.config.models import (
    base,
    config,
    cors,
    gateway,
    routes,
    services,
    supertokens,
)
from gateway.config.models.base import Model
from gateway.config.models.config import Config
from gateway.config.models.cors import CorsConfig
from gateway.config.models.gateway import (
    GatewayConfig,
    LimitsConfig,
    PerClientConfig,
)
from gateway.config.models.routes import (
    AnyAll,
    ClaimConfig,
    DefaultsConfig,
    IdentityConfig,
    MatchConfig,
    PathMatchConfig,
    RequestConfig,
    RequireConfig,
    RetryConfig,
    RewriteConfig,
    RouteConfig,
    SessionConfig,
    SessionPatch,
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

__all__ = [
    "FILES",
    "AnyAll",
    "CacheConfig",
    "ClaimConfig",
    "Config",
    "CookieConfig",
    "CoreConfig",
    "CorsConfig",
    "DefaultsConfig",
    "GatewayConfig",
    "IdentityConfig",
    "KeysConfig",
    "LimitsConfig",
    "MatchConfig",
    "Model",
    "PathMatchConfig",
    "PathsConfig",
    "PerClientConfig",
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
]

FILES: Final[tuple[ModuleType, ...]] = (
    base,
    gateway,
    supertokens,
    cors,
    services,
    routes,
    config,
)
"""The modules of the models; `schema` reads the documentation of keys from them."""

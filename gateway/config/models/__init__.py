"""PURE. The keys of `routes.yaml`, each with its type, its default and its reason.

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
from gateway.config.models.cors import Cors
from gateway.config.models.gateway import Gateway, Limits
from gateway.config.models.routes import (
    AnyAll,
    ClaimRule,
    Defaults,
    Identity,
    Match,
    PathMatch,
    RequestLimits,
    Require,
    Retry,
    Rewrite,
    Route,
    Session,
    SessionPatch,
    WebSocket,
)
from gateway.config.models.services import (
    Paths,
    Service,
    Target,
    Timeouts,
    TimeoutsPatch,
    Tls,
)
from gateway.config.models.supertokens import (
    Cache,
    Cookie,
    CoreClient,
    Keys,
    Smtp,
    SuperTokens,
)

__all__ = [
    "FILES",
    "AnyAll",
    "Cache",
    "ClaimRule",
    "Config",
    "Cookie",
    "CoreClient",
    "Cors",
    "Defaults",
    "Gateway",
    "Identity",
    "Keys",
    "Limits",
    "Match",
    "Model",
    "PathMatch",
    "Paths",
    "RequestLimits",
    "Require",
    "Retry",
    "Rewrite",
    "Route",
    "Service",
    "Session",
    "SessionPatch",
    "Smtp",
    "SuperTokens",
    "Target",
    "Timeouts",
    "TimeoutsPatch",
    "Tls",
    "WebSocket",
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
"""The files with models, in which their documentation is found."""

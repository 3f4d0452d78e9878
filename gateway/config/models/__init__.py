"""PURE. The keys of `routes.yaml`, each with its type, default and reason.

There is a file for each section. The string below a key is its documentation, which
`gateway schema` and docs/configuration.md show. Import a model from the file of its
section.
"""

from __future__ import annotations

from types import ModuleType
from typing import Final

from gateway.config.models import (
    admin,
    always,
    answers,
    assertions,
    audit,
    aws,
    base,
    config,
    cors,
    decision,
    gateway,
    listens,
    log,
    matching,
    messages,
    policies,
    rate_limits,
    rewrites,
    routes,
    services,
    shared,
    splits,
    supertokens,
    tests,
    tracing,
)
from gateway.config.models.always import AlwaysConfig
from gateway.config.models.base import Model
from gateway.config.models.config import Config
from gateway.config.models.matching import (
    MatchConfig,
    PathMatchConfig,
    RewriteConfig,
)
from gateway.config.models.policies import (
    ClientsConfig,
    ConditionsConfig,
    IdentityConfig,
    RequireConfig,
    SessionPatch,
)
from gateway.config.models.rate_limits import AuthRateLimitsConfig, RateUseConfig
from gateway.config.models.routes import GroupConfig, RouteConfig, RouteSettings
from gateway.config.models.services import ServiceConfig
from gateway.config.models.tests import CaseConfig, ExpectedConfig

__all__ = [
    "FILES",
    "AlwaysConfig",
    "AuthRateLimitsConfig",
    "CaseConfig",
    "ClientsConfig",
    "ConditionsConfig",
    "Config",
    "ExpectedConfig",
    "GroupConfig",
    "IdentityConfig",
    "MatchConfig",
    "Model",
    "PathMatchConfig",
    "RateUseConfig",
    "RequireConfig",
    "RewriteConfig",
    "RouteConfig",
    "RouteSettings",
    "ServiceConfig",
    "SessionPatch",
]

FILES: Final[tuple[ModuleType, ...]] = (
    base,
    listens,
    admin,
    decision,
    shared,
    assertions,
    gateway,
    log,
    tracing,
    rate_limits,
    supertokens,
    cors,
    aws,
    policies,
    messages,
    answers,
    services,
    rewrites,
    matching,
    splits,
    routes,
    always,
    tests,
    audit,
    config,
)
"""The modules of the models. The JSON schema and the reference are made from them."""

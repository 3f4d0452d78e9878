"""PURE. The whole of `routes.yaml`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PrivateAttr

from gateway.config.forms import Name, Text
from gateway.config.models.audit import AuditConfig
from gateway.config.models.aws import AwsConfig
from gateway.config.models.base import Model
from gateway.config.models.cors import CorsConfig
from gateway.config.models.gateway import GatewayConfig
from gateway.config.models.log import LogConfig
from gateway.config.models.rate_limits import READY, RateLimitConfig
from gateway.config.models.routes import (
    DefaultsConfig,
    GroupConfig,
    RouteConfig,
)
from gateway.config.models.services import ServiceConfig
from gateway.config.models.supertokens import SuperTokensConfig
from gateway.config.models.tests import RouteTestsConfig
from gateway.config.models.tracing import TracingConfig


class Config(Model):
    """The whole of `routes.yaml`."""

    version: Literal[1]
    """Version of the file format."""
    include: tuple[Text, ...] = ()
    """Files with more services, groups and routes, such as `routes.d/*.yaml`.

    Paths are relative to this file. Files of one pattern are read in order of name.
    """
    gateway: GatewayConfig = GatewayConfig()
    log: LogConfig = LogConfig()
    tracing: TracingConfig = TracingConfig()
    supertokens: SuperTokensConfig = SuperTokensConfig()
    cors: CorsConfig = CorsConfig()
    aws: AwsConfig = AwsConfig()
    defaults: DefaultsConfig = DefaultsConfig()
    rate_limits: dict[Name, RateLimitConfig] = Field(default_factory=dict)
    """Name → how often requests may come. A limit counts where it is attached:
    `rate_limit` of routes, groups and services, and `supertokens.rate_limits`."""
    services: dict[Name, ServiceConfig] = Field(default_factory=dict)
    """Name → an upstream that routes share."""
    groups: tuple[GroupConfig, ...] = ()
    """Routes with something in common: a path, a service, what they require."""
    routes: tuple[RouteConfig, ...] = ()
    """The route table. `gateway routes` prints it in the order of matching."""
    tests: RouteTestsConfig | None = None
    """Requests, and what they are expected to get; `gateway test` compares."""
    audit: AuditConfig = AuditConfig()
    """What `gateway audit` doesn't report."""
    _kept: Any = PrivateAttr(default=None)

    @property
    def all_rate_limits(self) -> dict[str, RateLimitConfig]:
        """The limits by name, the ready-made ones included."""
        return READY | self.rate_limits

    @property
    def kept(self) -> Any:
        """What `keep` was given; None before."""
        return self._kept

    def keep(self, routes: Any) -> None:
        """Keep the effective routes: with many of them, they take a while to make."""
        self._kept = routes

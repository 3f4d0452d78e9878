"""PURE. The whole of `routes.yaml`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from gateway.config.forms import Name
from gateway.config.models.base import Model
from gateway.config.models.cors import Cors
from gateway.config.models.gateway import Gateway
from gateway.config.models.routes import Defaults, Route
from gateway.config.models.services import Service
from gateway.config.models.supertokens import SuperTokens


class Config(Model):
    """The whole of `routes.yaml`."""

    version: Literal[1]
    """Of the file's format."""
    gateway: Gateway = Gateway()
    supertokens: SuperTokens = SuperTokens()
    cors: Cors = Cors()
    defaults: Defaults = Defaults()
    services: dict[Name, Service] = Field(default_factory=dict)
    """Name → an upstream that routes share."""
    routes: tuple[Route, ...] = ()
    """The route table. `gateway routes` shows the order that it is matched in."""

"""PURE. Configurations for fronts: a route table → the text for one program.

`plan` gathers what every front needs, and refuses what a front can't do. Each front has
a file with a function from the plan to text.
"""

from collections.abc import Callable
from typing import Final

from gateway.fronts.generated.caddy import caddy
from gateway.fronts.generated.envoy import envoy
from gateway.fronts.generated.haproxy import haproxy, haproxy_lua
from gateway.fronts.generated.nginx import nginx
from gateway.fronts.generated.plan import FrontPlan, NoFront, front_plan
from gateway.fronts.generated.traefik import traefik
from gateway.fronts.original import Endpoint

__all__ = ["FRONTS", "FrontPlan", "NoFront", "front_plan"]

FRONTS: Final[dict[str, tuple[Endpoint, Callable[[FrontPlan], str]]]] = {
    "nginx": (Endpoint.AUTH_REQUEST, nginx),
    "caddy": (Endpoint.FORWARD_AUTH, caddy),
    "traefik": (Endpoint.FORWARD_AUTH, traefik),
    "envoy": (Endpoint.EXT_AUTHZ, envoy),
    "haproxy": (Endpoint.FORWARD_AUTH, haproxy),
    "haproxy-lua": (Endpoint.FORWARD_AUTH, haproxy_lua),
}
"""Front → the endpoint that it asks, and what writes its configuration."""

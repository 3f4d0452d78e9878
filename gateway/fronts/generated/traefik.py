"""PURE. The dynamic configuration of Traefik, with forwardAuth.

Traefik chooses the service before it asks. So each request that the gateway has allowed
goes to Traefik's own second entry point, where the gateway's X-Gateway-Service chooses.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from gateway.fronts.generated.plan import FrontPlan, FrontService, NoFront
from gateway.fronts.generated.templates import fill

_FILE: Final = """\
# Traefik in front of supertokens-gateway: a file for its file provider.
# It is made by `gateway front traefik`. Make it anew when the route table changes.
#
# Start Traefik, 3.7.15 or newer, with these (for https: your certificate, too):
#   --entryPoints.clients.address=@listen@
#   --entryPoints.clients.http.aliasHeadersStrategy=delete
#   --entryPoints.services.address=127.0.0.1:8090
#   --entryPoints.services.forwardedHeaders.trustedIPs=127.0.0.1/32
#   --providers.file.filename=THIS FILE
# aliasHeadersStrategy removes x_user_id, which services could read as X-User-Id. An
# older Traefik doesn't know it, and doesn't start.
#
# Traefik asks the gateway about each request (forwardAuth) and forwards it itself.
# Not done by Traefik: CORS fields of services' replies, and preflights: services do it.
# Not done by Traefik: new tokens in fields (front-token, st-access-token). For clients
# that have their tokens in fields, set gateway.decision.new_tokens: withhold.
@notes@
http:
  routers:
    @own@
    clients:
      entryPoints: [clients]
      rule: PathPrefix(`/`)
      priority: 1
      middlewares: [gateway]
      service: allowed
    # The gateway names the service.
    @routers@

  middlewares:
    hidden:
      headers:
        customRequestHeaders:
          X-Gateway-Service: ""
    gateway:
      forwardAuth:
        address: http://@decision@/forward-auth
        # Never true: a client's X-Forwarded-Uri would name the path that is judged.
        trustForwardHeader: false
        maxResponseBodySize: 65536
        authResponseHeaders:
          @copied@
        addAuthCookiesToResponse: [sAccessToken]

  services:
    @own_service@
    allowed:
      loadBalancer:
        servers: [{url: "http://127.0.0.1:8090"}]
    @services@
"""

_OWN: Final = """\
# What the gateway answers itself; list Traefik in gateway.trusted_proxies.
itself:
  entryPoints: [clients]
  rule: @rule@
  priority: 2
  service: gateway-itself
"""


def traefik(plan: FrontPlan) -> str:
    """Return a dynamic configuration in YAML.

    Raises:
        NoFront: it needs what Traefik can't do.
    """
    if plan.rewrites:
        raise NoFront(
            "Traefik can't take a path from the gateway, and routes have rewrite, or"
            " gateway.decision.path is canonical",
            "Remove them, or choose another front",
        )
    own = () if plan.own is None else (plan.own,)
    places = (plan.listen, plan.decision, *own)
    targets = chain.from_iterable(one.targets for one in plan.services)
    has_sockets = any(place.is_unix for place in places)
    if has_sockets or any(target.socket_path for target in targets):
        raise NoFront(
            "Traefik has no Unix sockets here", "Use host:port for each address"
        )
    return fill(
        _FILE,
        notes=[f"# Not done by Traefik: {note}." for note in plan.notes],
        listen=str(plan.listen),
        own=() if plan.own is None else _own(plan),
        routers=chain.from_iterable(map(_router, plan.services)),
        decision=str(plan.decision),
        copied=(
            f"- {name}"
            for name in (*plan.identity, "X-Gateway-Service", "X-Request-Id")
        ),
        own_service=()
        if plan.own is None
        else (
            "gateway-itself:",
            f'  loadBalancer: {{servers: [{{url: "http://{plan.own}"}}]}}',
        ),
        services=chain.from_iterable(map(_service, plan.services)),
    )


def _own(plan: FrontPlan) -> str:
    paths = (*plan.own_exact, plan.own_below)
    rules = [f"Path(`{path}`)" for path in paths]
    rules.append(f"PathPrefix(`{plan.own_below}/`)")
    return fill(_OWN, rule=" || ".join(rules))


def _router(service: FrontService) -> Iterator[str]:
    yield f"{service.label}:"
    yield "  entryPoints: [services]"
    yield f'  rule: "Header(`X-Gateway-Service`, `{service.name}`)"'
    yield "  middlewares: [hidden]"
    yield f"  service: {service.label}"


def _service(service: FrontService) -> Iterator[str]:
    yield f"{service.label}:"
    yield "  loadBalancer:"
    yield "    servers:"
    for target, weight in zip(service.targets, service.weights, strict=True):
        yield f'      - {{url: "http://{target.host}:{target.port}", weight: {weight}}}'

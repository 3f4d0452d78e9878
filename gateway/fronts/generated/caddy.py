"""PURE. The Caddyfile, with reverse_proxy to /forward-auth.

Caddy's stock `forward_auth` has a hole: a client's `Connection: X-User-Id` makes the
service's request lose the field, after it was set. So Connection is reset first.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Final

from gateway.config import Address, ListenAddress
from gateway.fronts.generated.plan import (
    COOKIES,
    PREFLIGHT_FIELDS,
    REPLY_FIELDS,
    TOKEN_FIELDS,
    FrontPlan,
    FrontService,
)
from gateway.fronts.generated.templates import fill

_FILE: Final = """\
# Caddy in front of supertokens-gateway.
# It is made by `gateway front caddy`. Make it anew when the route table changes.
#
# Caddy asks the gateway about each request and forwards it itself.
@notes@

@site@ {  # for https: the name of the site
  @bind@
  # `route` keeps the order of the directives. Caddy would sort them, and remove
  # identity fields after it has set them.
  route {
    request_body {
      max_size @max_body_size@
    }
    @own@
    # Connection may open a WebSocket, and names no other field: it would be removed.
    @upgrades header_regexp Connection (?i)(^|[,\\t\\x20])upgrade($|[,\\t\\x20])
    @others not header_regexp Connection (?i)(^|[,\\t\\x20])upgrade($|[,\\t\\x20])
    request_header @upgrades Connection Upgrade
    request_header @others -Connection

    # Identity: no client sets it, in any spelling.
    @removed@

    reverse_proxy @decision@ {
      method GET
      rewrite /forward-auth?
      header_up X-Forwarded-Method {method}
      header_up X-Forwarded-Uri {uri}
      transport http {
        dial_timeout 2s
        response_header_timeout 10s
      }

      # Anything but 200 is a refusal, and is sent to the client as it is.
      @allowed status 200
      handle_response @allowed {
        route {
          vars gateway_service {rp.header.X-Gateway-Service}
          @target@
          request_header X-Request-Id {rp.header.X-Request-Id}

          # Identity, where it has a value.
          @identity@

          # New tokens and CORS fields, for the client.
          @reply@

          # A CORS preflight that the gateway has allowed.
          @preflight@
        }
      }
    }

    # The gateway names the service.
    @services@
    respond 503
  }
}
"""

_TARGET: Final = "rewrite {rp.header.X-Gateway-Target}"


def caddy(plan: FrontPlan) -> str:
    """Return a Caddyfile with one site."""
    return fill(
        _FILE,
        notes=[f"# Not done by Caddy: {note}." for note in plan.notes],
        site=_site(plan.listen),
        bind=() if plan.listen.is_everywhere else _bind(plan.listen),
        max_body_size=str(plan.max_body_size),
        own=_own(plan),
        removed=(f"request_header -{name}" for name in plan.identity),
        decision=_place(plan.decision),
        target=_TARGET if plan.rewrites else (),
        identity=_copied("request_header", "", plan.identity),
        reply=chain(
            _copied(
                "header",
                "+",
                (f"X-Gateway-Set-Cookie-{number}" for number in range(1, COOKIES + 1)),
                "Set-Cookie",
            ),
            _copied("header", "", (*TOKEN_FIELDS, *REPLY_FIELDS)),
        ),
        preflight=_preflight(),
        services=chain.from_iterable(map(_service, plan.services)),
    )


def _place(place: ListenAddress | Address) -> str:
    if place.socket_path:
        return f"unix/{place.socket_path}"
    return f"{place.host}:{place.port}"


def _site(place: ListenAddress) -> str:
    return f"http://:{place.port}" if place.port else "http://"


def _bind(place: ListenAddress) -> Iterator[str]:
    yield f"bind {_place(place) if place.is_unix else place.host.strip('[]')}"


def _own(plan: FrontPlan) -> Iterator[str]:
    if plan.own is None:
        return
    paths = (*plan.own_exact, plan.own_below, plan.own_below + "/*")
    yield "# What the gateway answers itself; list Caddy in gateway.trusted_proxies."
    yield f"@gateway path {' '.join(map(_quoted, paths))}"
    yield f"reverse_proxy @gateway {_place(plan.own)}"
    yield ""


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _copied(
    directive: str, sign: str, names: Iterable[str], to: str = ""
) -> Iterator[str]:
    """Yield what copies fields of the answer; an empty placeholder would be a text."""
    for name in names:
        matcher = "@" + name.lower().replace("-", "_")
        source = "{rp.header." + canonical(name) + "}"
        yield f'{matcher} not vars {source} ""'
        yield f"{directive} {matcher} {sign}{to or name} {source}"


def canonical(name: str) -> str:
    """Return a field name as Go writes it: only so, a placeholder finds it."""
    return "-".join(part.capitalize() for part in name.split("-"))


def _preflight() -> Iterator[str]:
    first, *_ = PREFLIGHT_FIELDS
    yield f'@preflight not vars {{rp.header.{first}}} ""'
    yield "handle @preflight {"
    for line in _copied("header", "", PREFLIGHT_FIELDS):
        yield f"  {line}"
    yield "  respond 204"
    yield "}"


def _service(service: FrontService) -> Iterator[str]:
    matcher = f"@{service.label}"
    targets = " ".join(map(_place, service.targets))
    yield f"{matcher} vars gateway_service {_quoted(service.name)}"
    yield f"reverse_proxy {matcher} {targets} {{"
    if len(set(service.weights)) > 1:
        yield f"  lb_policy weighted_round_robin {' '.join(map(str, service.weights))}"
    yield "  header_down -Access-Control-*"
    yield "}"

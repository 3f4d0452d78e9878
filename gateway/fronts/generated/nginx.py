"""PURE. The configuration of nginx, with auth_request."""

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
# nginx in front of supertokens-gateway: include this file at the level of `http`.
# It is made by `gateway front nginx`. Make it anew when the route table changes.
#
# nginx asks the gateway about each request (auth_request) and forwards it itself.
@notes@

# Only a WebSocket may be opened; Connection has no other names.
map $http_upgrade $g_upgrade { default ""; ~*^websocket$ websocket; }
map $g_upgrade $g_connection { default ""; websocket upgrade; }

# A CORS preflight is answered by nginx, once the gateway has allowed it.
map "$request_method $http_origin $http_access_control_request_method" $g_preflight {
  default "";
  "~^OPTIONS [^ ]+ [^ ]" 1;
}

# The gateway names the service. Without a known name, nginx answers 500.
map $g_service $g_place {
  default "";
  @places@
}

upstream gateway_decision { server @decision@; keepalive 32; }
@own_upstream@
@upstreams@

server {
  listen @listen@;  # for https: `listen 443 ssl`, with your certificate
  client_max_body_size @max_body_size@;
  proxy_http_version 1.1;
  # Underscores and other odd characters in names stay forbidden: services could read
  # x_user_id as X-User-Id.
  underscores_in_headers off;
  ignore_invalid_headers on;
  @own_locations@

  # --- the question ---

  location = /_gateway_decision {
    internal;
    proxy_pass http://gateway_decision/auth-request;
    @question@
  }

  # auth_request keeps only the status of a refusal: the whole one is asked for here.
  location @refused {
    internal;
    rewrite ^ /refusal break;
    proxy_pass http://gateway_decision;
    proxy_method GET;
    proxy_hide_header X-Gateway-Status;
    @question@
  }

  # --- the services ---

  location / {
    if ($g_preflight) { rewrite ^ /_gateway_preflight last; }
    auth_request /_gateway_decision;
    error_page 401 403 500 = @refused;

    # Identity: each name is the gateway's, or removed.
    @identity@

    # New tokens and CORS fields, for the client. The services' CORS fields don't count.
    @reply@
    @hidden@

    auth_request_set $g_service $upstream_http_x_gateway_service;
    auth_request_set $g_target $upstream_http_x_gateway_target;
    proxy_set_header Host $http_host;
    proxy_set_header Connection $g_connection;
    proxy_set_header Upgrade $g_upgrade;
    proxy_set_header X-Request-Id $g_x_request_id;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host $http_host;
    proxy_set_header X-Gateway-Service "";
    proxy_set_header X-Gateway-Target "";
    proxy_pass $g_place$g_target;
  }

  location = /_gateway_preflight {
    internal;
    auth_request /_gateway_decision;
    error_page 401 403 500 = @refused;
    @reply@
    @preflight@
    try_files /_gateway_preflight =204;
  }
}
"""

_QUESTION: Final = """\
proxy_pass_request_body off;
proxy_buffer_size 16k; proxy_buffers 4 16k; proxy_busy_buffers_size 32k;
proxy_connect_timeout 2s; proxy_read_timeout 10s;
proxy_set_header Host gateway;
proxy_set_header Connection "";
proxy_set_header Content-Length "";
proxy_set_header Upgrade $g_upgrade;
proxy_set_header X-Forwarded-For $remote_addr;  # behind a proxy: set_real_ip_from
proxy_set_header X-Original-Method $request_method;
proxy_set_header X-Original-URL $scheme://$http_host$request_uri;
"""

_OWN: Final = """\

# --- what the gateway answers itself; list nginx in gateway.trusted_proxies ---

proxy_set_header Host $http_host;
proxy_set_header Connection "";
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Host $http_host;
@locations@
"""


def nginx(plan: FrontPlan) -> str:
    """Return a file for the level of `http`."""
    own = plan.own
    names = [*TOKEN_FIELDS, *REPLY_FIELDS]
    cookies = [f"X-Gateway-Set-Cookie-{number}" for number in range(1, COOKIES + 1)]
    return fill(
        _FILE,
        notes=[f"# Not done by nginx: {note}." for note in plan.notes],
        places=[f'"{one.name}" http://{one.label};' for one in plan.services],
        decision=_place(plan.decision),
        own_upstream=()
        if own is None
        else f"upstream gateway_itself {{ server {_place(own)}; keepalive 32; }}",
        upstreams=chain.from_iterable(map(_upstream, plan.services)),
        listen=_place(plan.listen),
        max_body_size=str(plan.max_body_size),
        own_locations=() if own is None else _own(plan),
        question=_QUESTION,
        identity=_identity(plan.identity),
        reply=[
            *(_taken(name) for name in (*cookies, *names)),
            *(f"add_header Set-Cookie {_variable(name)} always;" for name in cookies),
            *(f"add_header {name} {_variable(name)} always;" for name in names),
        ],
        hidden=(
            f"proxy_hide_header {name};"
            for name in (*REPLY_FIELDS, *PREFLIGHT_FIELDS)
            if name != "Vary"
        ),
        preflight=(
            line
            for name in PREFLIGHT_FIELDS
            for line in (_taken(name), f"add_header {name} {_variable(name)} always;")
        ),
    )


def _place(place: ListenAddress | Address) -> str:
    if place.socket_path:
        return f"unix:{place.socket_path}"
    return f"{place.host}:{place.port}"


def _upstream(service: FrontService) -> Iterator[str]:
    yield f"upstream {service.label} {{"
    for target, weight in zip(service.targets, service.weights, strict=True):
        yield f"  server {_place(target)} weight={weight};"
    yield "  keepalive 32;"
    yield "}"


def _variable(name: str) -> str:
    return "$g_" + name.lower().replace("-", "_")


def _taken(name: str) -> str:
    source = "$upstream_http_" + name.lower().replace("-", "_")
    return f"auth_request_set {_variable(name)} {source};"


def _identity(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield _taken(name)
        yield f"proxy_set_header {name} {_variable(name)};"


def _own(plan: FrontPlan) -> str:
    places = [f'= "{path}"' for path in (*plan.own_exact, plan.own_below)]
    places.append(f'^~ "{plan.own_below}/"')
    return fill(
        _OWN,
        locations=(
            f"location {place} {{ proxy_pass http://gateway_itself; }}"
            for place in places
        ),
    )

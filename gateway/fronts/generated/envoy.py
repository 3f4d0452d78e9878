"""PURE. The configuration of Envoy, with ext_authz over HTTP."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address
from itertools import chain
from typing import Final

from gateway.config import Address, ListenAddress
from gateway.fronts.generated.plan import (
    PREFLIGHT_FIELDS,
    REPLY_FIELDS,
    TOKEN_FIELDS,
    FrontPlan,
    FrontService,
)
from gateway.fronts.generated.templates import fill

_FILE: Final = """\
# Envoy in front of supertokens-gateway.
# It is made by `gateway front envoy`. Make it anew when the route table changes.
#
# Envoy asks the gateway about each request (ext_authz) and forwards it itself.
@notes@
static_resources:
  listeners:
    - name: clients
      address: @listen@
      filter_chains:  # for https: a transport_socket with your certificate
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                "@type": @manager@
                stat_prefix: clients
                # The client's address is that of its connection: behind another proxy,
                # set xff_num_trusted_hops.
                use_remote_address: true
                # The gateway judges the path as it was sent.
                normalize_path: false
                merge_slashes: false
                path_with_escaped_slashes_action: KEEP_UNCHANGED
                # Services could read x_user_id as X-User-Id.
                common_http_protocol_options:
                  headers_with_underscores_action: DROP_HEADER
                upgrade_configs: [{upgrade_type: websocket}]
                http_filters:
                  - name: clean
                    typed_config:
                      "@type": @filters@.http.lua.v3.Lua
                      default_source_code:
                        inline_string: |
                          -- Removes what only the gateway may set, in any spelling.
                          local own = {
                            @own_names@
                          }
                          function envoy_on_request(handle)
                            local removed = {}
                            for name in pairs(handle:headers()) do
                              local odd = name:sub(1, 1) ~= ":" and name:find("[^%w-]")
                              if odd or own[name:lower()] then
                                removed[#removed + 1] = name
                              end
                            end
                            for _, name in ipairs(removed) do
                              handle:headers():remove(name)
                            end
                          end
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      "@type": @filters@.http.ext_authz.v3.ExtAuthz
                      failure_mode_allow: false
                      status_on_error: {code: ServiceUnavailable}
                      # The route follows from the gateway's x-gateway-service.
                      clear_route_cache: true
                      # All fields of the client, but those of its connection.
                      allowed_headers:
                        patterns: [{safe_regex: {regex: "[^:].*"}}]
                      disallowed_headers:
                        patterns:
                          - {exact: connection, ignore_case: true}
                          - {exact: upgrade, ignore_case: true}
                          - {exact: transfer-encoding, ignore_case: true}
                          - {exact: content-length, ignore_case: true}
                          - {exact: expect, ignore_case: true}
                          - {exact: te, ignore_case: true}
                      http_service:
                        server_uri:
                          uri: http://gateway
                          cluster: gateway_decision
                          timeout: 10s
                        path_prefix: /ext-authz
                        authorization_response:
                          allowed_upstream_headers:
                            patterns:
                              @to_service@
                          allowed_client_headers_on_success:
                            patterns:
                              @to_client@
                  - name: target
                    typed_config:
                      "@type": @filters@.http.lua.v3.Lua
                      default_source_code:
                        inline_string: |
                          -- Answers a CORS preflight that the gateway has allowed, and
                          -- sends everything else to the path that it names.
                          function envoy_on_request(handle)
                            local fields = handle:headers()
                            if fields:get("@first_preflight@") then
                              handle:respond({[":status"] = "204"}, "")
                              return
                            end
                            local target = fields:get("x-gateway-target")
                            if target then
                              fields:replace(":path", target)
                              fields:remove("x-gateway-target")
                            end
                          end
                  - name: envoy.filters.http.router
                    typed_config:
                      "@type": @filters@.http.router.v3.Router
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: ["*"]
                      routes:
                        # The gateway names the service, whose CORS fields don't count.
                        @routes@
                        @own_routes@
                        - match: {prefix: /}
                          direct_response: {status: 503}
  clusters:
    - name: gateway_decision
      connect_timeout: 2s
      type: @decision_type@
      load_assignment:
        cluster_name: gateway_decision
        endpoints: [{lb_endpoints: [{endpoint: {address: @decision@}}]}]
    @own_cluster@
    @clusters@
"""

_FILTERS: Final = "type.googleapis.com/envoy.extensions.filters"

_MANAGER: Final = f"{_FILTERS}.network.http_connection_manager.v3.HttpConnectionManager"
_CLUSTER: Final = """\
- name: @name@
  connect_timeout: 5s
  type: @type@
  load_assignment:
    cluster_name: @name@
    endpoints:
      - lb_endpoints:
          @endpoints@
"""

_OWN: Final = """\
# What the gateway answers itself; list Envoy in gateway.trusted_proxies.
@routes@
"""

_UNASKED: Final = """\
- match: {@match@}
  route: {cluster: gateway_itself}
  typed_per_filter_config:
    envoy.filters.http.ext_authz:
      "@type": @filters@.http.ext_authz.v3.ExtAuthzPerRoute
      disabled: true
"""


def envoy(plan: FrontPlan) -> str:
    """Return a bootstrap configuration in YAML."""
    own = plan.own
    to_service = (
        *plan.identity,
        "X-Gateway-Service",
        "X-Gateway-Target",
        "X-Request-Id",
        PREFLIGHT_FIELDS[0],
    )
    return fill(
        _FILE,
        filters=_FILTERS,
        manager=_MANAGER,
        notes=[f"# Not done by Envoy: {note}." for note in plan.notes],
        listen=_address(plan.listen),
        own_names=(
            f'["{name.lower()}"] = true,'
            for name in to_service
            if name != "X-Request-Id"
        ),
        to_service=_patterns(to_service),
        to_client=_patterns(
            ("Set-Cookie", *TOKEN_FIELDS, *REPLY_FIELDS, *PREFLIGHT_FIELDS)
        ),
        first_preflight=PREFLIGHT_FIELDS[0].lower(),
        routes=chain.from_iterable(map(_route, plan.services)),
        own_routes=() if own is None else _own_routes(plan),
        decision_type=_type((plan.decision,)),
        decision=_address(plan.decision),
        own_cluster=() if own is None else _cluster("gateway_itself", (own,), (1,)),
        clusters="".join(
            _cluster(one.label, one.targets, one.weights) for one in plan.services
        ),
    )


def _address(place: ListenAddress | Address) -> str:
    if place.socket_path:
        return f'{{pipe: {{path: "{place.socket_path}"}}}}'
    host = place.host.strip("[]")
    return f'{{socket_address: {{address: "{host}", port_value: {place.port}}}}}'


def _type(places: Iterable[ListenAddress | Address]) -> str:
    """Return how the names of *places* are looked up: addresses needn't be."""
    try:
        for place in places:
            if place.host:
                ip_address(place.host.strip("[]"))
    except ValueError:
        return "STRICT_DNS"
    return "STATIC"


def _patterns(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield f"- {{exact: {name.lower()}, ignore_case: true}}"


def _route(service: FrontService) -> Iterator[str]:
    yield "- match:"
    yield "    prefix: /"
    yield "    headers:"
    exact = f'{{exact: "{service.name}"}}'
    yield f"      - {{name: x-gateway-service, string_match: {exact}}}"
    yield f"  route: {{cluster: {service.label}, timeout: 0s}}"
    yield "  request_headers_to_remove: [x-gateway-service]"
    yield "  response_headers_to_remove:"
    for name in (*REPLY_FIELDS, *PREFLIGHT_FIELDS):
        if name != "Vary":
            yield f"    - {name.lower()}"


def _own_routes(plan: FrontPlan) -> str:
    matches = [
        *(f'path: "{path}"' for path in (*plan.own_exact, plan.own_below)),
        f'prefix: "{plan.own_below}/"',
    ]
    routes = "".join(fill(_UNASKED, filters=_FILTERS, match=match) for match in matches)
    return fill(_OWN, routes=routes)


def _cluster(
    name: str, places: Iterable[ListenAddress | Address], weights: Iterable[int]
) -> str:
    places = tuple(places)
    return fill(
        _CLUSTER,
        name=name,
        type=_type(places),
        endpoints=(
            f"- {{endpoint: {{address: {_address(place)}}},"
            f" load_balancing_weight: {weight}}}"
            for place, weight in zip(places, weights, strict=True)
        ),
    )

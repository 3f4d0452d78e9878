"""PURE. The configuration of HAProxy, and the Lua script with which it asks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
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
# HAProxy in front of supertokens-gateway; it needs Lua (haproxy -vv says +LUA).
# It is made by `gateway front haproxy`. Make it anew when the route table changes.
#
# HAProxy asks the gateway about each request by gateway.lua, and forwards it itself.
# Write that file with `gateway front haproxy-lua`, too.
@notes@
global
  httpclient.resolvers.prefer ipv4
  lua-load gateway.lua

defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  timeout tunnel 1h

frontend clients
  bind @listen@  # for https: ssl crt, with your certificate
  # The client is the peer of this connection, whatever it says itself.
  http-request set-header X-Forwarded-For %[src]
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Proto https if { ssl_fc }
  http-request set-header X-Forwarded-Host %[req.hdr(Host)]
  @own@
  http-request lua.gateway_ask@unless@
  http-response lua.gateway_reply
  @to_own@
  # The gateway names the service.
  @uses@
  default_backend refused

backend refused
  http-request deny deny_status 503

@backends@
"""

_BACKEND: Final = """\
backend @name@
  @servers@

"""

_LUA: Final = """\
-- gateway.lua: asks supertokens-gateway about each request.
-- It is made by `gateway front haproxy-lua`. Make it anew when the route table changes.

local DECISION = {@decision@}

-- What only the gateway may set.
local IDENTITY = {
  @identity@
}
-- Fields of its answer for the client.
local REPLY = {
  @reply@
}
local PREFLIGHT = {
  @preflight@
}
-- Fields of HAProxy's own connection.
local NOT_ASKED = {
  host = true, connection = true, upgrade = true, expect = true, te = true,
  ["content-length"] = true, ["transfer-encoding"] = true,
}

-- Returns the values of a field in order, as a list from 1.
local function values(fields, name)
  local found, list = fields[name], {}
  local number = 0
  while found and found[number] do
    list[number + 1] = found[number]
    number = number + 1
  end
  return list
end

local function copy(reply, fields, names)
  for _, name in ipairs(names) do
    for _, value in ipairs(values(fields, name:lower())) do
      reply:add_header(name, value)
    end
  end
end

core.register_action("gateway_ask", {"http-req"}, function(txn)
  local asked, connection = {}, ""
  local fields = txn.http:req_get_headers()
  for name, _ in pairs(fields) do
    name = name:lower()
    if not NOT_ASKED[name] then
      asked[name] = values(fields, name)
    end
    -- Services could read x_user_id as X-User-Id.
    if name:find("[^%w-]") then
      txn.http:req_del_header(name)
    end
  end
  asked["x-forwarded-method"] = {txn.f:method()}
  asked["x-forwarded-uri"] = {txn.f:pathq()}

  -- Connection may open a WebSocket, and names no other field.
  for _, value in ipairs(values(fields, "connection")) do
    connection = connection .. "," .. value:lower()
  end
  if connection:find("[, \\t]upgrade[, \\t]") or connection:find("[, \\t]upgrade$") then
    txn.http:req_set_header("Connection", "Upgrade")
  else
    txn.http:req_del_header("Connection")
    txn.http:req_del_header("Upgrade")
  end

  local answer = core.httpclient():get{
    url = DECISION.url, dst = DECISION.dst, headers = asked, timeout = 10000,
  }
  if not answer or answer.status ~= 200 then
    -- Refused, or undecided: nothing is forwarded.
    local reply = txn:reply()
    local status = answer and answer.status or 0
    reply:set_status(status >= 300 and status or 503)
    for name, _ in pairs(answer and answer.headers or {}) do
      if not NOT_ASKED[name] and name ~= "x-gateway-status" then
        copy(reply, answer.headers, {name})
      end
    end
    reply:set_body(answer and answer.body or "")
    txn:done(reply)
    return
  end

  local said = answer.headers
  if said["access-control-allow-methods"] then
    -- A CORS preflight that the gateway has allowed.
    local reply = txn:reply()
    reply:set_status(204)
    copy(reply, said, REPLY)
    copy(reply, said, PREFLIGHT)
    txn:done(reply)
    return
  end

  for _, name in ipairs(IDENTITY) do
    txn.http:req_del_header(name)
    for _, value in ipairs(values(said, name:lower())) do
      txn.http:req_add_header(name, value)
    end
  end
  local id = values(said, "x-request-id")[1]
  if id then
    txn.http:req_set_header("X-Request-Id", id)
  end
  @target@
  txn:set_var("txn.gateway_service", values(said, "x-gateway-service")[1] or "")
  txn:set_priv(said)
end)

core.register_action("gateway_reply", {"http-res"}, function(txn)
  local said = txn:get_priv()
  if not said then
    return
  end
  -- The service's CORS fields don't count.
  for _, name in ipairs(PREFLIGHT) do
    txn.http:res_del_header(name)
  end
  for _, name in ipairs(REPLY) do
    if name:find("^Access") or name == "X-Request-Id" then
      txn.http:res_del_header(name)
    end
    for _, value in ipairs(values(said, name:lower())) do
      txn.http:res_add_header(name, value)
    end
  end
end)
"""

_TARGET: Final = """\
txn.http:req_set_uri(values(said, "x-gateway-target")[1])
"""


def haproxy(plan: FrontPlan) -> str:
    """Return haproxy.cfg."""
    own = plan.own
    backends = [
        *((one.label, one.targets, one.weights) for one in plan.services),
        *(() if own is None else (("gateway_itself", (own,), (1,)),)),
    ]
    return fill(
        _FILE,
        notes=[f"# Not done by HAProxy: {note}." for note in plan.notes],
        listen=_place(plan.listen),
        own=_own(plan),
        to_own=() if own is None else "use_backend gateway_itself if own",
        unless="" if own is None else " unless own",
        uses=chain.from_iterable(map(_use, plan.services)),
        backends="".join(
            fill(_BACKEND, name=name, servers=_servers(places, weights))
            for name, places, weights in backends
        ).rstrip(),
    )


def haproxy_lua(plan: FrontPlan) -> str:
    """Return gateway.lua."""
    place = plan.decision
    url = "http://gateway/forward-auth"
    if place.is_unix:
        decision = f"url = {_text(url)}, dst = {_text('unix@' + place.socket_path)}"
    else:
        decision = f"url = {_text(f'http://{_place(place)}/forward-auth')}"
    return fill(
        _LUA,
        decision=decision,
        identity=_list(plan.identity),
        reply=_list(("Set-Cookie", *TOKEN_FIELDS, *REPLY_FIELDS)),
        preflight=_list(PREFLIGHT_FIELDS),
        target=_TARGET if plan.rewrites else (),
    )


def _place(place: ListenAddress | Address) -> str:
    if place.socket_path:
        return f"unix@{place.socket_path}"
    return f"{place.host}:{place.port}"


def _text(text: str) -> str:
    """Return *text* in Lua; it is ASCII."""
    return json.dumps(text)


def _list(names: Iterable[str]) -> Iterator[str]:
    return (f"{_text(name)}," for name in names)


def _own(plan: FrontPlan) -> Iterator[str]:
    if plan.own is None:
        return
    yield "# What the gateway answers itself; list HAProxy in gateway.trusted_proxies."
    yield f"acl own path {' '.join((*plan.own_exact, plan.own_below))}"
    yield f"acl own path_beg {plan.own_below}/"


def _use(service: FrontService) -> Iterator[str]:
    yield (
        f"use_backend {service.label}"
        f" if {{ var(txn.gateway_service) -m str {service.name} }}"
    )


def _servers(
    places: Iterable[ListenAddress | Address], weights: Iterable[int]
) -> Iterator[str]:
    for number, (place, weight) in enumerate(zip(places, weights, strict=True), 1):
        weighed = min(weight, 256)  # HAProxy's largest
        yield f"server target_{number} {_place(place)} weight {weighed}"

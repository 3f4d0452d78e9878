"""edge. Which browser origins may read the responses, decided by aiohttp-cors.

One policy covers every route without its own, because one SuperTokens frontend calls
them all.
aiohttp-cors decides by the method and the header fields of a request. Its fields for
an allowed origin are kept as raw fields, since they depend on the origin only.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import aiohttp_cors
from aiohttp import web
from aiohttp_cors.abc import AbstractRouterAdapter
from multidict import CIMultiDict

from gateway.config import CorsConfig
from gateway.downstream.origins import AllowedOrigins, ByOrigin
from gateway.http import fields as raw
from gateway.http.fields import Field, Fields
from gateway.http.target import Target
from gateway.seams import aiohttp as aiohttp_seams

MethodAllowed = Callable[[Target, str], bool]
"""Return whether the resource of a request target supports a method."""

# Fields that SuperTokens' frontend SDKs must be able to read on any response, besides
# those that the operator exposes (SuperTokens documentation, "CORS").
_EXPOSED = ("front-token", "st-access-token", "st-refresh-token", "anti-csrf")
_GATEWAY_EXPOSED = ("x-request-id", "retry-after")

_ANY = b"*"
_ALLOW_ORIGIN = "access-control-allow-origin"
_MAX_DECIDED = 1024
"""Origins whose fields are remembered, of those that a pattern allows."""

# What browsers' monitoring adds to every call (W3C Trace Context and Baggage, Sentry).
# It gives no rights, and any client can send it. Fields that services may take for a
# proof against CSRF (X-Requested-With, X-CSRF-Token) are left to the operator.
_TRACING = ("traceparent", "tracestate", "baggage", "sentry-trace")

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""The methods that a refused preflight is told of, if the resource supports them."""

_SHOWN_MAX = 100
"""Characters of a client's value that the log shows."""

_VARY_PREFLIGHT: Field = (
    b"Vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)

VARY: Field = (b"Vary", b"Origin")
"""Set on every response: a cache must not serve one origin's to another origin."""


class Preflight(NamedTuple):
    """What the policy says about a preflight."""

    fields: Fields | None
    """The fields of the 204; None: the origin isn't allowed, and gets none."""
    refusal: str = ""
    """For the log: the origin, method or field that is refused; empty if none is."""


class _CorsRequest:
    """The attributes of a request that aiohttp-cors and the adapter read."""

    def __init__(self, method: str, fields: Fields, target: Target | None) -> None:
        self.method = method
        self.fields = fields
        self.target = target
        self.headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in fields
        )


_Options = Mapping[str, aiohttp_cors.ResourceOptions]


class _RouteTableAdapter(AbstractRouterAdapter):
    """Connects aiohttp-cors to the route table, with one policy for every route."""

    def __init__(self, options: _Options, method_allowed: MethodAllowed) -> None:
        self._options = options
        self._method_allowed = method_allowed
        self.preflight: Callable[[_CorsRequest], Awaitable[web.Response]]

    def add_preflight_handler(
        self,
        routing_entity: object,
        handler: Callable[[_CorsRequest], Awaitable[web.Response]],
        webview: bool = False,
    ) -> None:
        self.preflight = handler

    def is_preflight_request(self, request: Any) -> bool:
        return is_preflight(request.method, request.fields)

    def is_cors_enabled_on_request(self, request: Any) -> bool:
        return True

    def set_config_for_routing_entity(
        self, routing_entity: object, config: object
    ) -> None:
        """Do nothing: `__init__` has the one policy."""

    async def get_preflight_request_config(
        self, preflight_request: Any, origin: str, requested_method: str
    ) -> _Options:
        if not self._method_allowed(preflight_request.target, requested_method):
            raise KeyError(requested_method)
        return self._options

    def get_non_preflight_request_config(self, request: Any) -> _Options:
        return self._options


class PolicyRoute(Protocol):
    """The part of a route that says which policy it has."""

    @property
    def name(self) -> str: ...
    @property
    def cors(self) -> CorsConfig | None: ...


class Cors:
    """The CORS policy of the whole route table, and those of routes with their own."""

    def __init__(
        self,
        config: CorsConfig,
        *,
        website_domain: str,
        sdk_headers: Iterable[str],
        method_allowed: MethodAllowed,
        routes: Iterable[PolicyRoute] = (),
    ) -> None:
        """*sdk_headers* are the names from the SDK's `get_all_cors_headers()`.

        *routes* are those that may have a policy of their own.
        """
        self.config = config
        self._by_route: dict[PolicyRoute, Cors] = {}
        self._by_name: dict[str, Cors] = {}
        sdk_headers = tuple(sdk_headers)
        made: list[Cors] = []
        for route in routes:
            if route.cors is None:
                continue
            same = (one for one in made if one.config == route.cors)
            policy = next(same, None)
            if policy is None:
                policy = Cors(
                    route.cors,
                    website_domain=website_domain,
                    sdk_headers=sdk_headers,
                    method_allowed=method_allowed,
                )
                made.append(policy)
            self._by_route[route] = self._by_name[route.name] = policy
        origins = config.allow_origins
        self.origins = AllowedOrigins((website_domain,) if origins is None else origins)
        """The origins that are named. Handshakes of WebSockets have no others, because
        browsers send cookies with them."""
        allow_headers = ("content-type", *sdk_headers, *_TRACING, *config.allow_headers)
        self._allow_headers = tuple(dict.fromkeys(map(str.lower, allow_headers)))
        options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]
            allow_credentials=not self.origins.is_any,
            allow_headers=self._allow_headers,
            expose_headers=tuple(
                dict.fromkeys((*_EXPOSED, *_GATEWAY_EXPOSED, *config.expose_headers))
            ),
            max_age=config.max_age,
        )
        by_origin = ByOrigin(self.origins, options)
        self._method_allowed = method_allowed
        self._adapter = _RouteTableAdapter(by_origin, method_allowed)
        self._signal = aiohttp_seams.CorsSignal(self._adapter)
        self._decided: dict[bytes, Fields] = {}

    def of(self, route: PolicyRoute | None) -> Cors:
        """Return the policy of *route*; this one if it has none of its own."""
        return self._by_route.get(route, self) if route is not None else self

    def named(self, name: str | None) -> Cors:
        """Return the policy of the route with this name; this one if there is none."""
        return self._by_name.get(name, self) if name is not None else self

    def known(self, origins: Sequence[bytes]) -> Fields | None:
        """Return the result of `fields`, or None if aiohttp-cors must decide first."""
        if len(origins) != 1:
            return ()
        return self._decided.get(_ANY if self.origins.is_any else origins[0])

    async def fields(self, origins: Sequence[bytes]) -> Fields:
        """Return the Access-Control-* fields of the response to a request.

        *origins* are the request's Origin values. The result is empty if there is no
        value, if there are several, and if the origin isn't allowed. It doesn't
        include `Vary: Origin`, which every response needs (`headers`).
        """
        decided = self.known(origins)
        if decided is None:
            probe = web.Response()
            request: Any = _CorsRequest("GET", ((b"Origin", origins[0]),), None)
            await self._signal.send(request, probe)
            decided = self._granted(probe)
            if (
                decided
            ):  # only allowed origins: a pattern has as many as there are names
                if len(self._decided) >= _MAX_DECIDED:
                    self._decided.clear()
                self._decided[_ANY if self.origins.is_any else origins[0]] = decided
        return decided

    def _granted(self, response: web.StreamResponse) -> Fields:
        """Return the CORS fields that aiohttp-cors has set in *response*.

        It repeats the origin where every origin is allowed. `*` says that the answer is
        the same for all, and that it isn't for requests with credentials.

        Source: WHATWG Fetch, CORS protocol and credentials.
        """
        return tuple(
            (
                name.encode(),
                _ANY
                if self.origins.is_any and name.lower() == _ALLOW_ORIGIN
                else value.encode(),
            )
            for name, value in response.headers.items()
            if name.lower().startswith("access-control-")
        )

    async def preflight(self, method: str, fields: Fields, target: Target) -> Preflight:
        """Return the fields of the answer to a preflight, and what is refused of it.

        No session is needed: browsers send none with a preflight. An allowed origin
        always gets the lists of what is allowed, because a browser names the method or
        field that is missing there. Without them, it reports the origin instead.

        Source: WHATWG Fetch, CORS-preflight fetch.
        """
        origins = list(raw.values(fields, b"origin"))
        if len(origins) != 1:
            return Preflight(None, "several origins")
        request = _CorsRequest(method, fields, target)
        try:
            response = await self._adapter.preflight(request)
        except web.HTTPForbidden:
            return self._refused(request, origins[0].decode("latin-1"), target)
        return Preflight((*self._granted(response), _VARY_PREFLIGHT))

    def _refused(self, request: _CorsRequest, origin: str, target: Target) -> Preflight:
        if origin not in self.origins and not self.origins.is_any:
            return Preflight(None, f"origin {_shown(origin)} isn't in allow_origins")
        method = request.headers.get("Access-Control-Request-Method", "")
        names = request.headers.get("Access-Control-Request-Headers", "")
        is_supported = self._method_allowed
        methods = [name for name in _METHODS if is_supported(target, name)]
        if is_supported(target, method):
            extra = [
                name
                for name in (part.strip(" \t") for part in names.split(","))
                if name and name.lower() not in self._allow_headers
            ]
            refusal = f"field {_shown(', '.join(extra))} isn't in allow_headers"
            if method not in methods:
                methods.append(method)
        else:
            refusal = f"method {_shown(method)} isn't supported here"
        names_origin: Fields = (
            (b"Access-Control-Allow-Origin", origin.encode("latin-1")),
            (b"Access-Control-Allow-Credentials", b"true"),
        )
        if self.origins.is_any:
            names_origin = ((b"Access-Control-Allow-Origin", _ANY),)
        granted: Fields = (
            *names_origin,
            (b"Access-Control-Allow-Methods", ", ".join(methods).encode("latin-1")),
            (b"Access-Control-Allow-Headers", ", ".join(self._allow_headers).encode()),
            # Browsers let GET, HEAD and POST pass whatever the list says. They must
            # not keep the lists, since another method's route may have another policy.
            (b"Access-Control-Max-Age", b"0"),
            _VARY_PREFLIGHT,
        )
        return Preflight(granted, refusal)


def _shown(value: str) -> str:
    """Return a client's *value* for the log: printable ASCII, and not too long."""
    text = value.encode("ascii", "backslashreplace").decode()
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def merged(cors_fields: Fields, sdk_fields: Fields) -> Fields:
    """Return the CORS fields to add to a response that has *sdk_fields* already.

    *cors_fields* are left out if the SDK has set Access-Control-Allow-Origin, as it
    does to open its public key set to every origin. The token fields that the SDK
    names in Access-Control-Expose-Headers are in *cors_fields* as well.
    """
    names = {name.lower() for name, _ in sdk_fields}
    if b"access-control-allow-origin" in names:
        return (VARY,)
    return (*cors_fields, VARY)


def is_preflight(method: str, fields: Fields) -> bool:
    """Return whether a request is a CORS preflight, rather than a plain OPTIONS.

    A plain OPTIONS is handled like any other method.

    Source: WHATWG Fetch, CORS-preflight request.
    """
    return (
        method == "OPTIONS"
        and raw.first(fields, b"origin") is not None
        and raw.first(fields, b"access-control-request-method") is not None
    )

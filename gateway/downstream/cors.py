"""edge. Which browser origins may read the answers, decided by aiohttp-cors.

One policy covers every route, because one SuperTokens frontend calls them all.
aiohttp-cors decides; of a request it reads the method and the headers. What it decided
for an allowed origin is kept as raw fields, since it depends on nothing else of the
request.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any

import aiohttp_cors
from aiohttp import web
from aiohttp_cors.abc import AbstractRouterAdapter
from multidict import CIMultiDict

from gateway.config import CorsConfig
from gateway.http import fields as raw
from gateway.http.fields import Field, Fields
from gateway.http.target import Target
from gateway.seams import aiohttp as aiohttp_seams

MethodAllowed = Callable[[Target, str], bool]
"""Whether the resource that the request names answers to this method."""

# What SuperTokens' frontend SDKs must be able to read on any answer, besides what
# the operator exposes (SuperTokens documentation, "CORS").
_EXPOSED = ("front-token", "st-access-token", "st-refresh-token", "anti-csrf")
_GATEWAY_EXPOSED = ("x-request-id", "retry-after")

_VARY_PREFLIGHT: Field = (
    b"Vary",
    b"Origin, Access-Control-Request-Method, Access-Control-Request-Headers",
)

VARY: Field = (b"Vary", b"Origin")
"""On every answer: a cache must not give one origin's answer to another."""


class _Asked:
    """A request, as far as aiohttp-cors reads it."""

    def __init__(self, method: str, fields: Fields, target: Target | None) -> None:
        self.method = method
        self.fields = fields
        self.target = target
        self.headers = CIMultiDict(
            (name.decode("latin-1"), value.decode("latin-1")) for name, value in fields
        )


_Options = Mapping[str, aiohttp_cors.ResourceOptions]


class _RouteTableAdapter(AbstractRouterAdapter):
    """Tells aiohttp-cors what the route table knows. One policy, every route."""

    def __init__(self, options: _Options, method_allowed: MethodAllowed) -> None:
        self._options = options
        self._method_allowed = method_allowed
        self.preflight: Callable[[_Asked], Awaitable[web.Response]]

    def add_preflight_handler(
        self,
        routing_entity: object,
        handler: Callable[[_Asked], Awaitable[web.Response]],
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
        """Nothing to record: the one policy was given at the start."""

    async def get_preflight_request_config(
        self, preflight_request: Any, origin: str, requested_method: str
    ) -> _Options:
        if not self._method_allowed(preflight_request.target, requested_method):
            raise KeyError(requested_method)
        return self._options

    def get_non_preflight_request_config(self, request: Any) -> _Options:
        return self._options


class Cors:
    """The CORS policy of the whole route table."""

    def __init__(
        self,
        config: CorsConfig,
        *,
        website_domain: str,
        sdk_headers: Iterable[str],
        method_allowed: MethodAllowed,
    ) -> None:
        """*sdk_headers* are the SDK's `get_all_cors_headers()`."""
        origins = config.allow_origins
        self.origins = frozenset((website_domain,) if origins is None else origins)
        options = aiohttp_cors.ResourceOptions(  # type: ignore[no-untyped-call]
            allow_credentials=True,
            allow_headers=tuple(
                dict.fromkeys(("content-type", *sdk_headers, *config.allow_headers))
            ),
            expose_headers=tuple(
                dict.fromkeys((*_EXPOSED, *_GATEWAY_EXPOSED, *config.expose_headers))
            ),
            max_age=config.max_age,
        )
        by_origin = dict.fromkeys(self.origins, options)
        self._adapter = _RouteTableAdapter(by_origin, method_allowed)
        self._signal = aiohttp_seams.CorsSignal(self._adapter)
        self._decided: dict[bytes, Fields] = {}

    def known(self, origins: Sequence[bytes]) -> Fields | None:
        """Return what `fields` does, None where aiohttp-cors must be asked."""
        return self._decided.get(origins[0]) if len(origins) == 1 else ()

    async def fields(self, origins: Sequence[bytes]) -> Fields:
        """Return the Access-Control-* fields of the answer to a request.

        *origins* are its values of Origin. Empty without one, with several, and for an
        origin that isn't allowed. `Vary: Origin` is not among them: every answer needs
        it (`headers`).
        """
        if len(origins) != 1:
            return ()
        decided = self._decided.get(origins[0])
        if decided is None:
            probe = web.Response()
            asked: Any = _Asked("GET", ((b"Origin", origins[0]),), None)
            await self._signal.send(asked, probe)
            decided = tuple(
                (name.encode(), value.encode())
                for name, value in probe.headers.items()
                if name.lower().startswith("access-control-")
            )
            if decided:  # only allowed origins are kept: the store can't be flooded
                self._decided[origins[0]] = decided
        return decided

    async def preflight(
        self, method: str, fields: Fields, target: Target
    ) -> Fields | None:
        """Return the fields of a 204 that grants the preflight, None to refuse it.

        No session is needed: browsers send none with a preflight.

        Source: WHATWG Fetch, CORS-preflight fetch.
        """
        if sum(1 for _ in raw.values(fields, b"origin")) != 1:
            return None
        try:
            granted = await self._adapter.preflight(_Asked(method, fields, target))
        except web.HTTPForbidden:
            return None
        allowed = [
            (name.encode(), value.encode())
            for name, value in granted.headers.items()
            if name.lower().startswith("access-control-")
        ]
        return (*allowed, _VARY_PREFLIGHT)


def merged(granted: Fields, answer: Fields) -> Fields:
    """Return what is to be added to an *answer* that the SDK may have granted itself.

    The SDK names its token fields in Access-Control-Expose-Headers, which *granted*
    names as well, and opens its public key set to every origin.
    """
    given = {name.lower() for name, _ in answer}
    if b"access-control-allow-origin" in given:
        return (VARY,)
    return (*granted, VARY)


def is_preflight(method: str, fields: Fields) -> bool:
    """Return whether a browser asks for permission, rather than for the resource.

    A plain OPTIONS goes the way of every other method.

    Source: WHATWG Fetch, CORS-preflight request.
    """
    return (
        method == "OPTIONS"
        and raw.first(fields, b"origin") is not None
        and raw.first(fields, b"access-control-request-method") is not None
    )

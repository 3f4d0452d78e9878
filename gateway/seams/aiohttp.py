"""edge. What the gateway replaces and reads inside aiohttp and aiohttp-cors, all of it.

`aiohttp_app` has aiohttp's server send what the proxy decides, and `cors` has
aiohttp-cors decide without an application that serves. `check` verifies at start that
each seam is as it was in the versions that it was read in.

Versions: aiohttp 3.14.3 to 3.14.5, aiohttp-cors 0.8.1. "Breaks" is what a change would
do if nothing checked for it.
"""

from __future__ import annotations

from typing import Any

import aiohttp_cors
from aiohttp import ClientSession, web

from gateway.seams.library import Demands, Has, Keeps, Library, Takes, Uses

AIOHTTP = Library("aiohttp", ">=3.14.3,<3.15")
CORS = Library("aiohttp-cors", ">=0.8.1,<0.9")
LIBRARIES = (AIOHTTP, CORS)

_PROTOCOL = "aiohttp.web_protocol:RequestHandler"
_RESPONSE = "aiohttp.web_response:StreamResponse"
_REQUEST = "aiohttp.web_request:BaseRequest"


def check() -> None:
    """Return when every seam is there as it was read.

    Raises:
        LibraryChanged: the text names what has changed, and the remedy.
    """
    for library in LIBRARIES:
        library.check()


# --- aiohttp: the client --------------------------------------


@AIOHTTP.seam(
    Keeps("aiohttp.client:ClientSession", ("_retry_connection",)),
    Uses("aiohttp.client:ClientSession._request", ("_retry_connection",)),
)
def never_retry(session: ClientSession) -> None:
    """Make *session* send each request once.

    Replaced: `ClientSession._retry_connection`, as aiohttp's own test client does.
    Why: a PUT or DELETE is sent again if a kept connection ends before the reply,
    although the server may have acted on it. Breaks: a call may be sent twice.
    """
    session._retry_connection = False  # noqa: SLF001 - see above


# --- aiohttp: requests --------------------------------------


@AIOHTTP.seam(
    Has("aiohttp.http_parser:HttpRequestParser"),
    Has("aiohttp.http_parser:HttpRequestParserPy"),
    Uses("aiohttp.web_protocol:RequestHandler.__init__", ("HttpRequestParser",)),
)
def has_strict_parser() -> bool:
    """Return whether aiohttp reads requests with llhttp, in C.

    Read: which class `http_parser.HttpRequestParser` is. Breaks: requests are read by
    the parser in Python, which accepts what llhttp refuses.
    """
    from aiohttp import http_parser

    return http_parser.HttpRequestParser is not http_parser.HttpRequestParserPy


@AIOHTTP.seam(
    Has(f"{_REQUEST}.protocol"),
    Keeps(_PROTOCOL, ("_manager",)),
    Keeps("aiohttp.web_server:Server", ("_kwargs",)),
    Takes(_PROTOCOL, 1, ("loop", "auto_decompress")),
)
def decompresses(request: web.Request) -> bool:
    """Return whether the server takes content codings off request bodies.

    Read: the arguments that its protocols are made with. What isn't found counts as
    the default. Breaks: none; a body with a coding is refused.
    """
    server = getattr(request.protocol, "_manager", None)
    decoded: bool = getattr(server, "_kwargs", {}).get("auto_decompress", True)
    return decoded


@AIOHTTP.seam(
    Has("aiohttp.http_exceptions:HttpProcessingError"),
    Has("aiohttp.web:RequestPayloadError"),
)
def body_errors() -> tuple[type[Exception], ...]:
    """Return what reading a body raises when its framing is broken.

    Read: `http_exceptions.HttpProcessingError`, beside the documented one. Breaks: a
    broken body is a 500 in place of a 400.
    """
    from aiohttp.http_exceptions import HttpProcessingError

    return (web.RequestPayloadError, HttpProcessingError)


@AIOHTTP.seam(
    Takes("aiohttp.web_urldispatcher:PlainResource", 1),
    Takes("aiohttp.web_urldispatcher:PlainResource.resolve", 2),
    Takes("aiohttp.web_urldispatcher:UrlMappingMatchInfo", 2),
    Takes("aiohttp.web_urldispatcher:PlainResource.add_route", 3, ("expect_handler",)),
    Uses("aiohttp.web_urldispatcher:UrlDispatcher.resolve", ("resolve",)),
)
class Everything(web.PlainResource):
    """What aiohttp's router finds for each request, `OPTIONS *` among them.

    Overridden: `resolve`. Why: the route table decides, not aiohttp's router. Breaks:
    requests are answered by aiohttp with 404.
    """

    def __init__(self) -> None:
        super().__init__("/")

    async def resolve(
        self, request: web.Request
    ) -> tuple[web.UrlMappingMatchInfo, set[str]]:
        """Return the only route."""
        (route,) = self
        return web.UrlMappingMatchInfo({}, route), set()


# --- aiohttp: replies --------------------------------------


@AIOHTTP.seam(
    Uses(f"{_PROTOCOL}.finish_response", ("prepare", "write_eof")),
    Takes(f"{_RESPONSE}.prepare", 2),
    Takes(f"{_RESPONSE}.write_eof", 1),
)
class Written(web.StreamResponse):
    """A reply that aiohttp mustn't write: it was cut, or a WebSocket took its place.

    Overridden: the two methods that aiohttp's server writes a reply with. Breaks: a
    head is written into what follows a 101, or behind a reply that was cut.
    """

    def __init__(self, status: int) -> None:
        super().__init__(status=status)
        self.force_close()

    async def prepare(self, request: web.BaseRequest) -> None:
        """Do nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing."""


# The client reads its writer from `prepare`, and counts what was written.
AIOHTTP.declare(
    "gateway.aiohttp_app.exchange:AiohttpExchange.drain",
    Takes(f"{_RESPONSE}.prepare", 2),
    Keeps("aiohttp.abc:AbstractStreamWriter", ("output_size", "drain")),
)
# Fields that aiohttp adds are taken out by the signal, which is sent after that.
AIOHTTP.declare(
    "gateway.aiohttp_app.replies:remove_additions",
    Uses(f"{_RESPONSE}._start", ("_prepare_headers", "_prepare_hook")),
    Uses(f"{_RESPONSE}._start", ("_write_headers",)),
    Uses("aiohttp.web_request:Request._prepare_hook", ("on_response_prepare",)),
)


# --- aiohttp: WebSockets --------------------------------------


class _Feed:
    """In the place of aiohttp's reader of frames: gives the bytes to a tunnel."""

    def __init__(self, tunnel: Any) -> None:
        self._tunnel = tunnel

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._tunnel.feed_data(data)
        return False, b""

    def feed_eof(self) -> None:
        self._tunnel.feed_eof()


@AIOHTTP.seam(
    Has(f"{_REQUEST}.protocol"),
    Takes(f"{_PROTOCOL}.set_parser", 2),
    Uses(f"{_PROTOCOL}.set_parser", ("_payload_parser",)),
    Uses(f"{_PROTOCOL}.data_received", ("_payload_parser", "feed_data")),
    Uses(f"{_PROTOCOL}.connection_lost", ("_payload_parser", "feed_eof")),
)
def hand_over(request: web.Request, tunnel: Any) -> None:
    """Give everything that comes from now on to *tunnel*.

    Replaced: the reader of frames, through `RequestHandler.set_parser`. Why: frames
    pass as they are, with their extensions, masks and close codes. Breaks: a WebSocket
    carries nothing.
    """
    request.protocol.set_parser(_Feed(tunnel))  # type: ignore[arg-type]


@AIOHTTP.seam(
    Has(f"{_REQUEST}.writer"),
    Has("aiohttp.abc:AbstractStreamWriter.drain"),
)
async def drained(request: web.Request) -> None:
    """Return when the client has taken enough of what was written.

    Read: `request.writer`, which isn't documented. Breaks: WebSockets.
    """
    await request.writer.drain()


# --- aiohttp-cors --------------------------------------

_CONFIG = "aiohttp_cors.cors_config:_CorsConfigImpl"

# What `cors._RouteTableAdapter` defines, and `cors._CorsRequest` has of a request.
CORS.declare(
    "gateway.downstream.cors:_RouteTableAdapter",
    Demands(
        "aiohttp_cors.abc:AbstractRouterAdapter",
        frozenset(
            {
                *("add_preflight_handler", "get_non_preflight_request_config"),
                *("get_preflight_request_config", "is_cors_enabled_on_request"),
                *("is_preflight_request", "set_config_for_routing_entity"),
            }
        ),
    ),
    Uses(f"{_CONFIG}._get_config", ("get_preflight_request_config",)),
    Uses(f"{_CONFIG}.add", ("add_preflight_handler", "_preflight_handler")),
    Takes("aiohttp_cors.preflight_handler:_PreflightHandler._preflight_handler", 2),
)


@CORS.seam(
    Takes("aiohttp_cors:CorsConfig", 1, ("router_adapter",)),
    Takes("aiohttp_cors:CorsConfig.add", 2),
    Uses(f"{_CONFIG}.__init__", ("on_response_prepare", "_on_response_prepare")),
    Uses(
        f"{_CONFIG}._on_response_prepare",
        (
            "get_non_preflight_request_config",
            "is_cors_enabled_on_request",
            "is_preflight_request",
        ),
    ),
)
class CorsSignal:
    """aiohttp-cors for replies that no aiohttp application sends.

    Read: that aiohttp-cors writes its fields from the application's signal
    `on_response_prepare`; this application has no other use. Breaks: replies have no
    CORS fields, and browsers refuse them.
    """

    def __init__(self, adapter: aiohttp_cors.abc.AbstractRouterAdapter) -> None:
        self._signals = web.Application()
        cors = aiohttp_cors.CorsConfig(self._signals, router_adapter=adapter)
        cors.add(None)
        self._signals.on_response_prepare.freeze()

    async def send(self, request: Any, response: web.StreamResponse) -> None:
        """Write to *response* the fields for *request*, a `cors._CorsRequest`."""
        await self._signals.on_response_prepare.send(request, response)

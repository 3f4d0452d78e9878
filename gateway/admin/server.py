"""edge. The HTTP server of the admin listener.

It is outside the data path, so it uses aiohttp's server. A connection has one request:
what follows a request in its connection is never read as another one. Heads, bodies,
connections and their time are bounded, for a client without the token, too.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, Protocol

from aiohttp import web

from gateway.admin import bodies, guard
from gateway.admin.bodies import (
    CONFIGURED,
    BadBody,
    LogChange,
    Revocation,
    RevokeSession,
    RevokeUser,
)
from gateway.admin.guard import AdminHead, AdminRefusal, GuardRules
from gateway.admin.tokens import BadTokenFile, read_token
from gateway.events import RuntimeEvent, about

_MAX_CONNECTIONS: Final = 16
"""Further ones are closed at once."""
_MAX_HEAD_BYTES: Final = 8192
"""Of a request's target, and of each of its fields: a token has up to 4 KiB."""
_MAX_HEADERS: Final = 32
_REQUEST_S: Final = 10.0
"""Until a request is whole, and for all of a GET."""
_ANSWER_S: Final = 300.0
"""For what a POST asks for."""

_CLEANS_UP: Final = sys.version_info >= (3, 13)
"""Whether event loops remove the file of a Unix socket unless they are told not to."""

_log = logging.getLogger("gateway.admin")
_quiet = logging.getLogger("gateway.admin.http")
"""For aiohttp, which reports each malformed request: a client could flood the log."""
_quiet.setLevel(logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class AdminAnswer:
    """The outcome of a request."""

    status: int
    body: dict[str, Any]


class AdminBackend(Protocol):
    """What the listener shows, and acts on."""

    def view(self, path: str) -> str:
        """Return the JSON text at *path*, one of `guard.GETS`."""
        ...

    async def reload(self) -> AdminAnswer:
        """Read the configuration again; return when it serves or is refused."""
        ...

    def drain(self) -> AdminAnswer:
        """Begin to stop, as on SIGTERM."""
        ...

    async def revoke(self, what: Revocation) -> AdminAnswer:
        """End sessions; return when no worker takes them any more."""
        ...

    async def log_as(self, change: LogChange) -> AdminAnswer:
        """Log as *change* says; return when all processes are told."""
        ...


class _Connection(web.RequestHandler):
    """A connection whose refusals are the listener's own.

    Those of aiohttp quote the request.
    """

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.Response:
        """Return the answer to a request that can't be read, or has failed."""
        reason = "the request can't be read" if status < 500 else "it has failed"
        return _finished(_refused(AdminRefusal(status, reason, {})))


class AdminServer(web.Server):
    """A server with few connections, each of which ends soon."""

    def __init__(
        self, backend: AdminBackend, *, hosts: frozenset[str], token_file: str | None
    ) -> None:
        """*hosts* are those of the listener besides loopback's."""
        super().__init__(self._answer)
        self._backend = backend
        self._hosts = hosts
        self._token_file = token_file
        self._told = ""
        """What was logged last about the token file."""
        self._ends: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def __call__(self) -> web.RequestHandler:
        """Return what handles a new connection."""
        return _Connection(
            self,
            loop=asyncio.get_running_loop(),
            access_log=_quiet,
            logger=_quiet,
            keepalive_timeout=0,
            lingering_time=0,
            max_line_size=_MAX_HEAD_BYTES,
            max_field_size=_MAX_HEAD_BYTES,
            max_headers=_MAX_HEADERS,
        )

    def connection_made(
        self, handler: web.RequestHandler, transport: asyncio.Transport
    ) -> None:
        """Note a connection, and when it is to end."""
        super().connection_made(handler, transport)
        if len(self._ends) >= _MAX_CONNECTIONS:
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._ends[handler] = loop.call_later(_REQUEST_S, transport.abort)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Forget a connection."""
        if (end := self._ends.pop(handler, None)) is not None:
            end.cancel()
        super().connection_lost(handler, exc)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        head = AdminHead(
            method=request.method, target=request.raw_path, fields=request.raw_headers
        )
        refused = guard.refusal(head, await self._rules(request))
        if refused is not None:
            response = _refused(refused)
        elif request.method == "GET":
            response = _json(200, self._backend.view(request.path))
        else:
            response = await self._act(request)
        return _finished(response)

    async def _rules(self, request: web.BaseRequest) -> GuardRules:
        """Return what is asked of a request; the token is read now.

        The address that the client has connected to is the listener's own, too: it is
        what a listener on all addresses is configured as.
        """
        hosts = self._hosts
        if request.transport is not None:
            here = request.transport.get_extra_info("sockname")
            if isinstance(here, tuple):
                hosts |= {f"[{here[0]}]" if ":" in here[0] else here[0]}
        token = None
        if self._token_file is not None:
            try:
                token = await asyncio.to_thread(read_token, self._token_file)
                self._told = ""
            except BadTokenFile as error:
                token = b""  # equal to no token that a request can show
                if self._told != str(error):
                    self._told = str(error)
                    _log.warning("gateway.admin.token_file: %s. %s", error, error.hint)
        return GuardRules(hosts=hosts, token=token)

    async def _act(self, request: web.BaseRequest) -> web.Response:
        """Answer a POST, and log it."""
        body = await request.content.read(guard.MAX_BODY_BYTES + 1)
        while not request.content.at_eof():
            body += await request.content.read(guard.MAX_BODY_BYTES + 1)
        try:
            what, act = self._action(request.path, body)
        except BadBody as error:
            return _refused(AdminRefusal(400, str(error), {}))
        self._extend(request)
        peer = peer_of(request.transport)
        _log.warning(
            "admin: %s asks to %s",
            peer,
            what,
            extra=about(RuntimeEvent.ADMIN_ACTION, peer=peer, action=what),
        )
        answer = await act()
        if answer.status >= 300:
            status = answer.status
            _log.warning(
                "admin: to %s: status %d",
                what,
                status,
                extra=about(RuntimeEvent.ADMIN_ACTION, action=what, status=status),
            )
        return _json(answer.status, json.dumps(answer.body, indent=2) + "\n")

    def _action(
        self, path: str, body: bytes
    ) -> tuple[str, Callable[[], Awaitable[AdminAnswer]]]:
        """Return what a POST asks for, in words and as a function.

        Raises:
            BadBody: the body isn't what this path takes.
        """
        backend = self._backend
        if path == "/sessions/revoke":
            revocation = bodies.revocation(body)
            return _words(revocation), partial(backend.revoke, revocation)
        if path == "/log-level":
            change = bodies.log_change(body)
            return _change_in_words(change), partial(backend.log_as, change)
        bodies.members(body)
        if path == "/reload":
            return "reload", backend.reload

        async def drain() -> AdminAnswer:
            return backend.drain()

        return "drain and exit", drain

    def _extend(self, request: web.BaseRequest) -> None:
        """Give a request that is whole the time that its answer takes."""
        handler = request.protocol
        if handler in self._ends and request.transport is not None:
            self._ends[handler].cancel()
            loop = asyncio.get_running_loop()
            self._ends[handler] = loop.call_later(_ANSWER_S, request.transport.abort)


def _words(revocation: Revocation) -> str:
    match revocation:
        case RevokeSession(handle):
            return f"revoke the session {handle}"
        case RevokeUser(user_id, None):
            return f"revoke the sessions of the user {user_id}"
        case RevokeUser(user_id, tenant_id):
            return f"revoke the sessions of the user {user_id} in {tenant_id}"


def _change_in_words(change: LogChange) -> str:
    words = []
    if change.level == CONFIGURED:
        words.append("write messages as log.level says")
    elif change.level is not None:
        words.append(f"write messages from {change.level} on")
    if change.requests == CONFIGURED:
        words.append("log requests as log.exclude and log.sample say")
    elif change.requests is not None:
        words.append(f"log {change.requests} requests")
    return " and ".join(words)


def peer_of(transport: asyncio.BaseTransport | None) -> str:
    """Return who is connected: an address, or the user at the end of a Unix socket."""
    if transport is None:
        return "a client that is gone"
    peer = transport.get_extra_info("peername")
    if isinstance(peer, tuple):
        return str(peer[0])
    sock = transport.get_extra_info("socket")
    with suppress(OSError, AttributeError, struct.error):  # Linux only
        size = struct.calcsize("3i")
        found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
        pid, uid, _ = struct.unpack("3i", found)
        return f"uid {uid} (pid {pid})"
    return "a local process"


def _finished(response: web.Response) -> web.Response:
    response.headers["Cache-Control"] = "no-store"
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.force_close()
    return response


def _refused(refused: AdminRefusal) -> web.Response:
    text = json.dumps({"error": refused.reason}, indent=2) + "\n"
    response = _json(refused.status, text)
    response.headers.update(refused.fields)
    return response


def _json(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=text, content_type="application/json")


async def serve(
    sock: socket.socket,
    backend: AdminBackend,
    *,
    host: str = "",
    token_file: str | None = None,
) -> asyncio.Server:
    """Return a server that answers on *sock*, and owns it from now on.

    *host* is the name or address that it is configured with.
    """
    hosts = frozenset({host.lower()} if host else ())
    server = AdminServer(backend, hosts=hosts, token_file=token_file)
    loop = asyncio.get_running_loop()
    if sock.family == socket.AF_UNIX:
        # The file is the supervisor's: the next hub listens on it, too.
        keeps: dict[str, Any] = {"cleanup_socket": False} if _CLEANS_UP else {}
        return await loop.create_unix_server(server, sock=sock, **keeps)
    return await loop.create_server(server, sock=sock)

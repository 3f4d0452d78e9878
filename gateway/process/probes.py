"""edge. The hub's HTTP server: health, and metrics.

It is outside the data path, so it uses aiohttp's server. Its clients aren't trusted:
there are few of them, each has one request, and none stays long.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from aiohttp import web

from gateway import __version__
from gateway.process.health import PROBES, Health, HealthCheck

_MAX_CONNECTIONS: Final = 64
"""Further ones are closed at once."""
_MAX_HEAD_BYTES: Final = 2048
"""Of a request's target, and of each of its fields."""
_MAX_HEADERS: Final = 32
_LIFETIME_S: Final = 10.0
"""Of a connection, which has one request. Kubernetes allows a probe 1 s by default."""

_quiet = logging.getLogger("gateway.probes.http")
"""For aiohttp, which reports each malformed request: a client could flood the log."""
_quiet.setLevel(logging.CRITICAL + 1)

HealthSource = Callable[[str, frozenset[str]], Health]
"""Returns the answer of the probe at a path, without the checks of these names."""
MetricsSource = Callable[[str], tuple[bytes, str]]
"""Returns the metrics and their media type, for a client's `Accept`."""
METRICS: Final = "/metrics"
_PATHS: Final = (*PROBES, METRICS)


class _Server(web.Server):
    """A server with few connections, each of which ends soon."""

    def __init__(self, health: HealthSource, metrics: MetricsSource) -> None:
        super().__init__(
            self._answer,
            access_log=None,
            logger=_quiet,
            keepalive_timeout=0,
            lingering_time=0,
            max_line_size=_MAX_HEAD_BYTES,
            max_field_size=_MAX_HEAD_BYTES,
            max_headers=_MAX_HEADERS,
        )
        self._health = health
        self._metrics = metrics
        self._ends: dict[web.RequestHandler, asyncio.TimerHandle] = {}

    def connection_made(
        self, handler: web.RequestHandler, transport: asyncio.Transport
    ) -> None:
        """Note a connection, and when it is to end."""
        super().connection_made(handler, transport)
        if len(self._ends) >= _MAX_CONNECTIONS:
            transport.abort()
            return
        loop = asyncio.get_running_loop()
        self._ends[handler] = loop.call_later(_LIFETIME_S, transport.abort)

    def connection_lost(
        self, handler: web.RequestHandler, exc: BaseException | None = None
    ) -> None:
        """Forget a connection."""
        if (end := self._ends.pop(handler, None)) is not None:
            end.cancel()
        super().connection_lost(handler, exc)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path not in _PATHS:
            response = _text(404, f"there are {', '.join(_PATHS)}")
        elif request.method not in ("GET", "HEAD"):
            response = _text(405, "use GET or HEAD")
            response.headers["Allow"] = "GET, HEAD"
        elif request.path == METRICS:
            body, media_type = self._metrics(request.headers.get("Accept", ""))
            response = web.Response(body=body, headers={"Content-Type": media_type})
        else:
            response = self._probe(request)
        response.headers["Cache-Control"] = "no-store"
        response.force_close()
        return response

    def _probe(self, request: web.BaseRequest) -> web.Response:
        exclude = frozenset(request.query.getall("exclude", ()))
        if unknown := exclude - {*PROBES[request.path]}:
            names = ", ".join(PROBES[request.path])
            return _text(400, f"no check {min(unknown)!r}: there are {names}")
        health = self._health(request.path, exclude)
        is_verbose = "verbose" in request.query
        return web.json_response(
            to_json(health, is_verbose=is_verbose),
            status=503 if health.is_failing else 200,
            dumps=lambda value: json.dumps(value, indent=2) + "\n",
        )


def _text(status: int, text: str) -> web.Response:
    return web.Response(status=status, text=f"{text}\n")


def to_json(health: Health, *, is_verbose: bool) -> dict[str, object]:
    """Return *health* as JSON: all checks, or only those that aren't OK."""
    return {
        "status": health.level.name.lower(),
        "version": __version__,
        "generation": health.generation,
        "checks": {
            name: _check_to_json(check)
            for name, check in health.checks.items()
            if is_verbose or not check.is_ok
        },
    }


def _check_to_json(check: HealthCheck) -> dict[str, object]:
    return {
        "status": check.finding.level.name.lower(),
        "since": _time(check.since),
        "reason": check.finding.reason,
        "last_ok": None if check.last_ok is None else _time(check.last_ok),
    }


def _time(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds")


async def serve(
    sock: socket.socket, health: HealthSource, metrics: MetricsSource
) -> asyncio.Server:
    """Return a server that answers on *sock*, and owns it from now on."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(_Server(health, metrics), sock=sock)

"""edge. The demo service `whoami`: returns the request that it received.

Its reply shows which header fields the gateway has added, removed and kept. Other paths
reply late, with a chosen status, as a stream, or as a WebSocket.
"""

from __future__ import annotations

import asyncio

from aiohttp import WSMsgType, web

from gateway.dev.demo.replies import answer, number, refusal

_NO_BODY = frozenset({204, 304})


async def _whoami(request: web.Request) -> web.Response:
    """Return the request as received: every header field, in order, with repeats."""
    path, _, query = request.raw_path.partition("?")
    body_bytes = 0
    async for piece in request.content.iter_any():
        body_bytes += len(piece)
    return answer(
        {
            "service": "whoami",
            "user_id": request.headers.get("X-User-Id"),
            "auth_status": request.headers.get("X-Auth-Status"),
            "method": request.method,
            "path": path,
            "query": query,
            "headers": [
                # Latin-1 maps every byte, so no byte is lost.
                [name.decode("latin-1"), value.decode("latin-1")]
                for name, value in request.raw_headers
            ],
            "body_bytes": body_bytes,
        }
    )


async def _slow(request: web.Request) -> web.Response:
    """Return the request after a delay: `?ms=2000`, at most a minute."""
    await asyncio.sleep(number(request, "ms", 1000, 0, 60_000) / 1000)
    return await _whoami(request)


async def _status(request: web.Request) -> web.Response:
    """Return a reply with the status in the path, from 200 to 599."""
    status = int(request.match_info["status"])
    if not 200 <= status <= 599:
        return refusal(400, "the status must be from 200 to 599")
    if status in _NO_BODY:
        return web.Response(status=status)
    return answer({"service": "whoami", "status": status}, status)


async def _events(request: web.Request) -> web.StreamResponse:
    """Stream server-sent events: `?count=5&interval_ms=1000`."""
    count = number(request, "count", 5, 1, 1000)
    interval_s = number(request, "interval_ms", 1000, 0, 60_000) / 1000
    reply = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    await reply.prepare(request)
    for tick in range(1, count + 1):
        if tick > 1:
            await asyncio.sleep(interval_s)
        await reply.write(f"id: {tick}\ndata: tick {tick} of {count}\n\n".encode())
    await reply.write_eof()
    return reply


async def _echo(request: web.Request) -> web.StreamResponse:
    """Send every WebSocket message back, text as text and bytes as bytes."""
    socket = web.WebSocketResponse(heartbeat=30.0, max_msg_size=1024 * 1024)
    if not socket.can_prepare(request):
        return refusal(426, "this path needs a WebSocket handshake")
    await socket.prepare(request)
    async for message in socket:
        match message.type:
            case WSMsgType.TEXT:
                await socket.send_str(message.data)
            case WSMsgType.BINARY:
                await socket.send_bytes(message.data)
            case _:
                break
    return socket


def whoami() -> web.Application:
    """Return the service: `/events`, `/ws`, `/status/{n}`, `/slow`, and the rest."""
    app = web.Application()
    app.router.add_get("/events", _events)
    app.router.add_get("/ws", _echo)
    app.router.add_route("*", r"/status/{status:\d{1,3}}", _status)
    app.router.add_route("*", "/slow", _slow)
    app.router.add_route("*", "/{rest:.*}", _whoami)
    return app

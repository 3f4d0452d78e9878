"""An upstream that says who the caller is: `… identity_upstream PORT`.

Every reply is JSON: the fields X-User-Id and X-Number of the request, as lists with all
their values, and the length of its body. `?parts` sends it chunked, `?wait=S` after S
seconds, `?size=N` N bytes instead. A WebSocket gets the same as the first message, and
then what it sends.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys

import uvloop
from aiohttp import web

_PIECE = 16 * 1024


async def _answer(request: web.Request) -> web.StreamResponse:
    said = {
        "user": request.headers.getall("X-User-Id", []),
        "number": request.headers.getall("X-Number", []),
        "got": 0,
    }
    if request.headers.get("Upgrade", "").lower() == "websocket":
        return await _echo(request, said)
    said["got"] = len(await request.read())
    if "wait" in request.query:
        await asyncio.sleep(float(request.query["wait"]))
    if "size" in request.query:
        return await _long(request, int(request.query["size"]))
    if "parts" in request.query:
        reply = web.StreamResponse()
        reply.enable_chunked_encoding()
        await reply.prepare(request)
        text = web.json_response(said).text or ""
        for at in range(0, len(text), 20):
            await reply.write(text[at : at + 20].encode())
        return reply
    return web.json_response(said)


async def _long(request: web.Request, size: int) -> web.StreamResponse:
    reply = web.StreamResponse()
    await reply.prepare(request)
    with contextlib.suppress(ConnectionError):
        for _ in range(0, size, _PIECE):
            await reply.write(b"x" * _PIECE)
    return reply


async def _echo(request: web.Request, said: object) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    with contextlib.suppress(ConnectionError):
        await socket.send_json(said)
        async for message in socket:
            if message.type is web.WSMsgType.TEXT:
                await socket.send_str(message.data)
    return socket


async def main() -> None:
    app = web.Application(client_max_size=2**24)
    app.router.add_route("*", "/{path:.*}", _answer)
    runner = web.AppRunner(app, access_log=None, handle_signals=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1]), backlog=1024).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())

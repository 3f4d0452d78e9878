"""aiohttp's server with its defaults: argv[1] is the port."""

import sys
from collections.abc import Awaitable, Callable

from aiohttp import web


def served(name: str) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler that replies with its name."""

    async def handler(_request: web.Request) -> web.Response:
        return web.Response(text=name, headers={"X-Handler": name})

    return handler


app = web.Application()
app.router.add_get("/admin", served("admin"))
app.router.add_post("/admin", served("POST admin"))
app.router.add_delete("/admin", served("DELETE admin"))
app.router.add_get("/admin/users", served("users"))
app.router.add_get("/panel/", served("panel"))
app.router.add_get("/secret", served("secret"))
app.router.add_get("/orders/{id}/refund", served("refund"))
app.router.add_get("/v1/things:lock", served("lock"))
web.run_app(app, host="127.0.0.1", port=int(sys.argv[1]), print=None)

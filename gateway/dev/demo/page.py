"""edge. The demo service `page`: the page at `/`, whose files are in `static/`.

It loads nothing from other origins, and its Content-Security-Policy forbids it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from gateway.dev.demo.admin import Admin, Core

STATIC = Path(__file__).parent / "static"

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
        "connect-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    # The query of the links in mails contains a token.
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}

_FILES = {
    "/": ("page.html", "text/html"),
    # The paths of the links in mails (`website_base_path` in the route table).
    "/account/verify-email": ("page.html", "text/html"),
    "/account/reset-password": ("page.html", "text/html"),
    "/page/page.js": ("page.js", "text/javascript"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/icon.svg": ("icon.svg", "image/svg+xml"),
}


def page(core: Core | None = None) -> web.Application:
    """Return the service: the page's files, and `POST /demo/admin-role`.

    Without *core* it gives no roles. Pass none when not on loopback.
    """
    app = web.Application(client_max_size=1024)
    for path, (name, content_type) in _FILES.items():
        app.router.add_get(path, _file(STATIC / name, content_type))
    admin = Admin(core)
    app.cleanup_ctx.append(admin.connected)
    app.router.add_post("/demo/admin-role", admin.give)
    return app


def _file(
    path: Path, content_type: str
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """Return a handler that replies with the file, which is read once, here."""
    body = path.read_bytes()

    async def send(_: web.Request) -> web.StreamResponse:
        return web.Response(
            body=body, content_type=content_type, charset="utf-8", headers=_HEADERS
        )

    return send

"""edge. The demo service `catalog`, which is public: it needs no session."""

from __future__ import annotations

from aiohttp import web

from gateway.dev.demo.replies import answer, refusal

ITEMS = {
    "lamp": {"sku": "lamp", "title": "Desk lamp", "price_cents": 4900},
    "mug": {"sku": "mug", "title": "Stoneware mug", "price_cents": 1450},
    "pen": {"sku": "pen", "title": "Fountain pen", "price_cents": 3200},
}


async def _list(_: web.Request) -> web.Response:
    return answer({"service": "catalog", "items": list(ITEMS.values())})


async def _item(request: web.Request) -> web.Response:
    item = ITEMS.get(request.match_info["sku"])
    return answer(item) if item else refusal(404, "no such item")


def catalog() -> web.Application:
    """Return the service: `GET /catalog` and `GET /catalog/{sku}`."""
    app = web.Application()
    app.router.add_get("/catalog", _list)
    app.router.add_get("/catalog/{sku}", _item)
    return app

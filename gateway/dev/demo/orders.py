"""edge. The demo service `orders`: each user's orders, kept in memory.

It shows how little a service behind the gateway has to do: it reads one header, and
checks neither tokens nor roles.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from aiohttp import web

from gateway.dev.demo.catalog import ITEMS
from gateway.dev.demo.replies import NO_GATEWAY, answer, refusal

MOST_ORDERS = 100
"""Orders kept for one user, to limit memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One order, with the fields of the JSON reply."""

    id: int
    user_id: str
    sku: str
    quantity: int


class Orders:
    """The handlers, and the orders in memory."""

    def __init__(self) -> None:
        self._orders: list[Order] = []

    async def own(self, request: web.Request) -> web.Response:
        """Return the orders of the user in `X-User-Id`."""
        user_id = request.headers.get("X-User-Id")
        if not user_id:
            return refusal(400, NO_GATEWAY)
        return self._show(order for order in self._orders if order.user_id == user_id)

    async def every(self, _: web.Request) -> web.Response:
        """Return all orders. The route table restricts access to this path."""
        return self._show(self._orders)

    async def create(self, request: web.Request) -> web.Response:
        """Add the order in the body, and return it.

        An example of a body is `{"sku": "mug", "quantity": 2}`; the default quantity
        is 1.
        """
        user_id = request.headers.get("X-User-Id")
        if not user_id:
            return refusal(400, NO_GATEWAY)
        try:
            body = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            return refusal(400, "the body must be JSON")
        match body:
            case {"sku": str(sku)} if sku in ITEMS:
                quantity = body.get("quantity", 1)
            case _:
                return refusal(400, f"sku must be one of {', '.join(ITEMS)}")
        if type(quantity) is not int or not 1 <= quantity <= 99:
            return refusal(400, "quantity must be a whole number from 1 to 99")
        if sum(order.user_id == user_id for order in self._orders) >= MOST_ORDERS:
            return refusal(409, f"this demo keeps {MOST_ORDERS} orders for one user")
        order = Order(
            id=len(self._orders) + 1, user_id=user_id, sku=sku, quantity=quantity
        )
        self._orders.append(order)
        return answer(asdict(order), 201)

    def _show(self, orders: Iterable[Order]) -> web.Response:
        return answer(
            {"service": "orders", "orders": [asdict(order) for order in orders]}
        )


def orders() -> web.Application:
    """Return the service: `GET` and `POST /orders`, and `GET /orders/all`."""
    handlers = Orders()
    app = web.Application(client_max_size=16 * 1024)
    app.router.add_get("/orders", handlers.own)
    app.router.add_post("/orders", handlers.create)
    app.router.add_get("/orders/all", handlers.every)
    return app

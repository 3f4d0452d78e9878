"""PURE. A request's body, read as a whole."""

from __future__ import annotations

from gateway.downstream.client_side import Downstream
from gateway.http import pieces


async def whole_body(downstream: Downstream, max_size: int) -> bytes:
    """Return the whole body, once it has arrived.

    Raises:
        ContentTooLarge, RequestTimeout, BadRequest: as `Downstream.body`.
    """
    connection = downstream.connection
    collected: list[bytes] = []
    size = 0
    try:
        async for piece in downstream.body(max_size):
            pieces.append(collected, piece)
            size += len(piece)
            connection.collected(size)
        return b"".join(collected)
    finally:
        connection.collected(0)

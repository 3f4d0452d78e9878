"""edge. Responses of aiohttp, without the fields that aiohttp adds."""

from __future__ import annotations

from collections.abc import Iterable

from aiohttp import hdrs, web
from multidict import CIMultiDict

from gateway.http.fields import Field

_ADDED = (hdrs.CONTENT_TYPE, hdrs.DATE, hdrs.SERVER)
"""Fields that aiohttp adds to each reply without them."""


class AiohttpReply(web.StreamResponse):
    """A reply that aiohttp writes."""

    def __init__(
        self, status: int, reason: str | None, fields: CIMultiDict[str]
    ) -> None:
        super().__init__(status=status, reason=reason, headers=fields)
        self.added = [name for name in _ADDED if name not in fields]
        """Fields that aiohttp will add, and that must not be sent."""
        self.length = fields.get(hdrs.CONTENT_LENGTH)


class Refusal(web.Response):
    """The answer to a malformed head; the connection closes after it."""

    def __init__(self, status: int, fields: Iterable[Field], body: bytes) -> None:
        headers = CIMultiDict((name.decode(), value.decode()) for name, value in fields)
        super().__init__(status=status, body=body, headers=headers)
        self.force_close()


async def remove_additions(_: web.Request, response: web.StreamResponse) -> None:
    """Remove the fields that aiohttp added to a reply; restore those it removed."""
    if isinstance(response, Refusal):
        response.headers.popall(hdrs.SERVER, None)
    if isinstance(response, AiohttpReply):
        for name in response.added:
            response.headers.popall(name, None)
        if response.status == 304 and response.length is not None:
            response.headers[hdrs.CONTENT_LENGTH] = response.length

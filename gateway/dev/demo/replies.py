"""edge. JSON replies and query numbers, for all demo services."""

from __future__ import annotations

import json
from collections.abc import Mapping

from aiohttp import web

NO_GATEWAY = "X-User-Id is missing: call this service through the gateway"


def answer(
    data: object, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a reply with *data* as JSON, indented to be read in a terminal."""
    text = json.dumps(data, indent=2, ensure_ascii=False) + "\n"
    return web.json_response(text=text, status=status, headers=headers)


def refusal(status: int, message: str) -> web.Response:
    """Return an error as JSON with a `message`, as SuperTokens' errors have."""
    return answer({"message": message}, status)


def number(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """Return the whole number of *name* in the query, or *default* if it is absent.

    Raises:
        web.HTTPBadRequest: it isn't a whole number from *least* to *most*.
    """
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
        raise web.HTTPBadRequest(
            text=json.dumps({"message": f"{name} must be from {least} to {most}"}),
            content_type="application/json",
        )
    return int(text)

"""edge. Endpoints of user metadata. Source: core protocol CDI 5.4."""

from __future__ import annotations

from typing import Final

from gateway.dev.core.api.endpoint import Call, Endpoint, Scope, ok
from gateway.dev.core.jws import JsonObject

_PATH: Final = "/recipe/user/metadata"


async def get(call: Call) -> JsonObject:
    """Return a user's metadata."""
    user_id = call.query.text("userId")
    return ok(metadata=call.app.metadata.get(user_id))


async def put(call: Call) -> JsonObject:
    """Merge keys into a user's metadata; null deletes a key."""
    user_id = call.body.text("userId")
    update = call.body.object("metadataUpdate")
    return ok(metadata=call.app.metadata.merge(user_id, update))


async def remove(call: Call) -> JsonObject:
    """Delete a user's metadata."""
    user_id = call.body.text("userId")
    call.app.metadata.remove(user_id)
    return ok()


ENDPOINTS: Final = (
    Endpoint(method="GET", path=_PATH, handler=get, scope=Scope.APP),
    Endpoint(method="PUT", path=_PATH, handler=put, scope=Scope.APP),
    Endpoint(method="POST", path=f"{_PATH}/remove", handler=remove, scope=Scope.APP),
)

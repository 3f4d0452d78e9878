"""edge. An endpoint: its method, path, permitted callers and handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from gateway.dev.core.apps import App
from gateway.dev.core.http import Body, Query, Reply
from gateway.dev.core.jws import JsonObject


class Scope(Enum):
    """Whose API it is, and so which tenant segments it takes."""

    APP = auto()
    """Only the public tenant; another one is 403."""

    TENANT = auto()
    """Any tenant that exists; another one is 400."""

    OPEN = auto()
    """Any tenant segment; the handler looks itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to an endpoint."""

    app: App
    tenant_id: str
    body: Body
    query: Query


Handler = Callable[[Call], Awaitable[JsonObject | Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method on one API path."""

    method: str
    path: str
    handler: Handler
    scope: Scope = Scope.TENANT
    needs_key: bool = True
    needs_version: bool = True
    rid: str | None = None
    """The `rid` header that picks this handler; None answers every other one."""


def ok(**fields: object) -> JsonObject:
    """Return the fields of an answer with status OK; names are the protocol's own."""
    return {"status": "OK", **fields}


def failed(status: str, **fields: object) -> JsonObject:
    """Return the fields of an answer that names an expected failure."""
    return {"status": status, **fields}

"""edge. An endpoint: its method, path, permitted callers and handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum, auto

from gateway.dev.core.apps import App
from gateway.dev.core.http import Body, Query, Reply
from gateway.dev.core.jws import JsonObject


class Scope(Enum):
    """Which tenants the path may name. An unknown app is always 400."""

    APP = auto()
    """The public tenant. Any other tenant is 403, an unknown one 400."""

    TENANT = auto()
    """Any tenant that exists. An unknown one is 400."""

    OPEN = auto()
    """Any tenant. The core doesn't check that it exists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One request to an endpoint.

    Handlers read the input before `app`: like the real core, they refuse wrong input
    before an unknown tenant.
    """

    enter: Callable[[], App]
    """Checks app and tenant, and returns the app."""
    tenant_id: str
    body: Body
    query: Query

    @property
    def app(self) -> App:
        """The app that the path names.

        Raises:
            Refusal: 400, no such app or tenant; 403, the endpoint doesn't take this
                tenant.
        """
        return self.enter()


Handler = Callable[[Call], Awaitable[JsonObject | Reply]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method on one API path."""

    method: str
    path: str
    handler: Handler
    scope: Scope = Scope.TENANT
    needs_key: bool = True
    rid: str | None = None
    """The `rid` header for which this handler is chosen; None: any other value."""


def ok(**fields: object) -> JsonObject:
    """Return an answer with status OK; the fields have the protocol's names."""
    return {"status": "OK", **fields}


def failed(status: str, **fields: object) -> JsonObject:
    """Return an answer for an expected failure; *status* is the protocol's."""
    return {"status": status, **fields}

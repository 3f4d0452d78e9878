"""edge. The function: serves the request of each event, by the proxy."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping
from typing import Any

from gateway import responses
from gateway.aws.answers import EventReply, answer_of
from gateway.aws.events import (
    Event,
    EventKind,
    UpgradeNotSupported,
    kind_of,
    request_of,
)
from gateway.aws.exchange import FunctionTimeout, LambdaExchange
from gateway.aws.kept import Context, KeptGateway, opened
from gateway.errors import GatewayError
from gateway.proxy import Proxy


class LambdaFunction:
    """Serves events, one at a time."""

    def __init__(self, gateway: KeptGateway) -> None:
        self.gateway = gateway

    def __call__(self, event: Event, context: Context) -> dict[str, Any]:
        """Return the reply to the request in *event*.

        Raises:
            BadEvent: the event isn't an HTTP request.
        """
        kind = kind_of(event)
        reply = self.gateway.run(self._serve(kind, event), context)
        try:
            return answer_of(kind, reply)
        except GatewayError as error:
            return answer_of(kind, self._refused(event, error))

    async def _serve(self, kind: EventKind, event: Event) -> EventReply:
        """Return the reply, or the one that says that the time is over."""
        gateway = self.gateway
        try:
            async with gateway.thawed() as app:
                request = request_of(event, kind, gateway.base_path)
                head = app.proxy.dependencies.reader.read(request.head)
                if request.opens_websocket:
                    raise UpgradeNotSupported
                return await _handled(app.proxy, LambdaExchange(kind, request, head))
        except GatewayError as error:
            return self._refused(event, error)
        except asyncio.CancelledError:
            return self._refused(event, FunctionTimeout())

    def _refused(self, event: Event, error: GatewayError) -> EventReply:
        """Return the reply to a request that the proxy hasn't served."""
        request_id = self.gateway.note(event, error)
        made = responses.failure(error, request_id)
        fields = (*made.fields, (b"X-Request-Id", request_id.encode()))
        return EventReply(made.status, fields, made.body)


async def _handled(proxy: Proxy, exchange: LambdaExchange) -> EventReply:
    """Return the proxy's reply.

    Raises:
        GatewayError: there is none.
    """
    with contextlib.suppress(asyncio.CancelledError):
        # If the time is over, the proxy makes the reply that says so.
        await proxy.handle(exchange)
    reply = exchange.reply()
    if reply is None:
        raise exchange.gone_because
    return reply


def ready(environ: Mapping[str, str] = os.environ) -> LambdaFunction:
    """Return the function for the configuration of *environ*.

    Raises: as `kept.opened`.
    """
    return LambdaFunction(opened(environ))

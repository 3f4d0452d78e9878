"""edge. Plain HTTP that is redirected to https, and nothing else.

No route, no session and no service is reached from here. The host is the request's own,
judged as in every other request, so a link can't lead a client elsewhere.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from time import perf_counter
from typing import Final

from gateway import responses
from gateway.downstream.exchange import Exchange
from gateway.errors import BadTarget, GatewayError
from gateway.headers import request_id
from gateway.http import target
from gateway.http.target import DEFAULT_PORT, Form, Slashes, Target
from gateway.observe import Observer, Record

_HTTPS_PORT: Final = DEFAULT_PORT["https"]
_ALL_SLASHES: Final = Slashes(encoded=True, repeated=True)
"""Whether a path may have them is decided when it comes again over https."""
_NOT_ASCII = re.compile(rb"[^\x21-\x7e]")


def read_target(raw: bytes, method: str, host: bytes | None) -> Target:
    """Return the target of a request; *host* is its Host field.

    Raises:
        BadTarget: readers could take it for different resources.
    """
    return target.parse(raw, method, host, _ALL_SLASHES)


def https_url(parsed: Target, port: int) -> bytes:
    """Return the https URL of a request's target, at *port*.

    Raises:
        BadTarget: it has none.
    """
    if parsed.form is Form.ASTERISK or not parsed.host:
        raise BadTarget("there is no URL to redirect to")
    suffix = b"" if port == _HTTPS_PORT else b":%d" % port
    query = _NOT_ASCII.sub(lambda found: b"%%%02X" % found[0][0], parsed.query)
    return b"https://%b%b%b%b" % (
        parsed.host.encode(),
        suffix,
        parsed.path.encode(),
        query,
    )


class HttpsRedirect:
    """Answers every request with a redirect."""

    def __init__(
        self,
        port: int,
        *,
        observer: Observer,
        make_id: Callable[[], str],
        is_draining: Callable[[], bool],
    ) -> None:
        """*port* is where clients reach the gateway over https."""
        self._port = port
        self._observer = observer
        self._make_id = make_id
        self._is_draining = is_draining

    async def handle(self, client: Exchange) -> None:
        """Answer one request; failures are answered or abort the connection."""
        head = client.head
        record = Record.begin(perf_counter(), client.connection.address, head.method)
        own_id = request_id(head.request_ids, self._make_id)
        record.request_id = own_id.decode()
        try:
            try:
                parsed = read_target(head.target, head.method, head.host)
                record.path = parsed.path
                answer = responses.to_https(https_url(parsed, self._port))
                record.reason = "to_https"
            except GatewayError as error:
                answer = responses.failure(error, record.request_id)
                record.side, record.reason = error.side, error.code
                record.note = error.detail
            record.status = answer.status
            if self._is_draining():
                client.keep_alive = False
            await client.answer(answer, ((b"X-Request-Id", own_id),))
        except (ConnectionError, asyncio.CancelledError) as error:
            record.status = client.gone_because.status
            record.reason = client.gone_because.code
            client.abort()
            if isinstance(error, asyncio.CancelledError):
                raise
        finally:
            record.bytes_in, record.bytes_out = client.bytes_in, client.bytes_out
            record.duration_ms = (perf_counter() - record.started) * 1000
            self._observer.observe(record)
        if head.has_body and client.has_rest:
            await client.take_rest()

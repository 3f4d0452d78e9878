"""edge. The pipeline: what happens to one request, in ten numbered steps.

1 accept · 2 target · 3 match · 4 preflight · 5 verify · 6 headers to the upstream ·
7 send · 8 headers to the client · 9 copy · 10 record. `decide` has 2 to 5, and knows
no client; `forward` has 6 to 9. A refusal in 2 to 5 goes straight to 10. A failure
after 8 aborts the connection: it is never finished politely. The same numbers stand in
docs/architecture.md, and their names in the log.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from gateway import websocket
from gateway.config import LimitsConfig
from gateway.decide import Decider, Forward, Respond, Router
from gateway.downstream.cors import Cors
from gateway.errors import ClientGone, GatewayError, ShuttingDown
from gateway.forward import Downstream, Forwarder, ServiceTargets
from gateway.headers import Networks
from gateway.http.fields import Fields
from gateway.http.request_head import RequestHead, RequestReader
from gateway.identity import Verifier
from gateway.observe import Observer, Record
from gateway.pace import Pace
from gateway.responses import Response
from gateway.running import in_task

_log = logging.getLogger("gateway")

_MAX_AUTH_BODY = 1024 * 1024
"""Bytes that a request to the SDK's own API may have; its forms are small."""


class ProxyClient(Downstream, Protocol):
    """Whoever sent one request and waits for its answer, on whatever server."""

    @property
    def head(self) -> RequestHead: ...

    @property
    def started(self) -> bool:
        """A byte of the answer was written: from here on, failures only abort."""
        ...

    @property
    def gone(self) -> bool:
        """The client's connection is closed."""
        ...

    @property
    def has_rest(self) -> bool:
        """Not all of the body has arrived yet."""
        ...

    async def answer(self, answer: Response, extra: Fields = ()) -> None:
        """Write a whole answer of the gateway's own, with the fields *extra*.

        Raises:
            ConnectionError: the client is gone.
        """
        ...

    async def take_rest(self) -> None:
        """Throw away what is left of the body, or see that the connection ends."""
        ...

    def abort(self) -> None:
        """Drop the connection, so that a cut body can't be taken for a whole one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """What the pipeline is made of; joined by `app`."""

    reader: RequestReader
    """Reads the heads of the requests, whoever receives them."""
    resources: Router
    services: Mapping[str, ServiceTargets]
    verifier: Verifier
    cors: Cors
    observer: Observer
    limits: LimitsConfig
    trusted: Networks
    """The peers whose X-Forwarded-* fields count."""
    make_id: Callable[[], str]
    pace: Pace


class Proxy:
    """Takes requests from a server, one call each."""

    def __init__(self, parts: Dependencies) -> None:
        self.dependencies = parts
        self.decider = Decider(
            resources=parts.resources,
            verifier=parts.verifier,
            policy=parts.cors,
            trusted=parts.trusted,
            make_id=parts.make_id,
        )
        self.forwarder = Forwarder(
            parts.services,
            verifier=parts.verifier,
            pace=parts.pace,
        )

    @property
    def tunnels(self) -> Mapping[websocket.Tunnel, str | None]:
        """Open sockets, and the handle of the session that each belongs to."""
        return self.forwarder.tunnels

    @property
    def draining(self) -> bool:
        """Every connection ends after its answer."""
        return self.forwarder.draining

    def drain(self) -> None:
        """From now on, end every connection after its answer, and every socket."""
        self.forwarder.drain()

    def session_ended(self, handle: str) -> None:
        """Close the sockets of a session that was signed out or revoked."""
        self.forwarder.session_ended(handle)

    async def handle(self, client: ProxyClient) -> None:
        """Serve one request; the answer is on the wire when this is done."""
        # 1 accept
        connection = client.connection
        head = client.head
        record = Record.begin(perf_counter(), connection.address, head.method)
        new_tokens: Fields = ()
        try:
            # 2 target, 3 match, 4 preflight, 5 verify
            decision = self.decider.decide(
                head, connection.address, record, connection.secure
            )
            if not isinstance(decision, tuple):
                deciding = decision
                try:
                    await in_task()  # for the SDK and the deadlines of the core
                    decision = await deciding
                finally:
                    deciding.close()  # if it never began
            if isinstance(decision, Forward):
                new_tokens = decision.verdict.new_tokens
                # 6 headers to the upstream, 7 send, 8 headers to the client, 9 copy
                instead = await self.forwarder.forward(decision, client, record)
                if instead is not None:
                    await self._write(client, instead, record)
            elif isinstance(decision, Respond):
                await self._write(client, decision, record)
            else:
                await in_task()
                body = await _whole_body(client)
                found = await self.decider.call(decision, body, record)
                await self._write(client, found, record)
        except GatewayError as error:
            await self._fail(client, error, record, new_tokens)
        except asyncio.CancelledError:
            # The server does so when the client is gone, and when the time to drain
            # is over.
            if client.gone:
                _note_failure(record, ClientGone())
            else:
                await self._fail(client, ShuttingDown(), record, new_tokens)
            raise
        except ConnectionError:
            # Seen in writing. Raised further, the loop would log it with a traceback.
            _note_failure(record, ClientGone())
            client.abort()
        except Exception:  # noqa: BLE001 - the boundary: nothing is forwarded after it
            _log.exception("request %s failed", record.request_id)
            await self._fail(client, GatewayError(), record, new_tokens)
        finally:
            # 10 record
            record.bytes_in = client.bytes_in
            record.bytes_out = client.bytes_out
            record.duration_ms = (perf_counter() - record.started) * 1000
            self.dependencies.observer.observe(record)
        if head.has_body and client.has_rest:
            await client.take_rest()
        if self.forwarder.draining:
            client.keep_alive = False

    async def _write(self, client: ProxyClient, found: Respond, record: Record) -> None:
        if self.draining:
            client.keep_alive = False
        record.status = found.answer.status
        await client.answer(found.answer, found.fields)

    async def _fail(
        self,
        client: ProxyClient,
        error: GatewayError,
        record: Record,
        new_tokens: Fields,
    ) -> None:
        """Answer a failure, or cut the answer that had begun."""
        _note_failure(record, error)
        if client.started:
            client.abort()
            return
        try:
            found = await self.decider.failed(error, client.head, record, new_tokens)
            await self._write(client, found, record)
        except ConnectionError:
            client.abort()


async def _whole_body(client: ProxyClient) -> bytes:
    if not client.head.has_body:
        return b""
    return b"".join([piece async for piece in client.body(_MAX_AUTH_BODY)])


def _note_failure(record: Record, error: GatewayError) -> None:
    record.side = error.side
    record.status = error.status
    record.reason = error.code
    record.note = error.detail

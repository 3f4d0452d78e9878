"""edge. The pipeline: what happens to one request, in ten numbered steps.

1 accept · 2 target · 3 match · 4 preflight · 5 verify · 6 headers to the upstream ·
7 send · 8 headers to the client · 9 copy · 10 record. `decide` performs 2 to 5,
without a client; `forward` performs 6 to 9. A refusal in 2 to 5 goes straight to 10. A
failure after 8 aborts the connection, so that a truncated reply can't pass for a
complete one. docs/architecture.md has the same numbers, and the log the steps' names.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

from gateway import websocket
from gateway.assertions import Assertions
from gateway.config import LimitsConfig
from gateway.decide import Decider
from gateway.decisions import Forward, Respond
from gateway.downstream.client_side import Downstream
from gateway.downstream.cors import Cors
from gateway.downstream.whole_body import whole_body
from gateway.errors import GatewayError
from gateway.forward import Forwarder
from gateway.headers import ForwardedCache, Traces
from gateway.http.fields import Fields
from gateway.http.request_head import RequestHead, RequestReader
from gateway.identity import Principal, Verifier
from gateway.mirroring import Mirroring
from gateway.observe import Observer, Record, current, log_unexpected
from gateway.pace import Pace
from gateway.rate_limits import AuthLimits, Limiter
from gateway.resources import Router
from gateway.responses import Response
from gateway.running import ensure_task
from gateway.upstream import ServiceTargets

_MAX_AUTH_BODY = 1024 * 1024
"""The largest body of a request to the SDK's API, in bytes; its forms are small."""


class ProxyClient(Downstream, Protocol):
    """The client of one request, on any server."""

    @property
    def head(self) -> RequestHead: ...

    @property
    def started(self) -> bool:
        """A byte of the response was written: later failures abort the connection."""
        ...

    @property
    def gone(self) -> bool:
        """The client's connection is closed."""
        ...

    @property
    def gone_because(self) -> GatewayError:
        """What is recorded if it is: `ClientGone`, or what the gateway cut it for."""
        ...

    @property
    def ended_because(self) -> GatewayError:
        """What a request is answered with that the server cancels."""
        ...

    @property
    def has_rest(self) -> bool:
        """Whether a part of the body hasn't arrived yet."""
        ...

    async def answer(self, answer: Response, extra: Fields = ()) -> None:
        """Write a complete response of the gateway, with the fields *extra*.

        Raises:
            ConnectionError: the client is gone.
        """
        ...

    async def take_rest(self) -> None:
        """Discard the rest of the body, or mark the connection to be closed."""
        ...

    def abort(self) -> None:
        """Abort the connection, so a truncated body can't pass for a complete one."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """The parts of the pipeline, made by `app`."""

    reader: RequestReader
    """Reads the heads of requests, on any server."""
    resources: Router
    services: Mapping[str, ServiceTargets]
    verifier: Verifier
    cors: Cors
    observer: Observer
    limits: LimitsConfig
    forwarded: ForwardedCache
    """What says where requests come from."""
    make_id: Callable[[], str]
    traces: Traces
    pace: Pace
    limiter: Limiter
    """Judges requests by the limits of their routes."""
    auth_limits: AuthLimits | None = None
    """The limits of the SDK's API; None: it has none."""
    mirroring: Mirroring | None = None
    """Sends copies of requests; None: there are none."""
    assertions: Assertions | None = None
    """Signs who sessions are; None: no service is told so."""
    logs_user_agent: bool = False
    """Whether records have the requests' User-Agent (`log.user_agent`)."""

    def decider(self) -> Decider:
        """Return a new decider that uses these parts."""
        return Decider(
            resources=self.resources,
            verifier=self.verifier,
            policy=self.cors,
            forwarded=self.forwarded,
            make_id=self.make_id,
            traces=self.traces,
            limiter=self.limiter,
            auth_limits=self.auth_limits,
            logs_user_agent=self.logs_user_agent,
        )


class Proxy:
    """Serves the requests of one configuration, one call of `handle` for each."""

    def __init__(self, parts: Dependencies) -> None:
        self.dependencies = parts
        self.decider = parts.decider()
        self.forwarder = Forwarder(
            parts.services,
            verifier=parts.verifier,
            pace=parts.pace,
            traces=parts.traces,
            mirroring=parts.mirroring,
            assertions=parts.assertions,
        )

    @property
    def tunnels(self) -> Mapping[websocket.Tunnel, Principal | None]:
        """Open WebSockets, each with whose it is; None: it ends with no session."""
        return self.forwarder.tunnels.owners

    @property
    def draining(self) -> bool:
        """Whether every connection is closed after its response."""
        return self.forwarder.draining

    def drain(self, *, keeps_websockets: bool = False) -> None:
        """Close every connection after its response, and all WebSockets now.

        With *keeps_websockets* these stay, and new ones open, until `drain` is called
        without it.
        """
        self.forwarder.drain(keeps_websockets=keeps_websockets)

    def session_ended(self, handle: str) -> None:
        """Close the WebSockets and streams of a session: signed out, or revoked."""
        self.forwarder.session_ended(handle)

    def sessions_ended(self) -> None:
        """Close the WebSockets and streams of all sessions that are over by now."""
        self.forwarder.sessions_ended()

    async def handle(self, client: ProxyClient) -> None:
        """Serve one request. Its response is written and recorded when this returns.

        Failures are answered or abort the connection.

        Raises:
            CancelledError: the client is gone, or the time to drain is over.
        """
        # 1 accept
        connection = client.connection
        head = client.head
        record = Record.begin(perf_counter(), connection.address, head.method)
        new_tokens: Fields = ()
        try:
            # 2 target, 3 match, 4 preflight, 5 verify
            decision = self.decider.decide(
                head,
                connection.address,
                record,
                connection.secure,
                connection.subject,
            )
            if not isinstance(decision, tuple):
                pending = decision
                try:
                    await ensure_task()  # the SDK and the core's deadlines need a task
                    current.set(record.recording)
                    decision = await pending
                finally:
                    pending.close()  # in case it was never awaited
            if isinstance(decision, Forward):
                connection.verified = decision.verdict.principal is not None
                new_tokens = decision.verdict.new_tokens
                # 6 headers to the upstream, 7 send, 8 headers to the client, 9 copy
                response = await self.forwarder.forward(decision, client, record)
                if response is not None:
                    await self._write(client, response, record)
            elif isinstance(decision, Respond):
                await self._write(client, decision, record)
            else:
                await ensure_task()
                current.set(record.recording)
                body = await _whole_body(client)
                response = await self.decider.call(decision, body, record)
                await self._write(client, response, record)
        except GatewayError as error:
            await self._fail(client, error, record, new_tokens)
        except asyncio.CancelledError:
            # The server cancels when the client is gone, and when the request's time is
            # over.
            if client.gone:
                record.note_failure(client.gone_because)
            else:
                await self._fail(client, client.ended_because, record, new_tokens)
            raise
        except ConnectionError:
            # A write failed. If it were raised, the loop would log it with a traceback.
            record.note_failure(client.gone_because)
            client.abort()
        except Exception:  # noqa: BLE001 - the error boundary: the request fails
            log_unexpected(record)
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

    async def _write(
        self, client: ProxyClient, response: Respond, record: Record
    ) -> None:
        if self.draining:
            client.keep_alive = False
        record.status = response.answer.status
        await client.answer(response.answer, response.fields)

    async def _fail(
        self,
        client: ProxyClient,
        error: GatewayError,
        record: Record,
        new_tokens: Fields,
    ) -> None:
        """Answer a failure, or abort the connection if the response has started."""
        record.note_failure(error)
        if client.started:
            client.abort()
            return
        try:
            head = client.head
            response = await self.decider.failed(error, head, record, new_tokens)
            await self._write(client, response, record)
        except ConnectionError:
            client.abort()


async def _whole_body(client: ProxyClient) -> bytes:
    if not client.head.has_body:
        return b""
    client.connection.verified = False  # here the request has no session yet
    return await whole_body(client, _MAX_AUTH_BODY)

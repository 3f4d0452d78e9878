"""edge. The listener of `gateway.decision.grpc`: Envoy's questions, over gRPC.

Whatever fails is no yes: an error is answered as the proxy answers it, and a call that
is cancelled gets no answer.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from gateway import responses
from gateway.config import DecisionConfig
from gateway.decisions import Forward, Respond
from gateway.downstream.listener import Listener
from gateway.errors import ClientGone, GatewayError, ShuttingDown
from gateway.fronts import grpc_exchange, verdicts
from gateway.fronts.deciding import FrontDecider
from gateway.fronts.grpc_connection import GrpcConnection
from gateway.fronts.grpc_messages import METHOD
from gateway.headers import Networks
from gateway.http.fields import Fields
from gateway.http.request_head import RequestHead
from gateway.observe import Record, log_unexpected
from gateway.proxy import Proxy


class GrpcFront:
    """Answers the calls of fronts. Used as the protocol factory of its servers."""

    path = METHOD

    def __init__(
        self, config: DecisionConfig, proxy: Proxy, listener: Listener
    ) -> None:
        """*listener* counts the connections, with those of the other addresses."""
        self._proxy = proxy
        self._listener = listener
        self._decider = FrontDecider(config, proxy)
        self._observer = proxy.dependencies.observer
        self._make_id = proxy.dependencies.make_id
        self._trusted = Networks(config.trusted)
        self._sets_path = config.path == "canonical"
        self._loop = asyncio.get_running_loop()
        self._open: dict[GrpcConnection, None] = {}
        self._emptied = asyncio.Event()
        self._is_draining = False

    def __call__(self) -> GrpcConnection:
        return GrpcConnection(self)

    @property
    def connections(self) -> int:
        """The number of connected fronts."""
        return len(self._open)

    @property
    def active(self) -> int:
        """The number of calls in progress."""
        return sum(each.active for each in self._open)

    # --- connections ----------------------------------------------------------

    def admit(self, connection: GrpcConnection) -> bool:
        now = self._loop.time()
        if self._trusted and connection.peer not in self._trusted:
            limit = "gateway.decision.trusted"
            self._listener.rejections.add(limit, connection.peer, now)
            return False
        if not self._listener.admission.admit(connection.peer, now):
            return False
        self._open[connection] = None
        if self._is_draining:
            self._loop.call_soon(connection.drain)
        return True

    def forget(self, connection: GrpcConnection) -> None:
        if connection in self._open:
            del self._open[connection]
            self._listener.admission.release(connection.peer)
        if not self._open:
            self._emptied.set()

    async def close(self, linger_s: float, drain_s: float) -> None:
        """Let fronts go elsewhere, and end all connections.

        Calls that are on their way are answered for *linger_s* seconds. What is in
        progress then has *drain_s* seconds to finish.
        """
        self._is_draining = True
        for connection in tuple(self._open):
            connection.drain()
        await self._wait_until_empty(linger_s)
        for connection in tuple(self._open):
            connection.end_when_idle()
        await self._wait_until_empty(drain_s)
        for connection in tuple(self._open):
            connection.abort()
        await self._wait_until_empty(self._proxy.dependencies.pace.cut_s)

    async def _wait_until_empty(self, timeout_s: float) -> None:
        self._emptied.clear()
        if not self._open:
            return
        try:
            async with asyncio.timeout(timeout_s):
                await self._emptied.wait()
        except TimeoutError:
            return

    # --- calls ----------------------------------------------------------------

    async def answer(self, message: bytes, peer: str) -> bytes:
        """Return the answer to one question, encoded; it is recorded.

        Raises:
            CancelledError: the front waits for it no longer.
        """
        record = Record.begin(perf_counter(), peer, "-")
        record.bytes_in = len(message)
        try:
            reply = await self._answered(message, record)
            record.bytes_out = len(reply)
        except asyncio.CancelledError:
            record.note_failure(ShuttingDown() if self._is_draining else ClientGone())
            raise
        finally:
            record.duration_ms = (perf_counter() - record.started) * 1000
            self._observer.observe(record)
        return reply

    async def _answered(self, message: bytes, record: Record) -> bytes:
        head: RequestHead | None = None
        tokens: Fields = ()
        try:
            asked = grpc_exchange.question(message)
            head = self._decider.read(asked, record)
            decision = await self._decider.decide(asked, head, record)
            if isinstance(decision, Forward):
                tokens = decision.verdict.new_tokens
                self._decider.check_path(asked, record)
                yes = grpc_exchange.allowed(
                    decision, self._decider.names, sets_path=self._sets_path
                )
                record.status = 200
                return yes
            if isinstance(decision, Respond):
                return self._refusal(decision, record)
            own = verdicts.not_forwarded(record.request_id)
            return self._refusal(Respond(own, ()), record)
        except GatewayError as raised:
            error = raised
        except Exception:  # noqa: BLE001 - the error boundary: the request is refused
            log_unexpected(record)
            error = GatewayError()
        record.note_failure(error)
        if head is None:  # nothing can be read from it
            if record.request_id == Record.request_id:
                record.request_id = self._make_id()
            failed = Respond(responses.failure(error, record.request_id), ())
        else:
            failed = await self._proxy.decider.failed(error, head, record, tokens)
        return self._refusal(failed, record)

    def _refusal(self, respond: Respond, record: Record) -> bytes:
        record.status = respond.answer.status
        return grpc_exchange.answered(respond)

"""edge. The decision listener: answers fronts, by the same `decide` as the proxy.

No service is asked from here. Whatever fails is no yes: an error is answered as the
proxy answers it, or the connection is aborted.
"""

from __future__ import annotations

import asyncio
import logging
from time import perf_counter

from gateway import responses
from gateway.config import DecisionConfig, DecisionListen, ListenConfig
from gateway.decisions import Forward, Respond
from gateway.downstream.arrival import Handler
from gateway.downstream.exchange import Exchange
from gateway.errors import BadTarget, GatewayError, ShuttingDown
from gateway.events import RuntimeEvent, about
from gateway.fronts import verdicts
from gateway.fronts.original import BadQuestion, Endpoint, endpoint_of, original
from gateway.headers import Networks
from gateway.http.fields import Fields, first
from gateway.http.request_head import RequestHead
from gateway.observe import Record, current
from gateway.proxy import Proxy
from gateway.responses import Response
from gateway.running import ensure_task

_log = logging.getLogger("gateway")


class NotTrusted(GatewayError):
    """The peer isn't one of `gateway.decision.trusted`."""

    side = BadQuestion.side
    status = 403
    code = "front_not_trusted"
    title = "This address may not ask"
    close = True


def handler_of(listen: ListenConfig, proxy: Proxy) -> Handler | None:
    """Return what answers the requests of *listen* if fronts ask there, else None."""
    if not isinstance(listen, DecisionListen):
        return None
    return FrontListener(listen.decision, proxy).handle


class FrontListener:
    """Answers every request of the decision listener."""

    def __init__(self, config: DecisionConfig, proxy: Proxy) -> None:
        parts = proxy.dependencies
        self._proxy = proxy
        self._decider = proxy.decider
        self._reader = parts.reader
        self._router = parts.resources
        self._observer = parts.observer
        self._make_id = parts.make_id
        self._trusted = Networks(config.trusted)
        self._endpoints = frozenset(config.endpoints)
        self._names = verdicts.names_of(parts.resources.table.routes)

    async def handle(self, client: Exchange) -> None:
        """Answer one question. The answer is written and recorded when this returns.

        Raises:
            CancelledError: the front is gone, or the time to drain is over.
        """
        head, peer = client.head, client.connection.address
        record = Record.begin(perf_counter(), peer, head.method)
        try:
            await self._write(client, await self._answer(head, peer, record), record)
        except asyncio.CancelledError:
            error = client.gone_because if client.gone else ShuttingDown()
            _note(record, error)
            client.abort()
            raise
        except ConnectionError:
            _note(record, client.gone_because)
            client.abort()
        finally:
            record.bytes_in, record.bytes_out = client.bytes_in, client.bytes_out
            record.duration_ms = (perf_counter() - record.started) * 1000
            self._observer.observe(record)
        if head.has_body and client.has_rest:
            await client.take_rest()

    async def _write(self, client: Exchange, response: Respond, record: Record) -> None:
        if self._proxy.draining:
            client.keep_alive = False
        record.status = response.answer.status
        await client.answer(response.answer, response.fields)

    async def _answer(self, head: RequestHead, peer: str, record: Record) -> Respond:
        """Return the answer to a question; nothing but cancellation is raised."""
        endpoint = None
        tokens: list[Fields] = []
        try:
            if self._trusted and peer not in self._trusted:
                raise NotTrusted
            endpoint = endpoint_of(head.target, self._endpoints)
            if endpoint is None:
                return self._not_found(record)
            return await self._judged(head, endpoint, record, tokens)
        except GatewayError as raised:
            error = raised
        except Exception:  # noqa: BLE001 - the error boundary: the request is refused
            _log.exception(
                "request %s failed",
                record.request_id,
                extra=about(RuntimeEvent.REQUEST_FAILED, request_id=record.request_id),
            )
            error = GatewayError()
        _note(record, error)
        new_tokens = tokens[0] if tokens else ()
        failed = await self._decider.failed(error, head, record, new_tokens)
        if endpoint is None:
            return failed
        return verdicts.refused(failed, endpoint, record.request_id)

    def _not_found(self, record: Record) -> Respond:
        record.request_id = made = self._make_id()
        return Respond(responses.no_route(made), ((b"X-Request-Id", made.encode()),))

    async def _judged(
        self,
        question: RequestHead,
        endpoint: Endpoint,
        record: Record,
        tokens: list[Fields],
    ) -> Respond:
        """Return the answer that follows from the decision.

        *tokens* gets the new tokens that verification has made.

        Raises:
            GatewayError: the request is refused, or can't be judged.
        """
        asked = original(question, endpoint)
        record.method, record.client = asked.method, asked.client
        head = self._reader.read(asked.head)
        decision = self._decider.decide(head, asked.client, record, asked.is_secure)
        if not isinstance(decision, tuple):
            pending = decision
            try:
                await ensure_task()  # the SDK and the core's deadlines need a task
                current.set(record.recording)
                decision = await pending
            finally:
                pending.close()  # in case it was never awaited
        yes: Respond | None = None
        if isinstance(decision, Forward):
            tokens.append(decision.verdict.new_tokens)
            yes = verdicts.allowed(decision, endpoint, self._names)
        elif isinstance(decision, Respond):
            yes = self._preflight(head, decision, endpoint, record)
            if yes is None:
                return verdicts.refused(decision, endpoint, record.request_id)
        else:  # a call of the SDK's API, or of the gateway's own
            own = Respond(Response(status=200), ())
            return verdicts.refused(own, endpoint, record.request_id)
        if not verdicts.is_strict(asked.target, record.path):
            raise BadTarget("a front would forward another path than was judged")
        if endpoint is Endpoint.REFUSAL:
            return verdicts.not_refused(record.request_id)
        return yes

    def _preflight(
        self, head: RequestHead, answered: Respond, endpoint: Endpoint, record: Record
    ) -> Respond | None:
        """Return the answer to a preflight that is allowed, None for all the rest."""
        if record.decision != "preflight" or answered.answer.status != 204:
            return None
        target = self._router.find(head.method, head.target, head.host).target
        asked = first(head.fields, b"access-control-request-method") or b""
        route = self._router.route_for(target, asked.decode("latin-1"))
        if route is None or route.answer is not None:
            return None
        return verdicts.preflight(
            route, target.path, target.query, answered, endpoint, self._names
        )


def _note(record: Record, error: GatewayError) -> None:
    record.side = error.side
    record.status = error.status
    record.reason = error.code
    record.note = error.detail

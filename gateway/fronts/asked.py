"""edge. The decision listener: answers fronts, by the same `decide` as the proxy.

No service is asked from here. Whatever fails is no yes: an error is answered as the
proxy answers it, or the connection is aborted.
"""

from __future__ import annotations

import asyncio
from time import perf_counter

from gateway import responses
from gateway.config import DecisionConfig, DecisionListen, ListenConfig
from gateway.decisions import Forward, Respond
from gateway.downstream.arrival import Handler
from gateway.downstream.exchange import Exchange
from gateway.errors import GatewayError, ShuttingDown
from gateway.fronts import verdicts
from gateway.fronts.deciding import FrontDecider
from gateway.fronts.original import BadQuestion, Endpoint, endpoint_of, original
from gateway.headers import Networks
from gateway.http.fields import Fields
from gateway.http.request_head import RequestHead
from gateway.observe import Record, log_unexpected
from gateway.proxy import Proxy
from gateway.responses import Response


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
        self._questions = FrontDecider(config, proxy)
        self._observer = parts.observer
        self._make_id = parts.make_id
        self._trusted = Networks(config.trusted)
        self._endpoints = frozenset(config.endpoints)

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
            record.note_failure(error)
            client.abort()
            raise
        except ConnectionError:
            record.note_failure(client.gone_because)
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
            log_unexpected(record)
            error = GatewayError()
        record.note_failure(error)
        new_tokens = tokens[0] if tokens else ()
        failed = await self._proxy.decider.failed(error, head, record, new_tokens)
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
        questions, asked = self._questions, original(question, endpoint)
        head = questions.read(asked, record)
        decision = await questions.decide(asked, head, record)
        yes: Respond | None = None
        if isinstance(decision, Forward):
            tokens.append(decision.verdict.new_tokens)
            yes = verdicts.allowed(decision, endpoint, questions.names)
        elif isinstance(decision, Respond):
            preflighted = questions.preflighted(head, decision, record)
            if preflighted is None:
                return verdicts.refused(decision, endpoint, record.request_id)
            yes = verdicts.preflight(*preflighted, decision, endpoint, questions.names)
        else:  # a call of the SDK's API, or of the gateway's own
            own = Respond(Response(status=200), ())
            return verdicts.refused(own, endpoint, record.request_id)
        questions.check_path(asked, record)
        if endpoint is Endpoint.REFUSAL:
            return verdicts.not_refused(record.request_id)
        return yes

"""edge. The authorizer: decides about the request of each event, as the proxy does.

API Gateway forwards the request itself, and it only learns yes or no. A refusal for
want of a session is raised as the error that it answers with 401. Whatever can't be
decided is raised as another error, which it answers with 500. So no failure is a yes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import replace
from time import perf_counter
from typing import Any

from gateway import responses
from gateway.app import App
from gateway.aws import policies
from gateway.aws.events import BadEvent, Event, EventKind, kind_of, request_of
from gateway.aws.kept import Context, KeptGateway, opened
from gateway.aws.policies import AnswerForm
from gateway.decide import Decider
from gateway.decisions import Forward, Respond
from gateway.errors import BadTarget, GatewayError
from gateway.fronts.verdicts import identity_of, is_strict, not_forwarded
from gateway.fronts.withholding import Withholding
from gateway.http.request_head import RequestHead
from gateway.observe import Record, log_unexpected
from gateway.responses import Response

_KINDS = (EventKind.REST, EventKind.HTTP_1, EventKind.HTTP_2)


class NotDecided(Exception):
    """Whether the request may pass isn't known; API Gateway answers 500."""


class LambdaAuthorizer:
    """Decides about events, one at a time."""

    def __init__(self, gateway: KeptGateway) -> None:
        self.gateway = gateway
        self._made: tuple[App, Decider] | None = None

    def __call__(self, event: Event, context: Context) -> dict[str, Any]:
        """Return the answer to the question in *event*.

        Raises:
            Exception: with the text `Unauthorized`, for API Gateway's 401: there is no
                session, or it isn't valid.
            NotDecided: the session couldn't be checked, or a failure.
            BadEvent: the event isn't that of an authorizer of the type REQUEST.
        """
        kind = kind_of(event)
        if kind not in _KINDS:
            raise BadEvent("only API Gateway has authorizers")
        form, arn = policies.form_of(event)
        outcome = self.gateway.run(self._decided(kind, event), context)
        if isinstance(outcome, Response):
            if outcome.status == 401:
                raise Exception("Unauthorized")  # these exact words
            if outcome.status >= 500:
                raise NotDecided(outcome.note or "the session can't be checked")
            return policies.denied(form, arn, outcome)
        return self._allowed(form, arn, outcome)

    def _allowed(self, form: AnswerForm, arn: str, yes: Forward) -> dict[str, Any]:
        principal = yes.verdict.principal
        table = self.gateway.app.proxy.dependencies.resources.table
        names = policies.identity_names(table.routes)
        user_id = None if principal is None else principal.user_id
        return policies.allowed(
            form, arn, user_id, policies.context_of(identity_of(yes), names)
        )

    async def _decided(self, kind: EventKind, event: Event) -> Forward | Response:
        """Return what is allowed, or the gateway's own answer.

        Raises:
            NotDecided: a failure, or the time is over.
        """
        record = Record.begin(perf_counter(), "-", "-")
        record.status = 500  # unless it is decided
        try:
            outcome = await self._answered(kind, event, record)
            record.status = outcome.status if isinstance(outcome, Response) else 200
            return outcome
        except asyncio.CancelledError:
            record.note = "the time of the function is over"
            raise NotDecided(record.note) from None
        except Exception as error:
            log_unexpected(record)
            raise NotDecided("the authorizer failed") from error
        finally:
            record.duration_ms = (perf_counter() - record.started) * 1000
            self.gateway.observer.observe(record)

    async def _answered(
        self, kind: EventKind, event: Event, record: Record
    ) -> Forward | Response:
        """Return the decision; a failure is an answer, too."""
        try:
            async with self.gateway.thawed() as app:
                return await self._judged(app, kind, event, record)
        except GatewayError as error:
            record.side, record.reason = error.side, error.code
            record.note = error.detail
            return responses.failure(error, record.request_id)

    def _decider(self, app: App) -> Decider:
        """Return what decides for *app*, and gives out no new tokens."""
        if self._made is None or self._made[0] is not app:
            parts = app.proxy.dependencies
            withholding = Withholding(parts.verifier)
            self._made = app, replace(parts, verifier=withholding).decider()
        return self._made[1]

    async def _judged(
        self, app: App, kind: EventKind, event: Event, record: Record
    ) -> Forward | Response:
        """Return the decision on the request in *event*.

        Raises:
            GatewayError: the request is refused, or can't be judged.
        """
        request = request_of(event, kind, self.gateway.base_path, has_body=False)
        head = app.proxy.dependencies.reader.read(request.head)
        record.method, record.client = head.method, request.peer
        decider = self._decider(app)
        decision = decider.decide(head, request.peer, record, request.is_secure)
        if not isinstance(decision, tuple):
            decision = await decision
        if isinstance(decision, Forward):
            _check_path(kind, head, record)
            identity_of(decision)  # too large ones are refused here, with an answer
            return decision
        if isinstance(decision, Respond) and decision.answer.status >= 300:
            return decision.answer
        return not_forwarded(record.request_id)


def _check_path(kind: EventKind, head: RequestHead, record: Record) -> None:
    """Refuse a path that API Gateway may forward in another form than was judged.

    Raises:
        BadTarget: it isn't in canonical form; or an HTTP API has decoded it, and it
            could be decoded once more.
    """
    path = head.target.partition(b"?")[0]
    is_ambiguous = kind is not EventKind.REST and b"%25" in path
    if is_ambiguous or not is_strict(path, record.path):
        raise BadTarget("API Gateway may forward another path than was judged")


def ready(environ: Mapping[str, str] = os.environ) -> LambdaAuthorizer:
    """Return the authorizer for the configuration of *environ*.

    Raises: as `kept.opened`.
    """
    return LambdaAuthorizer(opened(environ))

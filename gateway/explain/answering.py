"""edge. What the gateway would do with one request: the decision, and its reasons."""

from __future__ import annotations

from collections.abc import Sequence
from time import time

from gateway import headers
from gateway.config import Config
from gateway.decide import Decider
from gateway.decisions import AccessCall, AuthCall, Forward, Respond
from gateway.downstream.cors import Cors
from gateway.errors import GatewayError
from gateway.explain.given import GivenSession
from gateway.explain.questions import Explained, Question, Sent
from gateway.headers import ForwardedCache, Traces
from gateway.http.request_head import RequestHead, RequestReader
from gateway.observe import Record
from gateway.rate_limits import Limiter, LocalStore
from gateway.resources import Router
from gateway.routes import RouteTable
from gateway.routes.explain import Explanation, explain
from gateway.session.refusals import Refusals
from gateway.session.rules import SessionRules
from gateway.supertokens.api import Auth
from gateway.verify import Engine


class Explainer:
    """Answers questions about one configuration."""

    def __init__(
        self,
        config: Config,
        table: RouteTable,
        *,
        auth: Auth,
        rules: SessionRules,
        reader: RequestReader,
        forwarded: ForwardedCache,
        traces: Traces,
        sdk_headers: Sequence[str],
    ) -> None:
        self._table = table
        self._rules = rules
        self._reader = reader
        self._forwarded = forwarded
        self._traces = traces
        assertion = config.gateway.assertion
        self._router = Router(
            table=table,
            auth=auth,
            user_path=config.gateway.user_path,
            access_path=config.gateway.access_path,
            jwks_path=None if assertion is None else assertion.jwks_path,
        )
        self._cors = Cors(
            config.cors,
            website_domain=config.supertokens.website_domain,
            sdk_headers=tuple(sdk_headers),
            method_allowed=self._router.method_allowed,
            routes=table.routes,
        )

    @property
    def rules(self) -> SessionRules:
        """The rules that sessions are judged by."""
        return self._rules

    async def answer(self, question: Question) -> Explained:
        """Return what the gateway would do.

        A limit of the rate is never reached here: the request is the first one.
        """
        session = GivenSession(self._rules, question.given, time())
        record = Record.begin(0.0, question.client, question.method)
        decider = Decider(
            resources=self._router,
            verifier=Engine(
                (session,), unauthorised=Refusals(self._rules).unauthorised
            ),
            policy=self._cors,
            forwarded=self._forwarded,
            make_id=lambda: "made-here",
            traces=self._traces,
            limiter=Limiter(LocalStore(lambda: 0)),
        )
        head: RequestHead | None = None
        outcome: Respond | Forward | AuthCall | AccessCall
        try:
            head = self._reader.read(question.head())
            decided = decider.decide(head, question.client, record, question.is_secure)
            outcome = decided if isinstance(decided, tuple) else await decided
        except GatewayError as error:
            record.reason = error.code
            record.note = error.detail
            return self._answered(question, head, record, session, error=error)
        return self._answered(question, head, record, session, outcome=outcome)

    def _answered(
        self,
        question: Question,
        head: RequestHead | None,
        record: Record,
        session: GivenSession,
        *,
        outcome: Respond | Forward | AuthCall | AccessCall | None = None,
        error: GatewayError | None = None,
    ) -> Explained:
        status = None if error is None else error.status
        body = b""
        fields: tuple[tuple[bytes, bytes], ...] = ()
        sent = None
        if isinstance(outcome, Respond):
            status, body = outcome.answer.status, outcome.answer.body
            fields = (*outcome.answer.fields, *outcome.fields)
        elif isinstance(outcome, Forward):
            sent = _sent(outcome)
        return Explained(
            record=record,
            target="" if record.path == Record.path else record.path,
            table=None if head is None else self._explanation(question, head),
            session=session,
            status=status,
            body=body,
            fields=fields,
            sent=sent,
        )

    def _explanation(self, question: Question, head: RequestHead) -> Explanation | None:
        try:
            resource = self._router.find(question.method, head.target, head.host)
        except GatewayError:
            return None
        target = resource.target
        if self._router.owns(target.path):
            return None
        return explain(
            self._table,
            question.method,
            target.host,
            target.path,
            head.fields,
            target.query,
        )


def _sent(forward: Forward) -> Sent:
    request, route = forward.request, forward.route
    prefix = None
    if route.rewrite is not None:
        prefix = route.rewrite.public_prefix(request.target.path)
    block = headers.to_upstream(
        request.head,
        route.headers,
        request.forwarded,
        forward.verdict.principal,
        request.id,
        prefix,
    )
    if route.audience is not None and forward.verdict.principal is not None:
        # It isn't signed here, so that nobody can use it.
        name, audience = headers.ASSERTION_NAME, route.audience
        block += f"{name}: (signed, for {audience})\r\n".encode()
    own = [line.raw.removesuffix(b"\r\n") for line in request.head.lines]
    lines = block.split(b"\r\n")[:-1]
    host = b"Host: " + (request.head.host or b"")
    return Sent(
        service=route.service.name,
        method=request.method,
        path=route.upstream_path(request.target.path)
        + request.target.query.decode("latin-1"),
        host=route.host_header,
        removed=tuple(one for one in own if one not in lines and one != host),
        added=tuple(one for one in lines if one not in own),
        kept=tuple(one for one in own if one in lines),
    )

"""edge. Decides what fronts ask, in whichever protocol they ask it.

No service is asked from here. The decision is the proxy's own `decide`, on the head of
the request that the front has received.
"""

from __future__ import annotations

from dataclasses import replace

from gateway.config import DecisionConfig
from gateway.decisions import Decision, Respond
from gateway.errors import BadTarget
from gateway.fronts import verdicts
from gateway.fronts.original import Original
from gateway.fronts.withholding import Withholding
from gateway.http.fields import first
from gateway.http.request_head import RequestHead
from gateway.observe import Record, current
from gateway.proxy import Proxy
from gateway.routes import Route
from gateway.running import ensure_task


class FrontDecider:
    """Decides requests that fronts have received, for one configuration."""

    def __init__(self, config: DecisionConfig, proxy: Proxy) -> None:
        parts = proxy.dependencies
        self._proxys = proxy.decider
        self._decider = proxy.decider
        if config.new_tokens == "withhold":
            withholding = Withholding(parts.verifier)
            self._decider = replace(parts, verifier=withholding).decider()
        self._reader = parts.reader
        self._router = parts.resources
        self._is_strict = config.path == "strict"
        self.names = verdicts.names_of(parts.resources.table.routes)
        """The names of all identity fields that some route may set."""

    def read(self, asked: Original, record: Record) -> RequestHead:
        """Return the head of the request that is *asked* about.

        Raises:
            GatewayError: the head is refused.
        """
        record.method, record.client = asked.method, asked.client
        return self._reader.read(asked.head)

    async def decide(
        self, asked: Original, head: RequestHead, record: Record
    ) -> Decision:
        """Return what is decided on the request with *head*.

        Raises:
            GatewayError: the request is refused, or can't be judged.
        """
        decider = self._decider
        decider.shedding = self._proxys.shedding
        decision = decider.decide(head, asked.client, record, asked.is_secure)
        if isinstance(decision, tuple):
            return decision
        try:
            await ensure_task()  # the SDK and the core's deadlines need a task
            current.set(record.recording)
            return await decision
        finally:
            decision.close()  # in case it was never awaited

    def check_path(self, asked: Original, record: Record) -> None:
        """Check that the front may forward the path as it is written.

        Raises:
            BadTarget: another one was judged, and the front isn't told to forward that.
        """
        if self._is_strict and not verdicts.is_strict(asked.target, record.path):
            raise BadTarget("a front would forward another path than was judged")

    def preflighted(
        self, head: RequestHead, answered: Respond, record: Record
    ) -> tuple[Route, str, bytes] | None:
        """Return the route of the request that a preflight is about, its path and its
        query; None if *answered* isn't the answer to a preflight that is allowed.
        """
        if record.decision != "preflight" or answered.answer.status != 204:
            return None
        target = self._router.find(head.method, head.target, head.host).target
        wanted = first(head.fields, b"access-control-request-method") or b""
        route = self._router.route_for(target, wanted.decode("latin-1"))
        if route is None or route.answer is not None:
            return None
        return route, target.path, target.query

"""edge. Calls to the core through the SDK: shared, bounded, each with a deadline."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from gateway import config
from gateway.identity import Allowed, Denied, SessionRequest, Verdict
from gateway.session import requirements
from gateway.session.compiled_policy import CompiledPolicy
from gateway.session.failures import Failures, undecided
from gateway.session.refusals import Refusals
from gateway.session.requirements import Check
from gateway.session.verified_tokens import VerifiedToken

_MAX_CALLS = 1024
"""Calls that may be under way or waiting; more are `Undecided` at once."""


class CoreSession(Protocol):
    """The SDK: asks the core, and judges what only it can."""

    async def check(
        self,
        request: SessionRequest,
        *,
        is_required: bool,
        check_database: bool,
        checks: Sequence[Check],
        validators: Sequence[str],
    ) -> Allowed | Denied:
        """Return the SDK's verdict on the request's session.

        *checks* say when a claim is fetched again; they are judged after the SDK's
        global validators, and before *validators*, dotted names of the user's own.

        Raises:
            CoreUnavailable: the core had to be asked and couldn't be.
        """
        ...


class CoreQuestion(NamedTuple):
    """What the core must be asked about a token that is good as far as is known."""

    policy: CompiledPolicy
    known: VerifiedToken
    token: str
    by_header: bool
    asks_database: bool

    @property
    def key(self) -> object:
        """What two requests must have in common to share one answer."""
        policy = self.policy if self.policy.checks or self.policy.needs_sdk else None
        return self.token, self.by_header, self.asks_database, policy


class CoreCall:
    """One call to the core, which several requests may share."""

    __slots__ = ("asked_at", "before", "task")

    def __init__(self, before: asyncio.Task[Verdict] | None = None) -> None:
        self.before = before
        """The call to wait for: of one kind, one is under way at a time."""
        self.asked_at: float | None = None
        """When it was sent; None: it waits for its turn."""
        self.task: asyncio.Task[Verdict]

    def serves(self, question: CoreQuestion, method: str, now: float) -> bool:
        """Return whether a request that comes *now* may have the answer, too.

        Not when the answer can be older than the route allows: the session may have
        been revoked between the call and the request.
        """
        return (
            self.asked_at is None
            or not question.asks_database
            or not question.policy.asks_database(method, now - self.asked_at)
        )


class CoreCalls:
    """Asks the core. A hung one delays requests up to the deadline, and no further."""

    def __init__(
        self,
        core: CoreSession,
        *,
        client: config.CoreConfig,
        refusals: Refusals,
        clock: Callable[[], float],
    ) -> None:
        """*clock* is in seconds since the epoch."""
        self._core = core
        self._refusals = refusals
        self._clock = clock
        self._timeout_s = client.timeout
        self._slots = asyncio.Semaphore(client.max_concurrent)
        self._latest: dict[object, CoreCall] = {}
        self._tasks: set[asyncio.Task[Verdict]] = set()
        self._failures = Failures()

    def __len__(self) -> int:
        """Return how many shared calls are under way or waiting."""
        return len(self._tasks)

    async def ask(self, request: SessionRequest, question: CoreQuestion) -> Verdict:
        """Return the SDK's verdict on a token that is good as far as is known here.

        Requests with the same question share the answer to a call that is sent after
        they came: one is under way, and one waits for it, for all who come meanwhile.
        A new token goes to each of them, because it can't be known whose answer the
        client will keep.
        """
        call = self._latest.get(question.key)
        if call is None or not call.serves(question, request.method, self._clock()):
            if len(self._tasks) >= _MAX_CALLS:
                return undecided("core_busy")
            call = self._begin(request, question, call)
        # Shielded: others may wait for it when this request's client has gone.
        verdict = await asyncio.shield(call.task)
        if question.asks_database and isinstance(verdict, Allowed):
            assert call.asked_at is not None
            question.known.core_at = max(question.known.core_at, call.asked_at)
        return verdict

    async def ask_unshared(
        self, request: SessionRequest, policy: CompiledPolicy
    ) -> Verdict:
        """Return the SDK's verdict on a request that only it can judge."""
        asks = policy.asks_database(request.method, float("inf"))
        return await self._send(request, policy, CoreCall(), check_database=asks)

    async def close(self) -> None:
        """Stop asking; requests that still wait are cancelled."""
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(
        self, request: SessionRequest, question: CoreQuestion, before: CoreCall | None
    ) -> CoreCall:
        """Return a new call, which is sent when the one *before* it is answered."""
        call = CoreCall(None if before is None else before.task)
        call.task = asyncio.create_task(
            self._send(
                request, question.policy, call, check_database=question.asks_database
            ),
            name="session-check",
        )
        key = question.key
        self._latest[key] = call
        self._tasks.add(call.task)

        def done(task: asyncio.Task[Verdict]) -> None:
            self._tasks.discard(task)
            if self._latest.get(key) is call:
                del self._latest[key]

        call.task.add_done_callback(done)
        return call

    async def _send(
        self,
        request: SessionRequest,
        policy: CompiledPolicy,
        call: CoreCall,
        *,
        check_database: bool,
    ) -> Verdict:
        """Return the SDK's verdict. Never raises, so that it can be shared.

        The time spent on waiting for a turn counts, so that no request waits longer.
        This is the only deadline of a check: none below cancels its clean-up.
        """
        is_queued = False
        try:
            async with asyncio.timeout(self._timeout_s):
                if call.before is not None:
                    await asyncio.wait((call.before,))
                    call.before = None
                is_queued = True
                async with self._slots:
                    is_queued = False
                    call.asked_at = self._clock()
                    verdict = await self._core.check(
                        request,
                        is_required=policy.is_required,
                        check_database=check_database,
                        checks=policy.route_checks,
                        validators=policy.validators,
                    )
            if isinstance(verdict, Allowed) and verdict.principal is not None:
                # Once more, so that no gap in the SDK's validators lets anyone through.
                claims = verdict.principal.claims
                failed = requirements.refusals(policy.checks, claims)
                if failed:
                    return self._refusals.invalid_claims(failed)
        except Exception as exc:  # noqa: BLE001 - the boundary: fail closed
            if is_queued and isinstance(exc, TimeoutError):
                return undecided("core_busy")
            return self._failures.undecided(exc)
        return verdict

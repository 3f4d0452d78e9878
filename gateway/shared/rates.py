"""edge. Takes units of rate limits from the Redis server, as long as it runs.

Whoever asks is answered within `ANSWER_S`: by None if the server is slow or hangs. All
that is asked while a call runs is in the next one, so there is one call at a time.
After a late answer and after a failure, everything is answered by None at once, until
the server has answered. A connection is tried each second, and first when something is
asked: gateways without shared limits make none.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NoReturn

from gateway.events import RuntimeEvent, about
from gateway.rate_limits.leases import DrawAsked
from gateway.shared import rate_script
from gateway.shared.place import StorePlace
from gateway.shared.rate_script import StoreTaken
from gateway.shared.sharing import cancelled
from gateway.shared.store import StoreFailed, client_of, translated

ANSWER_S: Final = 0.05
"""How long whoever asks waits."""
_SILENT_S: Final = 1.0
"""How long a call may take before the connection is given up."""
_CONNECT_S: Final = 4.0
_RETRY_S: Final = 0.5, 1.0
"""Between these, a connection is tried again."""
_CHECK_S: Final = 1.0
"""How often a connection that isn't used is tried."""
_CLOSE_S: Final = 1.0
_CANCEL_S: Final = 0.05
_MAX_WISHES: Final = 100
"""In one call, so that the server isn't kept from others."""

_log = logging.getLogger("gateway.shared")

Answered = Callable[[Sequence[StoreTaken] | None], None]
"""Is called once with what the keys get; None: the store doesn't answer."""


@dataclass(slots=True)
class RateStoreCounts:
    """What is counted of the store of rate limits, for metrics."""

    is_connected: bool = False
    by_store: int = 0
    """Draws that the store has answered."""
    without_store: int = 0
    """Those that it hasn't, and that `on_store_failure` has decided."""


@dataclass(slots=True, eq=False)
class _Call:
    wishes: Sequence[DrawAsked]
    answered: Answered
    timer: asyncio.TimerHandle | None = field(default=None)
    is_over: bool = False

    def end(self, taken: Sequence[StoreTaken] | None) -> None:
        if self.is_over:
            return
        self.is_over = True
        if self.timer is not None:
            self.timer.cancel()
        self.answered(taken)


class SharedRates:
    """The way of draws to a Redis server."""

    def __init__(self, place: StorePlace, *, answer_s: float = ANSWER_S) -> None:
        self.counts = RateStoreCounts()
        self.trouble: str | None = None
        """Why the store can't be used; None: it can, or it isn't known yet."""
        self._place = place
        self._answer_s = answer_s
        self._is_late = False
        """An answer didn't come in time, and none has come since."""
        self._calls: deque[_Call] = deque()
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def ask(self, wishes: Sequence[DrawAsked], answered: Answered) -> None:
        """Take units for *wishes*, which are one of `parts`; answer in time."""
        if self._task is None:
            self._task = asyncio.create_task(self._run())
        if self.trouble is not None or self._is_late:
            self.counts.without_store += len(wishes)
            answered(None)
            return
        call = _Call(wishes, self._counted(wishes, answered))
        loop = asyncio.get_running_loop()
        call.timer = loop.call_later(self._answer_s, self._on_late, call)
        self._calls.append(call)
        self._wanted.set()

    @staticmethod
    def parts(wishes: Sequence[DrawAsked]) -> list[Sequence[DrawAsked]]:
        """Return *wishes* in parts that can be asked for."""
        starts = range(0, len(wishes), _MAX_WISHES)
        return [wishes[start : start + _MAX_WISHES] for start in starts]

    def _counted(self, wishes: Sequence[DrawAsked], answered: Answered) -> Answered:
        def count(taken: Sequence[StoreTaken] | None) -> None:
            if taken is None:
                self.counts.without_store += len(wishes)
            else:
                self.counts.by_store += len(wishes)
            answered(taken)

        return count

    def _on_late(self, call: _Call) -> None:
        self._is_late = True
        call.end(None)

    async def close(self) -> None:
        """Close the connection. A store that doesn't answer delays that a while."""
        if self._task is not None:
            await cancelled(self._task, _CANCEL_S)
        self._answer_all()

    async def _run(self) -> NoReturn:
        while True:
            try:
                async with self._connected() as client:
                    self._note_connected()
                    await self._serve(client)
            except StoreFailed as error:
                self._note_lost(str(error))
            except Exception as error:  # noqa: BLE001 - the boundary: try again
                self._note_lost(f"unexpected {type(error).__name__}")
            await asyncio.sleep(random.uniform(*_RETRY_S))  # noqa: S311 - no secret

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncIterator[Any]:
        with translated():
            client = client_of(self._place, timeout_s=_SILENT_S)
        try:
            with translated():
                async with asyncio.timeout(_CONNECT_S):
                    # Whether scripts are allowed; then the server knows it.
                    await client.eval(rate_script.SCRIPT, 0)
            yield client
        finally:
            with contextlib.suppress(Exception):  # what it says of the end is no news
                async with asyncio.timeout(_CLOSE_S):
                    await client.aclose()

    async def _serve(self, client: Any) -> NoReturn:
        """Answer what is asked.

        Raises:
            StoreFailed: the store is away.
        """
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CHECK_S):
                    await self._wanted.wait()
            self._wanted.clear()
            calls = self._next_calls()
            wishes = [wish for call in calls for wish in call.wishes]
            keys = [self._place.rate_prefix + wish.key for wish in wishes]
            try:
                taken = await self._take(client, keys, wishes)
            except BaseException:
                for call in calls:
                    call.end(None)
                raise
            self._is_late = False
            for call in calls:
                call.end(taken[: len(call.wishes)])
                del taken[: len(call.wishes)]
            if self._calls:
                self._wanted.set()

    def _next_calls(self) -> list[_Call]:
        """Return those that go together, without those that nobody waits for."""
        found: list[_Call] = []
        room = _MAX_WISHES
        while self._calls and len(self._calls[0].wishes) <= room:
            call = self._calls.popleft()
            if not call.is_over:
                found.append(call)
                room -= len(call.wishes)
        return found

    async def _take(
        self, client: Any, keys: list[str], wishes: list[DrawAsked]
    ) -> list[StoreTaken]:
        from redis.exceptions import NoScriptError

        arguments = rate_script.arguments(wishes)
        with translated():
            try:
                reply = await client.evalsha(
                    rate_script.DIGEST, len(keys), *keys, *arguments
                )
            except NoScriptError:  # the server has begun again, or SCRIPT FLUSH
                script = rate_script.SCRIPT
                reply = await client.eval(script, len(keys), *keys, *arguments)
        try:
            return rate_script.read(reply, wishes)
        except ValueError as error:
            raise StoreFailed(str(error)) from None

    def _answer_all(self) -> None:
        while self._calls:
            self._calls.popleft().end(None)

    def _note_connected(self) -> None:
        is_news = not self.counts.is_connected
        self.counts.is_connected = True
        self._is_late = False
        self.trouble = None
        if is_news:
            _log.warning(  # with the severity of its event
                "rate limits are shared over the store at %s",
                self._place.address,
                extra=about(
                    RuntimeEvent.SHARED_LIMITS_CONNECTED,
                    store=str(self._place.address),
                    key=self._place.rate_prefix,
                ),
            )

    def _note_lost(self, reason: str) -> None:
        is_news = self.trouble is None
        self.counts.is_connected = False
        self.trouble = reason
        self._answer_all()
        if is_news:
            _log.warning(
                "rate limits can't be shared over the store at %s: %s;"
                " on_store_failure says what happens to each",
                self._place.address,
                reason,
                extra=about(
                    RuntimeEvent.SHARED_LIMITS_LOST,
                    store=str(self._place.address),
                    reason=reason,
                ),
            )

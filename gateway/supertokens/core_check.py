"""edge. Whether the core accepts this gateway, asked when it starts.

`/apiversion` needs the API key and lists the versions that the core speaks. The fetch
of the signing keys needs neither, so it succeeds with a core that refuses every call.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from ssl import SSLContext

import aiohttp
from yarl import URL

from gateway.events import RuntimeEvent, about
from gateway.pace import PACE, Pace, backoff_s
from gateway.seams import supertokens as seams
from gateway.supertokens import Sdk, core_answers
from gateway.supertokens.core_answers import AnswerKind, CoreRefusal

_MAX_BYTES = 64 * 1024
"""Of an answer that is read. A core's has 200."""

_log = logging.getLogger("gateway.core")


class CoreVerdict(StrEnum):
    """What the core has said."""

    USABLE = "usable"
    """It takes the API key, and speaks a version of the protocol that the SDK does."""
    REFUSING = "refusing"
    """It refuses the gateway: a setting is wrong."""
    UNREACHABLE = "unreachable"
    """No core has answered."""


@dataclass(frozen=True, slots=True)
class CoreState:
    """The outcome of the last time that the core was asked."""

    state: CoreVerdict
    at: float
    """In seconds since the epoch."""
    trouble: str = ""
    """What is wrong at which host, and the remedy. It holds no secret."""


class CoreCheck:
    """Asks the core until it accepts the gateway; reports once if it refuses."""

    def __init__(
        self,
        hosts: Sequence[str],
        api_key: str | None,
        *,
        timeout_s: float,
        pace: Pace = PACE,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """*hosts* are the core's addresses: scheme, authority and base path."""
        self.last: CoreState | None = None
        """None: the core hasn't been asked yet."""
        self._hosts = tuple(map(URL, hosts))
        self._headers = {} if api_key is None else {"api-key": api_key}
        self._timeout_s = timeout_s
        self._pace = pace
        self._clock = clock
        self._told: str | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask in the background, core or no core."""
        self._task = asyncio.create_task(self._run(), name="core-check")

    async def close(self) -> None:
        """Stop asking; `last` stays."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        failures = 0
        async with await client(self._hosts) as http:
            while True:
                self.last = await self._ask(http)
                self._tell(self.last)
                if self.last.state is CoreVerdict.USABLE:
                    return
                failures += 1
                pace = self._pace
                await asyncio.sleep(
                    backoff_s(pace.keys_retry_s, failures, pace.keys_max_retry_s)
                )

    async def ask(self) -> CoreState:
        """Ask every host once, and return the outcome. Nothing is logged."""
        async with await client(self._hosts) as http:
            self.last = await self._ask(http)
            return self.last

    async def _ask(self, http: aiohttp.ClientSession) -> CoreState:
        """Ask every host: they share a database, and no settings."""
        answers = await asyncio.gather(*(self._ask_one(http, h) for h in self._hosts))
        refusals = [
            (host, answer)
            for host, answer in zip(self._hosts, answers, strict=True)
            if isinstance(answer, CoreRefusal)
        ]
        trouble = "; ".join(f"{host.origin()} {one.text}" for host, one in refusals)
        if any(refusal.kind is not AnswerKind.OUTAGE for _, refusal in refusals):
            state = CoreVerdict.REFUSING
        elif True in answers:
            state = CoreVerdict.USABLE
        else:
            state = CoreVerdict.UNREACHABLE
        return CoreState(state, self._clock(), trouble)

    async def _ask_one(
        self, http: aiohttp.ClientSession, host: URL
    ) -> bool | CoreRefusal:
        """Return whether the core at *host* accepts the gateway, or why not.

        False: no core has answered.
        """
        url = host.with_path(host.path.rstrip("/") + "/apiversion")
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                http.get(url, headers=self._headers, allow_redirects=False) as reply,
            ):
                body = await reply.content.read(_MAX_BYTES)
        except (TimeoutError, aiohttp.ClientError, OSError):
            return False
        text = body.decode("utf-8", "replace")
        if reply.status != 200:
            return core_answers.refusal(reply.status, text) or False
        try:
            versions = json.loads(text)["versions"]
        except (ValueError, RecursionError, LookupError, TypeError):
            return False
        return core_answers.other_versions(versions, seams.cdi_versions()) or True

    def _tell(self, found: CoreState) -> None:
        """Log what is wrong when it is news, and the end of what was logged.

        Not that the core can't be reached: the fetch of its keys says so.
        """
        if found.state is CoreVerdict.USABLE and not found.trouble:
            if self._told is not None:
                self._told = None
                _log.warning(
                    "the core accepts the gateway now",
                    extra=about(RuntimeEvent.CORE_ACCEPTING),
                )
        elif found.trouble and found.trouble != self._told:
            self._told = found.trouble
            _log.warning(
                "the core at %s. Meanwhile /auth/* and session checks that need the"
                " core answer 503",
                found.trouble,
                extra=about(RuntimeEvent.CORE_REFUSING, reason=found.trouble),
            )


async def client(hosts: Sequence[URL]) -> aiohttp.ClientSession:
    """Return a client for the core at *hosts*, without cookies."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=await authorities(hosts) or True),
        cookie_jar=aiohttp.DummyCookieJar(),
    )


async def authorities(hosts: Sequence[URL]) -> SSLContext | None:
    """Return what verifies the core's certificates, as for all calls to it.

    None: no host has one.
    """
    if all(host.scheme == "http" for host in hosts):
        return None
    import httpx

    return await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)


@contextlib.asynccontextmanager
async def asking(sdk: Sdk, *, timeout_s: float) -> AsyncIterator[CoreCheck | None]:
    """Yield the check of the core of *sdk*, which runs while the block does.

    None: a `network_interceptor` of a `config_module` changes calls to the core.
    """
    if sdk.config.is_intercepted:
        yield None
        return
    check = CoreCheck(sdk.config.core_uris, sdk.config.api_key, timeout_s=timeout_s)
    check.start()
    try:
        yield check
    finally:
        await check.close()

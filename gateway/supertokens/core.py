"""edge. The one HTTP client under the SDK's Querier: pooled, bounded, with a deadline.

The SDK opens a new client for each call to the core (22 ms of CPU), has no limit and
waits 30 s. It doesn't distinguish an outage from other exceptions. Here an outage is
`CoreUnavailable`, and an `operation` translates all other exceptions of the SDK.

Calls are sent by aiohttp's client, and the Querier gets httpx's responses. httpx's own
client awaits while it cleans up, so that a second cancellation (two deadlines, or a
deadline and a client that leaves) leaves connections open for good, each with its
place. aiohttp's closes a connection without an await, and at once when the core does.

Facts about the Querier (supertokens_python/querier.py, 0.31.4)
- It enters `AsyncClient(timeout=30.0)` for each call and then calls get, post, put or
  delete. Only the module's name `AsyncClient` is looked up, so that is what we set.
- It turns through the hosts by one index for all its calls, also to ask the next host
  after a failure: with one of two hosts dead, a call may meet the dead one twice. So
  the next host is our matter.
- 429 is asked again up to 5 times, with sleeps of 10 to 1010 ms; then it, every other
  4xx and every 5xx are a bare `Exception`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, nullcontext
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx
from yarl import URL

from gateway import config
from gateway.errors import CoreUnlicensed, GatewayError
from gateway.events import RuntimeEvent, about
from gateway.seams import supertokens as seams
from gateway.seams.aiohttp import never_retry
from gateway.supertokens import core_answers
from gateway.supertokens.core_exchange import (
    Calls,
    CoreExchange,
    is_about_sessions,
    judge,
    translated,
)

# Shorter than any core keeps an idle connection (Tomcat 20 s, aiohttp 75 s), so that
# a call is rarely sent into a connection that is just being closed.
_KEEP_ALIVE_S = 15.0

# How long an address that took no connection is tried last.
_DEAD_S = 5.0

_MAX_TOLD = 16
"""Messages about features without a licence, each written once."""

_log = logging.getLogger("gateway.core")

_MAX_HASHING_WAITS = 256
"""Calls with a password that may wait for a place; more are refused at once."""

_LOOKUPS_PER_HASH = 2
"""Calls that look something up, in flight at once, for each with a password."""

_SESSION_CALL = "/recipe/session"
"""In the path of every call about sessions: new ones, refreshes, sign-outs."""

_PASSWORDS = frozenset({"password", "newPassword"})
"""Fields for which the core computes a hash: sign-in, sign-up, a new password."""

_REPEATABLE = (
    *("/recipe/session/verify", "/recipe/session/refresh", "/recipe/session/remove"),
)
"""Calls other than GET that may be made twice: a refresh token is good until the tokens
that replaced it are used."""

_REFUSED = frozenset({401, 402, 403, 404, 429})
"""Statuses of calls that the core, or what is in front of it, hasn't carried out."""

_UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)


_exchange: ContextVar[CoreExchange | None] = ContextVar("exchange", default=None)


class CoreClient:
    """Stands where the Querier expects an `httpx.AsyncClient`; shared by all calls."""

    def __init__(
        self,
        settings: config.CoreConfig,
        hosts: Sequence[str],
        *,
        on_call: Callable[[str, str, float], None] | None = None,
    ) -> None:
        """*hosts* are the core's addresses: scheme, authority and base path.

        *on_call* is called after each call: see `Sdk.on_core_call`.
        """
        self._on_call = on_call
        self._hosts = hosts
        self._dead_until = dict.fromkeys(hosts, 0.0)
        # An address that takes no connection must leave time for the next one.
        self._connect_s = settings.timeout / (len(hosts) + 1)
        self._auth_timeout_s = settings.auth_timeout
        # Those of session checks are `core_calls`'s: neither takes the other's.
        self._places = asyncio.Semaphore(settings.max_concurrent)
        self._hashing_places = asyncio.Semaphore(settings.max_sign_in)
        self._lookups = asyncio.Semaphore(_LOOKUPS_PER_HASH * settings.max_sign_in)
        """Places for calls that aren't about sessions: a sign-in makes two or three
        besides the one for its hash. Many at once would keep the core from sessions."""
        self.hashing_waits = 0
        """Calls with a password that wait for a place."""
        self._told: set[str] = set()
        self._hashing: set[asyncio.Task[httpx.Response]] = set()
        self._http: asyncio.Task[aiohttp.ClientSession] | None = None

    async def _opened(self) -> aiohttp.ClientSession:
        # Read by a thread, because the certificate authorities take 0.1 s. httpx's, as
        # the SDK would use.
        authorities = await asyncio.to_thread(httpx.create_ssl_context, trust_env=False)
        http = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=authorities, limit=0, keepalive_timeout=_KEEP_ALIVE_S
            ),
            timeout=aiohttp.ClientTimeout(total=None, connect=self._connect_s),
            # One caller's cookies (a load balancer's) aren't the next one's.
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
        )
        never_retry(http)
        return http

    async def _client(self) -> aiohttp.ClientSession:
        """Return the client for all calls; the first call makes it.

        Not at start, which needs no call. A caller that is cancelled doesn't cancel it
        for the others.
        """
        if self._http is None:
            self._http = asyncio.create_task(self._opened())
        return await asyncio.shield(self._http)

    def install(self) -> None:
        """Make the SDK's Querier use this client from now on."""
        seams.use_client(self._borrow)

    def _borrow(self, **_: object) -> Self:
        return self

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave the connections open for the next call."""

    async def aclose(self) -> None:
        """End the calls that nobody waits for, and close every connection."""
        for call in tuple(self._hashing):
            call.cancel()
        await asyncio.gather(*self._hashing, return_exceptions=True)
        await self.drop_connections()

    async def drop_connections(self) -> None:
        """Close every connection; the next call makes a new one."""
        opening, self._http = self._http, None
        if opening is not None:
            await (await opening).close()

    @contextmanager
    def operation(self, *, is_check: bool = False) -> Iterator[Calls]:
        """Bound everything the SDK asks of the core inside, and translate failures.

        What it yields is filled while the block runs.

        `core.auth_timeout` is for all the calls of one operation together, their wait
        for places and the SDK's pauses after a 429 included. A session check has
        its one deadline and its place from its caller (`core_calls`).

        Raises:
            CoreUnavailable: the core couldn't be asked.
            CoreOutcomeUnknown: neither; but it may have acted before.
            UnknownTenant: the path names a tenant that isn't there.
            BadRequest: the request holds text that can't be encoded or decoded.
            GatewayError: the SDK failed in another way.
        """
        exchange = CoreExchange(None, None) if is_check else self._exchange()
        token = _exchange.set(exchange)
        try:
            yield exchange.calls
        except Exception as exc:
            if isinstance(exc, GatewayError):
                raise
            raise translated(exc, exchange) from exc
        finally:
            _exchange.reset(token)

    def _exchange(self) -> CoreExchange:
        return CoreExchange(self._auth_timeout_s, self._places)

    # --- what the Querier calls ----------------------------------------------

    async def get(self, url: str, **kwargs: Any) -> httpx.Response:
        return await self._send("GET", url, **kwargs)

    async def post(self, url: str, **kwargs: Any) -> httpx.Response:
        return await self._send("POST", url, **kwargs)

    async def put(self, url: str, **kwargs: Any) -> httpx.Response:
        return await self._send("PUT", url, **kwargs)

    async def delete(self, url: str, **kwargs: Any) -> httpx.Response:
        return await self._send("DELETE", url, **kwargs)

    async def _send(self, method: str, url: str, **kwargs: Any) -> httpx.Response:
        """Return the core's answer to a call that the Querier would make to *url*.

        Raises:
            CoreUnavailable: there is none, or it isn't one of a core.
        """
        exchange = _exchange.get() or self._exchange()
        waiting = False
        try:
            async with asyncio.timeout(exchange.start()):
                if _hashes(kwargs):
                    response = await self._ask_for_hash(method, url, kwargs, exchange)
                else:
                    async with self._place(exchange, url):
                        response = await self._ask(method, url, kwargs, exchange)
            exchange.last = f"{method} {response.url.path}: {response.status_code}"
            waiting = response.status_code == httpx.codes.TOO_MANY_REQUESTS
            missing = judge(method, response, exchange)
        except CoreUnlicensed as exc:
            self._tell_once(exc.detail)
            raise
        except _UNREACHABLE as exc:
            raise exchange.fail("the core can't be reached") from exc
        except TimeoutError as exc:
            if exchange.waits_for is not None:
                trouble = f"{exchange.waits_for} was free in time"
                raise exchange.fail(trouble) from exc
            raise exchange.fail("the core didn't answer in time") from exc
        except (aiohttp.ClientError, httpx.HTTPError) as exc:
            raise exchange.fail(
                f"the core's reply broke off: {type(exc).__name__}"
            ) from exc
        finally:
            if not waiting:
                exchange.stop()
        if missing and is_about_sessions(method, response.url.path, missing):
            return await self._without_tenant(missing, response, kwargs)
        return response

    def _tell_once(self, text: str) -> None:
        """Log *text*, unless it has been logged before: the operator has to act."""
        if text not in self._told and len(self._told) < _MAX_TOLD:
            self._told.add(text)
            _log.warning("%s", text, extra=about(RuntimeEvent.CORE_UNLICENSED))

    async def _without_tenant(
        self, tenant: str, refusal: httpx.Response, kwargs: dict[str, Any]
    ) -> httpx.Response:
        """Return what the core would answer about sessions of a removed *tenant*.

        That is, if they had been revoked. *refusal* is its answer. If a list names
        sessions of other tenants, too, these are revoked.
        """
        url = refusal.url
        answer: dict[str, Any] = {
            "status": "UNAUTHORISED",
            "message": "the tenant of the session was removed",
        }
        if url.path.endswith("/remove"):
            handles = kwargs["json"].get("sessionHandles", ())
            rest = [one for one in handles if one.partition("_")[2] != tenant]
            if len(rest) == len(handles):
                return refusal
            if rest:
                body = {**kwargs["json"], "sessionHandles": rest}
                return await self._send("POST", str(url), **{**kwargs, "json": body})
            answer = {"status": "OK", "sessionHandlesRevoked": []}
        return httpx.Response(httpx.codes.OK, json=answer, request=refusal.request)

    @asynccontextmanager
    async def _place(self, exchange: CoreExchange, url: str) -> AsyncIterator[None]:
        """Wait for the place that a call needs, in the order of arrival."""
        if exchange.places is None:
            yield
            return
        exchange.waits_for = "no place for a call"
        first = nullcontext() if _SESSION_CALL in url else self._lookups
        async with first, exchange.places:
            exchange.waits_for = None
            yield

    async def _ask_for_hash(
        self, method: str, url: str, kwargs: dict[str, Any], exchange: CoreExchange
    ) -> httpx.Response:
        """Send a call for which the core computes the hash of a password.

        It has one of `core.max_sign_in` places, in the order of arrival, until the core
        has answered or `core.auth_timeout` is over, even if its caller no longer waits.
        The core doesn't stop computing when a connection ends: with the place given
        on, clients that leave could have it compute any number of hashes.

        Raises:
            CoreUnavailable: too many wait already.
        """
        if self.hashing_waits >= _MAX_HASHING_WAITS:
            raise exchange.fail("too many calls with a password wait")
        exchange.waits_for = "no place for a call with a password"
        self.hashing_waits += 1
        try:
            await self._hashing_places.acquire()
        finally:
            self.hashing_waits -= 1
        exchange.waits_for = None
        call = asyncio.create_task(self._ask_in_time(method, url, kwargs, exchange))
        self._hashing.add(call)
        call.add_done_callback(self._on_hashed)
        await asyncio.wait((call,))  # doesn't cancel it
        return call.result()

    async def _ask_in_time(
        self, method: str, url: str, kwargs: dict[str, Any], exchange: CoreExchange
    ) -> httpx.Response:
        async with asyncio.timeout(self._auth_timeout_s):
            return await self._ask(method, url, kwargs, exchange)

    def _on_hashed(self, call: asyncio.Task[httpx.Response]) -> None:
        self._hashing.discard(call)
        self._hashing_places.release()
        if not call.cancelled():
            call.exception()  # it may be that nobody waits for it

    async def _ask(
        self, method: str, url: str, kwargs: dict[str, Any], exchange: CoreExchange
    ) -> httpx.Response:
        """Send the call to the first host that takes a connection.

        A call that was sent isn't sent again: the core may have acted on it.
        """
        http = await self._client()
        urls = self._urls(url)
        had_acted = exchange.may_have_acted
        for turn, (host, target) in enumerate(urls, 1):
            exchange.may_have_acted = had_acted or _acts(method, target)
            try:
                response = await self._counted(
                    host, http, httpx.Request(method, target, **kwargs)
                )
            except _UNREACHABLE:
                exchange.may_have_acted = had_acted
                self._dead_until[host] = time.monotonic() + _DEAD_S
                if turn == len(urls):
                    raise
            else:
                if response.status_code in _REFUSED:
                    exchange.may_have_acted = had_acted
                return response
        raise AssertionError("there is always a host")  # pragma: no cover

    async def _counted(
        self, host: str, http: aiohttp.ClientSession, request: httpx.Request
    ) -> httpx.Response:
        """Return the complete reply to *request*, and count the call."""
        began, outcome = time.monotonic(), "broken"
        try:
            response = await _sent(http, request)
            outcome = str(response.status_code)
        except _UNREACHABLE:
            outcome = "unreachable"
            raise
        except asyncio.CancelledError:  # by the deadline, or its caller has gone
            outcome = "cancelled"
            raise
        else:
            return response
        finally:
            if self._on_call is not None:
                path = core_answers.call_path(str(request.url).removeprefix(host))
                self._on_call(path, outcome, time.monotonic() - began)

    def _urls(self, url: str) -> list[tuple[str, str]]:
        """Return the hosts to try: *url*'s first, and those that failed lately last."""
        own_host = max(
            (host for host in self._hosts if url.startswith(host + "/")),
            key=len,
            default=None,
        )
        if own_host is None:
            return [(url, url)]  # a network_interceptor sends it somewhere else
        rest = url.removeprefix(own_host)
        index = self._hosts.index(own_host)
        now = time.monotonic()
        hosts = sorted(
            (*self._hosts[index:], *self._hosts[:index]),
            key=lambda host: self._dead_until[host] > now,
        )
        return [(host, host + rest) for host in hosts]


def _acts(method: str, url: str) -> bool:
    """Return whether a call may change something that a second one would meet."""
    return method != "GET" and not url.endswith(_REPEATABLE)


def _hashes(kwargs: dict[str, Any]) -> bool:
    """Return whether the core computes the hash of a password for this call."""
    body = kwargs.get("json")
    return isinstance(body, dict) and not _PASSWORDS.isdisjoint(body)


async def _sent(http: aiohttp.ClientSession, request: httpx.Request) -> httpx.Response:
    """Return the complete reply to *request*."""
    # aiohttp makes these two itself.
    headers = request.headers
    headers.pop("host", None)
    headers.pop("content-length", None)
    async with http.request(
        request.method,
        URL(str(request.url), encoded=True),
        headers=headers,
        data=request.content or None,
        allow_redirects=False,
    ) as reply:
        body = await reply.read()
    return httpx.Response(
        reply.status, headers=reply.raw_headers, content=body, request=request
    )

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
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any, Self

import aiohttp
import httpx
from supertokens_python.exceptions import GeneralError
from yarl import URL

from gateway import config
from gateway.errors import (
    BadRequest,
    CoreOutcomeUnknown,
    CoreUnavailable,
    GatewayError,
    Side,
)
from gateway.seams import supertokens as seams
from gateway.seams.aiohttp import never_retry
from gateway.supertokens import core_answers

# Shorter than any core keeps an idle connection (Tomcat 20 s, aiohttp 75 s), so that
# a call is rarely sent into a connection that is just being closed.
_KEEP_ALIVE_S = 15.0

# How long an address that took no connection is tried last.
_DEAD_S = 5.0

_MAX_HASHING_WAITS = 256
"""Calls with a password that may wait for a place; more are refused at once."""

_PASSWORDS = frozenset({"password", "newPassword"})
"""Fields for which the core computes a hash: sign-in, sign-up, a new password."""

_REPEATABLE = (
    *("/recipe/session/verify", "/recipe/session/refresh", "/recipe/session/remove"),
)
"""Calls other than GET that may be made twice: a refresh token is good until the tokens
that replaced it are used."""

_UNREACHABLE = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

# The two replies of the core that have no `status` (CDI 5.4).
_WITHOUT_STATUS = ("/apiversion", "/.well-known/jwks.json")

_PUBLIC = "public"
_SESSION = "/recipe/session"
_ABOUT_SESSIONS = {
    "GET": (_SESSION,),
    "POST": tuple(
        f"{_SESSION}/{name}" for name in ("verify", "refresh", "regenerate", "remove")
    ),
    "PUT": (f"{_SESSION}/data", "/recipe/jwt/data"),
}
"""Calls that name a session and no tenant: the core finds the tenant in the session."""


class UnknownTenant(GatewayError):
    """The path names a tenant that the core doesn't have.

    The SDK knows only a bare exception for it, which would be a 500.
    """

    side = Side.CLIENT
    status = 404
    code = "unknown_tenant"
    title = "There is no such tenant"


class Calls:
    """What the calls of one operation had in common, for its caller."""

    __slots__ = ("missing_tenants",)

    def __init__(self) -> None:
        self.missing_tenants: set[str] = set()
        """Tenants that the core was asked about, or about sessions of, and misses."""


_NO_CALL = "no call"


class _Exchange:
    """What one operation has of its time, and what went wrong at the core last."""

    __slots__ = (
        *("_left_s", "_since", "calls", "last", "may_have_acted", "places", "trouble"),
        *("unknown_tenant", "waits_for"),
    )

    def __init__(
        self, budget_s: float | None, places: asyncio.Semaphore | None
    ) -> None:
        """None: the caller bounds the time, or how many operations there are."""
        self._left_s = budget_s
        self._since: float | None = None
        self.places = places
        self.waits_for: str | None = None
        """The kind of place that the call still waits for."""
        self.may_have_acted = False
        """Whether a call that may change something has been sent."""
        self.trouble: str | None = None
        """Why the core couldn't be asked; None again once it answered."""
        self.unknown_tenant = False
        self.calls = Calls()
        self.last = _NO_CALL
        """The last call and its status, for the log: no query, no body."""

    def start(self) -> float | None:
        """Start the clock unless it runs, and return the seconds that are left."""
        now = time.monotonic()
        if self._since is not None and self._left_s is not None:
            self._left_s -= now - self._since
        self._since = now
        return self._left_s

    def stop(self) -> None:
        """Stop the clock: what comes now isn't time that the core takes."""
        self.start()
        self._since = None

    def fail(self, trouble: str) -> CoreUnavailable:
        """Note *trouble* and return the error to raise."""
        self.trouble = trouble
        return (CoreOutcomeUnknown if self.may_have_acted else CoreUnavailable)(trouble)


_exchange: ContextVar[_Exchange | None] = ContextVar("exchange", default=None)


class CoreClient:
    """Stands where the Querier expects an `httpx.AsyncClient`; shared by all calls."""

    def __init__(self, settings: config.CoreConfig, hosts: Sequence[str]) -> None:
        """*hosts* are the core's addresses: scheme, authority and base path."""
        self._hosts = hosts
        self._dead_until = dict.fromkeys(hosts, 0.0)
        # An address that takes no connection must leave time for the next one.
        self._connect_s = settings.timeout / (len(hosts) + 1)
        self._auth_timeout_s = settings.auth_timeout
        # Those of session checks are `core_calls`'s: neither takes the other's.
        self._places = asyncio.Semaphore(settings.max_concurrent)
        self._hashing_places = asyncio.Semaphore(settings.max_sign_in)
        self._hashing_waits = 0
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
        if self._http is not None:
            await (await self._http).close()

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
        exchange = _Exchange(None, None) if is_check else self._exchange()
        token = _exchange.set(exchange)
        try:
            yield exchange.calls
        except Exception as exc:
            if isinstance(exc, GatewayError):
                raise
            raise _translated(exc, exchange) from exc
        finally:
            _exchange.reset(token)

    def _exchange(self) -> _Exchange:
        return _Exchange(self._auth_timeout_s, self._places)

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
                    async with self._place(exchange):
                        response = await self._ask(method, url, kwargs, exchange)
            exchange.last = f"{method} {response.url.path}: {response.status_code}"
            waiting = response.status_code == httpx.codes.TOO_MANY_REQUESTS
            missing = _judge(method, response, exchange)
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
        if missing and _is_about_sessions(method, response.url.path, missing):
            return await self._without_tenant(missing, response, kwargs)
        return response

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
    async def _place(self, exchange: _Exchange) -> AsyncIterator[None]:
        """Wait for the place that a call needs, in the order of arrival."""
        if exchange.places is None:
            yield
            return
        exchange.waits_for = "no place for a call"
        async with exchange.places:
            exchange.waits_for = None
            yield

    async def _ask_for_hash(
        self, method: str, url: str, kwargs: dict[str, Any], exchange: _Exchange
    ) -> httpx.Response:
        """Send a call for which the core computes the hash of a password.

        It has one of `core.max_sign_in` places, in the order of arrival, until the core
        has answered or `core.auth_timeout` is over, even if its caller no longer waits.
        The core doesn't stop computing when a connection ends: with the place given
        on, clients that leave could have it compute any number of hashes.

        Raises:
            CoreUnavailable: too many wait already.
        """
        if self._hashing_waits >= _MAX_HASHING_WAITS:
            raise exchange.fail("too many calls with a password wait")
        exchange.waits_for = "no place for a call with a password"
        self._hashing_waits += 1
        try:
            await self._hashing_places.acquire()
        finally:
            self._hashing_waits -= 1
        exchange.waits_for = None
        call = asyncio.create_task(self._ask_in_time(method, url, kwargs, exchange))
        self._hashing.add(call)
        call.add_done_callback(self._on_hashed)
        await asyncio.wait((call,))  # doesn't cancel it
        return call.result()

    async def _ask_in_time(
        self, method: str, url: str, kwargs: dict[str, Any], exchange: _Exchange
    ) -> httpx.Response:
        async with asyncio.timeout(self._auth_timeout_s):
            return await self._ask(method, url, kwargs, exchange)

    def _on_hashed(self, call: asyncio.Task[httpx.Response]) -> None:
        self._hashing.discard(call)
        self._hashing_places.release()
        if not call.cancelled():
            call.exception()  # it may be that nobody waits for it

    async def _ask(
        self, method: str, url: str, kwargs: dict[str, Any], exchange: _Exchange
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
                response = await _sent(http, httpx.Request(method, target, **kwargs))
            except _UNREACHABLE:
                exchange.may_have_acted = had_acted
                self._dead_until[host] = time.monotonic() + _DEAD_S
                if turn == len(urls):
                    raise
            else:
                if response.status_code == httpx.codes.TOO_MANY_REQUESTS:
                    exchange.may_have_acted = had_acted
                return response
        raise AssertionError("there is always a host")  # pragma: no cover

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


def _judge(method: str, response: httpx.Response, exchange: _Exchange) -> str | None:
    """Decide whether a complete reply of the core is an answer or an outage.

    Return the tenant that the core misses, if it says so.

    Raises:
        CoreUnavailable: this isn't a core's reply to a request that it accepted.
    """
    match response.status_code:
        case httpx.codes.OK:
            status = _status(response)
            if status is None:
                raise exchange.fail("the core's reply isn't one of a core")
            exchange.trouble = None
            exchange.unknown_tenant = status == "TENANT_NOT_FOUND_ERROR"
        case httpx.codes.TOO_MANY_REQUESTS:
            exchange.trouble = "the core limits our requests"
        case httpx.codes.BAD_REQUEST:
            exchange.trouble = None
            missing = core_answers.missing_tenant(response.text)
            exchange.unknown_tenant = missing is not None
            if missing is not None:
                _note_missing(missing, method, response.url.path, exchange)
            return missing
        case httpx.codes.PAYMENT_REQUIRED | httpx.codes.FORBIDDEN:
            exchange.trouble = None  # a core without this feature, not an outage
        case status_code:
            # 401 is a wrong api key and 404 a wrong address: no client's fault.
            raise exchange.fail(f"the core answered {status_code}")
    return None


def _note_missing(tenant: str, method: str, path: str, exchange: _Exchange) -> None:
    """Note that the core misses *tenant*, unless it must be the app that it misses.

    Raises:
        CoreUnavailable: the public tenant is there in every app. Nor is the tenant of a
            session taken for removed if the core doesn't name it.
    """
    if tenant == _PUBLIC or (not tenant and _is_about_sessions(method, path, tenant)):
        raise exchange.fail("the core has no such app: see supertokens.connection_uri")
    exchange.calls.missing_tenants.add(tenant)


def _is_about_sessions(method: str, path: str, tenant: str) -> bool:
    """Return whether a call names sessions, and not *tenant* in its *path*."""
    names = _ABOUT_SESSIONS.get(method, ())
    return path.endswith(names) and not path.endswith(
        tuple(f"/{tenant}{name}" for name in names)
    )


def _status(response: httpx.Response) -> str | None:
    """Return the `status` of a core's reply, "" for the two that have none.

    None: it isn't a core's reply (HTML, cut off, JSON of another kind).
    """
    try:
        body = response.json()
    except (ValueError, RecursionError):
        return None
    match body:
        case {"status": str(status)}:
            return status
        case dict() if response.url.path.endswith(_WITHOUT_STATUS):
            return ""
        case _:
            return None


def outage(error: Exception) -> CoreUnavailable | None:
    """Return the outage inside *error*: the SDK refuses what a key lookup raises."""
    cause = seams.hidden_cause(error)
    return cause if isinstance(cause, CoreUnavailable) else None


_MISREAD = (AttributeError, IndexError, KeyError, TypeError, ValueError)
_OLDER_DOMAIN = "supertokens.cookie.older_domain"
"""What the route table calls the SDK's `older_cookie_domain`."""


def _is_clients_fault(error: Exception, exchange: _Exchange) -> bool:
    """Return whether the SDK failed on what the client sent.

    The SDK checks few types and formats: `{"formFields": [1]}` and `fdi-version: abc`
    end in a TypeError and a ValueError. Such an error counts as the client's if the
    SDK's own code raised it (not an override) before it called the core. Afterwards
    it counts if the core's last answer was 400, which names the client's input.
    """
    if type(error).__name__ == "ClientTypeNotFoundError":
        return True  # `clientType` names no client of the provider
    if exchange.last != _NO_CALL:
        return type(error) is Exception and exchange.last.endswith(": 400")
    if not isinstance(error, _MISREAD):
        return False
    frames = error.__traceback__
    while frames is not None and frames.tb_next is not None:
        frames = frames.tb_next
    module = "" if frames is None else frames.tb_frame.f_globals.get("__name__", "")
    return bool(module.partition(".")[0] == "supertokens_python")


def _translated(error: Exception, exchange: _Exchange) -> GatewayError:
    """Return what *error*, raised by the SDK, is for the rest of the gateway."""
    hidden = outage(error)
    if hidden is not None:
        return hidden
    if exchange.trouble is not None:
        return exchange.fail(exchange.trouble)
    if exchange.unknown_tenant:
        return UnknownTenant()
    if isinstance(error, UnicodeError):
        return BadRequest("the request's text can't be encoded")
    if _is_clients_fault(error, exchange):
        return BadRequest(
            f"the SDK can't read the request: {type(error).__name__};"
            f" last call to the core: {exchange.last}"
        )
    message = f"the SDK raised {type(error).__name__}"
    if type(error) in (Exception, GeneralError):
        # Written for the operator: which setting is wrong, what the core answered.
        text = str(error).replace("older_cookie_domain", _OLDER_DOMAIN)
        message += f" ({text})"[:300]
    return GatewayError(f"{message}; last call to the core: {exchange.last}")

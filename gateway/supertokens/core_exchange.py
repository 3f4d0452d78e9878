"""edge. One operation of the SDK: its time, what went wrong, what its replies mean.

An outage is `CoreUnavailable`. Other exceptions of the SDK are translated: it knows a
bare `Exception` for most that goes wrong at the core, and raises what its parsers raise
for most that is wrong with a request.
"""

from __future__ import annotations

import asyncio
import time

import httpx
from supertokens_python.exceptions import GeneralError

from gateway.errors import (
    BadRequest,
    CoreOutcomeUnknown,
    CoreUnavailable,
    CoreUnlicensed,
    CoreUnusable,
    GatewayError,
    Side,
)
from gateway.seams import supertokens as seams
from gateway.supertokens import core_answers
from gateway.supertokens.core_answers import AnswerKind

_VERSIONS = "/apiversion"
_WITHOUT_STATUS = (_VERSIONS, "/.well-known/jwks.json")
"""The two replies of the core that have no `status` (CDI 5.4)."""

_ERRORS: dict[AnswerKind, type[CoreUnavailable]] = {
    AnswerKind.UNUSABLE: CoreUnusable,
    AnswerKind.UNLICENSED: CoreUnlicensed,
    AnswerKind.OUTAGE: CoreUnavailable,
}

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


class CoreExchange:
    """What one operation has of its time, and what went wrong at the core last."""

    __slots__ = (
        *("_left_s", "_since", "calls", "kind", "last", "may_have_acted", "places"),
        *("trouble", "unknown_tenant", "waits_for"),
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
        self.kind: type[CoreUnavailable] = CoreUnavailable
        """The error for *trouble*."""
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

    def fail(
        self, trouble: str, kind: type[CoreUnavailable] = CoreUnavailable
    ) -> CoreUnavailable:
        """Note *trouble* and return the error to raise.

        It is of another *kind* if the core may have acted.
        """
        self.trouble = trouble
        self.kind = kind
        return (CoreOutcomeUnknown if self.may_have_acted else kind)(trouble)


def judge(method: str, response: httpx.Response, exchange: CoreExchange) -> str | None:
    """Decide whether a complete reply of the core is an answer or an outage.

    Return the tenant that the core misses, if it says so.

    Raises:
        CoreUnavailable: this isn't a core's reply to a request that it accepted.
        CoreUnusable: the core refuses the gateway.
        CoreUnlicensed: the core has no licence for what it is asked.
    """
    status_code = response.status_code
    exchange.trouble = None
    exchange.unknown_tenant = False
    refusal = core_answers.refusal(status_code, response.text)
    if status_code == httpx.codes.OK:
        status = _status(response)
        if status is None:
            raise exchange.fail("the core's reply isn't one of a core")
        exchange.unknown_tenant = status == "TENANT_NOT_FOUND_ERROR"
        if response.url.path.endswith(_VERSIONS):
            refusal = core_answers.other_versions(
                response.json().get("versions"), seams.cdi_versions()
            )
    if refusal is not None:
        raise exchange.fail(f"the core {refusal.text}", _ERRORS[refusal.kind])
    match status_code:
        case httpx.codes.OK | httpx.codes.FORBIDDEN:
            return None
        case httpx.codes.TOO_MANY_REQUESTS:
            exchange.trouble = "the core limits our requests"
            return None
        case httpx.codes.BAD_REQUEST:
            missing = core_answers.missing_tenant(response.text)
            if missing is not None:
                exchange.unknown_tenant = True
                _note_missing(missing, method, response.url.path, exchange)
            return missing
        case _:
            raise exchange.fail(f"the core answered {status_code}")


def _note_missing(tenant: str, method: str, path: str, exchange: CoreExchange) -> None:
    """Note that the core misses *tenant*, unless it must be the app that it misses.

    Raises:
        CoreUnavailable: the public tenant is there in every app. Nor is the tenant of a
            session taken for removed if the core doesn't name it.
    """
    if tenant == _PUBLIC or (not tenant and is_about_sessions(method, path, tenant)):
        raise exchange.fail("the core has no such app: see supertokens.connection_uri")
    exchange.calls.missing_tenants.add(tenant)


def is_about_sessions(method: str, path: str, tenant: str) -> bool:
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


def _is_clients_fault(error: Exception, exchange: CoreExchange) -> bool:
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


def translated(error: Exception, exchange: CoreExchange) -> GatewayError:
    """Return what *error*, raised by the SDK, is for the rest of the gateway."""
    hidden = outage(error)
    if hidden is not None:
        return hidden
    if exchange.trouble is not None:
        return exchange.fail(exchange.trouble, exchange.kind)
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

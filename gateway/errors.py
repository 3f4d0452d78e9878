"""PURE. The failures of a request: their side, and the status and code of the answer.

An expected outcome (a route that doesn't exist, a session that is refused) is a value
and not an error. Each error class has the status and the short code of its answer, so
there is no table of them elsewhere.
"""

from __future__ import annotations

from enum import StrEnum
from typing import ClassVar


class Side(StrEnum):
    """The side that caused the failure."""

    CLIENT = "client"
    GATEWAY = "gateway"
    UPSTREAM = "upstream"
    CORE = "core"


class Stage(StrEnum):
    """The ten steps of a request, in order (docs/architecture.md)."""

    ACCEPT = "accept"
    TARGET = "target"
    MATCH = "match"
    PREFLIGHT = "preflight"
    VERIFY = "verify"
    TO_UPSTREAM = "to_upstream"
    SEND = "send"
    TO_CLIENT = "to_client"
    COPY = "copy"
    RECORD = "record"


class GatewayError(Exception):
    """The base class. *detail* is for the log only and never sent to a client."""

    side: ClassVar[Side] = Side.GATEWAY
    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    title: ClassVar[str] = "The gateway failed"
    close: ClassVar[bool] = False
    """True when the client connection can't be used for another request."""
    may_repeat: ClassVar[bool] = True
    """False when the request may have been carried out: no answer invites a retry."""

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title


class ShuttingDown(GatewayError):
    """The gateway ended before the request did (`gateway.drain_timeout`)."""

    status = 503
    code = "shutting_down"
    title = "The gateway is shutting down"
    close = True


class GatewayOverloaded(GatewayError):
    """This worker can't keep up, and refuses a share of the requests.

    See `gateway.overload`.
    """

    status = 503
    code = "gateway_overloaded"
    title = "The gateway has too many requests"


class OutOfDescriptors(GatewayError):
    """This process has no file descriptor left for a connection (`ulimit -n`)."""

    status = 503
    code = "out_of_descriptors"
    title = "The gateway can't open another connection"


# --- the client's side ------------------------------------------------------


class BadRequest(GatewayError):
    """The request is malformed, or can be read in more than one way."""

    side = Side.CLIENT
    status = 400
    code = "bad_request"
    title = "The request is malformed"
    close = True


class BadTarget(BadRequest):
    """The request target has no safe canonical form (see `target.parse`)."""

    code = "bad_target"
    title = "The request target is malformed or ambiguous"
    close = False


class ContentTooLarge(GatewayError):
    """The request body is larger than the route allows."""

    side = Side.CLIENT
    status = 413
    code = "content_too_large"
    title = "The request body is too large"
    close = True


class RequestTimeout(GatewayError):
    """The client sent its head or body too slowly."""

    side = Side.CLIENT
    status = 408
    code = "request_timeout"
    title = "The request took too long to arrive"
    close = True


class ClientStalled(GatewayError):
    """The client read nothing for `write_idle_timeout`; its connection is aborted."""

    side = Side.CLIENT
    status = 408
    code = "client_stalled"
    title = "The client stopped reading the response"
    close = True


class ClientSlow(GatewayError):
    """The client reads its response too slowly, or holds what others need.

    The connection is aborted if the response has begun.
    """

    side = Side.CLIENT
    status = 408
    code = "client_slow"
    title = "The client was too slow"
    close = True


class MemoryFull(GatewayError):
    """The client's connection was cut because `gateway.limits.memory` is used up."""

    side = Side.GATEWAY
    status = 503
    code = "memory_full"
    title = "The gateway has no memory left for this request"
    close = True


class ClientGone(GatewayError):
    """The client closed its connection; no answer is sent."""

    side = Side.CLIENT
    status = 499
    code = "client_gone"
    title = "The client went away"
    close = True


class SessionEnded(GatewayError):
    """The session ended before the request was sent.

    Its body was awaited (`request.buffer`), or its service (`services.<name>.hold`, or
    `limits`).
    """

    side = Side.CLIENT
    status = 401
    code = "session_ended"
    title = "The session ended before the request could be sent"


class StreamSessionEnded(GatewayError):
    """The session ended while its reply was being sent (`session.close_streams`)."""

    side = Side.CLIENT
    status = 401
    code = "stream_session_ended"
    title = "The session ended before the reply did"
    close = True


# --- the upstream's side ----------------------------------------------------


class UpstreamError(GatewayError):
    """The service behind the gateway failed.

    *unsent* is True when it is certain that no byte of the request was sent, and
    *reused* when the connection had served an earlier request. These two facts decide
    whether the request may be retried.
    """

    side = Side.UPSTREAM
    status = 502
    code = "bad_gateway"
    title = "The upstream service failed"

    def __init__(
        self, detail: str = "", *, unsent: bool = False, reused: bool = False
    ) -> None:
        super().__init__(detail)
        self.unsent = unsent
        self.reused = reused


class ConnectFailed(UpstreamError):
    """No connection could be made: refused, unreachable, name or TLS failure."""

    code = "upstream_unreachable"
    title = "The upstream service can't be reached"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, unsent=True)


class ConnectTimeout(ConnectFailed):
    """The connection wasn't made within `timeouts.connect`."""

    status = 504
    code = "upstream_connect_timeout"
    title = "The upstream service didn't accept a connection in time"


class UpstreamTimeout(UpstreamError):
    """The upstream accepted the connection but didn't reply in time."""

    status = 504
    code = "upstream_timeout"
    title = "The upstream service didn't answer in time"


class UpstreamClosed(UpstreamError):
    """The upstream closed or reset the connection before its reply was complete."""

    code = "upstream_closed"
    title = "The upstream service closed the connection"


class BadReply(UpstreamError):
    """The upstream's reply isn't valid HTTP/1.1 or can't be forwarded safely."""

    code = "upstream_bad_reply"
    title = "The upstream service sent an invalid reply"


class UpstreamBusy(UpstreamError):
    """Every connection that the service may have is in use."""

    status = 503
    code = "upstream_busy"
    title = "The upstream service is at its connection limit"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, unsent=True)


class ServiceOverloaded(UpstreamError):
    """The service has all the requests that it may have (`services.<name>.limits`).

    Too many others wait for a place, or none became free in time.
    """

    status = 503
    code = "service_overloaded"
    title = "The upstream service has too many requests"

    def __init__(self, detail: str = "") -> None:
        super().__init__(detail, unsent=True)


# --- the core's side --------------------------------------------------------


class CoreUnavailable(GatewayError):
    """The SuperTokens core was needed for the request and couldn't be reached.

    Never a 401: that would start a refresh loop in every client, or log it out.
    """

    side = Side.CORE
    status = 503
    code = "session_check_unavailable"
    title = "The session can't be checked right now"


class CoreUnusable(CoreUnavailable):
    """The core refuses the gateway itself, and not one request: a setting is wrong.

    Its API key, or the core's version. *detail* has the remedy.
    """

    code = "core_unusable"
    title = "SuperTokens isn't set up correctly"


class CoreUnlicensed(CoreUnavailable):
    """The core needs a licence for what the request asks of it."""

    code = "core_unlicensed"
    title = "This feature of SuperTokens isn't licensed"


class CoreOutcomeUnknown(CoreUnavailable):
    """The core was sent a call that may change something, and gave no good answer.

    A sign-up, for one, may have made its user.
    """

    code = "outcome_unknown"
    title = "SuperTokens didn't answer in time; the request may have been carried out"
    may_repeat = False

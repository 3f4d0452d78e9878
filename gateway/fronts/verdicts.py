"""PURE. A decision → the answer to a front.

Only an allowed request is answered with 200, and nothing else with any 2xx: some fronts
take each of them for a yes. A request that the gateway would answer itself is refused:
the front must send it to the gateway's own listener.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from gateway import headers, responses
from gateway.decisions import Forward, Respond
from gateway.fronts.original import BadQuestion, Endpoint
from gateway.headers.attach import ANONYMOUS, identity_fields
from gateway.http.fields import Field, Fields, field_of
from gateway.responses import Response
from gateway.routes import Route

_NO_STORE: Field = (b"Cache-Control", b"no-store")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]").fullmatch


def names_of(routes: Iterable[Route]) -> tuple[bytes, ...]:
    """Return the names of all identity fields that some of *routes* may set."""
    names = {name.lower(): name.encode() for name in headers.IDENTITY_NAMES}
    for route in routes:
        for name, _ in route.headers.writers:
            names.setdefault(name.decode().lower(), name)
    return tuple(names.values())


def is_strict(raw: bytes, path: str) -> bool:
    """Return whether the raw target's path is the canonical *path*, but for spelling.

    Hex digits in either case and escaped unreserved characters are the same resource
    for every reader (RFC 3986 §6.2.2). Anything else may not be: the front forwards the
    raw path.
    """

    def upper(found: re.Match[bytes]) -> bytes:
        byte = bytes.fromhex(found[1].decode())
        return byte if _UNRESERVED(byte) else found[0].upper()

    plain = _ESCAPE.sub(upper, raw.partition(b"?")[0])
    return plain == _ESCAPE.sub(upper, path.encode())


def allowed(forward: Forward, endpoint: Endpoint, names: Iterable[bytes]) -> Respond:
    """Return the answer that lets a request pass.

    It has the identity fields, the service and the target as the gateway would send it
    there, new tokens, and the CORS fields of the reply. *names* are those of
    `names_of`: Envoy is told to remove the ones that aren't set.

    Raises:
        IdentityTooLarge: the session's claims don't fit into fields.
    """
    request, route, verdict = forward.request, forward.route, forward.verdict
    return _yes(
        endpoint,
        identity_of(forward),
        (
            (b"X-Gateway-Service", route.service.name.encode()),
            (b"X-Gateway-Target", target_of(forward)),
            *verdict.new_tokens,
            *_numbered(verdict.new_tokens),
            *forward.cors,
            (b"X-Request-Id", request.id),
        ),
        names,
    )


def identity_of(forward: Forward) -> Fields:
    """Return the identity fields that the service is to get.

    Raises:
        IdentityTooLarge: the session's claims don't fit into fields.
    """
    principal = forward.verdict.principal
    if principal is None:
        return (ANONYMOUS,)
    lines = identity_fields(principal, forward.route.headers).split(b"\r\n")
    return tuple(field for line in lines if (field := field_of(line)))


def target_of(forward: Forward) -> bytes:
    """Return path and query as the gateway would send them to the service."""
    target = forward.request.target
    return forward.route.upstream_path(target.path).encode() + target.query


def preflight(
    route: Route,
    path: str,
    query: bytes,
    answered: Respond,
    endpoint: Endpoint,
    names: Iterable[bytes],
) -> Respond:
    """Return the answer to a CORS preflight: it needs no session.

    A front may answer it with the CORS fields in it, or ask the service.

    *route* is that of the request which the browser asks about. *answered* is what the
    gateway would say itself.
    """
    fields = (
        (b"X-Gateway-Service", route.service.name.encode()),
        (b"X-Gateway-Target", route.upstream_path(path).encode() + query),
        *answered.answer.fields,
        *answered.fields,
    )
    return _yes(endpoint, (ANONYMOUS,), fields, names)


def _yes(
    endpoint: Endpoint, identity: Fields, fields: Fields, names: Iterable[bytes]
) -> Respond:
    if endpoint is Endpoint.EXT_AUTHZ:
        sent = {name.lower() for name, _ in identity}
        unset = (name.lower() for name in names if name.lower() not in sent)
        fields += ((b"x-envoy-auth-headers-to-remove", b",".join(unset)),)
    return Respond(Response(status=200, fields=(_NO_STORE, *identity)), fields)


def _numbered(tokens: Fields) -> Fields:
    """Return each Set-Cookie in a field of its own: nginx and Caddy join equal names.

    Source: RFC 6265 §3 (joined ones can't be told apart).
    """
    cookies = [value for name, value in tokens if name.lower() == b"set-cookie"]
    return tuple(
        (b"X-Gateway-Set-Cookie-%d" % number, value)
        for number, value in enumerate(cookies, 1)
    )


def refused(respond: Respond, endpoint: Endpoint, request_id: str) -> Respond:
    """Return the answer that doesn't let a request pass: never a 2xx.

    X-Gateway-Status has the status that a client of the gateway would get. nginx takes
    no other statuses than 401 and 403 for a refusal, and 5xx for a failure.
    """
    answer = respond.answer
    if answer.status < 300:
        answer = not_forwarded(request_id)
    meant = answer.status
    if endpoint is Endpoint.AUTH_REQUEST and meant != 401:
        answer = replace(answer, status=503 if meant >= 500 else 403)
    status_field = (b"X-Gateway-Status", b"%d" % meant)
    return Respond(answer, (*respond.fields, status_field))


def not_forwarded(request_id: str) -> Response:
    """Return the refusal of a request that only the gateway itself can answer."""
    return responses.problem(
        status=BadQuestion.status,
        code="not_forwarded",
        title="The gateway answers this request itself, at its own address",
        request_id=request_id,
    )


def not_refused(request_id: str) -> Respond:
    """Return the answer to `/refusal` about a request that is allowed by now."""
    answer = responses.problem(
        status=503,
        code="decided_anew",
        title="The request would be allowed now: repeat it",
        request_id=request_id,
        fields=((b"Retry-After", b"1"),),
    )
    return Respond(answer, ((b"X-Gateway-Status", b"503"),))

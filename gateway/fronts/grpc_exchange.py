"""PURE. What Envoy asks over gRPC → a request; what is decided → Envoy's answer.

Unlike the HTTP endpoints, an answer here says for itself whether the request passes.
So what the gateway answers itself (preflights, redirects, `/user`) is answered through
Envoy, too, with whatever status it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from google.protobuf.message import DecodeError

from gateway.decisions import Forward, Respond
from gateway.fronts.grpc_messages import CheckRequest, CheckResponse
from gateway.fronts.original import BadQuestion, Original, received
from gateway.fronts.verdicts import identity_of, target_of
from gateway.headers import fold
from gateway.http.fields import Field, Fields

# google.rpc.Code
_PERMISSION_DENIED: Final = 7
_UNAVAILABLE: Final = 14
_UNAUTHENTICATED: Final = 16

_APPEND: Final = 0
_OVERWRITE: Final = 2
_JOINED: Final = frozenset({b"set-cookie", b"vary"})
"""Fields of a reply to which more are added; all others are replaced."""
_NO_STORE: Final[Field] = (b"cache-control", b"no-store")


def question(message: bytes) -> Original:
    """Return the request that an encoded CheckRequest is about.

    `header_map` counts if there is one (Envoy's `encode_raw_headers`): it has equal
    names apart, and bytes as they were received.

    Raises:
        BadQuestion: it isn't about an HTTP request of a client with an address.
    """
    try:
        asked = CheckRequest.FromString(message)
    except DecodeError:
        raise BadQuestion("the message can't be read") from None
    attributes = asked.attributes
    http = attributes.request.http
    if http.HasField("header_map"):
        pairs = [
            (each.key.encode(), each.raw or each.value.encode())
            for each in http.header_map.headers
        ]
    else:
        pairs = [(each.key.encode(), each.value.encode()) for each in http.headers]
    return received(
        method=http.method.encode(),
        scheme=http.scheme.lower().encode(),
        host=http.host.encode(),
        raw=http.path.encode(),
        client=attributes.source.address.socket_address.address,
        fields=tuple(pair for pair in pairs if not pair[0].startswith(b":")),
    )


def allowed(forward: Forward, names: Iterable[bytes], *, sets_path: bool) -> bytes:
    """Return the encoded answer that lets a request pass.

    *names* are all identity names (`verdicts.names_of`). Those that aren't set are
    removed, and so are other spellings of any of them that the client has sent.

    Raises:
        IdentityTooLarge: the session's claims don't fit into fields.
    """
    identity = identity_of(forward)
    target = target_of(forward)
    response = CheckResponse()
    response.status.code = 0
    ok = response.ok_response
    upstream: Fields = (
        *identity,
        (b"x-gateway-service", forward.route.service.name.encode()),
        (b"x-gateway-target", target),
    )
    if sets_path:
        upstream += ((b":path", target),)
    _add(ok.headers, upstream)
    ok.headers_to_remove.extend(
        name.decode() for name in _removed(identity, names, forward.request.fields)
    )
    tokens = forward.verdict.new_tokens
    _add(
        ok.response_headers_to_add,
        (
            *tokens,
            *((_NO_STORE,) if tokens else ()),
            *forward.cors,
            (b"x-request-id", forward.request.id),
        ),
    )
    return _encoded(response)


def _removed(identity: Fields, names: Iterable[bytes], sent: Fields) -> Iterator[bytes]:
    """Yield what Envoy must remove: names that aren't set, and other spellings."""
    kept = {name.lower() for name, _ in identity}
    unset = {name.lower() for name in names} - kept
    yield from sorted(unset)
    folded = {fold(name) for name in names}
    others = {name.lower() for name, _ in sent if fold(name) in folded}
    yield from sorted(others - kept - unset)


def answered(respond: Respond) -> bytes:
    """Return the encoded answer with which Envoy replies to the client itself."""
    status = respond.answer.status
    response = CheckResponse()
    if status == 401:
        response.status.code = _UNAUTHENTICATED
    elif status >= 500:
        response.status.code = _UNAVAILABLE
    else:
        response.status.code = _PERMISSION_DENIED
    denied = response.denied_response
    denied.status.code = status
    denied.body = respond.answer.body.decode("utf-8", "replace")
    _add(
        denied.headers,
        (
            *respond.answer.fields,
            *respond.fields,
            (b"x-gateway-status", b"%d" % status),
        ),
    )
    return _encoded(response)


def _encoded(response: Any) -> bytes:
    encoded: bytes = response.SerializeToString()
    return encoded


def _add(options: Any, fields: Fields) -> None:
    """Add *fields* to a list of HeaderValueOption.

    The value is a string: of `raw_value`, Envoy makes empty fields.
    """
    for name, value in fields:
        lower = name.lower()
        joins = lower in _JOINED
        option = options.add()
        option.header.key = lower.decode()
        option.header.value = value.decode("utf-8", "replace")
        option.append.value = joins  # as Envoy reads it before 1.28
        option.append_action = _APPEND if joins else _OVERWRITE

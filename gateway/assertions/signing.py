"""edge. Assertions are written, remembered, and added to the requests that are sent."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Final, TypeAlias, TypeVarTuple, assert_never

from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from gateway.assertions.keys import AssertionKey, base64url
from gateway.decisions import Forward
from gateway.headers import (
    ASSERTION_NAME,
    MAX_IDENTITY_BYTES,
    HeaderPolicy,
    IdentityTooLarge,
    identity_fields,
    names_of,
)
from gateway.identity import Principal, SessionIdentity
from gateway.routes import Route, RouteTable
from gateway.upstream import Reply

TYPE: Final = "gateway-identity+jwt"
"""No other kind of token is taken for an assertion, and none of these for another.

Source: RFC 8725 §3.11."""
_MAX_AUDIENCES: Final = 8
"""The most assertions that one verified token holds. Each is shorter than
`MAX_IDENTITY_BYTES`; those of usual sessions have less than 1 KB."""
_HALF_BYTES: Final = 32
_NAME: Final = f"{ASSERTION_NAME}: ".encode()

Others = TypeVarTuple("Others")
Send: TypeAlias = Callable[[Forward, bytes, *Others], Coroutine[Any, Any, Reply]]
"""Sends a request with these lines of fields, each with CRLF; returns the reply."""


class Assertions:
    """Writes the assertions of one configuration, for one event loop."""

    def __init__(
        self,
        keys: Sequence[AssertionKey],
        *,
        issuer: str,
        lifetime_s: float,
        table: RouteTable,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """The first of *keys* signs. *clock* is in seconds since the epoch."""
        key = keys[0]
        self._private = key.private
        self._start = _segment({"alg": "ES256", "typ": TYPE, "kid": key.kid}) + b"."
        self._issuer = issuer
        self._lifetime_s = lifetime_s
        self._clock = clock
        by_name = {service.name: service for service in table.services()}
        self._copied_to = {
            name: by_name[service.mirror.service].audience
            for name, service in by_name.items()
            if service.mirror is not None
        }

    def field(self, principal: Principal, policy: HeaderPolicy, audience: str) -> bytes:
        """Return the field that asserts *principal* to *audience*, with CRLF.

        An assertion is used again for half of its life. It is held by the principal,
        so it goes with the verified token.

        Raises:
            IdentityTooLarge: with the fields that *policy* sets, it exceeds
                `MAX_IDENTITY_BYTES`.
        """
        kept = principal.assertions.get(audience)
        if kept is None or kept[0] <= self._clock():
            kept = self._new(principal, audience)
        line = kept[1]
        if len(line) + len(identity_fields(principal, policy)) > MAX_IDENTITY_BYTES:
            raise IdentityTooLarge
        return line

    def _new(self, principal: Principal, audience: str) -> tuple[float, bytes]:
        """Return a new assertion, and until when it is used again; remember both."""
        now = self._clock()
        made = now + self._lifetime_s / 2, self._line(principal, audience, now)
        known = principal.assertions
        for name in [name for name, (until, _) in known.items() if until <= now]:
            del known[name]
        if len(made[1]) > MAX_IDENTITY_BYTES:
            return made  # it is refused, and not kept
        if len(known) >= _MAX_AUDIENCES:
            del known[next(iter(known))]
        known[audience] = made
        return made

    def _line(self, principal: Principal, audience: str, now: float) -> bytes:
        # Never after the access token: what it says holds no longer than that.
        ends_at = min(now + self._lifetime_s, principal.expires_at)
        claims: dict[str, Any] = {
            "iss": self._issuer,
            "aud": audience,
            "sub": principal.user_id,
            "iat": int(now),
            "exp": int(ends_at),
        }
        match principal:
            case SessionIdentity():
                claims |= _session_claims(principal)
            case never:
                assert_never(never)
        signed = self._start + _segment(claims)
        r, s = decode_dss_signature(self._private.sign(signed, _ES256))
        # Source: RFC 7518 §3.4.
        signature = r.to_bytes(_HALF_BYTES) + s.to_bytes(_HALF_BYTES)
        return b"%b%b.%b\r\n" % (_NAME, signed, base64url(signature))

    def around(self, send: Send[*Others]) -> Send[*Others]:
        """Return *send*, with an assertion for the service that the request gets.

        It is added to each try as it is sent: a request may have waited before.
        """
        return self._around(send, lambda route: route.audience)

    def around_copies(self, send: Send[*Others]) -> Send[*Others]:
        """Return the same for copies of requests (`mirror`).

        A copy has an assertion for the other service, if the request itself has one.
        """
        copied_to = self._copied_to
        return self._around(
            send,
            lambda route: route.audience and copied_to[route.service.name],
        )

    def _around(
        self, send: Send[*Others], audience_of: Callable[[Route], str | None]
    ) -> Send[*Others]:
        write = self.field

        def asserted(
            forward: Forward, fields: bytes, *others: *Others
        ) -> Coroutine[Any, Any, Reply]:
            audience = audience_of(forward.route)
            principal = forward.verdict.principal
            if audience is not None and principal is not None:
                fields += write(principal, forward.route.headers, audience)
            return send(forward, fields, *others)

        return asserted


_ES256: Final = ECDSA(SHA256())
_encode: Final = json.JSONEncoder(separators=(",", ":")).encode


def _session_claims(session: SessionIdentity) -> dict[str, Any]:
    """Return the claims that only a session has, like the fields of the same facts."""
    claims: dict[str, Any] = {"sid": session.session_handle, "tid": session.tenant_id}
    for name, own in (("roles", "st-role"), ("permissions", "st-perm")):
        names = names_of(session, own)
        if names is not None:
            claims[name] = names
    return claims


def _segment(part: dict[str, Any]) -> bytes:
    return base64url(_encode(part).encode())

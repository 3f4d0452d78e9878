"""PURE. Both directions: which fields go on, and which the gateway adds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache

from gateway.errors import BadRequest
from gateway.fields import Field, Fields
from gateway.headers.attach import ANONYMOUS, HeaderPolicy, identity_fields
from gateway.headers.cookies import sets_session_cookie, without_session_cookies
from gateway.headers.forwarded import Forwarded, client_host, client_scheme
from gateway.headers.names import (
    AUTHORIZATION,
    CACHE,
    CHAIN,
    CONNECTION,
    CONTROLS,
    COOKIE,
    DROP,
    KEEP,
    ODD,
    SET_COOKIE,
    TRUSTED,
    VARY,
    Reserved,
)
from gateway.identity import Identity

_VIA = {"1.1": (b"Via", b"1.1 gateway"), "1.0": (b"Via", b"1.0 gateway")}

_IS_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch


def request_id(fields: Iterable[Field], make: Callable[[], str]) -> bytes:
    """Return the request's X-Request-Id, or a new one.

    The client's is taken if it is the only one, and 1 to 128 of `A-Za-z0-9._-`: it
    goes into logs, and to the upstream.
    """
    found = [
        value
        for name, value in fields
        if len(name) == 12 and name.lower() == b"x-request-id"
    ]
    if len(found) == 1 and _IS_REQUEST_ID(found[0]):
        return found[0]
    return make().encode()


_BEARER = re.compile(
    rb"(?:^|[\s,\x7f-\xff])bearer(?![!#$%&'*+.^_`|~0-9A-Za-z-])", re.IGNORECASE
).search
_LISTS_NOTHING = frozenset(
    {b"close", b"keep-alive", b"Keep-Alive", b"upgrade", b"Upgrade"}
)
_NOTHING: frozenset[bytes] = frozenset()


def _listed(value: bytes) -> frozenset[bytes]:
    """Return the names that a Connection field lists.

    What isn't a token names no field, so it needs no refusal.

    Source: RFC 9110 §7.6.1.
    """
    if value in _LISTS_NOTHING:  # the usual ones name no field that could be kept
        return _NOTHING
    return frozenset(name.strip(b" \t") for name in value.lower().split(b","))


def _values_are_clean(fields: list[Field]) -> bool:
    """Return whether the values are free of controls (tabs are none)."""
    text = b"".join([value for _, value in fields])
    return len(text.translate(None, CONTROLS)) == len(text)


@lru_cache(maxsize=1024)  # a client's requests have the same
def _way(peer: str, scheme: str, host: str, version: str) -> Fields:
    """Return the fields that say which way a request came, as far as it is known."""
    told = (
        _VIA[version],
        (b"X-Forwarded-Proto", scheme.encode()),
        (b"X-Forwarded-Host", host.encode()),
    )
    return ((b"X-Forwarded-For", peer.encode()), *told) if peer else told


def to_upstream(
    fields: Sequence[Field],
    *,
    policy: HeaderPolicy,
    reserved: Reserved,
    identity: Identity | None,
    host: bytes,
    forwarded: Forwarded,
    request_id: bytes,
    upgrade: bytes | None = None,
) -> list[Field]:
    """Return the fields of the request that is sent to the upstream.

    *host* is the value of Host, which comes first; *upgrade* the protocol to ask for.
    Framing fields are the sender's to add.

    1. Fields of this hop go, and those that Connection lists.
    2. Identity names go, in every spelling; so do odd names that aren't let through.
    3. Credentials go unless the route forwards them: session cookies, every Bearer
       token, the SDKs' own fields. Other cookies and schemes stay.
    4. Forwarded fields go, or some stay if the peer is trusted; For, Proto and Host
       are made anew.
    5. The gateway's own are added: set, never appended to what a client sent.

    Raises:
        BadRequest: a name that is no token, or a control in a value that would pass.
        IdentityTooLarge: the identity fields exceed `MAX_IDENTITY_BYTES`.
    Source: RFC 9110 §5.5, §7.6.1, §7.6.3 (Via), §7.8; attack table A1 to A19.
    """
    rules = reserved.request
    kept: list[Field] = [(b"Host", host)]
    listed = _NOTHING
    chain: list[bytes] = []
    for field in fields:
        rule = rules[field[0]]
        if rule is KEEP:
            kept.append(field)
        elif rule is DROP:
            pass
        elif rule is CONNECTION:
            listed |= _listed(field[1])
        elif rule is ODD:
            if field[0].lower() in policy.allowed:
                kept.append(field)
        elif rule is CHAIN or rule is TRUSTED:
            if forwarded.trusted:
                if rule is CHAIN:
                    chain.append(field[1])
                else:
                    kept.append(field)
        elif policy.forward_credentials:
            kept.append(field)
        elif rule is COOKIE:
            cookies = without_session_cookies(field[1])
            if cookies is not None:
                kept.append(field if cookies is field[1] else (field[0], cookies))
        elif rule is AUTHORIZATION:
            value = field[1]
            if not value.startswith(b"Bearer ") and not _BEARER(value):
                kept.append(field)
    if listed:
        kept[1:] = [field for field in kept[1:] if field[0].lower() not in listed]
    if forwarded.trusted:
        if forwarded.peer:
            chain.append(forwarded.peer.encode())
        if chain:
            kept.append((b"X-Forwarded-For", b", ".join(chain)))
    if len(kept) > 1 and not _values_are_clean(kept):
        raise BadRequest("a field value holds a control character")
    if forwarded.trusted:
        scheme, name = client_scheme(fields, forwarded), client_host(fields, forwarded)
        kept += _way("", scheme, name, forwarded.version)
    else:
        kept += _way(
            forwarded.peer, forwarded.scheme, forwarded.host, forwarded.version
        )
    kept.append((b"X-Request-Id", request_id))
    kept += (ANONYMOUS,) if identity is None else identity_fields(identity, policy)
    if upgrade is not None:
        kept += ((b"Connection", b"Upgrade"), (b"Upgrade", upgrade))
    return kept


_PRIVATE: Field = (b"Cache-Control", b"private, no-cache")
_NO_STORE: Field = (b"Cache-Control", b"no-store")
_VARY_ORIGIN: Field = (b"Vary", b"Origin")
_VARIES_BY_ORIGIN = re.compile(
    rb"(?:^|,)[ \t]*(?:origin|\*)[ \t]*(?:,|$)", re.IGNORECASE
).search


def to_client(
    fields: Iterable[Field],
    *,
    reserved: Reserved,
    cors: Fields = (),
    new_tokens: Fields = (),
    request_id: bytes,
    private: bool = False,
) -> tuple[list[Field], tuple[str, ...]]:
    """Return the fields of the answer, and the session cookies that were dropped.

    *private*: the route is not a public one. Framing fields (and, for a 101,
    Upgrade) are the sender's to add. `Server`, `Date` and `Via` stay the upstream's:
    the gateway adds no name of its own to an answer that isn't.

    1. Fields of this hop go, and those that Connection lists.
    2. Identity names go; an upstream sets no session: Set-Cookie of SuperTokens'
       names, front-token, anti-csrf and `st-` fields go.
    3. Access-Control-* are the gateway's, and every answer varies by Origin.
    4. *new_tokens* are added, and then nobody may store the answer, whatever the
       upstream allows. A private answer without Cache-Control becomes `private,
       no-cache`: no shared cache keeps it, a browser asks again before it shows it
       (to the next user, say), and 304 still works. Cache-Control of the upstream's
       own stays.

    Raises:
        BadReply: a name that is no token. (Controls in values: `upstream` has refused
            them, with the whole reply.)
    Source: RFC 9110 §5.5, §7.6.1, §12.5.5 (Vary), RFC 9111 §3.5, §5.2.2;
    attack table A18, F3, F14, I2, I6.
    """
    rules = reserved.reply
    kept: list[Field] = []
    listed = _NOTHING
    dropped: tuple[str, ...] = ()
    cache_rules = varies = False
    for field in fields:
        rule = rules[field[0]]
        if rule is KEEP:
            kept.append(field)
        elif rule is DROP:
            pass
        elif rule is VARY:
            kept.append(field)
            varies = varies or bool(_VARIES_BY_ORIGIN(field[1]))
        elif rule is CACHE:
            cache_rules = True
            if not new_tokens:
                kept.append(field)
        elif rule is SET_COOKIE:
            name = sets_session_cookie(field[1])
            if name is None:
                kept.append(field)
            else:
                dropped += (name,)
        elif rule is CONNECTION:
            listed |= _listed(field[1])
    if listed:
        kept = [field for field in kept if field[0].lower() not in listed]
        cache_rules = any(rules[name] is CACHE for name, _ in kept)
        varies = varies and b"vary" not in listed
    if new_tokens:
        # The SDK names the fields to expose; the gateway's CORS always exposes them.
        kept += (
            field
            for field in new_tokens
            if not field[0].lower().startswith(b"access-control-")
        )
        kept.append(_NO_STORE)
    elif private and not cache_rules:
        kept.append(_PRIVATE)
    kept += cors
    if not varies:
        kept.append(_VARY_ORIGIN)
    kept.append((b"X-Request-Id", request_id))
    return kept, dropped

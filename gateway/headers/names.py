"""PURE. Field names, and the rule of each name in either direction."""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum, auto

from gateway.http.fields import BoundedCache, is_token


class Rule(Enum):
    """What the gateway does with a field."""

    KEEP = auto()
    DROP = auto()
    ODD = auto()
    """A name with other characters than letters, digits and `-`: kept if the route
    lists it."""
    CONNECTION = auto()
    COOKIE = auto()
    AUTHORIZATION = auto()
    BEARER = auto()
    """An Authorization field with a Bearer token that is no session's: kept if the
    route forwards it."""
    SUBPROTOCOLS = auto()
    CREDENTIAL = auto()
    """Kept if the route forwards credentials."""
    ODD_CREDENTIAL = auto()
    """Kept if the route lists its name, and forwards credentials."""
    FORWARDED_FOR = auto()
    """Made anew, like the next two, from the value of a trusted proxy."""
    FORWARDED_PROTO = auto()
    FORWARDED_HOST = auto()
    FORWARDED_PORT = auto()
    """Kept like TRUSTED or, with a rewrite, made anew, like the next one."""
    FORWARDED_PREFIX = auto()
    TRUSTED = auto()
    """Kept if the peer is a trusted proxy."""
    SET_COOKIE = auto()
    VARY = auto()
    CACHE = auto()
    DATE = auto()
    LOCATION = auto()
    """A URL that is mapped to the public one, like the next one's."""
    REFRESH = auto()
    TRACEPARENT = auto()
    """Read (`trace_context`) and never forwarded, like the next one."""
    TRACESTATE = auto()
    EXPOSE = auto()
    """Names that are added to those that the gateway exposes."""


# The loops read these constants: an attribute of an enumeration costs more than the
# look-up of the rule.
KEEP, DROP, ODD = Rule.KEEP, Rule.DROP, Rule.ODD
CONNECTION, COOKIE = Rule.CONNECTION, Rule.COOKIE
AUTHORIZATION, SUBPROTOCOLS = Rule.AUTHORIZATION, Rule.SUBPROTOCOLS
BEARER = Rule.BEARER
CREDENTIAL, ODD_CREDENTIAL = Rule.CREDENTIAL, Rule.ODD_CREDENTIAL
FORWARDED_FOR, FORWARDED_PROTO = Rule.FORWARDED_FOR, Rule.FORWARDED_PROTO
FORWARDED_HOST, TRUSTED = Rule.FORWARDED_HOST, Rule.TRUSTED
FORWARDED_PORT, FORWARDED_PREFIX = Rule.FORWARDED_PORT, Rule.FORWARDED_PREFIX
SET_COOKIE, VARY, CACHE = Rule.SET_COOKIE, Rule.VARY, Rule.CACHE
DATE, LOCATION, REFRESH = Rule.DATE, Rule.LOCATION, Rule.REFRESH
EXPOSE = Rule.EXPOSE
TRACEPARENT, TRACESTATE = Rule.TRACEPARENT, Rule.TRACESTATE

# Marks of lines, by which a head needs a closer look (`http.lines.Line.marks`).
LISTS, HAS_CREDENTIALS, HAS_ODD, HAS_TRUSTED, HAS_FORWARDED = 1, 2, 4, 8, 16
RULES_CACHES, VARIES, SETS_SESSION, IS_DATED = 32, 64, 128, 256
HAS_LOCATION, SETS_COOKIE, HAS_BEARER, EXPOSES = 512, 1024, 2048, 4096
EDITED, HAS_TRACE = 8192, 16384

SHADOW_NAME = "X-Shadow"
"""Marks copies of requests (`mirror`): their replies reach nobody."""

ASSERTION_NAME = "X-Identity-Assertion"
"""A signed statement of the session (`gateway.assertion`)."""

IDENTITY_NAMES = (
    "X-User-Id",
    "X-Recipe-User-Id",
    "X-Session-Handle",
    "X-Tenant-Id",
    "X-User-Roles",
    "X-User-Permissions",
    "X-User-Email",
    "X-User-Claims",
    "X-Auth-Status",
    ASSERTION_NAME,
    "X-Identity-Assertion-For",
    "X-Client-Subject",
)
"""Names that only the gateway may set, whether a route sets them or not."""

# One hop's own fields (RFC 9110 §7.6.1), and its framing: the sender of a message adds
# Content-Length or Transfer-Encoding for the body that it really sends.
_HOP = frozenset(
    {
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"http2-settings",
        b"proxy-authenticate",
        b"proxy-authentication-info",
        b"content-length",
    }
)
# Fields of the frontend SDKs, and of a backend SDK's answers; `st-` has a prefix rule.
_SESSION_FIELDS = frozenset({b"front-token", b"anti-csrf", b"id-refresh-token"})
REQUEST_RULES = {
    **dict.fromkeys(_HOP, DROP),
    **dict.fromkeys(_SESSION_FIELDS | {b"rid", b"fdi-version"}, CREDENTIAL),
    b"connection": CONNECTION,
    b"cookie": COOKIE,
    b"authorization": AUTHORIZATION,
    b"sec-websocket-protocol": SUBPROTOCOLS,
    b"x-forwarded-for": FORWARDED_FOR,
    b"x-forwarded-proto": FORWARDED_PROTO,
    b"x-forwarded-host": FORWARDED_HOST,
    b"x-forwarded-port": FORWARDED_PORT,
    b"x-forwarded-prefix": FORWARDED_PREFIX,
    # The gateway makes these anew.
    b"host": DROP,
    b"x-request-id": DROP,
    b"traceparent": TRACEPARENT,
    b"tracestate": TRACESTATE,
    # For this hop: the gateway itself answers with 100 (Continue).
    b"expect": DROP,
    b"proxy-authorization": DROP,
    # CVE-2016-5385 (httpoxy): CGI would read it as the variable HTTP_PROXY.
    b"proxy": DROP,
    # RFC 7239: proxies that set only X-Forwarded-For forward a client's Forwarded.
    b"forwarded": DROP,
    # Another method than the one that the route was matched with.
    b"x-http-method": DROP,
    b"x-http-method-override": DROP,
    b"x-method-override": DROP,
    # Another scheme than the one in X-Forwarded-Proto.
    b"x-scheme": DROP,
    b"x-url-scheme": DROP,
    b"front-end-https": DROP,
    **dict.fromkeys(
        (
            b"x-forwarded-server",
            b"x-real-ip",
            b"x-client-ip",
            b"client-ip",
            b"true-client-ip",
            b"x-cluster-client-ip",
            b"cf-connecting-ip",
            b"fastly-client-ip",
        ),
        TRUSTED,
    ),
}
_REQUEST_PREFIXES = (
    (b"st-", CREDENTIAL),
    # -User, -Email, -Access-Token, -Uri, -Method and all others; the few that a
    # trusted proxy may send have a rule above.
    (b"x-forwarded-", DROP),
    (b"x-original-", DROP),
    (b"x-rewrite-", DROP),
    (b"x-envoy-", TRUSTED),
)
_REPLY_RULES = {
    **dict.fromkeys(_HOP, DROP),
    b"connection": CONNECTION,
    b"set-cookie": SET_COOKIE,
    b"vary": VARY,
    b"cache-control": CACHE,
    b"cdn-cache-control": CACHE,
    b"surrogate-control": CACHE,
    b"date": DATE,
    b"location": LOCATION,
    b"content-location": LOCATION,
    b"refresh": REFRESH,
    b"x-request-id": DROP,
    b"access-control-expose-headers": EXPOSE,
}
# An upstream can't set or clear the session, nor set the CORS policy.
_REPLY_PREFIXES = ((b"st-", DROP), (b"access-control-", DROP))

is_plain = re.compile(rb"[0-9A-Za-z-]+").fullmatch
_FOLD = bytes(
    b + 32 if 65 <= b <= 90 else b if 48 <= b <= 57 or 97 <= b <= 122 else 0x2D
    for b in range(256)
)


def fold(name: bytes) -> bytes:
    """Return *name* as the laxest reader sees it.

    That is in lower case, with each byte but letters and digits replaced by `-`.
    """
    return name.translate(_FOLD)


class Reserved:
    """The identity names of a whole route table: no client and no upstream sets them.

    All routes share one set: if one route sets `X-Plan`, no client can send that field
    to the service behind another route.
    """

    __slots__ = ("names", "reply", "request")

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(fold(name.encode()) for name in names)
        self.request = BoundedCache(self._judge_request)
        self.reply = BoundedCache(self._judge_reply)

    def _judge_request(self, name: bytes) -> Rule:
        folded = fold(name)
        rule = DROP if folded in self.names else REQUEST_RULES.get(folded)
        if rule is None:
            rule = next((r for p, r in _REQUEST_PREFIXES if folded.startswith(p)), None)
        if is_plain(name):
            return rule or KEEP
        # Another spelling of a name that has a rule is always dropped.
        return ODD if rule is None else DROP

    def _judge_reply(self, name: bytes) -> Rule:
        folded = fold(name)
        if folded in self.names or folded in _SESSION_FIELDS:
            return DROP
        lower = name.lower()
        known = _REPLY_RULES.get(lower)
        if known is not None:
            return known
        for prefix, rule in _REPLY_PREFIXES:
            if lower.startswith(prefix):
                return rule
        return KEEP


def reserved(names: Iterable[str] = ()) -> Reserved:
    """Return the names that only the gateway sets: its own and *names*.

    *names* are those of every route's `identity.headers`.
    """
    return Reserved((*IDENTITY_NAMES, *names))


# --- names that a route may choose ------------------------------------------

# Standard names: a route that set one would remove the client's field. Names with a
# rule above aren't repeated here.
_STANDARD = frozenset(
    b"accept accept-charset accept-encoding accept-language accept-ranges age allow "
    b"alt-svc etag expires from if-match if-modified-since if-none-match if-range "
    b"if-unmodified-since last-modified link location max-forwards origin "
    b"pragma range referer retry-after server strict-transport-security user-agent via "
    b"www-authenticate x-auth-status x-client-subject x-identity-assertion".split()
)
# `proxy-` fields hold credentials, and only browsers may set `sec-` fields.
_STANDARD_PREFIXES = (b"access-control-", b"content-", b"proxy-", b"sec-")
_OTHER_GATEWAYS = frozenset(
    {
        b"x-forwarded-user",
        b"x-forwarded-email",
        b"x-forwarded-groups",
        b"x-forwarded-preferred-username",
    }
)
"""Identity fields of oauth2-proxy and similar gateways: services may expect them."""
_is_settable = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?").fullmatch


def check_settable(name: str) -> None:
    """Check that a route may set the field *name* (`identity.headers`).

    A name with a rule has another meaning: its value describes the message, the
    client's address or the path, and must not come from a claim. Identity names may
    get another meaning, except X-Auth-Status, X-Client-Subject and
    X-Identity-Assertion.

    Raises:
        ValueError: it may not; the message has the reason.
    """
    if not _is_settable(name):
        raise ValueError(
            "a field name has letters, digits and - here: others are easily mistaken"
            " for it"
        )
    folded = fold(name.encode())
    if folded in _OTHER_GATEWAYS:
        return
    if (
        folded in _STANDARD
        or folded in REQUEST_RULES
        or folded in _REPLY_RULES
        or folded.startswith(_STANDARD_PREFIXES)
        or folded.startswith(tuple(prefix for prefix, _ in _REQUEST_PREFIXES))
    ):
        raise ValueError("this field has another meaning")


def request_rule(folded: bytes) -> Rule | None:
    """Return the rule of a request field by its folded name; None if it has none."""
    rule = _BUILT_IN.request[folded]
    return None if rule is KEEP else rule


def is_reserved_reply(folded: bytes) -> bool:
    """Return whether services may not send the reply field with this folded name."""
    return _BUILT_IN.reply[folded] is DROP


def check_allowable(name: str) -> None:
    """Check that a route may forward clients' fields called *name*
    (`request.allow_field_names`).

    Raises:
        ValueError: it may not; the message has the reason.
    """
    raw = name.encode("utf-8", "replace")
    if not is_token(raw):
        raise ValueError("this isn't a field name: it has letters, digits and -")
    if _BUILT_IN.request[raw] is DROP:
        raise ValueError("this is another spelling of a name that has a rule")


def check_matchable(name: str) -> None:
    """Check that a route may select requests by the client's field *name*
    (`match.headers`).

    Raises:
        ValueError: it may not; the message has the reason.
    """
    rule = _BUILT_IN.request[name.encode()]
    if rule in (DROP, TRUSTED, FORWARDED_FOR, FORWARDED_PROTO, FORWARDED_HOST):
        raise ValueError("clients can't send this field to services, and may forge it")
    if rule is not KEEP:
        raise ValueError("this field has a meaning of its own here")


_BUILT_IN = reserved()

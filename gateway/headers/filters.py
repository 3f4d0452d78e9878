"""PURE. Both directions: which fields are forwarded, and which the gateway adds."""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from operator import attrgetter

from gateway.headers.attach import ANONYMOUS, HeaderPolicy, identity_fields
from gateway.headers.cookies import sets_session_cookie, without_session_cookies
from gateway.headers.edits import NO_EDITS, Edits
from gateway.headers.forwarded import ForwardedFields
from gateway.headers.names import (
    AUTHORIZATION,
    BEARER,
    CACHE,
    CONNECTION,
    COOKIE,
    CREDENTIAL,
    DATE,
    DROP,
    EDITED,
    EXPOSE,
    EXPOSES,
    FORWARDED_FOR,
    FORWARDED_HOST,
    FORWARDED_PORT,
    FORWARDED_PREFIX,
    FORWARDED_PROTO,
    HAS_BEARER,
    HAS_CREDENTIALS,
    HAS_FORWARDED,
    HAS_LOCATION,
    HAS_ODD,
    HAS_TRACE,
    HAS_TRUSTED,
    IS_DATED,
    KEEP,
    LISTS,
    LOCATION,
    ODD,
    ODD_CREDENTIAL,
    REFRESH,
    RULES_CACHES,
    SET_COOKIE,
    SETS_COOKIE,
    SETS_SESSION,
    SUBPROTOCOLS,
    TRACEPARENT,
    TRACESTATE,
    TRUSTED,
    VARIES,
    VARY,
    Reserved,
    Rule,
    fold,
)
from gateway.headers.public_urls import (
    NOTHING_MAPPED,
    MapPolicy,
    Public,
    public_cookie,
    public_refresh,
    public_url,
)
from gateway.http.fields import TOKEN, Fields, block, is_token
from gateway.http.lines import Line, Rules, Ruling
from gateway.http.reply_head import ReplyHead
from gateway.http.request_head import RequestHead
from gateway.identity import Principal

_IS_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}").fullmatch


def request_id(values: Sequence[bytes], make: Callable[[], str]) -> bytes:
    """Return the request's X-Request-Id, or a new one.

    The client's value is used if it is the only one in *values* and consists of 1 to
    128 of `A-Za-z0-9._-`: it is written to logs and sent to the upstream.
    """
    if len(values) == 1 and _IS_REQUEST_ID(values[0]):
        return values[0]
    return make().encode()


_BEARER = re.compile(rb"(?:^|[\s,\x7f-\xff])bearer(?!%b)" % TOKEN, re.IGNORECASE).search
_LISTS_NOTHING = frozenset(
    {b"close", b"keep-alive", b"Keep-Alive", b"upgrade", b"Upgrade"}
)
_NOTHING: frozenset[bytes] = frozenset()


def _listed(value: bytes) -> frozenset[bytes]:
    """Return the names that a Connection field lists.

    What isn't a token names no field, so it needs no refusal.

    Source: RFC 9110 §7.6.1.
    """
    if value in _LISTS_NOTHING:  # the usual values name no field that could be kept
        return _NOTHING
    return frozenset(name.strip(b" \t") for name in value.lower().split(b","))


_REQUEST_MARKS: Mapping[Rule, int] = {
    CREDENTIAL: HAS_CREDENTIALS,
    ODD: HAS_ODD,
    ODD_CREDENTIAL: HAS_ODD,
    TRUSTED: HAS_TRUSTED,
    FORWARDED_FOR: HAS_FORWARDED,
    FORWARDED_PROTO: HAS_FORWARDED,
    FORWARDED_HOST: HAS_FORWARDED,
    FORWARDED_PORT: HAS_FORWARDED,
    FORWARDED_PREFIX: HAS_FORWARDED,
    TRACEPARENT: HAS_TRACE,
    TRACESTATE: HAS_TRACE,
}
_MAY_HOLD_A_TOKEN = frozenset({ODD, TRUSTED, FORWARDED_PORT, FORWARDED_PREFIX})


_SEPARATORS = re.compile(rb"[\s,;:=\"'\x7f-\xff]+")


def request_rules(
    reserved: Reserved,
    holds_token: Callable[[bytes], bool],
    is_token: Callable[[bytes], bool],
    edited: Collection[bytes] = (),
) -> Rules:
    """Return the rules for fields of requests, for the reader of their heads.

    *holds_token* returns whether a session's token is anywhere in a value, *is_token*
    whether a text is one in any spelling that the gateway reads. *edited* are the
    folded names of fields that some route removes.

    1. Fields of this hop are removed, and those that Connection lists.
    2. Identity names are removed, in every spelling; so are odd names that the route
       doesn't allow.
    3. Credentials are removed unless the route forwards them: session cookies, the
       SDKs' own fields, and every other field that has a session's token in it. Other
       Bearer tokens are removed unless the route forwards them. Other cookies,
       subprotocols and schemes stay.
    4. Forwarded fields are removed, or some stay if the peer is trusted; For, Proto and
       Host are made anew, and Port and Prefix with a rewrite (`ForwardedCache`).
    5. The fields of a trace are removed: the gateway sends its own (`trace_context`).

    Source: RFC 9110 §7.6.1, §7.8; attack table A1 to A19.
    """

    def shows_session(value: bytes) -> bool:
        """Return whether an Authorization field shows a session, as any scheme."""
        basic = _basic(value)
        return (
            holds_token(value)
            or is_token(value.partition(b" ")[2])
            or any(map(is_token, _SEPARATORS.split(value)))
            or (
                bool(basic)
                and (holds_token(basic) or any(map(is_token, _SEPARATORS.split(basic))))
            )
        )

    def judge(name: bytes, value: bytes, raw: bytes) -> Ruling:
        rule = reserved.request[name]
        if rule is KEEP:
            if holds_token(value):
                return Ruling(CREDENTIAL, b"", HAS_CREDENTIALS)
            return Ruling(KEEP, raw)
        if rule is CONNECTION:
            return Ruling(CONNECTION, b"", LISTS if _listed(value) else 0)
        if rule is COOKIE or rule is SUBPROTOCOLS:
            kept: bytes | None = value
            if rule is COOKIE:
                kept = without_session_cookies(value)
            if kept is not None and holds_token(kept):
                kept = _without(kept, b";" if rule is COOKIE else b",", holds_token)
            if kept is value:
                return Ruling(KEEP, raw)
            stripped = b"" if kept is None else b"%b: %b\r\n" % (name, kept)
            return Ruling(CREDENTIAL, stripped, HAS_CREDENTIALS)
        if rule is AUTHORIZATION:
            if shows_session(value):
                return Ruling(CREDENTIAL, b"", HAS_CREDENTIALS)
            if _BEARER(value):
                return Ruling(BEARER, b"", HAS_BEARER)
            return Ruling(KEEP, raw)
        if rule in _MAY_HOLD_A_TOKEN and holds_token(value):
            rule = ODD_CREDENTIAL if rule is ODD else DROP
        return Ruling(rule, b"", _REQUEST_MARKS.get(rule, 0))

    return _marking(edited, judge) if edited else judge


def _marking(edited: Collection[bytes], judge: Rules) -> Rules:
    """Return the rules that *judge* has, and a mark for fields that routes remove."""

    def judge_and_mark(name: bytes, value: bytes, raw: bytes) -> Ruling:
        ruling = judge(name, value, raw)
        if fold(name) in edited:
            return ruling._replace(marks=ruling.marks | EDITED)
        return ruling

    return judge_and_mark


def _without(
    value: bytes, separator: bytes, is_unwanted: Callable[[bytes], bool]
) -> bytes | None:
    """Return *value* without the unwanted ones of its parts; None if none is left."""
    kept = [part for part in value.split(separator) if not is_unwanted(part)]
    return separator.join(kept).strip(b" \t") if any(map(bytes.strip, kept)) else None


def _basic(value: bytes) -> bytes:
    """Return `user:password` of an Authorization field; b"" for another scheme.

    Source: RFC 7617 §2.
    """
    scheme, _, encoded = value.partition(b" ")
    if scheme.lower() != b"basic":
        return b""
    try:
        return binascii.a2b_base64(encoded)
    except binascii.Error:
        return b""


def to_upstream(
    head: RequestHead,
    policy: HeaderPolicy,
    forwarded: ForwardedFields,
    principal: Principal | None,
    request_id: bytes,
    prefix: bytes | None = None,
) -> bytes:
    """Return the fields of the request that is sent to the upstream, each with CRLF.

    *head* was read with `request_rules`. With a rewrite, *prefix* is the beginning of
    the public paths that the upstream doesn't get, empty if there is none. The sender
    adds Host, the trace, the framing fields and an upgrade. Fields that the rules allow
    stay in order. The gateway's own fields follow: set, never appended to a client's
    value.

    Raises:
        IdentityTooLarge: the identity fields exceed `MAX_IDENTITY_BYTES`.
    Source: RFC 9110 §7.6.1, §7.6.3 (Via); attack table A1 to A19.
    """
    if head.marks & (policy.marks | forwarded.marks):
        listed = _all_listed(head.lines)
        lines = [_kept(line, policy, forwarded, listed) for line in head.lines]
    else:
        lines = [*map(_kept_by_default, head.lines)]
    lines += (
        policy.edits.added,
        forwarded.fields if prefix is None else forwarded.rewritten(prefix),
        b"X-Request-Id: ",
        request_id,
        b"\r\n",
        _ANONYMOUS if principal is None else identity_fields(principal, policy),
    )
    return b"".join(lines)


_kept_by_default = attrgetter("forwarded")


def _kept(
    line: Line,
    policy: HeaderPolicy,
    forwarded: ForwardedFields,
    listed: frozenset[bytes],
) -> bytes:
    """Return the bytes forwarded of *line*, where the route or the peer matters.

    *listed* are the names in Connection, in lower case.
    """
    rule = line.rule
    if listed and line.name.lower() in listed:
        return b""
    if line.marks & EDITED and fold(line.name) in policy.edits.removed:
        return b""
    if (
        (rule is CREDENTIAL and policy.forward_credentials)
        or (rule is BEARER and policy.forward_authorization)
        or (rule is TRUSTED and forwarded.is_trusted)
        or (
            (rule is ODD or (rule is ODD_CREDENTIAL and policy.forward_credentials))
            and line.name.lower() in policy.allowed
        )
    ):
        return line.raw
    return line.forwarded


def _all_listed(lines: Iterable[Line]) -> frozenset[bytes]:
    """Return the names that the Connection fields among *lines* list."""
    listed = (_listed(line.value) for line in lines if line.rule is CONNECTION)
    return frozenset().union(*listed)


_EXPOSED = b"access-control-expose-headers"
_ANONYMOUS = block((ANONYMOUS,))
_PRIVATE = b"Cache-Control: private, no-cache\r\n"
_NO_STORE = b"Cache-Control: no-store\r\n"
_VARIES_BY_ORIGIN = re.compile(
    rb"(?:^|,)[ \t]*(?:origin|\*)[ \t]*(?:,|$)", re.IGNORECASE
).search


def reply_rules(reserved: Reserved, edited: Collection[bytes] = ()) -> Rules:
    """Return the rules for fields of replies, for the reader of their heads.

    *edited* are the folded names of fields that some route removes.

    1. Fields of this hop are removed, and those that Connection lists.
    2. Identity names are removed. So are the fields of a session, which no upstream
       may set: Set-Cookie of SuperTokens' names, front-token, anti-csrf and `st-`.
    3. Access-Control-* are removed: the gateway sets them. Names that an upstream
       exposes are added to its own.

    Source: RFC 9110 §7.6.1; attack table A18, F3, F14, I2, I6.
    """

    def judge(name: bytes, value: bytes, raw: bytes) -> Ruling:
        rule = reserved.reply[name]
        if rule is DROP:
            return Ruling(DROP, b"")
        if rule is CONNECTION:
            return Ruling(CONNECTION, b"", LISTS if _listed(value) else 0)
        if rule is CACHE:
            return Ruling(CACHE, raw, RULES_CACHES)
        if rule is VARY:
            return Ruling(VARY, raw, VARIES if _VARIES_BY_ORIGIN(value) else 0)
        if rule is SET_COOKIE:
            if sets_session_cookie(value) is not None:
                return Ruling(SET_COOKIE, b"", SETS_SESSION)
            return Ruling(SET_COOKIE, raw, SETS_COOKIE)
        if rule is LOCATION or rule is REFRESH:
            return Ruling(rule, raw, HAS_LOCATION)
        if rule is EXPOSE:
            return Ruling(EXPOSE, b"", EXPOSES)
        if rule is DATE:
            return Ruling(DATE, raw, IS_DATED)
        return Ruling(KEEP, raw)

    return _marking(edited, judge) if edited else judge


def to_client(
    head: ReplyHead,
    request_id: bytes,
    make_date: Callable[[], bytes],
    cors: Fields = (),
    new_tokens: Fields = (),
    private: bool = False,
    policy: MapPolicy = NOTHING_MAPPED,
    public: Public | None = None,
    edits: Edits = NO_EDITS,
) -> bytes:
    """Return the fields of the answer, each with CRLF.

    *head* was read with `reply_rules`. *private*: the route is not a public one. The
    sender adds the framing fields (and, for a 101, Upgrade). `Server` and `Via` stay
    the upstream's: the gateway doesn't add its name to an upstream's answer. So does
    `Date`; a reply without one gets the line that
    *make_date* returns.

    1. Every answer varies by Origin.
    2. *new_tokens* are added, and the answer then gets `no-store` in place of the
       upstream's Cache-Control. A private answer without Cache-Control gets `private,
       no-cache`: no shared cache keeps it, a browser revalidates it before it shows it
       (to the next user, for example), and 304 still works. Otherwise the upstream's
       Cache-Control stays.
    3. *edits* are applied to the upstream's fields.
    4. With *public*, redirects and cookies are mapped as *policy* says. It is needed
       only if the head has one of the policy's marks.

    Source: RFC 9110 §6.6.1 (Date), §12.5.5 (Vary), RFC 9111 §3.5, §5.2.2.
    """
    marks, passed = head.marks, head.lines
    if marks & LISTS:
        listed = _all_listed(passed)
        passed = [line for line in passed if line.name.lower() not in listed]
        marks = _marks(passed)
    if marks & EDITED and edits.removed:
        passed = [line for line in passed if fold(line.name) not in edits.removed]
        marks = _marks(passed)
    added = edits.added
    if added and edits.added_uncached != added:
        # The route says what caches may keep. New tokens overrule it.
        marks |= RULES_CACHES
        if new_tokens:
            added = edits.added_uncached
    if new_tokens and marks & RULES_CACHES:
        passed = [line for line in passed if line.rule is not CACHE]
    if public is None:
        lines = [*map(_kept_by_default, passed)]
    else:
        lines = [_mapped(line, policy, public) for line in passed]
    if new_tokens:
        # The SDK names the fields to expose; the gateway's CORS always exposes them.
        own = [f for f in new_tokens if not f[0].lower().startswith(b"access-control-")]
        lines += (block(own), _NO_STORE)
    elif private and not marks & RULES_CACHES:
        lines.append(_PRIVATE)
    if added:
        lines.append(added)
    if cors:
        lines.append(block(_exposing(cors, passed) if marks & EXPOSES else cors))
    if not marks & IS_DATED:
        lines.append(make_date())
    lines += (
        b"X-Request-Id: " if marks & VARIES else b"Vary: Origin\r\nX-Request-Id: ",
        request_id,
        b"\r\n",
    )
    return b"".join(lines)


def _marks(lines: Iterable[Line]) -> int:
    marks = 0
    for line in lines:
        marks |= line.marks
    return marks


def _exposing(cors: Fields, lines: Iterable[Line]) -> Fields:
    """Return the CORS fields *cors*, with what the upstream's *lines* expose as well.

    `*` isn't added: with credentials, it is the name of a field and no wildcard.

    Source: WHATWG Fetch, CORS-exposed header-name list.
    """
    values = [line.value for line in lines if line.rule is EXPOSE]

    def exposed(own: bytes) -> bytes:
        names = {name.strip().lower(): name for name in own.split(b",")}
        for name in b",".join(values).split(b","):
            name = name.strip(b" \t")  # noqa: PLW2901 # the same name
            if is_token(name) and name != b"*":
                names.setdefault(name.lower(), name)
        return b",".join(names.values())

    return tuple(
        (name, exposed(value) if name.lower() == _EXPOSED else value)
        for name, value in cors
    )


def _mapped(line: Line, policy: MapPolicy, public: Public) -> bytes:
    """Return the bytes of *line* for the client, with the public form of its URL."""
    rule, value = line.rule, line.value
    if rule is LOCATION and policy.redirects:
        mapped = public_url(value, policy, public)
    elif rule is REFRESH and policy.redirects:
        mapped = public_refresh(value, policy, public)
    elif rule is SET_COOKIE and line.forwarded and policy.marks & SETS_COOKIE:
        mapped = public_cookie(value, policy, public)
    else:
        return line.forwarded
    return line.forwarded if mapped == value else b"%b: %b\r\n" % (line.name, mapped)


def session_cookies(head: ReplyHead) -> tuple[str, ...]:
    """Return the names of the session cookies that an upstream tried to set."""
    names = (
        sets_session_cookie(line.value)
        for line in head.lines
        if line.rule is SET_COOKIE and not line.forwarded
    )
    return tuple(name for name in names if name is not None)

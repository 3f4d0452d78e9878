"""PURE. The credentials that a request shows, and which of them counts.

`choose` has the SDK's order:
1. A legacy `sIdRefreshToken` cookie asks for a refresh, whatever else there is.
2. A bearer token that parses wins over the cookie.
3. The cookie's token counts if it parses. A second access cookie asks for a refresh.
4. Neither parsing is no session.

Source: supertokens_python 0.31.4, `get_session_from_request`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import unquote

from gateway.http.lines import Line
from gateway.session.tokens import Token, parse
from gateway.session.verified_tokens import KEY_CHARS, VerifiedToken

ACCESS_COOKIE = "sAccessToken"
_LEGACY_COOKIE = "sIdRefreshToken"
_BEARER = b"Bearer "
_ESCAPED = re.compile(r"\\(?:([0-3][0-7][0-7])|(.))")


class Credentials(NamedTuple):
    """What a request shows to prove its session: nothing here is verified."""

    bearer: str | None = None
    """The text after `Bearer `, possibly empty; None without that scheme."""
    access_cookies: tuple[str, ...] = ()
    """Every `sAccessToken` cookie. The last is the one that the SDK reads; with more
    than one it asks for a refresh instead."""
    anti_csrf: str | None = None
    has_rid: bool = False
    """A `rid` field, of any value, is there (anti-CSRF mode VIA_CUSTOM_HEADER)."""
    legacy: bool = False
    """A `sIdRefreshToken` cookie is there: the session of an old SDK, to refresh."""
    auth_mode: str | None = None
    """`st-auth-mode` in lower case."""
    is_authorized: bool = False
    """An Authorization field is there, whatever it holds."""


def _authorization(value: bytes) -> Credentials:
    bearer = None
    if value.startswith(_BEARER):
        bearer = value[len(_BEARER) :].decode("latin-1").strip()
    return Credentials(bearer=bearer, is_authorized=True)


def _cookies(value: bytes) -> Credentials:
    if b"sAccessToken" not in value and b"sIdRefreshToken" not in value:
        return _NO_CREDENTIALS
    access_cookies, legacy = _session_cookies(value.decode("latin-1"))
    return Credentials(access_cookies=access_cookies, legacy=legacy)


def _anti_csrf(value: bytes) -> Credentials:
    return Credentials(anti_csrf=value.decode("latin-1"))


def _rid(_: bytes) -> Credentials:
    return Credentials(has_rid=True)


def _auth_mode(value: bytes) -> Credentials:
    return Credentials(auth_mode=value.decode("latin-1").lower())


_NO_CREDENTIALS = Credentials()
CREDENTIAL_FIELDS: Mapping[bytes, Callable[[bytes], Credentials]] = MappingProxyType(
    {
        b"authorization": _authorization,
        b"cookie": _cookies,
        b"anti-csrf": _anti_csrf,
        b"rid": _rid,
        b"st-auth-mode": _auth_mode,
    }
)
"""What reads the credentials of one field: its name in lower case → from its value.

1. Values are Latin-1, so that no byte is lost: a token with a byte above 0x7F can't be
   a JWT, and is not made one by dropping the byte.
2. `Bearer` is case-sensitive and followed by a space.
3. Cookies are split at `;`, then at the first `=`; spaces round both are cut, a quoted
   value is unquoted, then percent-decoded.
4. A cookie whose percent-decoded name is `sAccessToken` is another one of that name,
   but is never the one that is read. (The SDK counts only those in the first Cookie
   field and without a second `=`: two are refused here in any case.)

Source: supertokens_python 0.31.4, recipe/session/cookie_and_header.py; starlette 1.x,
requests.cookie_parser.
"""


def credentials(credential_lines: Sequence[Line]) -> Credentials:
    """Return the credentials in lines that were read with CREDENTIAL_FIELDS.

    Of a field that comes twice the first counts; of Cookie fields all count.
    """
    if len(credential_lines) == 1:
        only: Credentials = credential_lines[0].parsed
        return only
    bearer = anti_csrf = auth_mode = None
    is_authorized = has_rid = legacy = False
    cookies: tuple[str, ...] = ()
    for line in credential_lines:
        part: Credentials = line.parsed
        if part.is_authorized and not is_authorized:
            is_authorized = True
            bearer = part.bearer
        cookies += part.access_cookies
        legacy = legacy or part.legacy
        has_rid = has_rid or part.has_rid
        if anti_csrf is None:
            anti_csrf = part.anti_csrf
        if auth_mode is None:
            auth_mode = part.auth_mode
    return Credentials(
        bearer=bearer,
        access_cookies=cookies,
        anti_csrf=anti_csrf,
        has_rid=has_rid,
        legacy=legacy,
        auth_mode=auth_mode,
        is_authorized=is_authorized,
    )


class Refresh(StrEnum):
    """Why a client must refresh its session before any token of it is looked at."""

    LEGACY = "legacy_session"
    SEVERAL = "several_access_cookies"


Choice = tuple[str, VerifiedToken | Token, Credentials | None]
"""The token's text; the token, verified before or only parsed; and for a token from a
cookie the credentials that came with it, which have the anti-CSRF proof."""


def choose(
    credential_lines: Sequence[Line],
    known: Mapping[str, VerifiedToken],
    takes_header: bool,
    takes_cookie: bool,
) -> Choice | Refresh | None:
    """Return the token to verify, `Refresh` if the client must refresh, else None.

    *known* are the tokens that were verified before (`VerifiedTokens.by_end`).
    *takes_header* and *takes_cookie* are the places that a token may come from.
    """
    # There is nearly always one line, for which no call is needed.
    sent: Credentials = (
        credential_lines[0].parsed
        if len(credential_lines) == 1
        else credentials(credential_lines)
    )
    if sent.legacy:
        return Refresh.LEGACY
    bearer = sent.bearer
    if bearer is not None and takes_header:
        remembered = known.get(bearer[-KEY_CHARS:])
        if remembered is not None and remembered.text == bearer:
            return bearer, remembered, None
        parsed = parse(bearer)
        if parsed is not None:
            return bearer, parsed, None
    cookies = sent.access_cookies
    if not cookies or not takes_cookie:
        return None
    text = cookies[-1]
    remembered = known.get(text[-KEY_CHARS:])
    token: VerifiedToken | Token | None = remembered
    if remembered is None or remembered.text != text:
        token = parse(text)
        if token is None:
            return None
    if len(cookies) > 1:
        return Refresh.SEVERAL
    assert token is not None
    return text, token, sent


def _session_cookies(text: str) -> tuple[tuple[str, ...], bool]:
    """Return the access tokens of one Cookie field, and whether it has a legacy one."""
    tokens: list[str] = []
    aliases: list[str] = []
    legacy = False
    for pair in text.split(";"):
        name, equals, value = pair.partition("=")
        if not equals:
            continue
        name = name.strip()
        if name == ACCESS_COOKIE:
            tokens.append(unquote(_unquoted(value.strip())))
        elif name == _LEGACY_COOKIE:
            legacy = True
        elif "%" in name and unquote(name) == ACCESS_COOKIE:
            aliases.append(value)
    return (*aliases, *tokens) if tokens else (), legacy


def _unquoted(value: str) -> str:
    """Return a cookie value without its quotes and backslashes (RFC 2109 §4.1)."""
    if len(value) < 2 or value[0] != '"' or value[-1] != '"':
        return value
    return _ESCAPED.sub(lambda m: chr(int(m[1], 8)) if m[1] else m[2], value[1:-1])

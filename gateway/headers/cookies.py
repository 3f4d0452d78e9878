"""PURE. Session cookies: found in every way that a reader may find them, and removed.

Cookie parsers disagree about quotes, spaces and case. A piece of a Cookie field is
kept only if no known way of reading it finds a session cookie there.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

from gateway.headers.names import fold
from gateway.http.fields import CONTROLS

# Set by the backend SDK (sAccessToken, sRefreshToken; sIdRefreshToken before 0.11) and
# by the frontend SDKs, which also keep header-mode tokens in `st-` cookies. Compared in
# lower case, and with the prefixes of RFC 6265bis §4.1.3.
_AS_SET = frozenset(
    {
        b"sAccessToken",
        b"sRefreshToken",
        b"sFrontToken",
        b"sAntiCsrf",
        b"sIdRefreshToken",
        b"sIRTFrontend",
        b"st-access-token",
        b"st-refresh-token",
        b"st-last-access-token-update",
    }
)
_COOKIE_NAME = rb"(?:__host-|__secure-)?(%b)(?![0-9a-z_-])" % b"|".join(
    sorted(name.lower() for name in _AS_SET)
)
_NAMED = re.compile(_COOKIE_NAME).finditer
_STARTS_NAMED = re.compile(rb"[^0-9a-z_-]*" + _COOKIE_NAME).match
_NO_NAME = bytes(b for b in range(256) if fold(b"%c" % b) == b"-" and b not in b"_-")
_ENDS_A_COOKIE = re.compile(rb"[\x00-\x20\",\x7f-\xff]").search
_LOST = CONTROLS.translate(None, b"\n\x0b\x0c\r") + bytes(range(0x80, 0x100))
"""Bytes that careless writers delete. Spaces aren't: they end a cookie."""


def without_session_cookies(value: bytes) -> bytes | None:
    """Return a Cookie field without SuperTokens' cookies; None if nothing is left.

    A piece between two `;` is dropped when a session cookie's name

    1. starts it, after any bytes that can't be in a name: spaces, `$`, `=`, quotes;
    2. follows a space, a comma or a quote in it, where a reader may see one cookie end
       and another one start (`http.cookies.SimpleCookie` does after a space);
    3. does so once bytes that aren't ASCII text have been deleted, as careless writers
       do, or once the name has been percent-decoded, as the SDK and PHP do.

    Case is ignored. All other pieces stay byte for byte, and in order.
    """
    pieces = value.split(b";")
    # The spellings that browsers send; the other pieces rarely need a closer look.
    kept = [p for p in pieces if p.partition(b"=")[0].strip(b" ") not in _AS_SET]
    rest = value if len(kept) == len(pieces) else b";".join(kept)
    if not _is_harmless(rest.lower()):
        kept = [piece for piece in kept if not _is_session_cookie(piece.lower())]
    if len(kept) == len(pieces):
        return value
    return b";".join(kept).strip(b" \t") if any(map(bytes.strip, kept)) else None


def _is_harmless(lower: bytes) -> bool:
    """Return whether a quick check shows that *lower* holds no session cookie.

    Each name has one of these parts, and could hide it only in an escape or between
    bytes that aren't ASCII.
    """
    return (
        b"token" not in lower
        and b"csrf" not in lower
        and b"sirt" not in lower
        and b"%" not in lower
        and lower.isascii()
    )


def _is_session_cookie(piece: bytes) -> bool:
    """Return whether some reader finds a session cookie in *piece* (lower case)."""
    if _names_session_cookie(piece):
        return True
    if not piece.isascii() and _names_session_cookie(piece.translate(None, _LOST)):
        return True
    name = piece.partition(b"=")[0]
    return b"%" in name and bool(_STARTS_NAMED(unquote_to_bytes(name).lower()))


def _names_session_cookie(piece: bytes) -> bool:
    if _STARTS_NAMED(piece):
        return True
    for match in _NAMED(piece):
        before = piece[: match.start()]
        if _ENDS_A_COOKIE(before, len(before.rstrip(_NO_NAME))):
            return True
    return False


def sets_session_cookie(value: bytes) -> str | None:
    """Return the name of the session cookie that a Set-Cookie field sets, or None.

    Browsers read the name up to the first `=`, and send a cookie that has none as its
    bare value: `=sAccessToken=x` comes back as `sAccessToken=x`.

    Source: RFC 6265bis §5.6.
    """
    pair = value.partition(b";")[0].lower()
    if _is_harmless(pair):
        return None
    pair = unquote_to_bytes(pair).lower()
    match = _STARTS_NAMED(pair) or _STARTS_NAMED(pair.translate(None, _LOST))
    return match[1].decode() if match else None

"""PURE. A request target → one canonical form, or a refusal.

The same `Target` is matched, verified and forwarded, so that no two readers of one
request can disagree about which resource it names.

Each ambiguous form has one policy; "refused" is `BadTarget`, a 400:

==========================================  ==========================================
what the client sends                       result
==========================================  ==========================================
``/a/./b``, ``/a/../b``, ``%2e`` for a dot  resolved
a climb above the root (``/..``)            refused
``//``                                      one slash; kept by option (see below)
``%2F``                                     refused; kept by option, in its own case
``%5C`` and a raw backslash                 refused
``/;x``, ``/.;x``, ``/..;x`` (or ``%3B``)   refused: without its parameters, the segment
                                            would be empty or a dot segment
any other ``;x``                            part of its segment
``%61`` (unreserved characters)             decoded
``%3a`` (all other escapes)                 kept, hex digits in upper case
``%25``                                     kept: nothing is decoded twice
``%zz``, a lone ``%``                       refused
``%00`` to ``%1F``, ``%7F``                 refused
escapes that aren't UTF-8, overlong ones    refused
raw bytes above 0x7E, controls, space       refused
``#`` anywhere                              refused: a fragment is never sent
``"<>[]^{|}`` and the backtick              percent-encoded (browsers send them raw)
letters                                     as they are: paths are case-sensitive
a final slash, ``/a.``, ``/a%20``           as they are: another resource than ``/a``
the query, from its ``?`` on                byte for byte, above 0x7F as well; controls,
                                            space and ``#`` refused
``http://host/path`` (absolute-form)        as origin-form, if its authority is the
                                            Host field's; refused otherwise
``*``                                       for OPTIONS only
``host:port``, CONNECT, anything else       refused
==========================================  ==========================================

What a route keeps (`Slashes`) never begins a path and stands beside no dot segment:
``//host/x`` may be read as an authority, and ``/a%2F../b`` and ``/a//../b`` are
resolved in several ways.

Source: RFC 9112 §3.2 (forms), RFC 3986 §5.2.4 (dot segments), §6.2.2 (normalization).
"""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from gateway.errors import BadTarget

_UNRESERVED = frozenset(
    b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._~"
)
# The usual path, canonical as it is: no segment is empty or starts with `.` or `;`,
# nothing is escaped. (RFC 3986 §3.3: pchar = unreserved / sub-delims / ":" / "@")
_CLEAN_PATH = re.compile(
    rb"(?:/[A-Za-z0-9_~!$&'()*+,=:@-][A-Za-z0-9_~!$&'()*+,=:@;.-]*)*/?"
).fullmatch
_NEVER_IN_PATH = re.compile(rb"[^\x21-\x7e]|[\\#]").search
_NEVER_IN_QUERY = re.compile(rb"[\x00-\x20\x7f#]").search
_TO_NORMALIZE = re.compile(rb"%([0-9A-Fa-f]{2})?|[\"<>\[\]^`{|}]")
_SLASHES = re.compile(rb"/{2,}")
_ENCODED_SLASH = re.compile(rb"%2f", re.IGNORECASE)
_NEXT_TO_ENCODED_SLASH = re.compile(rb"(?:/|%2f)%2f|%2f/", re.IGNORECASE).search
_DOTS_AND_PARAMETERS = re.compile(rb"\.{0,2}(?:;|%3B)|\.{1,2}\Z").match
_BARE_PARAMETERS = re.compile(rb"\.{0,2}(?:;|%3B)").match
_ABSOLUTE = re.compile(rb"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)
DEFAULT_PORT = {"http": 80, "https": 443}
MAX_PORT = 65535

_NAME_MAX_BYTES = 253
"""The longest DNS name in its written form (RFC 1035 §2.3.4)."""
_HOST_MAX_BYTES = _NAME_MAX_BYTES + len(".:65535")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,62})"
_HOST = re.compile(
    rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*)\.?|\[(?P<v6>[0-9A-Fa-f:.]+)\])"
    r"(?::(?P<port>[0-9]{0,5}))?"
).fullmatch
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*").fullmatch


class Form(StrEnum):
    """How the target was written; absolute-form has become origin-form."""

    ORIGIN = "origin"
    ASTERISK = "asterisk"


# Constants, because the look-up of an enumeration's member costs more than the rest.
_ORIGIN, _ASTERISK = Form.ORIGIN, Form.ASTERISK


class Target(NamedTuple):
    """The resource that a request names.

    A NamedTuple and not a frozen dataclass, because one is made per request and a
    frozen dataclass costs four times as much to make.
    """

    path: str
    """Canonical: ASCII, starts with `/`, no dot segment, no `//`. `*` for asterisk."""
    query: bytes
    """As received, with its `?`; empty when there is none."""
    host: str
    """Lower case, no final dot, no port; `[…]` around an IPv6 address. Empty: none."""
    authority: str
    """`host[:port]` as the client wrote it, without the colon of an empty port; empty
    for HTTP/1.0 without Host."""
    form: Form


class Slashes(NamedTuple):
    """Which slashes of a path are kept, besides those between two segments."""

    encoded: bool = False
    """``%2F`` and ``%2f``, which are part of their segment."""
    repeated: bool = False
    """Empty segments, except at the beginning."""


NO_SLASHES = Slashes()


class Host(NamedTuple):
    """A valid Host field: see `Target.host` and `Target.authority`."""

    name: str
    authority: str
    port: int | None


def parse(
    raw: bytes, method: str, authority: bytes | None, kept: Slashes = NO_SLASHES
) -> Target:
    """Return the one canonical form of the request target *raw*.

    *authority* is the value of the Host field; None: HTTP/1.0 without one. *kept* are
    the slashes that stay in its path.

    Raises:
        BadTarget: it has no canonical form; see the table above.
    Source: RFC 9112 §3.2.
    """
    if method == "CONNECT":
        raise BadTarget("CONNECT is not served")
    if raw == b"*":
        if method != "OPTIONS":
            raise BadTarget("asterisk-form is for OPTIONS only")
        name, text, _ = _NO_HOST if authority is None else host(authority)
        return Target("*", b"", name, text, _ASTERISK)
    name, text, port = own = _NO_HOST if authority is None else host(authority)
    if not raw.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(raw)
        if absolute is None:
            raise BadTarget("the target is neither a path nor an http URL")
        default = DEFAULT_PORT[absolute[1].lower().decode()]
        there = host(absolute[2])
        # RFC 9112 §3.2.2 lets the URL win over Host; two names for one request are
        # refused here instead, as routes and upstreams could each take another one.
        if own is _NO_HOST:
            name, text, port = there
        elif name != there.name or (
            (default if port is None else port)
            != (default if there.port is None else there.port)
        ):
            raise BadTarget("the target's authority isn't the Host field's")
        raw = absolute[3]
        if not raw.startswith(b"/"):
            raw = b"/" + raw  # RFC 9110 §4.2.3: an empty path is "/"
    mark = raw.find(b"?")
    if mark < 0:
        # Not by the class's own constructor, which takes twice the time.
        path = _canonical(raw, kept)
        return tuple.__new__(Target, (path, b"", name, text, _ORIGIN))
    query = raw[mark:]
    if _NEVER_IN_QUERY(query):
        raise BadTarget("the query holds a control, a space or a fragment")
    return Target(_canonical(raw[:mark], kept), query, name, text, _ORIGIN)


def canonical_path(text: str) -> str:
    """Return the canonical form of a path in the configuration.

    As for a client's path, except that people may write `/straße`: what isn't ASCII
    is percent-encoded as UTF-8.

    Raises:
        BadTarget: it has no canonical form, or doesn't start with `/`.
    """
    if not text.startswith("/") or "?" in text:
        raise BadTarget("a path starts with / and has no query")
    raw = text.encode("utf-8", "surrogatepass")
    return _canonical(
        raw
        if raw.isascii()
        else b"".join(b"%%%02X" % b if b > 0x7F else b"%c" % b for b in raw)
    )


def has_odd_slash(raw: bytes) -> bool:
    """Return whether *kept* may matter to `parse` for the target *raw*."""
    return b"//" in raw or b"%2f" in raw or b"%2F" in raw


def _canonical(path: bytes, kept_slashes: Slashes = NO_SLASHES) -> str:
    if _CLEAN_PATH(path):
        return path.decode("ascii")
    if _NEVER_IN_PATH(path):
        raise BadTarget("the path holds a byte that must be percent-encoded")
    # 1. RFC 3986 §6.2.2.1 and .2: escapes.
    path = _TO_NORMALIZE.sub(
        _normalized_but_slashes if kept_slashes.encoded else _normalized, path
    )
    try:
        unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError:
        raise BadTarget("the path's escapes aren't UTF-8") from None
    # 2. Slashes before dots, as nginx does: `/a//../b` is `/b`.
    if kept_slashes.repeated:
        path = b"/" + path.lstrip(b"/")
    else:
        path = _SLASHES.sub(b"/", path)
    segments = path.split(b"/")
    # 3. RFC 3986 §5.2.4: dot segments. The first piece is the empty text before the
    # root's slash; a dot segment at the end leaves its slash.
    kept: list[bytes] = []
    for segment in segments:
        if segment == b"..":
            if len(kept) < 2:
                raise BadTarget("the path climbs above the root")
            kept.pop()
        elif _BARE_PARAMETERS(segment):
            raise BadTarget("a segment is nothing but dots and parameters")
        elif segment != b".":
            kept.append(segment)
    if segments[-1] in (b".", b".."):
        kept.append(b"")
    if kept_slashes is not NO_SLASHES:
        _check_kept(path, b"/".join(kept))
    return b"/".join(kept).decode("ascii")


def _check_kept(path: bytes, resolved: bytes) -> None:
    """Refuse kept slashes that readers take for different paths.

    *path* is the path before its dot segments were *resolved*.
    """
    if b"//" in path and path != resolved:
        raise BadTarget("the path has empty segments and dot segments")
    if b"%2" in resolved:
        if _NEXT_TO_ENCODED_SLASH(resolved):
            raise BadTarget("an escaped slash is next to another slash")
        decoded = _ENCODED_SLASH.sub(b"/", resolved)
        if decoded != resolved and any(map(_DOTS_AND_PARAMETERS, decoded.split(b"/"))):
            raise BadTarget("a dot segment is next to an escaped slash")


def _normalized_but_slashes(match: re.Match[bytes]) -> bytes:
    """Return the same as `_normalized`, but an escaped slash unchanged."""
    return match[0] if match[1] in (b"2F", b"2f") else _normalized(match)


def _normalized(match: re.Match[bytes]) -> bytes:
    """Return the normal form of one escape, or of one character to be escaped."""
    digits = match[1]
    if digits is None:
        if match[0] == b"%":
            raise BadTarget("the path holds a broken escape")
        return b"%%%02X" % match[0][0]
    byte = int(digits, 16)
    if byte in _UNRESERVED:
        return b"%c" % byte
    if byte < 0x20 or byte == 0x7F:
        raise BadTarget("the path holds an escaped control")
    if byte in b"/\\":
        raise BadTarget("the path holds an escaped slash or backslash")
    return b"%%%02X" % byte


_NO_HOST = Host("", "", None)


def host(value: bytes) -> Host:
    """Return the parts of a Host field: a DNS name, IPv4 or `[IPv6]`, maybe a port.

    An empty port (`name:`) is valid and means no port (RFC 3986 §3.2.3, §6.2.3).

    Stricter than RFC 3986's reg-name, which would let `a,b` and `a%2Fb` pass: only
    letters, digits, `-`, `_` and dots. A name whose last label is a number must be an
    IPv4 address, because some resolvers read `2130706433` and `0x7f.1` as one.

    Raises:
        BadTarget: it is anything else, empty included.
    Source: RFC 9110 §7.2, RFC 3986 §3.2.2, WHATWG URL (ends-in-a-number checker).
    """
    if len(value) > _HOST_MAX_BYTES:
        raise BadTarget("the Host field is too long")
    return _host(value)


def is_ip(name: str) -> bool:
    """Return whether *name*, which must be a `Host.name`, is an IP address.

    `host` has refused names that end in a number and aren't addresses.
    """
    return name.startswith("[") or name.rpartition(".")[2].isdigit()


@lru_cache(maxsize=1024)
def _host(value: bytes) -> Host:
    text = value.decode("latin-1")
    parts = _HOST(text)
    port = int(parts["port"]) if parts and parts["port"] else None
    if parts is None or (port or 0) > MAX_PORT:
        raise BadTarget("the Host field is malformed")
    text = text.removesuffix(":")
    name = parts["name"]
    if name is not None and len(name) > _NAME_MAX_BYTES:
        raise BadTarget("the Host field is too long")
    try:
        if name is None:
            return Host(f"[{ipaddress.IPv6Address(parts['v6'])}]", text, port)
        if _NUMBER(name.rpartition(".")[2]):
            ipaddress.IPv4Address(name)
    except ipaddress.AddressValueError:
        raise BadTarget("the Host field isn't a valid address") from None
    return Host(name.lower(), text, port)

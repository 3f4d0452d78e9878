"""PURE. The target of a redirect: a URL with places for parts of the request.

A request can't choose the host, end the field or change another part of the URL:

- the scheme and the host are literal, or absent;
- `{path}` begins with one slash, so it neither extends the host before it nor is one;
- behind a `?` or `#`, everything is percent-encoded.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import quote, quote_from_bytes

from gateway.errors import BadTarget
from gateway.http.target import host

PLACES: Final = "{path}, {query} and {url}"
_PLACE = re.compile(r"\{([^{}]*)\}")
_is_plain = re.compile(r"[!#-;=?-\[\]_a-z~]*").fullmatch
"""What a URL has (RFC 3986 §2), without quotes, blanks and backslashes."""
_ORIGIN = re.compile(r"https?://([^/?#]*)")
_ABOVE_ASCII = re.compile(rb"[^\x21-\x7e]|[\"<>\\^`{|}]")


class RedirectTemplate:
    """The value of Location, as a function of a request."""

    __slots__ = ("_parts", "is_local", "path")

    def __init__(self, text: str) -> None:
        """
        Raises:
            ValueError: *text* isn't a template; the message has the reason.
        """
        pieces = _PLACE.split(text)
        self.is_local = not text.startswith("http")
        """The client stays on the host that it used."""
        self.path = re.split("[?#{]", _ORIGIN.sub("", text))[0]
        """The literal beginning of the path."""
        self._parts: list[str | None] = []
        """A literal, then a place or its encoded form, and so on."""
        _check_begin(text)
        before = ""
        for index, piece in enumerate(pieces):
            if index % 2:
                is_last = index == len(pieces) - 2 and not pieces[-1]
                self._parts.append(_place(piece, before, is_last=is_last))
            elif not _is_plain(piece):
                raise ValueError("a URL has no blanks, quotes, braces or other letters")
            else:
                self._parts.append(piece)
            before += piece if index % 2 == 0 else "x"

    def __call__(self, path: str, query: bytes, prefix: bytes = b"") -> bytes:
        """Return the URL for a request with this canonical *path* and raw *query*.

        *prefix* is what proxies have removed before *path*. A target on the same host
        gets it, too.
        """
        values = {
            "path": path.encode(),
            "query": _ABOVE_ASCII.sub(lambda match: quote(match[0]).encode(), query),
            "encoded path": quote(prefix.decode() + path, safe="").encode(),
            "url": quote_from_bytes(prefix + path.encode() + query, safe="").encode(),
        }
        literal = True
        made = prefix if self.is_local else b""
        for part in self._parts:
            assert part is not None
            made += part.encode() if literal else values[part]
            literal = not literal
        return made


def _check_begin(text: str) -> None:
    if text.startswith("http"):
        origin = _ORIGIN.match(text)
        if origin is None or "{" in origin[1].partition("{")[0]:
            raise ValueError("expected https://host, or a path")
        try:
            host(origin[1].partition("{")[0].encode())
        except (BadTarget, UnicodeEncodeError):
            raise ValueError("this isn't a host") from None
        if "{" in origin[1] and not origin[1].partition("{")[2].startswith("path}"):
            raise ValueError("only {path} may follow the host at once")
    elif not text.startswith(("/", "{path}")) or text.startswith(("//", "/\\")):
        raise ValueError("expected https://host/path, /path or {path}")


def _place(name: str, before: str, *, is_last: bool) -> str:
    """Return which value stands at a place, *before* which is this text."""
    is_encoded = "?" in before or "#" in before
    match name:
        case "path" if is_encoded:
            return "encoded path"
        case "path":
            if before.endswith("/"):
                raise ValueError("{path} begins with a slash: remove the one before it")
            return "path"
        case "query" if is_last and not is_encoded:
            return "query"
        case "query":
            raise ValueError("{query} begins with ? and stands at the end only")
        case "url" if is_encoded:
            return "url"
        case "url":
            raise ValueError("{url} is a parameter: it stands behind a ?")
        case _:
            raise ValueError(f"a place in braces is unknown; there are {PLACES}")

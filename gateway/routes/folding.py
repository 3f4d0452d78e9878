"""PURE. Paths that a service may read as one, although they differ byte for byte.

A route's guard is a string comparison; the service behind it often reads more loosely.
What is folded here, and who reads so (docs/security.md has the table, and
`make lenient` asks the real programs):

====================  ========================================================
difference            who doesn't see it
====================  ========================================================
escapes               everybody: a path is decoded before it is routed
case                  Express, Koa, ASP.NET; file systems of Windows and macOS
final slash           Express, Koa, Rails, Spring before 6, ASP.NET
path parameters       Tomcat, Jetty, Spring: `/admin;x` is `/admin`
extension             Rails, Spring before 5.3: `/admin.json` is `/admin`
final dots, spaces    IIS and the file system of Windows: `/admin.` is `/admin`
====================  ========================================================

Source: RFC 3986 §3.3 (parameters of a segment), §6.2.2.1 (case).
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple
from urllib.parse import quote, unquote

from gateway.config import PathsConfig

_PCHAR = "!$&'()*+,;=:@"
"""What stands in a segment unescaped, besides the unreserved characters."""
_PARAMETERS = re.compile(r";|%3B")
_DOTS_AND_SPACES = ". \xa0\u3000"
_PLAIN = re.compile(r"(?:/[a-z0-9_~!$&'()*+,=:@-]+)+|/").fullmatch
_CACHE_MAX_CHARS = 512
"""Longer paths aren't remembered, nor looked at closely to save a look-up: in each of
two caches, 4096 of this length are all that clients can fill, some 5 MiB."""


class Reading(NamedTuple):
    """Which differences between paths a service doesn't see, or may not see."""

    case: bool = False
    final_slash: bool = False
    parameters: bool = False
    extension: bool = False
    """Of the request's last segment; the extension of a route's path is kept."""
    final_dots: bool = False
    """And spaces, at the end of each segment."""


EXACT = Reading()
"""Every difference is seen."""


def known(paths: PathsConfig) -> Reading:
    """Return the differences that a service is declared not to see."""
    return Reading(
        case=paths.case == "insensitive",
        final_slash=paths.final_slash == "ignored",
        parameters=paths.parameters == "cut",
        extension=paths.extension == "cut",
        final_dots=paths.final_dots == "cut",
    )


def possible(paths: PathsConfig) -> Reading:
    """Return the differences that a service isn't declared to see."""
    return Reading(
        case=paths.case != "sensitive",
        final_slash=paths.final_slash != "significant",
        parameters=paths.parameters != "kept",
        extension=paths.extension != "kept",
        final_dots=paths.final_dots != "kept",
    )


def fold_segment(segment: str, reading: Reading) -> str:
    """Return the one form that all segments have which read the same.

    It is canonical itself: escaped where a path must be, and nowhere else. A segment
    that would be empty stays, because a template's name takes it for a value.
    """
    if reading.parameters:
        segment = _PARAMETERS.split(segment, maxsplit=1)[0]
    text = unquote(segment)
    if reading.final_dots:
        text = text.rstrip(_DOTS_AND_SPACES) or text
    if reading.case:
        # Upper case first: readers differ in which of the two they compare.
        text = text.upper().casefold()
    return quote(text, safe=_PCHAR)


def fold(path: str, reading: Reading) -> str:
    """Return the one form that all paths have which read the same.

    *path* is canonical, or a template; names in braces stay as they are. The extension
    stays, too: it belongs to a route's path, and only a request's may be dropped.
    """
    segments = [
        one if one.startswith("{") else fold_segment(one, reading)
        for one in path.split("/")
    ]
    if reading.final_slash and not segments[-1]:
        segments.pop()
    return "/".join(segments) or "/"


def is_plain(path: str) -> bool:
    """Return whether *path* has one folded form, itself, however it is read."""
    return len(path) <= _CACHE_MAX_CHARS and _is_plain_cached(path)


def folded(path: str, reading: Reading) -> tuple[str, ...]:
    """Return every form that the canonical *path* of a request may be read in.

    None when there is no other than *path* itself, which is so for most. At most four:
    a reader that drops an extension may begin it at the first dot or at the last.
    """
    if len(path) > _CACHE_MAX_CHARS:
        return _folded(path, reading)
    return _folded_cached(path, reading)


def _folded(path: str, reading: Reading) -> tuple[str, ...]:
    if _PLAIN(path):
        return ()
    form = fold(path, reading)
    forms = [form]
    head, _, last = form.rpartition("/")
    if reading.extension:
        forms += [
            f"{head}/{last[:dot]}"
            for dot in (last.find("."), last.rfind("."))
            if dot > 0
        ]
    if reading.final_dots and last and not unquote(last).strip(_DOTS_AND_SPACES):
        forms.append(head or "/")
    others = tuple(dict.fromkeys(forms))
    return () if others == (path,) else others


@lru_cache(maxsize=4096)
def _is_plain_cached(path: str) -> bool:
    return _PLAIN(path) is not None


_folded_cached = lru_cache(maxsize=4096)(_folded)

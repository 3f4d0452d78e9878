"""PURE. Folding: one form for paths that differ in bytes but not for a service.

A route's guard is a string comparison; the service behind it often compares paths more
loosely. These differences are folded (docs/security.md has the table, and
`make lenient` tests the real programs):

====================  ========================================================
difference            ignored by
====================  ========================================================
escapes               all services: a path is decoded before it is routed
case                  Express, Koa, ASP.NET; file systems of Windows and macOS
final slash           Express, Koa, Rails, Spring before 6, ASP.NET
path parameters       Tomcat, Jetty, Spring: `/admin;x` is `/admin`
extension             Rails, Spring before 5.3: `/admin.json` is `/admin`
final dots, spaces    IIS and the file system of Windows: `/admin.` is `/admin`
kept slashes          `/a%2Fb` and `/a//b` are `/a/b` for services that decode a path
                      before they split it, or merge slashes
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
"""The characters that a segment has unescaped, besides the unreserved ones."""
_PARAMETERS = re.compile(r";|%3B")
_ENCODED_SLASH = re.compile("%2f", re.IGNORECASE)
_SLASHES = re.compile("/{2,}")
_DOTS_AND_SPACES = ". \xa0\u3000"
_PLAIN = re.compile(r"(?:/[a-z0-9_~!$&'()*+,=:@-]+)+|/").fullmatch
_CACHE_MAX_CHARS = 512
"""Longer paths aren't cached, and never count as plain: clients can fill each of the
two caches with at most 4096 paths of this length, some 5 MiB."""


class Reading(NamedTuple):
    """The differences between paths that a service ignores, or may ignore."""

    case: bool = False
    final_slash: bool = False
    parameters: bool = False
    extension: bool = False
    """In the request's last segment; the extension of a route's path is kept."""
    final_dots: bool = False
    """Dots and spaces at the end of each segment."""
    slashes: bool = False
    """Escaped and repeated slashes, which only some routes keep."""


EXACT = Reading()
"""No difference is ignored."""


def known(paths: PathsConfig) -> Reading:
    """Return the differences that, by the configuration, a service ignores."""
    return Reading(
        case=paths.case == "insensitive",
        final_slash=paths.final_slash == "ignored",
        parameters=paths.parameters == "cut",
        extension=paths.extension == "cut",
        final_dots=paths.final_dots == "cut",
    )


def possible(paths: PathsConfig) -> Reading:
    """Return the differences that, by the configuration, a service may ignore."""
    return Reading(
        case=paths.case != "sensitive",
        final_slash=paths.final_slash != "significant",
        parameters=paths.parameters != "kept",
        extension=paths.extension != "kept",
        final_dots=paths.final_dots != "kept",
    )


def fold_segment(segment: str, reading: Reading) -> str:
    """Return the folded form of *segment*: one for all that are read the same.

    The form is canonical: only characters that need it are escaped. A segment of dots
    and spaces stays, because it is a value for the name of a template.
    """
    if reading.parameters:
        segment = _PARAMETERS.split(segment, maxsplit=1)[0]
    text = unquote(segment)
    if reading.final_dots:
        text = text.rstrip(_DOTS_AND_SPACES) or text
    if reading.case:
        # Upper case first: some readers compare upper case, others lower case.
        text = text.upper().casefold()
    return quote(text, safe=_PCHAR)


def fold(path: str, reading: Reading) -> str:
    """Return the folded form of *path*: one for all paths that are read the same.

    *path* is canonical, or a template; names in braces stay unchanged. The extension
    is kept: only `folded` drops it, from the path of a request.
    """
    segments = [
        one if one.startswith("{") else fold_segment(one, reading)
        for one in path.split("/")
    ]
    if reading.final_slash and not segments[-1]:
        segments.pop()
    return "/".join(segments) or "/"


def is_plain(path: str) -> bool:
    """Return whether *path* is its own only folded form, for every reading."""
    return len(path) <= _CACHE_MAX_CHARS and _is_plain_cached(path)


def folded(path: str, reading: Reading) -> tuple[str, ...]:
    """Return every folded form of a request's canonical *path*, at most four.

    There are three times as many if slashes are kept.

    The result is empty if *path* itself is the only form, as for most paths. A reader
    that drops an extension may take the first dot or the last one as its beginning.
    """
    if len(path) > _CACHE_MAX_CHARS:
        return _folded(path, reading)
    return _folded_cached(path, reading)


def _folded(path: str, reading: Reading) -> tuple[str, ...]:
    if _PLAIN(path):
        return ()
    if reading.slashes:
        return _with_slashes(path, reading._replace(slashes=False))
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


def _with_slashes(path: str, reading: Reading) -> tuple[str, ...]:
    """Return the folded forms of *path*, and of what it is without its kept slashes."""
    decoded = _ENCODED_SLASH.sub("/", path)
    same = dict.fromkeys((path, decoded, *map(_merged, (path, decoded))))
    forms = [form for one in same for form in _folded(one, reading) or (one,)]
    others = tuple(dict.fromkeys(forms))
    return () if others == (path,) else others


def _merged(path: str) -> str:
    return _SLASHES.sub("/", path)


@lru_cache(maxsize=4096)
def _is_plain_cached(path: str) -> bool:
    return _PLAIN(path) is not None


_folded_cached = lru_cache(maxsize=4096)(_folded)

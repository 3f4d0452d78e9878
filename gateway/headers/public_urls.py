"""PURE. Redirects and cookies of a service, for the place where its client sees it.

A service knows the address that it was called at, and the path that it received. The
client used another origin, and with a rewrite another path. So a URL that begins with
the service's own origin is mapped to the public origin, and a path to the public path.

Facts
- FastAPI, Flask and others build absolute URLs from Host; uvicorn takes the scheme from
  X-Forwarded-Proto. So the service's own origin has the target's scheme or the public
  one, and its authority is the target's, or the Host that the service was sent.
- A service that reads X-Forwarded-Prefix answers with public paths. So a path that has
  the public prefix already stays.
- The prefix is what the client sent: services may read `/App` as `/app`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import NamedTuple

from gateway.errors import BadTarget
from gateway.headers.names import HAS_LOCATION, SETS_COOKIE
from gateway.http.target import DEFAULT_PORT
from gateway.http.target import host as parsed_host

_URL = re.compile(
    rb"(?:([A-Za-z][A-Za-z0-9+.-]*):)?//([^/?#\\]*)((?:[/?#].*)?)", re.DOTALL
).fullmatch
# WHATWG HTML, shared declarative refresh steps: a time, `;` or `,`, and the URL, maybe
# after `url=`, maybe in quotes.
_REFRESH = re.compile(
    rb"([ \t]*[0-9.]+[ \t]*[;,][ \t]*(?:url[ \t]*=[ \t]*)?)"
    rb"(?:\"([^\"]*)|'([^']*)|(.*))(.*)",
    re.IGNORECASE | re.DOTALL,
).fullmatch
_AMBIGUOUS = (b"//", b"/\\")
"""How a reference begins that browsers read as one with an authority (WHATWG URL)."""

Authority = tuple[str, int | None]
"""A host in lower case, and its port; None for the scheme's default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MapPolicy:
    """What of a route's replies is mapped."""

    schemes: frozenset[str]
    """Those of the service's targets."""
    authorities: frozenset[Authority]
    """Those of the service's targets, and a literal `host_header`."""
    is_host_kept: bool
    """The service gets the client's Host."""
    replacement: bytes | None
    """The beginning of the service's paths that takes the place of the public one;
    None: paths aren't rewritten."""
    redirects: bool
    cookie_paths: bool
    cookie_domain: str | None
    """Replaces a cookie's Domain that is the service's own. Empty: such a Domain is
    removed; None: it stays."""
    marks: int = field(init=False)
    """Marks of lines: a reply with one of these has something to map."""

    def __post_init__(self) -> None:
        maps_cookies = self.cookie_paths or self.cookie_domain is not None
        marks = (HAS_LOCATION * self.redirects) | (SETS_COOKIE * maps_cookies)
        object.__setattr__(self, "marks", marks)


NOTHING_MAPPED = MapPolicy(
    schemes=frozenset(),
    authorities=frozenset(),
    is_host_kept=False,
    replacement=None,
    redirects=False,
    cookie_paths=False,
    cookie_domain=None,
)


class Public(NamedTuple):
    """Where the client sees the service."""

    scheme: str
    authority: str
    """`host[:port]`, as in X-Forwarded-Host; empty for HTTP/1.0 without Host."""
    host: str
    """The authority in the Host field that the client sent, maybe empty."""
    prefix: bytes
    """The beginning of the public path that the service doesn't get; no final slash."""


def authority(text: str, scheme: str) -> Authority:
    """Return the authority in *text*, where *scheme* determines the default port.

    Raises:
        BadTarget: *text* isn't `host[:port]`.
    """
    host = parsed_host(text.encode("latin-1"))
    is_default = host.port == DEFAULT_PORT.get(scheme)
    return host.name, None if is_default else host.port


def public_url(url: bytes, policy: MapPolicy, public: Public) -> bytes:
    """Return the public form of *url*, the value of Location or Content-Location.

    A URL of another origin, a relative path and what isn't a URL are returned as they
    are; so is a path if nothing is rewritten.

    Source: RFC 9110 §10.2.2 (Location), §8.7 (Content-Location).
    """
    parts = _URL(url)
    if parts is None:
        if policy.replacement is None or not url.startswith(b"/"):
            return url
        return url if url.startswith(_AMBIGUOUS) else _path(url, policy, public)
    scheme, there, rest = parts.groups()
    if not _is_own(scheme, there, policy, public):
        return url
    if public.prefix or policy.replacement:
        rest = _path(rest if rest.startswith(b"/") else b"/" + rest, policy, public)
    if not public.authority:
        return url if rest.startswith(_AMBIGUOUS) else rest or b"/"
    begin = b"" if scheme is None else b"%b:" % public.scheme.encode()
    return b"%b//%b%b" % (begin, public.authority.encode(), rest)


def public_refresh(value: bytes, policy: MapPolicy, public: Public) -> bytes:
    """Return *value*, of a Refresh field, with the public form of its URL.

    Source: WHATWG HTML, shared declarative refresh steps.
    """
    parts = _REFRESH(value)
    if parts is None:
        return value
    start, end = next(parts.span(n) for n in (2, 3, 4) if parts[n] is not None)
    url = public_url(value[start:end], policy, public)
    return value[:start] + url + value[end:]


def public_cookie(value: bytes, policy: MapPolicy, public: Public) -> bytes:
    """Return *value*, of a Set-Cookie field, for the public host and path.

    A path that would end the attribute stays unmapped, and so does the path of a
    cookie with the prefix `__Host-`, which must be `/`.

    Source: RFC 6265bis §4.1.2.3 (Domain), §4.1.2.4 (Path), §4.1.3.2 (`__Host-`).
    """
    pair, *attributes = value.split(b";")
    is_host_cookie = pair.lstrip(b" \t")[:7].lower() == b"__host-"
    kept = [pair]
    for attribute in attributes:
        name, _, text = attribute.partition(b"=")
        key, text = name.strip(b" \t").lower(), text.strip(b" \t")
        if key == b"path" and policy.cookie_paths and not is_host_cookie:
            mapped = _cookie_path(text, policy, public)
            kept.append(attribute if mapped == text else b"%b=%b" % (name, mapped))
        elif (
            key == b"domain"
            and policy.cookie_domain is not None
            and _is_own_domain(text, policy, public)
        ):
            if policy.cookie_domain:
                kept.append(b"%b=%b" % (name, policy.cookie_domain.encode()))
        else:
            kept.append(attribute)
    return b";".join(kept)


def _cookie_path(path: bytes, policy: MapPolicy, public: Public) -> bytes:
    if policy.replacement is None or not path.startswith(b"/") or b";" in public.prefix:
        return path
    if path == b"/" and not policy.replacement:
        return public.prefix or path  # `/app/` wouldn't cover `/app`
    return _path(path, policy, public)


def _path(path: bytes, policy: MapPolicy, public: Public) -> bytes:
    """Return the public form of *path*, which begins with a slash."""
    prefix, replacement = public.prefix, policy.replacement or b""
    if not replacement:
        mapped = path if _begins(path, prefix) else prefix + path
    elif _begins(path, replacement):
        mapped = prefix + path[len(replacement) :]
    else:
        return path
    if not mapped.startswith(b"/"):
        mapped = b"/" + mapped
    return path if mapped.startswith(_AMBIGUOUS) else mapped


def _begins(path: bytes, prefix: bytes) -> bool:
    """Return whether *path* begins with the whole segments of *prefix*."""
    return path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in (
        b"",
        b"/",
        b"?",
        b"#",
    )


def _is_own(
    scheme: bytes | None, there: bytes, policy: MapPolicy, public: Public
) -> bool:
    """Return whether a URL's scheme (None: none) and authority are the service's."""
    name = public.scheme if scheme is None else scheme.lower().decode()
    if name != public.scheme and name not in policy.schemes:
        return False
    try:
        found = authority(there.decode("latin-1"), name)
    except BadTarget:
        return False
    return found in policy.authorities or (
        policy.is_host_kept and bool(public.host) and found == _own_host(policy, public)
    )


def _own_host(policy: MapPolicy, public: Public) -> Authority:
    """Return the authority in the Host field that the service gets from the client."""
    host, port = authority(public.host, public.scheme)
    is_default = port in [DEFAULT_PORT[scheme] for scheme in policy.schemes]
    return host, None if is_default else port


def _is_own_domain(text: bytes, policy: MapPolicy, public: Public) -> bool:
    """Return whether a cookie's Domain covers a target, but not the public host.

    Browsers ignore a cookie with such a Domain.
    """
    domain = text.removeprefix(b".").lower().decode("latin-1")
    if public.authority and _covers(
        domain, authority(public.authority, public.scheme)[0]
    ):
        return False
    return bool(domain) and any(_covers(domain, own) for own, _ in policy.authorities)


def _covers(domain: str, name: str) -> bool:
    return name == domain or name.endswith(f".{domain}")

"""PURE. Which requests the admin listener answers.

A browser must not be able to act for an operator. A page on another site can send
requests to a loopback address, and with DNS rebinding also read the answers. So the
Host must name this listener, no request may come from a page, and each POST has a media
type that a form can't send.

In this order, so that nothing is told to whoever has no token: Host, the page, the
token, the path, the method, the rest.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

GETS: Final = (
    "/config",
    "/routes",
    "/services",
    "/targets",
    "/keys",
    "/workers",
    "/version",
    "/log-level",
    "/support-dump",
)
POSTS: Final = ("/reload", "/drain", "/sessions/revoke", "/log-level")
PATHS: Final = {
    path: tuple(
        method for method, paths in (("GET", GETS), ("POST", POSTS)) if path in paths
    )
    for path in (*GETS, *POSTS)
}
"""Path → its methods."""
MAX_BODY_BYTES: Final = 16 * 1024
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::[0-9]{1,5})?")
_BEARER = re.compile(rb"[Bb][Ee][Aa][Rr][Ee][Rr] +([!-~]+)")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_JSON = re.compile(
    rb"application/json[ \t]*(;[ \t]*charset=\"?utf-8\"?[ \t]*)?", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class AdminRefusal:
    """Why a request isn't answered."""

    status: int
    reason: str
    fields: Mapping[str, str]


def _refuse(status: int, reason: str, **fields: str) -> AdminRefusal:
    return AdminRefusal(
        status, reason, {name.replace("_", "-"): each for name, each in fields.items()}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminHead:
    """The head of a request."""

    method: str
    target: str
    """The request target, as received."""
    fields: tuple[tuple[bytes, bytes], ...]
    """Names and values, as received."""

    def all(self, name: bytes) -> list[bytes]:
        """Return the values of all fields called *name*, in lower case."""
        return [value for key, value in self.fields if key.lower() == name]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuardRules:
    """What a request must show."""

    hosts: frozenset[str]
    """Names and addresses besides loopback's, in lower case, without port."""
    token: bytes | None
    """None: none is needed."""


def refusal(head: AdminHead, rules: GuardRules) -> AdminRefusal | None:
    """Return why the request isn't answered; None: its body may be read, and it is."""
    return (
        _host_refusal(head, rules.hosts)
        or _page_refusal(head)
        or _token_refusal(head, rules.token)
        or _path_refusal(head)
        or _body_refusal(head)
    )


def _host_refusal(head: AdminHead, hosts: Iterable[str]) -> AdminRefusal | None:
    given = head.all(b"host")
    if len(given) != 1:
        return _refuse(400, "expected one Host field")
    match = _HOST.fullmatch(given[0])
    if match is None:
        return _refuse(400, "the Host field isn't a host")
    name = match[1].decode("ascii").lower()
    if _is_loopback(name) or name in hosts:
        return None
    return _refuse(
        421,
        "this isn't the host of the admin listener: use localhost, 127.0.0.1, or the"
        " address in gateway.admin.listen",
    )


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _page_refusal(head: AdminHead) -> AdminRefusal | None:
    """Return the refusal of what a page of any site, or a form, has a browser send.

    Source: Fetch Metadata §2.4: a browser adds `Sec-Fetch-Site: none` if the user
    entered the address.
    """
    if head.all(b"origin") or any(
        site != b"none" for site in head.all(b"sec-fetch-site")
    ):
        return _refuse(403, "requests of web pages aren't answered")
    return None


def _token_refusal(head: AdminHead, token: bytes | None) -> AdminRefusal | None:
    if token is None:
        return None
    given = head.all(b"authorization")
    match = _BEARER.fullmatch(given[0]) if len(given) == 1 else None
    if match is not None and hmac.compare_digest(match[1], token):
        return None
    return _refuse(
        401,
        "send Authorization: Bearer with the token in gateway.admin.token_file",
        WWW_Authenticate='Bearer realm="gateway admin"',
    )


def _path_refusal(head: AdminHead) -> AdminRefusal | None:
    path, mark, _ = head.target.partition("?")
    methods = PATHS.get(path)
    if methods is None:
        return _refuse(404, f"there are {', '.join(PATHS)}")
    if head.method not in methods:
        return _refuse(405, f"use {' or '.join(methods)}", Allow=", ".join(methods))
    if mark:
        return _refuse(400, "this path takes no query")
    return None


def _body_refusal(head: AdminHead) -> AdminRefusal | None:
    if head.all(b"transfer-encoding"):
        return _refuse(411, "send the body with Content-Length")
    lengths = head.all(b"content-length")
    if len(lengths) > 1 or any(not _LENGTH.fullmatch(each) for each in lengths):
        return _refuse(400, "expected one Content-Length, a number")
    length = int(lengths[0]) if lengths else 0
    if head.method == "GET":
        return _refuse(400, "GET has no body here") if length else None
    if length > MAX_BODY_BYTES:
        return _refuse(413, f"a body has at most {MAX_BODY_BYTES} bytes")
    types = head.all(b"content-type")
    if len(types) != 1 or not _JSON.fullmatch(types[0]):
        return _refuse(415, "send Content-Type: application/json", Accept_Post=_TYPE)
    return None


_TYPE: Final = "application/json"

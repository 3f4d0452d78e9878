"""PURE. A question about a request, and its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gateway.errors import BadRequest
from gateway.explain.given import Given, GivenSession
from gateway.http.fields import is_token
from gateway.observe.record import Record
from gateway.routes.explain import Explanation


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A request that isn't made, and whose session it would have."""

    method: str
    target: str
    """As on the request line."""
    host: str
    is_secure: bool
    fields: Sequence[tuple[str, str]]
    client: str
    """The address of the connection's other end."""
    given: Given

    def head(self) -> bytes:
        """Return the head of the request.

        Raises:
            BadRequest: a part of it can't be written on a line.
        """
        texts = (self.method, self.target, self.host, *(v for _, v in self.fields))
        if any(set(text) & {"\r", "\n"} for text in texts):
            raise BadRequest("a line break")
        if not all(is_token(name.encode()) for name, _ in self.fields):
            raise BadRequest("the name of a field isn't a token")
        lines = [f"{self.method} {self.target} HTTP/1.1", f"Host: {self.host}"]
        lines += (f"{name}: {value}" for name, value in self.fields)
        return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """The request as a service would get it."""

    service: str
    method: str
    path: str
    """With query."""
    host: str
    """`upstream`: the authority of the target."""
    removed: tuple[bytes, ...]
    """The client's lines that aren't sent, without CRLF."""
    added: tuple[bytes, ...]
    """Those that the gateway sets, but for Host, the trace and the framing."""
    kept: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Explained:
    """What the gateway would do with a request."""

    record: Record
    """As the access log would have it."""
    target: str
    """The canonical path; empty: the request is refused before it has one."""
    table: Explanation | None
    """None: the gateway answers the path itself, or refuses the request before."""
    session: GivenSession
    status: int | None
    """Of the gateway's own response. None: the request is forwarded, or the SDK's API
    answers it."""
    body: bytes
    fields: tuple[tuple[bytes, bytes], ...]
    sent: Sent | None
    """None: no service gets it."""


class NotAsked(ValueError):
    """A request can't be made of the words. The text says why."""


def asked(
    method: str,
    url: str,
    fields: Sequence[tuple[str, str]],
    given: Given,
    client: str,
) -> Question:
    """Return the question about a request to *url*: a path, or a whole URL.

    Nothing in it is decoded or tidied, but for a fragment, which no client sends.

    Raises:
        NotAsked: it is neither.
    """
    scheme, mark, rest = url.partition("://")
    host, target = "localhost", url
    if mark:
        if scheme not in ("http", "https"):
            raise NotAsked("expected http:// or https://")
        cut = min((i for i in map(rest.find, "/?#") if i >= 0), default=len(rest))
        host, target = rest[:cut], rest[cut:]
    target = target.partition("#")[0]
    if mark and not target.startswith("/"):
        target = f"/{target}"
    if not target.startswith("/") and target != "*":
        raise NotAsked("expected a path that begins with /, or a whole URL")
    return Question(
        method=method,
        target=target,
        host=host,
        is_secure=scheme == "https" and bool(mark),
        fields=fields,
        client=client,
        given=given,
    )
